//! OP_TAGS_SET, OP_TAGS_DEL, OP_TAGS_GET (`spec/opcodes.md` §3).

use crate::error::OpFail;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::Stamp;
use gantry_model::error::Ecode;
use gantry_proto::wconfd::{Command, TagTarget, Want};
use serde_json::{Value, json};

/// What was meant, its locks, and its stamp with the tags.
async fn target(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<(TagTarget, Locks, Stamp), OpFail> {
    match args.need("kind")? {
        "cluster" => Ok((TagTarget::Cluster, Locks::shared(), cx.master.cluster().await?.stamp)),
        "node" => {
            let node = cx.master.node(args.need("name")?).await?;
            Ok((TagTarget::Node(node.uuid), Locks::shared().node(node.uuid, Want::Exclusive), node.stamp))
        }
        "nodegroup" => {
            let group = cx.master.group(args.need("name")?).await?;
            Ok((
                TagTarget::Group(group.uuid),
                Locks::shared().group(group.uuid, Want::Exclusive),
                group.stamp,
            ))
        }
        "instance" => {
            let instance = cx.master.instance(args.need("name")?).await?;
            let locks = Locks::shared().instance(&instance.name, Want::Exclusive);
            Ok((TagTarget::Instance(instance.uuid), locks, instance.stamp))
        }
        kind => {
            let text =
                format!("tags on objects of kind '{kind}' are not supported by this version of Gantry");
            Err(OpFail::prereq(text, Ecode::WrongState))
        }
    }
}

fn wanted(args: &Args<'_>) -> std::collections::BTreeSet<String> {
    args.texts("tags").into_iter().map(str::to_owned).collect()
}

/// Adds tags; those already there are no error. Result: null.
pub async fn set(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let (target, locks, _) = target(cx, args).await?;
    cx.begin(locks).await?;
    cx.apply(vec![Command::TagsAdd { target, tags: wanted(args) }]).await?;
    Ok(Value::Null)
}

/// Removes tags; one not there refuses all. Result: null.
pub async fn del(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let (target, locks, _) = target(cx, args).await?;
    cx.begin(locks).await?;
    cx.apply(vec![Command::TagsDel { target, tags: wanted(args) }]).await?;
    Ok(Value::Null)
}

/// Lists tags. Result: the tags, sorted.
pub async fn get(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::shared()).await?;
    let (_, _, stamp) = target(cx, args).await?;
    Ok(json!(stamp.tags))
}
