//! OP_OS_IMPORT, _REMOVE: images whose archives lie in the body store. Nodes fetch nothing: the job that makes the
//! first VM there sends the archive.

use crate::error::OpFail;
use crate::ops::blueprint::{exists, new_name};
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{Stamp, kind};
use gantry_model::error::Ecode;
use gantry_model::pool::{Blueprint, IMAGE_HOST, Image};
use gantry_model::task::is_digest;
use gantry_model::time;
use gantry_proto::wconfd::Command;
use serde_json::Value;

/// Gives a stored archive a name. The same again changes nothing. Result: null.
pub async fn import(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let name = new_name(args, "image_name", "image")?;
    let (digest, bytes) = (args.need("digest")?, args.uint("bytes").unwrap_or(0));
    if name == IMAGE_HOST {
        return Err(OpFail::prereq(
            format!("Image '{IMAGE_HOST}' is built in; choose another name"),
            Ecode::WrongInput,
        ));
    }
    if !is_digest(digest) {
        return Err(OpFail::prereq("digest must be 64 lower-case hexadecimal digits", Ecode::WrongInput));
    }
    match cx.master.find::<Image>(kind::IMAGE, name).await? {
        Some(known) if known.digest == digest => return Ok(Value::Null),
        Some(_) => return Err(exists("Image", name)),
        None => {}
    }
    match std::fs::metadata(cx.root().blob(digest)) {
        Ok(facts) if facts.len() == bytes => {}
        Ok(facts) => {
            let text = format!("the body {digest} has {} bytes, not {bytes}; upload it again", facts.len());
            return Err(OpFail::prereq(text, Ecode::WrongInput));
        }
        Err(_) => {
            let text = format!("the body {digest} is not in the body store; upload it first");
            return Err(OpFail::prereq(text, Ecode::UnknownEntity));
        }
    }
    let stamp = Stamp::new(time::now().epoch());
    let image = Image { name: name.to_owned(), digest: digest.to_owned(), bytes, stamp };
    cx.apply(vec![Command::ImageAdd { image: Box::new(image) }]).await?;
    Ok(Value::Null)
}

/// Removes an image that no blueprint names. Result: null.
pub async fn remove(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let name = args.need("image_name")?;
    if cx.master.find::<Image>(kind::IMAGE, name).await?.is_none() {
        return Err(OpFail::prereq(format!("Image '{name}' not known"), Ecode::UnknownEntity));
    }
    let blueprints: Vec<Blueprint> = cx.master.all(kind::BLUEPRINT).await?;
    let users: Vec<&str> =
        blueprints.iter().filter(|one| one.image == name).map(|one| one.name.as_str()).collect();
    if !users.is_empty() {
        let text =
            format!("Image {name} is used by blueprint {}; change or remove it first", users.join(", "));
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    cx.apply(vec![Command::ImageRemove { name: name.to_owned() }]).await?;
    Ok(Value::Null)
}
