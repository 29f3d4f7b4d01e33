//! Rules of hooks (`spec/noded.md` §5): which files are hooks, what they are given, how long they may take and how much of
//! what they say is kept.

use gantry_proto::effects::{HookPhase, HooksRunRequest};

/// Longest time of one hook. It is waited for with locks held, by people too.
pub const HOOK_MS_MAX: u64 = 60_000;
/// Longest time of all hooks of one call; those that are not reached count as failed.
pub const ALL_MS_MAX: u64 = 120_000;
/// Files of one directory that are looked at. More is no directory of hooks.
pub const FILES_MAX: usize = 64;
/// How much of what a hook says is kept, the last of it: some lines for people.
pub const OUTPUT_BYTES_MAX: usize = 2_048;
/// Most bytes of names and values of variables: what the kernel gives a process for certain.
pub const ENV_BYTES_MAX: usize = 96 << 10;
/// Longest name of hooks.
const PATH_LEN_MAX: usize = 64;
/// Where hooks find programs.
pub const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";
/// Version of this interface, as in Ganeti.
const VERSION: &str = "2";

/// Whether a file of that name may be a hook: no editor's leavings, no hidden ones.
#[must_use]
pub fn is_hook_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// The directory of hooks of one path and phase.
#[must_use]
pub fn directory(path: &str, phase: HookPhase) -> String {
    format!("{path}-{}.d", phase.as_str())
}

/// Whether a request can be carried out at all.
///
/// # Errors
/// What is wrong with it.
pub fn check(request: &HooksRunRequest) -> Result<(), String> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    let path = &request.path;
    if path.is_empty() || path.len() > PATH_LEN_MAX || !path.bytes().all(is_word) {
        return Err(format!("'{path}' can't name hooks"));
    }
    // Only these: others would steer the interpreter of a hook, which is root's.
    let is_name = |name: &str| {
        let rest = name.strip_prefix("GANETI_");
        rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
    };
    if let Some((name, _)) = request.env.iter().find(|(name, value)| !is_name(name) || value.contains('\0')) {
        return Err(format!("'{name}' can't be a variable of a hook"));
    }
    let bytes: usize = request.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!("variables of hooks have {bytes} bytes, at most {ENV_BYTES_MAX} are given"));
    }
    Ok(())
}

/// All variables of a hook on this node, whose state lies in `data_dir`.
#[must_use]
pub fn environment(request: &HooksRunRequest, data_dir: &str) -> Vec<(String, String)> {
    let own = [
        ("PATH", PATH),
        ("GANETI_HOOKS_VERSION", VERSION),
        ("GANETI_HOOKS_PHASE", request.phase.as_str()),
        ("GANETI_HOOKS_PATH", request.path.as_str()),
        ("GANETI_DATA_DIR", data_dir),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    request.env.iter().cloned().chain(own).collect()
}

/// What is kept of what a hook said, in words. `left_out` bytes came before.
#[must_use]
pub fn said(bytes: &[u8], left_out: u64) -> String {
    let text = String::from_utf8_lossy(bytes).trim().to_owned();
    if left_out == 0 { text } else { format!("[{left_out} bytes left out] {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::Fence;

    fn request(path: &str, env: &[(&str, &str)]) -> HooksRunRequest {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let fence = Fence { epoch: 1, ballot: [0; 16] };
        HooksRunRequest { fence, path: path.to_owned(), phase: HookPhase::Pre, env }
    }

    #[test]
    fn hooks_are_known_by_their_names() {
        for name in ["10-check", "a", "A_b-9"] {
            assert!(is_hook_name(name), "{name}");
        }
        for name in ["", "a~", "a.sh", ".a", "a b", "ä", "a.dpkg-old"] {
            assert!(!is_hook_name(name), "{name}");
        }
        assert_eq!(directory("node-add", HookPhase::Post), "node-add-post.d");
    }

    #[test]
    fn no_request_leads_out_of_the_directory() {
        assert_eq!(check(&request("node-add", &[("GANETI_X", "y")])), Ok(()));
        for path in ["", "../etc", "a/b", "Node", "a b", &"a".repeat(65)] {
            assert!(check(&request(path, &[])).is_err(), "{path}");
        }
        for name in ["", "GANETI_A=B", "LD_PRELOAD", "BASH_ENV", "GANETI_a b", "ganeti_x"] {
            assert!(check(&request("x", &[(name, "")])).is_err(), "{name}");
        }
        assert!(check(&request("x", &[("GANETI_A", "\0")])).is_err());
        assert!(check(&request("x", &[("GANETI_A", &"v".repeat(ENV_BYTES_MAX))])).is_err());
    }

    #[test]
    fn the_node_has_the_last_word_on_its_own_variables() {
        let given = request("x", &[("GANETI_DATA_DIR", "elsewhere"), ("GANETI_MASTER", "n1")]);
        let all = environment(&given, "/d");
        let last = |name: &str| all.iter().rev().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
        assert_eq!(last("GANETI_DATA_DIR"), Some("/d"));
        assert_eq!(last("GANETI_MASTER"), Some("n1"));
        assert_eq!(last("PATH"), Some(PATH));
    }

    #[test]
    fn what_is_left_out_is_said() {
        assert_eq!(said(b" no \n", 0), "no");
        assert_eq!(said(b"no\xff", 7), "[7 bytes left out] no\u{fffd}");
    }
}
