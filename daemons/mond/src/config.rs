//! MonD's command line and addresses.

use clap::{CommandFactory, Parser};
use gantry_model::network::{Network, NetworkError};
use gantry_model::root::{ROOT_ENV, Root};
use gantry_rt::node_toml::{self, MOND_PORT, NodeToml, NodeTomlError};
use gantry_rt::services::Service;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// MonD as a service.
const SERVICE: Service = Service { names: ["gantry-mond", "ganeti-mond"], protocol: "tcp", port: MOND_PORT };

/// Tells over HTTP how this node is: reports in Ganeti's form, and metrics. Started by gantry-boot on every node
#[derive(Debug, Clone, Parser)]
#[command(name = "gantry-mond", version)]
pub struct Args {
    /// Root directory of this node
    #[arg(long, env = ROOT_ENV, default_value = "/")]
    pub root: PathBuf,
    /// Log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Port to listen on instead of node.toml's, or else that of ganeti-mond/tcp in /etc/services, or else 1815
    #[arg(short, long)]
    pub port: Option<u16>,
    /// Address to listen on instead of node.toml's
    #[arg(short, long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
    /// Stay in the foreground: always so; taken because Ganeti's has it
    #[arg(short, long)]
    pub foreground: bool,
    /// Taken because Ganeti's has it; the log filter is set by GANTRY_LOG
    #[arg(short, long)]
    pub debug: bool,
    /// Taken because Ganeti's has it; users are not checked
    #[arg(long)]
    pub no_user_checks: bool,
    /// Write the manual pages of MonD's programs into this directory, and end
    #[arg(long, value_name = "DIR", hide = true)]
    pub man: Option<PathBuf>,
}

/// Writes the manual pages of MonD's programs.
///
/// # Errors
/// The directory cannot be written to.
pub fn manual(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (command, section) in [(Args::command(), "8"), (crate::collector_args::Args::command(), "1")] {
        let mut page = Vec::new();
        let name = command.get_name().to_owned();
        clap_mangen::Man::new(command).section(section).render(&mut page)?;
        std::fs::write(dir.join(format!("{name}.{section}")), page)?;
    }
    Ok(())
}

/// Why it can't start with its settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// node.toml is there and can't be used.
    #[error(transparent)]
    NodeToml(#[from] NodeTomlError),
    /// A network that is none.
    #[error("[mond] allow in node.toml: {0}")]
    Network(NetworkError),
    /// Nowhere to listen.
    #[error("[mond] in node.toml: with plain = false and without tls_port nobody could ask: set tls_port")]
    Nowhere,
    /// Both listeners on one port.
    #[error("[mond] in node.toml: tls_port {0} is the port of plain HTTP: choose another")]
    SamePort(u16),
    /// Tokens are taken with TLS alone.
    #[error("[mond] in node.toml: token_file without tls_port: tokens are taken with TLS alone")]
    TokensInPlain,
    /// Whose directory?
    #[error("[mond] token_file in node.toml: {}: it must be an absolute path", .0.display())]
    Relative(PathBuf),
}

/// Where it listens and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Without TLS.
    pub plain: Vec<SocketAddr>,
    /// With TLS. One of both is not empty.
    pub tls: Vec<SocketAddr>,
    /// Who may ask; empty: all.
    pub allow: Vec<Network>,
    /// Tokens that the TLS listener takes.
    pub token_file: Option<PathBuf>,
}

