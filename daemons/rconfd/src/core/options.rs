//! What the cluster's object says of RConfD: fields that only Gantry has (`spec/confd.md` §6, §7.3). A value that cannot be
//! read counts as the careful one.

use gantry_confd::{Form, Kind};
use gantry_model::config::{Cluster, confd};
use gantry_model::network::Network;
use serde_json::Value;
use std::net::IpAddr;

/// Who may ask for parts of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigQuery {
    /// Nobody.
    Off,
    /// From this machine.
    Local,
    /// Anybody with the key.
    On,
}

/// The options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether the legacy form is accepted.
    pub legacy: bool,
    /// Whether the second form is accepted.
    pub second: bool,
    /// Whether instances and disks that Ganeti's decoders do not know are left out of the legacy form.
    pub strict: bool,
    /// Who may ask for parts of the configuration.
    pub config_query: ConfigQuery,
    /// Who is answered at all; None = the default.
    pub allowed: Option<Vec<Network>>,
    /// Who may use the legacy form; None = who is answered at all.
    pub legacy_networks: Option<Vec<Network>>,
    /// Types of the legacy form, by number; None = all.
    pub legacy_types: Option<Vec<u64>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            legacy: true,
            second: true,
            strict: false,
            config_query: ConfigQuery::On,
            allowed: None,
            legacy_networks: None,
            legacy_types: None,
        }
    }
}

impl Options {
    /// Those of a cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let get = |key: &str| cluster.extra.get(key);
        let word = |key: &str| get(key).map(|value| value.as_str().unwrap_or_default());
        Self {
            strict: get(confd::STRICT_GANETI).is_some_and(|value| *value != Value::Bool(false)),
            config_query: match word(confd::CONFIG_QUERY) {
                None | Some("on") => ConfigQuery::On,
                Some("local") => ConfigQuery::Local,
                Some(_) => ConfigQuery::Off,
            },
            allowed: get(confd::ALLOWED_NETWORKS).and_then(networks),
            legacy_networks: get(confd::LEGACY_NETWORKS).and_then(networks),
            legacy_types: get(confd::LEGACY_TYPES).and_then(numbers),
            ..Self::spoken(word(confd::DIGEST))
        }
    }

    /// Those of a cluster of which only the digest is known; None = it says none.
    #[must_use]
    pub fn spoken(digest: Option<&str>) -> Self {
        let (legacy, second) = match digest {
            None | Some(confd::BOTH) => (true, true),
            Some(confd::SHA1) => (true, false),
            Some(_) => (false, true),
        };
        Self { legacy, second, ..Self::default() }
    }

    /// Whether a form is accepted from there.
    #[must_use]
    pub fn accepts(&self, form: Form, from: IpAddr) -> bool {
        match form {
            Form::Legacy => self.legacy && within(self.legacy_networks.as_deref(), from),
            Form::Second => self.second,
        }
    }

    /// Whether a form has questions of that kind.
    #[must_use]
    pub fn has_type(&self, form: Form, kind: Kind) -> bool {
        let types = self.legacy_types.as_ref().filter(|_| form == Form::Legacy);
        types.is_none_or(|types| types.contains(&u64::from(kind.number())))
    }

    /// Whether somebody there is told parts of the configuration by a server with that address.
    #[must_use]
    pub fn tells_config(&self, from: IpAddr, own: IpAddr) -> bool {
        match self.config_query {
            ConfigQuery::Off => false,
            ConfigQuery::Local => from.is_loopback() || from == own,
            ConfigQuery::On => true,
        }
    }
}

fn within(networks: Option<&[Network]>, from: IpAddr) -> bool {
    networks.is_none_or(|networks| networks.iter().any(|network| network.has(from)))
}

/// The networks of a list; None = it is empty, so the default holds.
fn networks(value: &Value) -> Option<Vec<Network>> {
    let texts = listed(value)?.iter().filter_map(Value::as_str);
    Some(texts.filter_map(|text| text.parse().ok()).collect())
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    Some(listed(value)?.iter().filter_map(Value::as_u64).collect())
}

fn listed(value: &Value) -> Option<&[Value]> {
    let all = value.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() && value.is_array() { None } else { Some(all) }
}
