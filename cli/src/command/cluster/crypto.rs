//! `gnt-cluster renew-crypto`, and what `gnt-cluster info` says of certificates: the answer of QueryCrypto.

use crate::error::{CliError, EXIT_FAILURE};
use crate::opcode::SubmitOptions;
use crate::output::info::Info;
use crate::output::text::plain;
use crate::output::time::from_epoch;
use crate::session::Session;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// A certificate that ends so soon is told.
const SOON_S: i64 = 30 * 86_400;

/// Options of `renew-crypto`.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "Ganeti's options")]
pub struct RenewCrypto {
    /// Make a new CA, and give every node a certificate of it; the old CA is believed by nobody afterwards
    #[arg(long)]
    new_cluster_certificate: bool,
    /// Give every node a new key and a certificate of the present CA
    #[arg(long)]
    new_node_certificates: bool,
    /// Make a new key by which confd's clients and servers know each other
    #[arg(long)]
    new_confd_hmac_key: bool,
    /// Ganeti's option; refused with the reason
    #[arg(long, hide_short_help = true)]
    new_rapi_certificate: bool,
    /// Ganeti's option; refused with the reason
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    rapi_certificate: Option<String>,
    /// Ganeti's option; refused with the reason
    #[arg(long, hide_short_help = true)]
    new_spice_certificate: bool,
    /// Ganeti's option; refused with the reason
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    spice_certificate: Option<String>,
    /// Ganeti's option; refused with the reason
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    spice_ca_certificate: Option<String>,
    /// Ganeti's option; refused with the reason
    #[arg(long, hide_short_help = true)]
    new_cluster_domain_secret: bool,
    /// Ganeti's option; refused with the reason
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    cluster_domain_secret: Option<String>,
    /// Ganeti's option; refused with the reason
    #[arg(long, hide_short_help = true)]
    new_ssh_keys: bool,
    /// Do not ask whether it is meant
    #[arg(short, long)]
    force: bool,
    /// Say what each node answers
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    job: SubmitOptions,
}

impl RenewCrypto {
    /// The first option for something that Gantry does not have, and why.
    fn missing(&self) -> Option<(&'static str, &'static str)> {
        let rapi = "this version has no remote API, so there is no certificate for it";
        let spice = "Gantry's VMs have no SPICE consoles";
        let domain = "instances are not moved between clusters, so there is no secret for it";
        [
            (self.new_rapi_certificate, "--new-rapi-certificate", rapi),
            (self.rapi_certificate.is_some(), "--rapi-certificate", rapi),
            (self.new_spice_certificate, "--new-spice-certificate", spice),
            (self.spice_certificate.is_some(), "--spice-certificate", spice),
            (self.spice_ca_certificate.is_some(), "--spice-ca-certificate", spice),
            (self.new_cluster_domain_secret, "--new-cluster-domain-secret", domain),
            (self.cluster_domain_secret.is_some(), "--cluster-domain-secret", domain),
            (self.new_ssh_keys, "--new-ssh-keys", "Gantry's nodes do not speak SSH to each other"),
        ]
        .into_iter()
        .find_map(|(given, option, why)| given.then_some((option, why)))
    }
}

/// Renews, and follows the job, which tells each node's progress.
///
/// # Errors
/// Options that make no sense here, or the job's reason. The same command goes on with what was begun.
pub async fn renew(session: &mut Session, options: &RenewCrypto) -> Result<(), CliError> {
    session.command = "renew-crypto".to_owned();
    if let Some((option, why)) = options.missing() {
        return Err(CliError::Usage(format!("{option}: {why}; nothing was renewed")));
    }
    if !options.new_cluster_certificate && !options.new_node_certificates && !options.new_confd_hmac_key {
        return Err(CliError::Usage(
            "Please say what to renew: --new-cluster-certificate (the CA and all nodes' certificates), \
             --new-node-certificates (these alone), or --new-confd-hmac-key"
                .to_owned(),
        ));
    }
    let question = if options.new_cluster_certificate {
        "This will make a new CA and give every node a certificate of it. Nothing is restarted, and jobs and tasks go on; \
         nodes neither join nor leave meanwhile. Nodes that are down hold it up until they are back or removed. Continue?"
    } else if !options.new_node_certificates {
        "This will make a new hmac.key and give it to all nodes. Confd's clients elsewhere need it too. Continue?"
    } else {
        "This will give every node a new key and certificate. Nothing is restarted, and jobs and tasks go on. Old \
         certificates stay valid: if a key was stolen, use --new-cluster-certificate. Continue?"
    };
    if !options.force && !session.confirm(question, "--force")? {
        return Err(CliError::Told(EXIT_FAILURE));
    }
    let given = json!({
        "cluster_certificate": options.new_cluster_certificate,
        "node_certificates": options.new_node_certificates,
        "confd_hmac_key": options.new_confd_hmac_key,
        "verbose": options.verbose,
    });
    session.run_op("OP_CLUSTER_RENEW_CRYPTO", given, &options.job).await.map(drop)
}