impl Settings {
    /// Of the command line, then node.toml, then the loopback address: reports show names and reasons, and are not for
    /// everybody.
    ///
    /// # Errors
    /// node.toml is there and cannot be used, or contradicts itself.
    pub fn load(root: &Root, args: &Args) -> Result<Self, SettingError> {
        let node = match node_toml::load(root) {
            Ok(node) => Some(node),
            Err(NodeTomlError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Self::new(node.as_ref(), args)
    }

    fn new(node: Option<&NodeToml>, args: &Args) -> Result<Self, SettingError> {
        let port = args.port.unwrap_or_else(|| SERVICE.port(node.map_or(MOND_PORT, |node| node.mond_port)));
        let addresses = match (args.bind, node) {
            (Some(one), _) => vec![one],
            (None, Some(node)) if !node.mond.bind.is_empty() => node.mond.bind.clone(),
            (None, Some(node)) => vec![node.address],
            (None, None) => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        };
        let at = |port| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let own = node.map(|node| node.mond.clone()).unwrap_or_default();
        let (plain, tls) = match (own.plain.unwrap_or(true), own.tls_port) {
            (false, 0) => return Err(SettingError::Nowhere),
            (true, 0) => (at(port), Vec::new()),
            (true, tls) if tls == port => return Err(SettingError::SamePort(tls)),
            (true, tls) => (at(port), at(tls)),
            (false, tls) => (Vec::new(), at(tls)),
        };
        let token_file = match own.token_file {
            Some(_) if tls.is_empty() => return Err(SettingError::TokensInPlain),
            Some(path) if path.is_relative() => return Err(SettingError::Relative(path)),
            other => other,
        };
        let networks = own.allow.iter().map(|text| text.parse().map_err(SettingError::Network));
        Ok(Self { plain, tls, allow: networks.collect::<Result<_, _>>()?, token_file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_its_page() {
        let dir = tempfile::tempdir().unwrap();
        manual(dir.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(
            page("gantry-mond.8").contains("\\-\\-bind")
                && page("gantry-mon-collector.1").contains("diskstats")
        );
    }

    #[test]
    fn the_nodes_own_address_unless_somebody_says_otherwise() {
        let of = |node: Option<&NodeToml>, args: &[&str]| {
            let args = Args::try_parse_from([&["gantry-mond"], args].concat()).unwrap();
            Settings::new(node, &args)
                .unwrap()
                .plain
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut node = NodeToml::new("n1", IpAddr::from([127, 0, 0, 2]));
        assert_eq!(of(None, &[]), "127.0.0.1:1815");
        assert_eq!(of(Some(&node), &["-f", "-d", "--no-user-checks"]), "127.0.0.2:1815");
        assert_eq!(of(Some(&node), &["-p", "9", "-b", "127.0.0.3"]), "127.0.0.3:9");
        node.mond_port = 7;
        node.mond.bind = vec![IpAddr::from([127, 0, 0, 1]), node.address];
        assert_eq!(of(Some(&node), &[]), "127.0.0.1:7 127.0.0.2:7");
    }

    #[test]
    fn networks_are_networks() {
        let args = Args::try_parse_from(["gantry-mond"]).unwrap();
        let of = |allow: &[&str]| {
            let mut node = NodeToml::new("n1", IpAddr::from([127, 0, 0, 2]));
            node.mond.allow = allow.iter().map(|text| (*text).to_owned()).collect();
            Settings::new(Some(&node), &args).map(|settings| settings.allow).map_err(|why| why.to_string())
        };
        assert_eq!(of(&[]).unwrap(), []);
        let two = of(&["10.0.0.0/8", "::1"]).unwrap();
        assert!(two[0].has(IpAddr::from([10, 1, 2, 3])) && !two[1].has(IpAddr::from([10, 1, 2, 3])));
        assert_eq!(
            of(&["10.0.0.0/8", "10.0.0.0/33"]).unwrap_err(),
            "[mond] allow in node.toml: '10.0.0.0/33' is no network such as 192.0.2.0/24 or 2001:db8::/32"
        );
    }

    #[test]
    fn tls_is_beside_plain_http_or_instead() {
        let of = |table: &str| {
            let text = format!("name = \"n1\"\naddress = \"127.0.0.2\"\n[mond]\n{table}\n");
            let node = node_toml::parse(&text, Path::new("node.toml")).unwrap();
            let args = Args::try_parse_from(["gantry-mond", "-p", "1815"]).unwrap();
            Settings::new(Some(&node), &args).map_err(|why| why.to_string())
        };
        let ports = |table: &str| {
            let Settings { plain, tls, .. } = of(table).unwrap();
            [plain, tls].map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let (plain, tls) = ("127.0.0.2:1815", "127.0.0.2:1816");
        assert_eq!(ports(""), [plain, ""]);
        assert_eq!(ports("tls_port = 0\nplain = true"), [plain, ""]);
        assert_eq!(ports("tls_port = 1816\ntoken_file = \"/x\""), [plain, tls]);
        assert_eq!(ports("tls_port = 1816\nplain = false"), ["", tls]);
        assert_eq!(ports("tls_port = 1815\nplain = false"), ["", plain]);
        for (table, why) in [
            ("plain = false", "set tls_port"),
            ("tls_port = 1815", "choose another"),
            ("token_file = \"/x\"", "without tls_port"),
            ("tls_port = 1816\ntoken_file = \"x\"", "absolute"),
        ] {
            assert!(of(table).unwrap_err().contains(why), "{table}");
        }
    }
}
