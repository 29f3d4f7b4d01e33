//! What a copy says of itself, as it travels.

use crate::wire;
use gantry_model::ids::ClusterUuid;
use gantry_proto::copies::{Facts, TokenRecord};
use gantry_store::Look;

/// The store's look at a copy, to be sent.
#[must_use]
pub fn facts(look: &Look) -> Facts {
    let vote = &look.vote;
    let record = |(copy_id, record): (&uuid::Uuid, &gantry_store::core::token::TokenRecord)| TokenRecord {
        copy_id: *copy_id,
        old: record.old,
        new: record.new,
        at: wire::place(record.at),
    };
    Facts {
        promised: wire::term(vote.promised),
        ballot: vote.ballot,
        nonce: vote.nonce,
        cluster: ClusterUuid(vote.cluster),
        history: vote.history,
        copy_id: vote.copy_id,
        token: vote.token,
        base: wire::place(look.base),
        last: wire::place(look.last),
        list_at: look.list.0.0,
        list: wire::list(&look.list.1),
        applied: look.applied.0,
        tokens: look.tokens.iter().map(record).collect(),
        damaged: look.damaged.clone(),
    }
}
