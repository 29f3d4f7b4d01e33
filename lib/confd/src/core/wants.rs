//! What the query of each type must be (`spec/confd.md` §4): to refuse a wrong one before anybody is asked, and to explain the
//! bare number that a server answers it with. Pure.

use super::request::{Kind, Query, Selection};
use std::net::IpAddr;
use uuid::Uuid;

/// A query that no server answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} wants {}{}", kind.name(), kind.wants(), given.as_ref().map_or_else(String::new, |given| format!(", not '{given}'")))]
pub struct WrongQuery {
    /// The type.
    pub kind: Kind,
    /// What was given; None = nothing.
    pub given: Option<String>,
}

impl Kind {
    /// What its query must be, to be read after "wants".
    #[must_use]
    pub fn wants(self) -> &'static str {
        match self {
            Self::Ping
            | Self::Master
            | Self::NodeIps
            | Self::CandidateIps
            | Self::Collectors
            | Self::Pools => "no query",
            Self::NodeRole | Self::Minors | Self::Instances => "the name or UUID of a node",
            Self::NodeByInstanceIp => "the IP address of an instance",
            Self::InstanceIps => "the name of a link, or no query for the default one",
            Self::Disks => "the name or UUID of an instance",
            Self::Config => "a JSON pointer to a part of the configuration, such as /cluster/cluster_name",
            Self::Slots => "the name of a pool",
            Self::Leases => "the UUID of a lease, or no query for all of them",
        }
    }

    /// Checks a query that somebody typed. Servers take some that make no sense: they pass over a query where there is none.
    ///
    /// # Errors
    /// It can't be answered, or not as it is meant.
    pub fn check(self, query: &Query) -> Result<(), WrongQuery> {
        let good = match (self, query) {
            (
                Self::Ping | Self::NodeIps | Self::CandidateIps | Self::Collectors | Self::Pools,
                Query::Null,
            )
            | (Self::Master | Self::InstanceIps | Self::Leases, Query::Null)
            | (Self::Master, Query::Object(_)) => true,
            (
                Self::NodeRole
                | Self::Minors
                | Self::Instances
                | Self::InstanceIps
                | Self::Disks
                | Self::Slots,
                Query::Text(text),
            ) => !text.is_empty(),
            (Self::Config, Query::Text(text)) => is_pointer(text),
            (Self::Leases, Query::Text(text)) => Uuid::try_parse(text).is_ok(),
            (Self::NodeByInstanceIp, Query::Object(Selection { ip, ips, .. })) => {
                let all = || ip.iter().chain(ips);
                all().next().is_some() && all().all(|ip| ip.parse::<IpAddr>().is_ok())
            }
            _ => false,
        };
        if good { Ok(()) } else { Err(WrongQuery { kind: self, given: query.given() }) }
    }
}

impl Query {
    /// As it was typed; None if nothing was.
    fn given(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone()),
            Self::Object(Selection { ip, ips, .. }) => ip.iter().chain(ips).next().cloned(),
        }
    }
}

/// Whether a text is a JSON pointer that names less than the whole.
fn is_pointer(text: &str) -> bool {
    let escapes =
        text.match_indices('~').all(|(at, _)| matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1')));
    text.len() > 1 && text.starts_with('/') && escapes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Query {
        Query::Text(text.to_owned())
    }

    fn ip(ip: Option<&str>) -> Query {
        Query::Object(Selection { ip: ip.map(str::to_owned), ..Selection::default() })
    }

    #[test]
    fn what_can_be_answered() {
        let lease = "00000000-0000-4000-8000-000000000001";
        for (kind, query) in [
            (Kind::Ping, Query::Null),
            (Kind::NodeRole, text("n")),
            (Kind::NodeByInstanceIp, ip(Some("192.0.2.1"))),
            (Kind::Master, Query::Null),
            (Kind::Master, ip(None)),
            (Kind::NodeIps, Query::Null),
            (Kind::CandidateIps, Query::Null),
            (Kind::InstanceIps, Query::Null),
            (Kind::InstanceIps, text("br0")),
            (Kind::Minors, text("n")),
            (Kind::Instances, text("n")),
            (Kind::Disks, text("i")),
            (Kind::Config, text("/cluster/a~1b~0c")),
            (Kind::Collectors, Query::Null),
            (Kind::Pools, Query::Null),
            (Kind::Slots, text("p")),
            (Kind::Leases, Query::Null),
            (Kind::Leases, text(lease)),
        ] {
            assert_eq!(kind.check(&query), Ok(()), "{kind:?} {query:?}");
        }
    }

    #[test]
    fn what_cannot_is_refused_with_what_the_type_wants() {
        for (kind, query, said) in [
            (Kind::Ping, text("x"), "ping wants no query, not 'x'"),
            (Kind::Pools, text("x"), "pools wants no query, not 'x'"),
            (Kind::Master, text("x"), "master wants no query, not 'x'"),
            (Kind::NodeRole, Query::Null, "node-role wants the name or UUID of a node"),
            (Kind::Minors, text(""), "drbd-minors wants the name or UUID of a node, not ''"),
            (Kind::Instances, ip(None), "instances wants the name or UUID of a node"),
            (Kind::NodeByInstanceIp, ip(None), "node-by-instance-ip wants the IP address of an instance"),
            (
                Kind::NodeByInstanceIp,
                ip(Some("inst1")),
                "node-by-instance-ip wants the IP address of an instance, not 'inst1'",
            ),
            (Kind::Disks, Query::Null, "disks wants the name or UUID of an instance"),
            (Kind::Slots, Query::Null, "slots wants the name of a pool"),
            (
                Kind::Leases,
                text("x"),
                "leases wants the UUID of a lease, or no query for all of them, not 'x'",
            ),
        ] {
            assert_eq!(kind.check(&query).unwrap_err().to_string(), said);
        }
        for bad in ["", "/", "cluster", "/a~", "/a~2"] {
            let said = Kind::Config.check(&text(bad)).unwrap_err().to_string();
            assert!(said.ends_with(&format!("such as /cluster/cluster_name, not '{bad}'")), "{said}");
        }
    }
}
