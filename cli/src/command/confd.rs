//! `gnt-debug confd`: asks the master candidates' ConfD directly; no master is needed.

use crate::error::CliError;
use crate::session::Session;
use gantry_confd::client::{Answer, ClientError};
use gantry_confd::{Form, Kind, Query, Selection, files};
use serde_json::Value;

/// Ask the master candidates' ConfD and print the newest answer
#[derive(Debug, clap::Args)]
pub struct Confd {
    /// What to ask: ping, node-role, node-by-instance-ip, master, node-ips, candidate-ips, instance-ips, drbd-minors,
    /// instances, disks, config, collectors, pools, slots, leases, or a number
    #[arg(value_name = "TYPE")]
    kind: Kind,
    /// About what: node-role, drbd-minors and instances want a node, disks an instance, node-by-instance-ip an address,
    /// instance-ips a link (default: the cluster's), config a JSON pointer, slots a pool, leases a lease (default: all)
    query: Option<String>,
    /// Link of the instance's address (node-by-instance-ip)
    #[arg(long, value_name = "LINK")]
    link: Option<String>,
    /// Ask in this form instead of the cluster's: sha1 (as Ganeti's programs) or sha256
    #[arg(long, value_name = "FORM", value_parser = form)]
    digest: Option<Form>,
    /// Say who answered
    #[arg(short, long)]
    verbose: bool,
}

fn form(text: &str) -> Result<Form, String> {
    match text {
        "sha1" => Ok(Form::Legacy),
        "sha256" => Ok(Form::Second),
        _ => Err("sha1 or sha256".to_owned()),
    }
}

impl Confd {
    /// What can't be answered is not asked.
    fn check(&self) -> Result<(), CliError> {
        if self.link.is_some() && self.kind != Kind::NodeByInstanceIp {
            let text = format!("--link is for node-by-instance-ip alone, {} has none", self.kind.name());
            return Err(CliError::Usage(text));
        }
        self.kind.check(&self.query()).map_err(|why| CliError::Usage(why.to_string()))
    }

    fn query(&self) -> Query {
        match (self.kind, &self.query) {
            (Kind::NodeByInstanceIp, ip) => {
                let (link, ip) = (self.link.clone(), ip.clone());
                Query::Object(Selection { link, ip, ..Selection::default() })
            }
            (_, Some(text)) => Query::Text(text.clone()),
            (_, None) => Query::Null,
        }
    }
}

/// Asks, and prints the answer as JSON.
///
/// # Errors
/// Nobody answers, or the answer is that there is none.
pub async fn run(session: &Session, confd: &Confd) -> Result<(), CliError> {
    confd.check()?;
    let client = files::client(&session.root).map_err(|why| told(&why))?;
    let client = match confd.digest {
        Some(form) => client.in_form(form),
        None => client,
    };
    let answer = client.ask(confd.kind, confd.query()).await.map_err(|why| told(&why))?;
    notes(session, confd, &answer);
    if !answer.reply.ok {
        return Err(CliError::plain(format!(
            "ConfD on {} has no answer: {}",
            answer.from,
            why(confd.kind, &answer.reply.answer)
        )));
    }
    let text =
        serde_json::to_string_pretty(&answer.reply.answer).map_err(|why| CliError::plain(why.to_string()))?;
    session.screen.line(&text)
}

fn notes(session: &Session, confd: &Confd, answer: &Answer) {
    let named = |answered: bool| {
        let peers = answer.peers.iter().filter(|peer| peer.answered == answered);
        peers.map(|peer| peer.addr.to_string()).collect::<Vec<_>>().join(", ")
    };
    if confd.verbose {
        let node =
            if answer.reply.node.is_empty() { String::new() } else { format!(" ({})", answer.reply.node) };
        session.screen.note(&format!("from {}{node}, serial {}", answer.from, answer.reply.serial));
        session.screen.note(&format!("answered: {}", named(true)));
    }
    let silent = named(false);
    if !silent.is_empty() {
        session.screen.note(&format!("silent: {silent}"));
    }
    if !answer.consistent {
        session.screen.note("Warning: candidates with the same serial give different answers");
    }
}

/// The numbers that stand for errors (`spec/confd.md` §3), and texts as they are.
fn why(kind: Kind, answer: &Value) -> String {
    match answer {
        Value::Number(code) => match code.as_u64() {
            Some(0) => "there is no such entry".to_owned(),
            Some(1) => "an internal error, or the answer is longer than a datagram".to_owned(),
            Some(2) if kind == Kind::Config => {
                "there is nothing at that place of the configuration".to_owned()
            }
            Some(2) => format!("the query is wrong: {} wants {}", kind.name(), kind.wants()),
            _ => format!("error {code}"),
        },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn told(error: &ClientError) -> CliError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(why) = cause {
        text.push_str(&format!(": {why}"));
        cause = why.source();
    }
    CliError::plain(text)
}
