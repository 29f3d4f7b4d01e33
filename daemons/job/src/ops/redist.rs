//! OP_CLUSTER_REDIST_CONF: writes the ssconf files and `hmac.key` on all online nodes now, whatever they have.

use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::{Cx, Locks, hmac};
use gantry_proto::noded::{Ssconf, SsconfRequest};
use gantry_proto::wconfd::Want;
use serde_json::Value;

/// Result: null. A node that does not answer is warned of: wconfd sends it the values once it is back.
pub async fn run(cx: &mut Cx<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::shared().all_of("node", Want::Shared)).await?;
    let values = cx.master.ssconf().await?;
    for node in cx.master.nodes().await? {
        if node.offline {
            continue;
        }
        let request =
            SsconfRequest { fence: cx.nodes.fence(), index: values.index, values: values.values.clone() };
        let given = match cx.nodes.call::<Ssconf>(&node, &request, CALL).await {
            Ok(()) => hmac::give(cx, &node).await,
            failed => failed,
        };
        match given {
            Ok(()) => {}
            Err(OpFail::Error(why)) => {
                cx.warn(format!("Node {} could not be given the configuration files: {why}", node.name));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(Value::Null)
}
