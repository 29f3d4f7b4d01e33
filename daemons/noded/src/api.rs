//! The verbs a member serves: who may call, and which function answers.

use crate::member::Member;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::hello::Hello;
use gantry_proto::noded as wire;
use gantry_rpc::{Call, Handled, Peer, Service, route};
use std::sync::Arc;

/// The service of one member.
pub struct Api(Arc<Member>);

impl Api {
    /// Serves `member`.
    #[must_use]
    pub fn new(member: Arc<Member>) -> Self {
        Self(member)
    }

    async fn answer(self: Arc<Self>, call: Call) -> Result<Vec<u8>, Fail> {
        let member = &self.0;
        route!(call, {
            wire::NodeInfo => |(), _call| member.info().await,
            wire::Claim => |request, _call| member.claim(request).await,
            wire::Inventory => |fence, _call| member.inventory(fence).await,
            wire::VmCreate => |request, _call| member.create(request).await,
            wire::VmDestroy => |request, _call| member.destroy(request).await,
            wire::VmOpen => |request, _call| member.open(request).await,
            wire::VmCheck => |request, _call| member.check(request).await,
            wire::Losses => |fence, call| member.watch_losses(fence, call.items::<wire::Losses>()).await,
            wire::VmClose => |request, _call| member.close(request).await,
            wire::TestDelay => |request, _call| member.test_delay(request).await,
            wire::Ssconf => |request, _call| member.ssconf(request).await,
            wire::SetRole => |request, _call| member.set_role(request).await,
            wire::Secrets => |request, _call| member.secrets(request).await,
            wire::SsconfHave => |(), _call| member.ssconf_have().await,
            wire::Crypto => |(), _call| member.crypto().await,
            wire::CryptoAsk => |fence, _call| member.crypto_ask(fence).await,
            wire::CryptoStore => |request, _call| member.crypto_store(request).await,
            wire::Leave => |fence, _call| member.leave(fence).await,
            wire::VmExec => |request, _call| member.exec(request).await,
            wire::VmWait => |request, call| member.wait(request, call.items::<wire::VmWait>()).await,
            wire::VmSignal => |request, _call| member.signal(request).await,
            wire::VmCancel => |request, _call| member.cancel(request).await,
            wire::VmPut => |request, _call| member.put(request).await,
            wire::VmGet => |request, call| member.get(request, call.items::<wire::VmGet>()).await,
            wire::VmUsage => |request, _call| member.usage(request).await,
            wire::ImagePut => |request, _call| member.image_put(request).await,
            wire::ImageKeep => |request, _call| member.image_keep(request).await,
            wire::Audit => |fence, _call| member.audit(fence).await,
            wire::CopyLook => |(), _call| member.copies().look().await,
            wire::CopyPromise => |request, _call| member.copies().promise(request).await,
            wire::CopyAppend => |request, _call| member.copies().append(request).await,
            wire::CopyFetch => |request, _call| member.copies().fetch(request).await,
            wire::CopyMake => |request, _call| member.copies().make(request).await,
            wire::CopySnapshotPut => |request, _call| member.copies().snapshot_put(request).await,
            wire::CopySnapshotGet => |request, _call| member.copies().snapshot_get(request).await,
            wire::CopyToken => |request, _call| member.copies().token(request).await,
            wire::BodyHave => |wanted, _call| member.copies().body_have(wanted).await,
            wire::BodyPut => |request, _call| member.copies().body_put(request).await,
            wire::BodyDamaged => |(), _call| member.copies().body_damaged().await,
            wire::BodyGet => |request, _call| member.copies().body_get(request).await,
            wire::Elected => |won, call| member.elected(call.peer.node, won).await,
            wire::StepDown => |epoch, _call| member.step_down(epoch).await,
            wire::Deposed => |heard, call| member.copies().deposed(call.peer.node, heard).await,
            wire::CopyAlone => |request, call| member.alone(call.peer.node, request).await,
            wire::CopyAside => |(), _call| member.copies().aside().await,
            wire::MasterIp => |request, _call| member.master_ip(request).await,
            wire::HooksRun => |request, _call| member.hooks_run(request).await,
            wire::AddressLook => |ip, _call| member.address_look(ip).await,
            wire::ConfdLegacy => |(), _call| Ok(member.confd_legacy().await),
            wire::JoinProve => |_request, _call| Err(self.joined()),
            wire::JoinFinish => |_request, _call| Err(self.joined()),
        })
    }

    fn joined(&self) -> Fail {
        let text = format!("this is already node {} of cluster {}", self.0.node(), self.0.cluster());
        Fail::new(Code::Denied, text)
    }
}

impl Service for Api {
    fn hello(&self) -> Hello {
        let mut hello = Hello::new(wire::PROTOCOL, "gantry-noded");
        hello.node = Some(self.0.node());
        hello.cluster = Some(self.0.cluster());
        hello.epoch = self.0.epoch();
        hello
    }

    /// TLS has let in nodes of this cluster only, the local socket root and this daemon's own user; the hello must mean
    /// this node.
    fn accept(&self, peer: &Peer) -> Result<(), String> {
        if let Some(cluster) = peer.hello.cluster.filter(|cluster| *cluster != self.0.cluster()) {
            return Err(format!("this node belongs to cluster {}, not to {cluster}", self.0.cluster()));
        }
        if let Some(node) = peer.hello.node.filter(|node| *node != self.0.node()) {
            return Err(format!("this is node {}, not {node}", self.0.node()));
        }
        match peer.node {
            Some((cluster, _)) if cluster == self.0.cluster() => Ok(()),
            None if peer.is_own() => Ok(()),
            Some(_) | None => Err("only nodes of this cluster may call".to_owned()),
        }
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            let (verb, member) = (call.verb, Arc::clone(&self.0));
            let answer = self.answer(call).await;
            member.metrics().called(verb, &answer);
            answer
        })
    }
}
