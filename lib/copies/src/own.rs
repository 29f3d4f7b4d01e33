//! The token of the writer's own copy (P1.11): it too may one day be somebody's old image. Drawn once a start, recorded in
//! the log, and stored by the own noded, since that is who writes a copy's vote beside the writer. A log of one copy needs
//! none: nobody else has a record to judge it by.

use crate::handle::Shared;
use crate::heard;
use crate::link::Link;
use crate::wire;
use gantry_model::ids::NodeUuid;
use gantry_proto::copies::TokenRequest;
use gantry_proto::noded;
use gantry_store::core::row::Index;
use gantry_store::core::token::{Connect, Token, connect};
use std::sync::Arc;
use std::time::Duration;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1_000);
/// How long the own noded may take.
const SMALL_MS: u64 = 5_000;

/// Draws, records and stores the own copy's token, once the list has others too.
pub async fn token<L: Link>(shared: Arc<Shared<L>>) {
    let mut gift = None;
    loop {
        let others = shared.writer.list().1.members.len() > 1;
        let done = tokio::select! {
            done = one_try(&shared, &mut gift), if others => done,
            () = shared.stop.cancelled() => return,
            () = std::future::ready(()), if !others => Ok(false),
        };
        match done {
            Ok(true) => return,
            Ok(false) => {}
            Err(why) => tracing::debug!(log = ?shared.log, why, "the own copy's token is not stored yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// A token recorded at a row, and what the copy shows before it has it.
type Gift = (Index, Option<Token>, Token);

async fn one_try<L: Link>(shared: &Shared<L>, gift: &mut Option<Gift>) -> Result<bool, String> {
    let (at, old, new) = match *gift {
        Some(known) => known,
        None => *gift.insert(record(shared).await?),
    };
    let mut progress = shared.writer.progress();
    // Also the own flush: nothing commits before it.
    let committed = progress.wait_for(|now| now.committed >= at || now.failed.is_some()).await;
    if committed.map_err(|_| "the writer has ended")?.failed.is_some() {
        return Ok(true);
    }
    let (log, claim) = (wire::log(shared.log), wire::claim(&shared.claim));
    let request = TokenRequest { log, claim, old, new };
    let node = NodeUuid(shared.me.node);
    let stored = shared.link.call::<noded::CopyToken>(node, request, Duration::from_millis(SMALL_MS)).await;
    match stored.map_err(|why| why.to_string())? {
        None => Ok(true),
        Some(why) => Err(wire::to_refusal(why).to_string()),
    }
}

async fn record<L: Link>(shared: &Shared<L>) -> Result<Gift, String> {
    let node = NodeUuid(shared.me.node);
    let look = shared.link.call::<noded::CopyLook>(node, (), Duration::from_millis(SMALL_MS)).await;
    let look = look.map_err(|why| why.to_string())?;
    let own = look.copies.iter().find(|(log, _)| *log == wire::log(shared.log));
    let (_, facts) = own.ok_or("the own gantry-noded knows no such log")?;
    let mut drawn = [0; 16];
    getrandom::fill(&mut drawn).map_err(|why| why.to_string())?;
    let known = shared.record_of(shared.me.copy_id).await.map_err(|why| why.chain())?;
    match connect(&heard::shown(facts), known.as_ref(), Index(0), drawn).map_err(|why| why.to_string())? {
        Connect::Give(record) => Ok((record.at.idx, record.old, record.new)),
        Connect::Record(row) => {
            let at = shared.writer.append_token(&row).map_err(|why| why.chain())?;
            Ok((at, row.old, row.new))
        }
    }
}
