//! The packets between vmd and init: one message each, a tag and length-prefixed fields. Own bytes instead of a
//! library's, so that init stays small.

/// Longest packet, bytes: fits the default send buffer of a socket (`net.core.wmem_default`, 208 KiB) with its overhead.
pub const PACKET_BYTES_MAX: usize = 96 * 1024;
/// File descriptors that come with [`ToInit::Exec`]: standard input, output, error.
pub const EXEC_FDS: usize = 3;
/// Most descriptors that come with one packet: the doors of all hierarchies of control groups.
pub const FDS_MAX: usize = 8;
/// Most strings in one list: no packet can hold more with their lengths.
const LIST_MAX: usize = PACKET_BYTES_MAX / 4;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Names it in later packets.
    pub number: u32,
    /// User and group.
    pub uid: u32,
    /// Most open files; lowered to the hard limit in force.
    pub files_max: u64,
    /// Largest file, bytes.
    pub file_bytes_max: u64,
    /// Working directory.
    pub cwd: String,
    /// Program and arguments; the program is looked up in PATH.
    pub argv: Vec<String>,
    /// Its whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
}

/// What vmd says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToInit {
    /// Run this; [`EXEC_FDS`] descriptors come with it.
    Exec(Exec),
    /// Send a signal to a command's process group; ignored when it has ended.
    Signal {
        /// Which.
        number: u32,
        /// What.
        signal: i32,
    },
    /// Asks for [`FromInit::Alive`].
    Ping,
    /// Go into control groups; a descriptor of each one's `tasks` (version 1) comes with it. Said once, before any command.
    Enter,
}

/// What init says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromInit {
    /// It takes commands. Said once, first.
    Ready,
    /// A command's main process is gone.
    Ended {
        /// Which.
        number: u32,
        /// How.
        how: How,
    },
    /// A command could not be started.
    Refused {
        /// Which.
        number: u32,
        /// Why.
        why: String,
    },
    /// The answer to [`ToInit::Ping`]; one a question, in order.
    Alive,
    /// The answer to [`ToInit::Enter`]; what goes wrong there ends the VM.
    Entered,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

/// Bytes that are no packet, or a message too long for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It does not begin with a known tag, ends early, or goes on after its end.
    #[error("not a packet of this version")]
    Bad,
    /// Over [`PACKET_BYTES_MAX`].
    #[error("{0} bytes of arguments and environment; at most {PACKET_BYTES_MAX} can be")]
    Long(usize),
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(tag: u8) -> Self {
        Self(vec![tag])
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn text(&mut self, text: &str) -> &mut Self {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self
    }
    fn list(&mut self, list: &[String]) -> &mut Self {
        self.u32(u32::try_from(list.len()).unwrap_or(u32::MAX));
        for text in list {
            self.text(text);
        }
        self
    }
    fn done(&mut self) -> Result<Vec<u8>, WireError> {
        if self.0.len() > PACKET_BYTES_MAX {
            return Err(WireError::Long(self.0.len()));
        }
        Ok(std::mem::take(&mut self.0))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(WireError::Bad)?;
        self.0 = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Bad)
    }
    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }
    fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }
    fn length(&mut self) -> Result<usize, WireError> {
        usize::try_from(self.u32()?).map_err(|_| WireError::Bad)
    }
    fn text(&mut self) -> Result<String, WireError> {
        let length = self.length()?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| WireError::Bad)
    }
    fn list(&mut self) -> Result<Vec<String>, WireError> {
        let count = self.length()?;
        if count > LIST_MAX {
            return Err(WireError::Bad);
        }
        (0..count).map(|_| self.text()).collect()
    }
    fn end<T>(&self, value: T) -> Result<T, WireError> {
        if self.0.is_empty() { Ok(value) } else { Err(WireError::Bad) }
    }
}

