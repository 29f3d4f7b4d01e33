//! Cuts a byte stream into LUXI messages (`spec/luxi.md` §2): each ends with one ETX byte.

use bytes::{Buf, BytesMut};

/// Ends a message.
pub const ETX: u8 = 0x03;
/// Longest message in bytes (DESIGN §4): room for 5,000 jobs in one submission.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A message over the limit. The connection can't be used any more: where the message ends is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message longer than {limit} bytes")]
pub struct TooLong {
    /// The limit.
    pub limit: usize,
}

/// Collects bytes and gives out whole messages.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    searched: usize,
    limit: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::with_limit(MESSAGE_BYTES_MAX)
    }
}

impl Splitter {
    /// One with another limit than [`MESSAGE_BYTES_MAX`].
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, limit }
    }

    /// Where the shell reads into: append received bytes here (or use [`Splitter::push`]).
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Takes received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message without its ETX; None when more bytes are needed.
    ///
    /// # Errors
    /// [`TooLong`] as soon as the message under way is over the limit.
    pub fn next_message(&mut self) -> Result<Option<BytesMut>, TooLong> {
        let start = self.searched.min(self.buffer.len());
        let end = self.buffer[start..].iter().position(|byte| *byte == ETX);
        let length = end.map_or(self.buffer.len(), |end| start + end);
        if length > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        if end.is_none() {
            self.searched = length;
            return Ok(None);
        }
        let message = self.buffer.split_to(length);
        self.buffer.advance(1);
        self.searched = 0;
        Ok(Some(message))
    }

    /// Whether a message has begun: an end of the stream now cuts it off.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.buffer.is_empty()
    }
}
