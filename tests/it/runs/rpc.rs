//! What LUXI can't carry: bodies over `stream.sock`, and VMs made behind the daemons' backs over `vmd.sock`.

use super::*;
use gantry_proto::stream::{BlobPut, BlobPutRequest, LeaseExec, LeaseExecRequest};
use gantry_proto::vmd::{self, CreateRequest, VmLimits, VmName};
use gantry_proto::{noded::CommandEnd, stream};
use gantry_rpc::{Client, Event, Hello};
use gantry_tests::Node;
use sha2::{Digest, Sha256};

/// Runs one conversation.
fn talk<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Uploads a body as the command line would. The `input` of a task.
pub fn upload(bed: &Bed, bytes: &[u8]) -> Result<Value> {
    let hex: Vec<String> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let (digest, total) = (hex.concat(), bytes.len() as u64);
    let socket = bed.cluster.master().socket("stream.sock");
    talk(async {
        let client = Client::unix(&socket, &Hello::new(stream::PROTOCOL, "gantry")).await?;
        let mut offset = 0;
        loop {
            let rest = &bytes[usize::try_from(offset)?..];
            let piece = rest[..rest.len().min(1 << 20)].to_vec();
            let request = BlobPutRequest { digest: digest.clone(), total, offset, bytes: piece };
            let reply = client.call::<BlobPut>(&request, PATIENCE).await?;
            if reply.done {
                return Ok(json!({"digest": digest, "bytes": total}));
            }
            ensure!(reply.next > offset, "the upload stands still at {offset}");
            offset = reply.next;
        }
    })
}

/// Runs a command in the first VM of a lease. What it wrote, and its end.
pub fn exec(bed: &Bed, lease: &str, name: &str, command: &str) -> Result<(String, CommandEnd)> {
    let socket = bed.cluster.master().socket("stream.sock");
    let request = LeaseExecRequest {
        lease: lease.parse()?,
        vm: 0,
        exec: name.to_owned(),
        argv: ["sh", "-c", command].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: None,
        stdin: Vec::new(),
        output_bytes_max: 1 << 16,
        wall_ms: 20_000,
        cpu_ms: 20_000,
        out: 0,
        err: 0,
    };
    talk(async {
        let client = Client::unix(&socket, &Hello::new(stream::PROTOCOL, "gantry")).await?;
        let mut stream = client.open::<LeaseExec>(&request).await?;
        let mut text = String::new();
        loop {
            match stream.next().await? {
                Event::Item(piece) => text.push_str(&String::from_utf8_lossy(&piece.bytes)),
                Event::End(end) => return Ok((text, end)),
            }
        }
    })
}

/// First entry of a VM's journal, as vmd has it; its length comes before it.
#[derive(serde::Deserialize)]
enum First {
    Created(CreateRequest),
}

/// The request of one of the VMs that vmd has.
fn any_request(node: &Node) -> Result<CreateRequest> {
    let journal = std::fs::read_dir(node.root.join("run/gantry/vm"))?.flatten().next();
    let bytes = std::fs::read(journal.context("the node has a VM to copy")?.path())?;
    let (length, rest) = bytes.split_first_chunk::<4>().context("a length")?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*length))?).context("a whole entry")?;
    let First::Created(request) = gantry_proto::codec::decode(body)?;
    Ok(request)
}

/// A VM that vmd has and nobody ordered: a copy of the request of one that is there, under another name and label.
pub fn stray(node: &Node, name: &str, label: String, uid_base: u32) -> Result<()> {
    let old = any_request(node)?;
    let request = CreateRequest {
        vm: name.to_owned(),
        label,
        cgroup: old.cgroup.replace(&old.vm, name),
        config: old.config.replace(&old.vm, name).replace(&old.uid_base.to_string(), &uid_base.to_string()),
        uid_base,
        scratch_mib: 8,
        limits: VmLimits { memory_mib: 32, cpu_percent: 100, pids: 16 },
        ..old
    };
    let socket = node.socket("vmd.sock");
    talk(async {
        let client = Client::unix(&socket, &Hello::new(vmd::PROTOCOL, "gantry-noded")).await?;
        client.call::<vmd::Create>(&request, PATIENCE).await?;
        Ok(client.call::<vmd::Start>(&VmName { vm: name.to_owned() }, PATIENCE).await?)
    })
}

/// The label that the node's driver gave to some VM of it.
pub fn some_label(node: &Node) -> Result<Value> {
    let socket = node.socket("vmd.sock");
    let all = talk(async {
        let client = Client::unix(&socket, &Hello::new(vmd::PROTOCOL, "gantry-noded")).await?;
        Ok(client.call::<vmd::List>(&(), PATIENCE).await?)
    })?;
    let label = all.iter().find(|vm| !vm.label.is_empty()).context("the node has a VM")?;
    Ok(serde_json::from_str(&label.label)?)
}

/// Names of all VMs that vmd has.
pub fn noted(node: &Node) -> Result<Vec<String>> {
    let socket = node.socket("vmd.sock");
    talk(async {
        let client = Client::unix(&socket, &Hello::new(vmd::PROTOCOL, "gantry-noded")).await?;
        Ok(client.call::<vmd::List>(&(), PATIENCE).await?.into_iter().map(|vm| vm.vm).collect())
    })
}

/// Removes a VM from vmd.
pub fn remove(node: &Node, name: &str) -> Result<()> {
    let socket = node.socket("vmd.sock");
    talk(async {
        let client = Client::unix(&socket, &Hello::new(vmd::PROTOCOL, "gantry-noded")).await?;
        Ok(client.call::<vmd::Remove>(&VmName { vm: name.to_owned() }, PATIENCE).await?)
    })
}
