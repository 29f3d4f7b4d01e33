//! What this node knows by itself: whether it is the master, where the sibling programs are, whether boot
//! runs. Reads files of the root; writes none.

use crate::error::CliError;
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_proto::hello::Hello;
use gantry_rpc::Client;
use std::path::{Path, PathBuf};

/// Names a directory with the sibling programs, in place of the one this program lies in.
pub const LIBEXEC_ENV: &str = "GANTRY_LIBEXEC";

/// The role file, if this node belongs to a cluster.
///
/// # Errors
/// A file that is there but cannot be read or understood.
pub fn role(root: &Root) -> Result<Option<RoleFile>, CliError> {
    let path = root.role_file();
    gantry_rt::files::read_role(root)
        .map_err(|error| CliError::plain(format!("cannot read {}: {error}", path.display())))
}

/// Who calls: what the environment says, else this system's name of the user, else the number.
#[must_use]
pub fn user() -> String {
    let named = || {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        user.map_or_else(|| format!("uid {}", nix::unistd::getuid()), |user| user.name)
    };
    std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(named)
}

/// The value of an ssconf file, without its line end.
#[must_use]
pub fn ssconf(root: &Root, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(root.ssconf(key)).ok()?;
    Some(text.trim_end().to_owned()).filter(|t| !t.is_empty())
}

/// Ok if this node is the master of a cluster.
///
/// # Errors
/// Not the master (says who is), or no cluster (says how to make or join one).
pub fn check_master(root: &Root) -> Result<(), CliError> {
    match role(root)? {
        Some(RoleFile { role: Role::Master, .. }) => Ok(()),
        Some(_) => Err(match other_master(root) {
            Ok(master) => CliError::plain(format!(
                "This is not the master node, please connect to node '{master}' and rerun the command"
            )),
            Err(why) => why,
        }),
        None => Err(no_cluster(root)),
    }
}

/// The master as this node, which is none, was told.
///
/// # Errors
/// It was told of nobody; or of itself, as long as nobody has become the master after it.
pub fn other_master(root: &Root) -> Result<String, CliError> {
    let Some(master) = ssconf(root, "master_node") else {
        return Err(CliError::plain(
            "This is not the master node, and this node does not know which one is (ssconf_master_node is missing).\n\
             Run the command on the node where the cluster was made.",
        ));
    };
    // Settings that can't be read are no reason to doubt it.
    let own = gantry_rt::node_toml::load(root).is_ok_and(|settings| settings.name == master);
    if !own {
        return Ok(master);
    }
    Err(CliError::plain(
        "This node is the master no longer, and has not heard of another one yet: a failover is under way, or was given up.\n\
         \"gnt-cluster getmaster\" on another candidate says whether there is a master; when there is none, \
         \"gnt-cluster master-failover\" on any candidate makes one.",
    ))
}

/// "No cluster here", with what to do.
#[must_use]
pub fn no_cluster(root: &Root) -> CliError {
    CliError::plain(format!(
        "No cluster here: {} does not exist.\nMake a cluster with \"gnt-cluster init NAME\", or add this node to one \
         with \"gnt-node add\" on its master. If the root is another one, name it with --root or GANTRY_ROOT.",
        root.role_file().display()
    ))
}

/// Whether a boot runs on this root.
pub async fn boot_answers(root: &Root) -> bool {
    gantry_rpc::unix::connect(&root.socket("boot.sock")).await.is_ok()
}

/// A connection to this node's boot; none when no boot runs.
///
/// # Errors
/// A boot that runs but cannot be talked to.
pub async fn boot(root: &Root) -> Result<Option<Client>, CliError> {
    if !boot_answers(root).await {
        return Ok(None);
    }
    let hello = Hello::new(gantry_proto::boot::PROTOCOL, "gantry");
    let client = Client::unix(&root.socket("boot.sock"), &hello).await;
    client.map(Some).map_err(|error| CliError::plain(format!("cannot talk to boot: {error}")))
}

/// The path of a sibling program, such as `gantry-boot`.
///
/// # Errors
/// It is not there: says where it was looked for and how to name another directory.
pub fn sibling(name: &str) -> Result<PathBuf, CliError> {
    let dir = match std::env::var_os(LIBEXEC_ENV) {
        Some(dir) => PathBuf::from(dir),
        None => own_dir().ok_or_else(|| {
            CliError::plain(format!(
                "cannot find out where this program lies; name the directory of {name} in {LIBEXEC_ENV}"
            ))
        })?,
    };
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(CliError::plain(format!(
        "{name} is not in {}; name the directory with Gantry's programs in {LIBEXEC_ENV}",
        dir.display()
    )))
}

fn own_dir() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.parent().map(Path::to_path_buf)
}
