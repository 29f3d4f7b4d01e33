//! Who asked this node's ConfD in the legacy form: what cluster verify warns of. ConfD says it in its metrics.

use super::Member;
use crate::core::legacy;
use gantry_proto::admin::{Metrics, PROTOCOL};
use gantry_proto::noded::LegacySource;
use gantry_rpc::{Client, Hello};
use gantry_rt::clock;
use std::time::Duration;

/// How long ConfD may take. It answers admin calls beside its work.
const ANSWER: Duration = Duration::from_secs(2);

impl Member {
    /// Who asked; nobody, if there is no ConfD or it does not answer.
    pub async fn confd_legacy(&self) -> Vec<LegacySource> {
        let asked = async {
            let socket = self.settings.root.admin_socket("rconfd");
            let client = Client::unix(&socket, &Hello::new(PROTOCOL, "gantry-noded")).await.ok()?;
            client.call::<Metrics>(&(), ANSWER).await.ok()
        };
        let text = tokio::time::timeout(ANSWER, asked).await.ok().flatten();
        text.map(|text| legacy::sources(&text, clock::now().0)).unwrap_or_default()
    }
}
