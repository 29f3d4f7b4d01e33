//! `vm_put`: archives come in pieces, wait beside, and are unpacked once, when whole and checked.

use super::Member;
use crate::core::slot::Need;
use crate::driver::home::Home;
use crate::driver::{CallKind, archive, bounded};
use crate::error;
use crate::io::uploads::Staged;
use gantry_model::ids::{Generation, InstanceUuid};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{PIECE_BYTES_MAX, PieceReply, VmPutRequest};
use gantry_proto::vmd::is_name;
use std::sync::Arc;

/// Room for an archive's headers and padding beyond its files, bytes: 10,000 entries with long names.
const HEADER_BYTES_MAX: u64 = 32 << 20;

/// What a VM's uploads lie under.
pub(super) fn name(slot: InstanceUuid, generation: Generation) -> String {
    format!("{slot}.{generation}")
}

impl Member {
    /// Takes a piece; with the last one the archive is unpacked. Done once per upload, whatever is repeated.
    ///
    /// # Errors
    /// `Fenced`, `Stale`; `BadRequest` for an archive that is not to be unpacked; `Busy` of class
    /// no-space when it does not fit into the VM, which is for good: nothing of it stays; `Busy` without one when the node
    /// can't now.
    pub async fn put(self: &Arc<Self>, request: VmPutRequest) -> Result<PieceReply, Fail> {
        if !is_name(&request.upload) || request.bytes.len() > PIECE_BYTES_MAX {
            return Err(Fail::new(
                Code::BadRequest,
                "an upload needs a plain name, and pieces of 1 MiB at most",
            ));
        }
        let member = Arc::clone(self);
        self.detached("vm_put", async move { member.put_now(request).await }).await
    }

    async fn put_now(self: &Arc<Self>, request: VmPutRequest) -> Result<PieceReply, Fail> {
        let inside = self.inside(request.at, Need::Work).await?;
        let of = name(request.at.vm.slot, request.at.vm.generation);
        let staged = self.uploads.staged(&of, &request.upload);
        if let Some(next) = staged.done() {
            return Ok(PieceReply { next, done: true });
        }
        let driver = &*inside.driver;
        let home = bounded(driver, CallKind::Home, driver.home(&inside.vm)).await;
        let home = home.map_err(|why| error::driver(&why))?;
        let (last, offset, bytes) = (request.last, request.offset, request.bytes);
        let (staged, home, next, all) = blocking(move || {
            // Not what is free now: files of an earlier try may be in the place of these.
            let most = home.size().map_err(|why| error::driver(&why))?.saturating_add(HEADER_BYTES_MAX);
            let next = staged.append(offset, &bytes, most)?;
            let all = last && next == offset.saturating_add(bytes.len() as u64);
            Ok((staged, home, next, all))
        })
        .await?;
        if !all {
            return Ok(PieceReply { next, done: false });
        }
        let free = self.free_bytes(&inside).await?;
        blocking(move || unpack(&staged, &home, &request.path, free)).await?;
        Ok(PieceReply { next, done: true })
    }

    /// Removes what was uploaded for a VM that is gone.
    pub(super) async fn forget_uploads(
        &self,
        slot: InstanceUuid,
        generation: Generation,
    ) -> Result<(), Fail> {
        let (uploads, of) = (self.uploads.clone(), name(slot, generation));
        blocking(move || uploads.forget(&of)).await
    }
}

fn unpack(staged: &Staged, home: &Home, path: &str, free: u64) -> Result<(), Fail> {
    let mut file = staged.open()?;
    let checked = archive::check(&mut file, home, path, free);
    let unpacked = checked.and_then(|()| archive::unpack(&mut file, home, path));
    if let Err(why) = unpacked {
        // The same name may be used for a better one.
        staged.remove()?;
        return Err(error::driver(&why));
    }
    staged.finish()
}

/// Runs file work beside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fail> + Send + 'static,
) -> Result<T, Fail> {
    tokio::task::spawn_blocking(work).await.map_err(|_| error::stopping())?
}
