//! What copies said of themselves, as the store's rules read it: shown tokens, records merged over all who answered,
//! answers with their state.

use crate::wire;
use gantry_model::ids::NodeUuid;
use gantry_proto::copies::Facts;
use gantry_store::core::list::Member;
use gantry_store::core::recover::Answer;
use gantry_store::core::row::Index;
use gantry_store::core::token::{Records, Shown, TokenRecord, state};

/// The copy that says this of itself.
#[must_use]
pub fn member(node: NodeUuid, facts: &Facts) -> Member {
    Member { node: node.0, copy_id: facts.copy_id }
}

/// What it shows.
#[must_use]
pub fn shown(facts: &Facts) -> Shown {
    Shown {
        copy_id: facts.copy_id,
        token: facts.token,
        last: Index(facts.last.idx),
        intact: facts.damaged.is_none(),
    }
}

/// What its log records of tokens.
#[must_use]
pub fn records(facts: &Facts) -> Records {
    let mut records = Records::default();
    for record in &facts.tokens {
        let at = wire::to_place(record.at);
        records.note(record.copy_id, TokenRecord { old: record.old, new: record.new, at });
    }
    records
}

/// The answers of all who were heard on one log, each judged by the newest records of any of them.
#[must_use]
pub fn answers<'a>(heard: impl IntoIterator<Item = (NodeUuid, &'a Facts)> + Clone) -> Vec<Answer> {
    let mut all = Records::default();
    for (_, facts) in heard.clone() {
        all.merge(&records(facts));
    }
    let answer = |(node, facts): (NodeUuid, &Facts)| Answer {
        member: member(node, facts),
        last: wire::to_place(facts.last),
        list: wire::to_list(&facts.list),
        commit: Index(facts.applied),
        state: state(&shown(facts), &all),
    };
    heard.into_iter().map(answer).collect()
}
