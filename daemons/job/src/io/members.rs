//! The job's calls to wconfd about copies: who is a member, and what every node's ssconf should be.

use super::master::{Master, Patience};
use crate::error::{OpFail, failed};
use gantry_model::config::Params;
use gantry_model::ids::NodeUuid;
use gantry_proto::codec::Json;
use gantry_proto::wconfd::{MemberChange, MemberChangeRequest, SsconfValues, SsconfValuesReply};
use gantry_rpc::Event;

impl Master {
    /// Takes a node's copies into the lists of both logs, or out of them, and sets fields of the node with it; the index of
    /// that. `told` hears the progress. It takes as long as feeding the copy takes: wconfd ends it when it gets nowhere.
    pub async fn member_change(
        &mut self,
        node: NodeUuid,
        join: bool,
        set: &Params,
        mut told: impl FnMut(String),
    ) -> Result<u64, OpFail> {
        let json = |why: gantry_proto::codec::CodecError| OpFail::exec(why.to_string());
        let (set, also) = (Json::of(set).map_err(json)?, Json::of(&Vec::new()).map_err(json)?);
        let request = MemberChangeRequest { owner: self.owner, node, join, set, also };
        let mut patience = Patience::default();
        loop {
            let why = match self.client(&mut patience).await?.open::<MemberChange>(&request).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Ok(Event::Item(item)) => {
                            patience = Patience::default();
                            told(item.text);
                        }
                        Ok(Event::End(reply)) => return Ok(reply.index),
                        Err(why) => break why,
                    }
                },
                Err(why) => why,
            };
            // Asked again, a change that was begun is carried on, one that is done is answered.
            if !self.again(&why) {
                return Err(failed(why));
            }
            self.wait(&mut patience, &why).await?;
        }
    }

    /// What every node's ssconf should be.
    pub async fn ssconf(&mut self) -> Result<SsconfValuesReply, OpFail> {
        self.call::<SsconfValues>(&()).await
    }
}
