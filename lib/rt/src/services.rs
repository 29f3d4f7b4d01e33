//! Ports by the names of services: a site that moved a port for Ganeti's daemons says so in `/etc/services`.

use std::fs;

/// Where other ports of services stand.
const SERVICES: &str = "/etc/services";

/// A service of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Its names; the first that is there counts.
    pub names: [&'static str; 2],
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its port where nobody says otherwise.
    pub port: u16,
}

impl Service {
    /// The port of a node whose settings say `own`: they count unless they are the default and the services say otherwise.
    /// Blocks for one small read.
    #[must_use]
    pub fn port(&self, own: u16) -> u16 {
        if own != self.port {
            return own;
        }
        fs::read_to_string(SERVICES).ok().and_then(|text| self.named(&text)).unwrap_or(own)
    }

    /// The port that a text of the form of services(5) names.
    fn named(&self, text: &str) -> Option<u16> {
        let of = |wanted: &str| {
            text.lines().find_map(|line| {
                let mut words = line.split('#').next()?.split_whitespace();
                let (name, (port, protocol)) = (words.next()?, words.next()?.split_once('/')?);
                let ours =
                    protocol == self.protocol && (name == wanted || words.any(|alias| alias == wanted));
                port.parse().ok().filter(|port| ours && *port != 0)
            })
        };
        self.names.into_iter().find_map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_services() {
        let udp = Service { names: ["gantry-confd", "ganeti-confd"], protocol: "udp", port: 1814 };
        let tcp = Service { names: ["gantry-mond", "ganeti-mond"], protocol: "tcp", port: 1815 };
        assert_eq!(udp.named("ganeti-confd 1817/udp\n"), Some(1817));
        assert_eq!(udp.named("ganeti-confd 1817/tcp # x\nx 1/udp"), None);
        assert_eq!(udp.named("ganeti-confd 7/udp\nother 8/udp gantry-confd\n"), Some(8));
        let both = "ganeti-mond\t2815/udp\n# ganeti-mond 1/tcp\nganeti-mond  1825/tcp  # moved\n";
        assert_eq!((tcp.named(both), udp.named(both)), (Some(1825), None));
        for nonsense in [
            "ganeti-mond",
            "ganeti-mond 1825",
            "ganeti-mond x/tcp",
            "ganeti-mond 70000/tcp",
            "ganeti-mond 0/tcp",
            "",
        ] {
            assert_eq!(tcp.named(nonsense), None, "{nonsense}");
        }
        assert_eq!(tcp.port(99), 99);
    }
}
