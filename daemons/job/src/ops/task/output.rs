//! One stream of one step on its way into the result: small text stays in memory, all else goes into a body.

use crate::core::report::Room;
use crate::error::OpFail;
use crate::io::bodies::Writer;
use gantry_model::ids::JobOwner;
use gantry_model::root::Root;
use gantry_model::task::{self, INLINE_BYTES_MAX};
use std::io;

/// The store of the master can't be written: nothing of the user's.
pub fn broken(why: io::Error) -> OpFail {
    OpFail::exec(format!("can't write a body on the master: {why}; is its disk full?"))
}

/// See the module.
pub struct Output {
    root: Root,
    owner: JobOwner,
    number: u64,
    /// Most bytes kept; a node sends no more.
    limit: u64,
    /// What came so far, while it is small.
    small: Vec<u8>,
    body: Option<Writer>,
}

impl Output {
    /// Nothing came yet.
    pub fn new(root: &Root, owner: JobOwner, number: u64, limit: u64) -> Self {
        Self { root: root.clone(), owner, number, limit, small: Vec::new(), body: None }
    }

    /// The first byte that is missing.
    pub fn next(&self) -> u64 {
        self.body.as_ref().map_or(self.small.len() as u64, Writer::bytes)
    }

    /// Takes a piece that begins at `offset`. What is here already is left out.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OpFail> {
        let next = self.next();
        if next >= self.limit {
            return Ok(());
        }
        if offset > next {
            return Err(OpFail::exec(format!("output is missing from byte {next} to {offset}")));
        }
        let known = usize::try_from(next - offset).unwrap_or(usize::MAX);
        let room = usize::try_from(self.limit.saturating_sub(next)).unwrap_or(usize::MAX);
        let news = bytes.get(known..).unwrap_or_default();
        let news = &news[..news.len().min(room)];
        if self.body.is_none() && self.small.len() + news.len() <= INLINE_BYTES_MAX {
            self.small.extend_from_slice(news);
            return Ok(());
        }
        self.spill().and_then(|body| body.add(news)).map_err(broken)
    }

    fn spill(&mut self) -> io::Result<&mut Writer> {
        if self.body.is_none() {
            let mut body = Writer::new(&self.root, self.owner, self.number);
            body.add(&std::mem::take(&mut self.small))?;
            self.body = Some(body);
        }
        self.body.as_mut().ok_or_else(|| io::Error::other("no body was begun"))
    }

    /// As it is told in the report; a body is durable when this returns.
    pub fn told(mut self, room: &mut Room) -> Result<task::Output, OpFail> {
        if self.body.is_none()
            && let Some(told) = room.inline(&self.small)
        {
            return Ok(told);
        }
        self.spill().map_err(broken)?;
        let body = self.body.take().ok_or_else(|| OpFail::exec("no body was begun"))?;
        let body = body.finish().map_err(broken)?;
        Ok(task::Output { bytes: body.bytes, text: None, digest: Some(body.digest) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{JobId, StartNo};

    fn output(root: &Root, limit: u64) -> Output {
        let owner = JobOwner { job: JobId(1), start: StartNo { epoch: 1, run: 1, counter: 1 } };
        Output::new(root, owner, 1, limit)
    }

    #[test]
    fn pieces_come_together_whatever_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut small = output(&root, 100);
        small.add(0, b"hello").unwrap();
        small.add(3, b"lo wor").unwrap();
        small.add(0, b"hel").unwrap();
        assert_eq!(small.next(), 9);
        assert!(small.add(10, b"x").is_err(), "a gap");
        assert_eq!(small.told(&mut Room::default()).unwrap().text.as_deref(), Some("hello wor"));
    }

    #[test]
    fn large_and_binary_outputs_become_bodies() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let large = vec![b'x'; INLINE_BYTES_MAX];
        let mut one = output(&root, 1 << 20);
        one.add(0, &large).unwrap();
        one.add(large.len() as u64, b"yz").unwrap();
        let told = one.told(&mut Room::default()).unwrap();
        assert_eq!((told.bytes, &told.text), (large.len() as u64 + 2, &None));
        let stored = std::fs::read(root.blob(&told.digest.unwrap())).unwrap();
        assert_eq!(stored, [&large[..], b"yz"].concat());
        let mut two = output(&root, 3);
        two.add(0, &[0xff, 0, 1, 2, 3]).unwrap();
        two.add(5, &[4]).unwrap();
        let told = two.told(&mut Room::default()).unwrap();
        assert_eq!(
            std::fs::read(root.blob(&told.digest.unwrap())).unwrap(),
            [0xff, 0, 1],
            "cut at the limit"
        );
    }
}
