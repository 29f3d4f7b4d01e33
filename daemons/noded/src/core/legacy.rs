//! What the metrics of this node's ConfD say of who asked it in the legacy form. Pure.

use gantry_model::config::confd;
use gantry_proto::noded::LegacySource;

/// Most sources that are told: as many as ConfD counts.
const SOURCES_MAX: usize = 256;

/// The sources that a text of metrics names, in its order.
#[must_use]
pub fn sources(metrics: &str, now_s: u64) -> Vec<LegacySource> {
    metrics.lines().filter_map(|line| source(line, now_s)).take(SOURCES_MAX).collect()
}

fn source(line: &str, now_s: u64) -> Option<LegacySource> {
    let rest = line.strip_prefix("gantry_")?.strip_prefix(confd::LEGACY_LAST)?;
    let (ip, last) = rest.strip_prefix("{source=\"")?.split_once("\"} ")?;
    Some(LegacySource { ip: ip.parse().ok()?, ago_s: now_s.saturating_sub(last.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_and_how_long_ago() {
        let text = "# TYPE gantry_confd_legacy_last_timestamp_seconds gauge\n\
                    gantry_confd_legacy_total{source=\"192.0.2.8\"} 4\n\
                    gantry_confd_legacy_last_timestamp_seconds{source=\"192.0.2.7\"} 990\n\
                    gantry_confd_legacy_last_timestamp_seconds{source=\"2001:db8::7\"} 1005\n\
                    gantry_confd_legacy_last_timestamp_seconds{source=\"x\"} 1\n# EOF\n";
        let seen = |ip: &str, ago_s| LegacySource { ip: ip.parse().expect("an address"), ago_s };
        assert_eq!(sources(text, 1000), [seen("192.0.2.7", 10), seen("2001:db8::7", 0)]);
        assert_eq!(sources("", 1000), []);
    }
}
