//! Imported images on their way to nodes: one transfer per node and job, whoever of a lot needs it first.

use crate::error::OpFail;
use crate::io::bodies::{self, Piece};
use crate::io::nodes::{CALL, Nodes};
use gantry_model::config::Node;
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::noded::{ImagePut, ImagePutRequest};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a node may take to check and unpack an image: the largest, 8 GiB, at 5 MiB/s. A node that dies meanwhile is
/// noticed by its connection.
const UNPACK: Duration = Duration::from_secs(30 * 60);

/// Whether this job has sent it; locked while it is sent.
type Sent = Rc<Mutex<bool>>;

/// See the module.
pub struct Images<'a> {
    root: Root,
    nodes: &'a Nodes,
    sent: RefCell<HashMap<(NodeUuid, String), Sent>>,
}

impl<'a> Images<'a> {
    /// Nothing was sent.
    pub fn new(root: &Root, nodes: &'a Nodes) -> Self {
        Self { root: root.clone(), nodes, sent: RefCell::default() }
    }

    /// Returns when the node has the image.
    pub async fn send(&self, node: &Node, digest: &str) -> Result<(), OpFail> {
        let key = (node.uuid, digest.to_owned());
        let sent = Rc::clone(self.sent.borrow_mut().entry(key).or_default());
        let mut sent = sent.lock().await;
        if *sent {
            return Ok(());
        }
        bodies::send(&self.root, digest, async |piece: Piece| {
            let Piece { offset, bytes, last } = piece;
            let (fence, digest) = (self.nodes.fence(), digest.to_owned());
            let request = ImagePutRequest { fence, digest, offset, bytes, last };
            let within = if last { UNPACK } else { CALL };
            self.nodes.call::<ImagePut>(node, &request, within).await
        })
        .await?;
        *sent = true;
        Ok(())
    }
}