/// The CA, a renewal under way, and nodes whose certificates need one. `now`: seconds since 1970.
#[must_use]
pub fn info(answer: &Value, zone: &TimeZone, now: i64) -> Info {
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ca = nodes.iter().find(|node| node["master"] == true).map_or(&Value::Null, |master| &master["key"]);
    let ends = nodes.iter().flat_map(|node| node["trust"].as_array().into_iter().flatten());
    let ends = ends.filter(|known| known["print"] == *ca).map(|known| &known["ends"]).next();
    let ends = ends.map_or_else(|| "?".to_owned(), |ends| from_epoch(ends, zone));
    let renewal = match answer["wanted"].as_str() {
        Some(wanted) => {
            format!("to the CA {wanted}; gnt-cluster renew-crypto --new-cluster-certificate goes on with it")
        }
        None => "(none)".to_owned(),
    };
    let wrong: Vec<(String, Info)> = nodes
        .iter()
        .filter_map(|node| {
            Some((plain(&node["name"]), Info::text(finding(node, ca, &answer["wanted"], zone, now)?)))
        })
        .collect();
    let wrong = if wrong.is_empty() { Info::text("(none)") } else { Info::Named(wrong) };
    Info::named([(
        "Certificates",
        Info::named([
            ("CA (SHA-256)", Info::text(ca.as_str().unwrap_or("(the master has no key of a CA)"))),
            ("CA ends", Info::text(ends)),
            ("Renewal under way", Info::text(renewal)),
            ("Nodes to look at", wrong),
        ]),
    )])
}

/// What is to be known of a node; None: all is as it should be. That a renewal has come to it is no finding.
fn finding(node: &Value, ca: &Value, wanted: &Value, zone: &TimeZone, now: i64) -> Option<String> {
    if let Some(why) = node["why"].as_str().filter(|why| !why.is_empty()) {
        return Some(why.to_owned());
    }
    let mut found = Vec::new();
    match node["issuer"].as_str() {
        Some(issuer) if *ca == *issuer || *wanted == *issuer => {}
        Some(other) => found.push(format!("its certificate is of the CA {other}")),
        None => found.push("its certificate is of no CA that it trusts".to_owned()),
    }
    if node["ends"].as_i64().is_none_or(|ends| ends - now < SOON_S) {
        found.push(format!("its certificate ends {}", from_epoch(&node["ends"], zone)));
    }
    let trust = node["trust"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !trust.iter().any(|known| known["print"] == *ca) {
        found.push("it does not trust the CA".to_owned());
    }
    found.extend(
        trust
            .iter()
            .filter(|known| known["print"] != *ca && known["print"] != *wanted)
            .map(|known| format!("it trusts the CA {} too", plain(&known["print"]))),
    );
    if node["candidate"] == true && node["key"] != *ca && (wanted.is_null() || node["key"] != *wanted) {
        found.push("it has no key of the CA".to_owned());
    }
    (!found.is_empty()).then(|| found.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        options: RenewCrypto,
    }

    #[test]
    fn what_gantry_does_not_have_is_refused_by_name() {
        let missing = |args: &[&str]| {
            let only = Only::try_parse_from([&["x"], args].concat()).unwrap();
            only.options.missing().map(|(option, _)| option)
        };
        assert_eq!(
            missing(&[
                "--new-cluster-certificate",
                "--new-node-certificates",
                "--new-confd-hmac-key",
                "-f",
                "-v"
            ]),
            None
        );
        for args in [
            &["--new-rapi-certificate"][..],
            &["--rapi-certificate", "x"],
            &["--new-spice-certificate"],
            &["--spice-certificate", "x"],
            &["--spice-ca-certificate", "x"],
            &["--new-cluster-domain-secret"],
            &["--cluster-domain-secret", "x"],
            &["--new-ssh-keys"],
        ] {
            assert_eq!(missing(&[&["--new-cluster-certificate"], args].concat()), Some(args[0]));
        }
    }

    #[test]
    fn info_says_what_is_to_be_looked_at() {
        let ends = 7_226_582_400_i64;
        let node = |name: &str, issuer: &str, trust: &[&str], ends: i64| {
            let trust: Vec<Value> = trust.iter().map(|print| json!({"print": print, "ends": ends})).collect();
            json!({"name": name, "master": name == "n1", "candidate": name == "n1", "why": "", "trust": trust,
                   "issuer": issuer, "ends": ends, "key": if name == "n1" { json!("aa") } else { Value::Null }})
        };
        let away =
            json!({"name": "n4", "master": false, "candidate": false, "why": "does not answer: refused"});
        let nodes = [node("n1", "aa", &["aa"], ends), node("n2", "bb", &["aa", "bb"], ends)];
        let shown = |wanted: Value, nodes: &[Value]| {
            let text =
                info(&json!({"wanted": wanted, "nodes": nodes}), &TimeZone::UTC, ends - SOON_S).render();
            text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        };
        let settled = shown(Value::Null, &nodes[..1]);
        assert_eq!(
            settled,
            "Certificates:\n  CA (SHA-256): aa\n  CA ends: 2199-01-01 00:00:00\n  Renewal under way: (none)\n  \
             Nodes to look at: (none)"
        );
        let late = node("n3", "aa", &["aa"], ends - 1);
        let text = shown(json!("aa"), &[&nodes[..], &[late, away]].concat());
        for line in [
            "  Renewal under way: to the CA aa; gnt-cluster renew-crypto --new-cluster-certificate goes on with it",
            "    n2: its certificate is of the CA bb, it trusts the CA bb too",
            "    n3: its certificate ends 2198-12-31 23:59:59",
            "    n4: does not answer: refused",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(!text.contains("n1: "), "{text}");
    }
}