impl ToInit {
    /// Its packet.
    ///
    /// # Errors
    /// [`WireError::Long`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Exec(exec) => {
                let mut writer = Writer::new(1);
                writer.u32(exec.number).u32(exec.uid).u64(exec.files_max).u64(exec.file_bytes_max);
                writer.text(&exec.cwd).list(&exec.argv).list(&exec.env).done()
            }
            Self::Signal { number, signal } => Writer::new(2).u32(*number).i32(*signal).done(),
            Self::Ping => Writer::new(3).done(),
            Self::Enter => Writer::new(4).done(),
        }
    }

    /// The message of a packet.
    ///
    /// # Errors
    /// [`WireError::Bad`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(bytes);
        let message = match reader.take(1)? {
            [1] => Self::Exec(Exec {
                number: reader.u32()?,
                uid: reader.u32()?,
                files_max: reader.u64()?,
                file_bytes_max: reader.u64()?,
                cwd: reader.text()?,
                argv: reader.list()?,
                env: reader.list()?,
            }),
            [2] => Self::Signal { number: reader.u32()?, signal: reader.i32()? },
            [3] => Self::Ping,
            [4] => Self::Enter,
            _ => return Err(WireError::Bad),
        };
        reader.end(message)
    }
}

impl FromInit {
    /// Its packet.
    ///
    /// # Errors
    /// [`WireError::Long`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Ready => Writer::new(1).done(),
            Self::Ended { number, how: How::Exit(code) } => Writer::new(2).u32(*number).i32(*code).done(),
            Self::Ended { number, how: How::Signal(signal) } => {
                Writer::new(3).u32(*number).i32(*signal).done()
            }
            Self::Refused { number, why } => Writer::new(4).u32(*number).text(why).done(),
            Self::Alive => Writer::new(5).done(),
            Self::Entered => Writer::new(6).done(),
        }
    }

    /// The message of a packet.
    ///
    /// # Errors
    /// [`WireError::Bad`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(bytes);
        let message = match reader.take(1)? {
            [1] => Self::Ready,
            [2] => Self::Ended { number: reader.u32()?, how: How::Exit(reader.i32()?) },
            [3] => Self::Ended { number: reader.u32()?, how: How::Signal(reader.i32()?) },
            [4] => Self::Refused { number: reader.u32()?, why: reader.text()? },
            [5] => Self::Alive,
            [6] => Self::Entered,
            _ => return Err(WireError::Bad),
        };
        reader.end(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(argv: Vec<String>) -> ToInit {
        let env = vec!["A=b".to_owned(), "C=".to_owned()];
        let cwd = "/".to_owned();
        ToInit::Exec(Exec { number: 7, uid: 1000, files_max: 9, file_bytes_max: 1 << 40, cwd, argv, env })
    }

    #[test]
    fn messages_survive_and_pieces_are_refused() {
        let signal = ToInit::Signal { number: 3, signal: -9 };
        for message in [exec(vec!["sh".into(), "-c".into()]), signal, ToInit::Ping, ToInit::Enter] {
            let bytes = message.encode().expect("short");
            assert_eq!(ToInit::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert_eq!(ToInit::decode(&bytes[..end]), Err(WireError::Bad));
            }
            assert_eq!(ToInit::decode(&[&bytes[..], b"x"].concat()), Err(WireError::Bad));
        }
        let ended = |how| FromInit::Ended { number: u32::MAX, how };
        let refused = FromInit::Refused { number: 0, why: "no".into() };
        for message in [
            FromInit::Ready,
            FromInit::Alive,
            FromInit::Entered,
            ended(How::Exit(-1)),
            ended(How::Signal(9)),
            refused,
        ] {
            let bytes = message.encode().expect("short");
            assert_eq!(FromInit::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert_eq!(FromInit::decode(&bytes[..end]), Err(WireError::Bad));
            }
        }
    }

    #[test]
    fn long_packets_and_forged_lengths_are_refused() {
        let long = exec(vec!["x".repeat(PACKET_BYTES_MAX)]);
        assert!(matches!(long.encode(), Err(WireError::Long(_))));
        let forged = [&[4u8][..], &[0; 4], &[0xff; 4]].concat();
        assert_eq!(FromInit::decode(&forged), Err(WireError::Bad));
    }
}
