//! Images sent by the master, and which of them stay.

use super::put::blocking;
use super::{Member, shut};
use crate::io::images::Taken;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{ImageKeepRequest, ImagePutRequest, PIECE_BYTES_MAX, PieceReply};
use std::collections::HashSet;
use std::sync::Arc;

impl Member {
    /// Takes a piece of an image.
    ///
    /// # Errors
    /// `Fenced`; `BadRequest` for a wrong digest or archive; `Busy` for lack of room.
    pub async fn image_put(self: &Arc<Self>, request: ImagePutRequest) -> Result<PieceReply, Fail> {
        if request.bytes.len() > PIECE_BYTES_MAX {
            return Err(Fail::new(Code::BadRequest, "pieces have 1 MiB at most"));
        }
        let member = Arc::clone(self);
        self.detached("image_put", async move {
            let digest = request.digest.clone();
            let taken = {
                let _turn = member.images.turn().await;
                let _pass = member.gate.enter(request.fence).map_err(shut)?;
                let images = member.images.clone();
                blocking(move || images.take(&request.digest, request.offset, &request.bytes, request.last))
                    .await?
            };
            match taken {
                Taken::Known(next) => Ok(PieceReply { next, done: true }),
                Taken::Part(next) => Ok(PieceReply { next, done: false }),
                Taken::Whole(next) => {
                    let done = member.put_image_in_place(digest).await?;
                    Ok(PieceReply { next: if done { next } else { 0 }, done })
                }
            }
        })
        .await
    }

    /// Takes minutes for an image of several GiB. Neither those who make VMs nor another master wait for it: it is what
    /// its digest says, whoever sent it.
    async fn put_image_in_place(&self, digest: String) -> Result<bool, Fail> {
        let _one = self.images.unpacking().await;
        let images = self.images.clone();
        blocking(move || images.put_in_place(&digest)).await
    }

    /// Removes images that are neither named nor used by a VM.
    ///
    /// # Errors
    /// `Fenced`; a driver's that can't list its VMs: then none goes.
    pub async fn image_keep(self: &Arc<Self>, request: ImageKeepRequest) -> Result<(), Fail> {
        let member = Arc::clone(self);
        self.detached("image_keep", async move {
            let _turn = member.images.turn().await;
            let _pass = member.gate.enter(request.fence).map_err(shut)?;
            let used = member.seen().await?.into_iter().filter_map(|vm| vm.image_digest);
            let wanted: HashSet<String> = request.digests.into_iter().chain(used).collect();
            let images = member.images.clone();
            blocking(move || images.keep(&wanted)).await
        })
        .await
    }
}
