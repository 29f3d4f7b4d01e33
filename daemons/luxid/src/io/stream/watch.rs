//! Changes as they come: of the configuration and of the queue.

use super::StreamApi;
use crate::core::mirror::ObjectChange;
use crate::core::queue::kind as queue_kind;
use crate::io::feed::News;
use gantry_model::config::kind;
use gantry_model::error::{Ecode, GanetiError};
use gantry_proto::envelope::Fail;
use gantry_proto::stream::{StreamEvent, Watch, WatchRequest};
use gantry_rpc::ItemSender;
use std::collections::HashSet;
use tokio::sync::broadcast::error::RecvError;

/// What may be watched.
const KINDS: [&str; 15] = [
    kind::CLUSTER,
    kind::META,
    kind::NODE,
    kind::GROUP,
    kind::INSTANCE,
    kind::NETWORK,
    kind::FILTER,
    kind::SLOT,
    kind::BLUEPRINT,
    kind::POOL,
    kind::IMAGE,
    kind::LEASE,
    queue_kind::JOB,
    queue_kind::TASK,
    queue_kind::REQUEST,
];

impl StreamApi {
    /// Sends changes for ever.
    pub(super) async fn watch(&self, request: &WatchRequest, items: ItemSender<Watch>) -> Result<(), Fail> {
        if let Some(unknown) = request.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            let text =
                format!("there is nothing to watch of kind '{unknown}': known are {}", KINDS.join(", "));
            return Err(GanetiError::prereq(text, Ecode::WrongInput).into());
        }
        let wanted: HashSet<&str> = request.kinds.iter().map(String::as_str).collect();
        let (mut config, mut queue) = (self.parts.config.feed().listen(), self.parts.view.changes());
        items.send(&StreamEvent::Begun).await?;
        loop {
            let change = tokio::select! {
                news = config.recv() => match news {
                    Ok(News::Changed(change)) => Some(change),
                    Ok(News::All) | Err(RecvError::Lagged(_)) => None,
                    Err(RecvError::Closed) => return Ok(()),
                },
                change = queue.recv() => match change {
                    Ok(change) => Some(change),
                    Err(RecvError::Lagged(_)) => None,
                    Err(RecvError::Closed) => return Ok(()),
                },
            };
            let event = match change {
                Some(ObjectChange { kind, .. }) if !wanted.contains(kind.as_str()) => continue,
                Some(ObjectChange { kind, key, state }) => {
                    StreamEvent::Changed { kind, key, state: state.to_owned() }
                }
                None => StreamEvent::Lost,
            };
            items.send(&event).await?;
        }
    }
}
