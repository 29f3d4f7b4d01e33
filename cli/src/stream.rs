//! The client of luxid's `stream.sock`: bodies up and down, and errors in the words of the commands.

use crate::error::CliError;
use crate::progress::Progress;
use crate::session::Session;
use crate::{local, spool};
use gantry_proto::hello::Hello;
use gantry_proto::noded::{PIECE_BYTES_MAX, PieceReply};
use gantry_proto::stream::{BlobGet, BlobGetRequest, BlobPut, BlobPutRequest, PROTOCOL};
use gantry_rpc::{CallError, Client, ConnectError, Event};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long one piece may take: luxid writes it durably.
pub const PIECE: Duration = Duration::from_secs(60);
/// How long luxid may be away while it restarts.
const AWAY: Duration = Duration::from_secs(30);
/// Between attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections in a row that break before anything came of them.
pub const FRUITLESS_MAX: u32 = 5;
/// Times that an upload is begun anew, or goes on before where it was: a server that is restarted forgets it.
const ANEW_MAX: u32 = 5;
/// Uploads from this size on show how far they are.
const TELL_BYTES: u64 = 8 << 20;

/// A connection to `stream.sock`; waits for a luxid that is being restarted.
///
/// # Errors
/// Not the master, luxid does not come back, it refuses this caller.
pub async fn connect(session: &Session) -> Result<Client, CliError> {
    let path = session.root.socket("stream.sock");
    let hello = Hello::new(PROTOCOL, "gantry");
    let began = Instant::now();
    let mut patience = None;
    loop {
        let error = match Client::unix(&path, &hello).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(CliError::Permission(error.to_string()));
            }
            Err(ConnectError::Io(error)) => error,
            Err(ConnectError::TimedOut) => io::ErrorKind::TimedOut.into(),
            Err(other) => return Err(CliError::Protocol(format!("{}: {other}", path.display()))),
        };
        if patience.is_none() {
            local::check_master(&session.root)?;
            let attended = local::boot_answers(&session.root).await;
            patience = Some(if attended { AWAY } else { Duration::from_secs(1) });
        }
        if patience.is_some_and(|p| began.elapsed() >= p) {
            return Err(crate::away::luxid_away(&session.root, &error).await);
        }
        sleep(PAUSE).await;
    }
}

/// A failed call in the words of the commands.
#[must_use]
pub fn failed(what: &str, error: &CallError) -> CliError {
    match error {
        CallError::Fail(fail) => match fail.as_ganeti() {
            Some(error) => CliError::Ganeti(error),
            None => CliError::plain(format!("{what}: {}", fail.text)),
        },
        other => CliError::Protocol(format!("{what}: {other}")),
    }
}

/// Whether the same call on a new connection may do better.
#[must_use]
pub fn broke(error: &CallError) -> bool {
    matches!(error, CallError::Closed(_))
}

/// A piece of `file` from `offset` on, and whether it is the last.
///
/// # Errors
/// The file cannot be read.
pub fn piece(file: &mut File, offset: u64, total: u64) -> io::Result<(Vec<u8>, bool)> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PIECE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    let last = offset + bytes.len() as u64 >= total;
    Ok((bytes, last))
}

/// How far an upload is, and when to give up: no server takes the same bytes for ever.
#[derive(Debug, Default)]
struct Reach {
    offset: u64,
    /// The highest offset there was.
    highest: u64,
    /// Answers and connections in a row of which nothing came.
    fruitless: u32,
    /// How often it went back.
    anew: u32,
}

impl Reach {
    /// The server wants to go on at `next`.
    fn goes_on(&mut self, next: u64) {
        if next < self.offset {
            self.anew += 1;
        }
        if next > self.highest {
            (self.highest, self.fruitless) = (next, 0);
        } else if next <= self.offset {
            self.fruitless += 1;
        }
        self.offset = next;
    }

    /// Why there is no use in going on.
    fn ends(&self, total: u64) -> Option<String> {
        let Self { offset, highest, fruitless, anew } = self;
        if *anew > ANEW_MAX {
            return Some(format!("luxid began anew {anew} times, and came to byte {highest} of {total}"));
        }
        (*fruitless > FRUITLESS_MAX).then(|| format!("luxid takes nothing after byte {offset} of {total}"))
    }
}

/// Sends a file piece by piece. `send` sends the piece at an offset over a connection; the server's reply says where
/// to go on, so that a broken connection costs one piece.
///
/// # Errors
/// The server's refusal; connections that break again and again; a server that begins anew again and again.
pub async fn upload<F, R>(session: &Session, what: &str, total: u64, mut send: F) -> Result<(), CliError>
where
    F: FnMut(Client, u64) -> R,
    R: Future<Output = Result<Result<PieceReply, CallError>, io::Error>>,
{
    let mut progress = Progress::new(&session.screen);
    let mut reach = Reach::default();
    let mut client = connect(session).await?;
    loop {
        let sent = send(client.clone(), reach.offset).await;
        match sent.map_err(|error| CliError::plain(format!("{what}: cannot read what is sent: {error}")))? {
            Ok(PieceReply { done: true, .. }) => return Ok(()),
            Ok(PieceReply { next, .. }) => reach.goes_on(next),
            Err(error) if broke(&error) => {
                reach.fruitless += 1;
                client = connect(session).await?;
            }
            Err(error) => return Err(failed(what, &error)),
        }
        if let Some(why) = reach.ends(total) {
            return Err(CliError::Protocol(format!("{what}: {why}")));
        }
        if total >= TELL_BYTES && session.screen.is_watched() {
            progress.say(&format!("{what}: {} of {} MiB", reach.offset >> 20, total >> 20));
        }
    }
}

/// Puts a file's bytes into the body store; what is there already is not sent.
///
/// # Errors
/// As [`upload`].
pub async fn put_blob(
    session: &Session,
    what: &str,
    file: &mut File,
    digest: &str,
    total: u64,
) -> Result<(), CliError> {
    // The first piece is empty: how far did an earlier try get?
    let mut asked = false;
    upload(session, what, total, |client, offset| {
        let read = if asked { piece(file, offset, total).map(|(bytes, _)| bytes) } else { Ok(Vec::new()) };
        asked = true;
        let digest = digest.to_owned();
        async move {
            let request = BlobPutRequest { digest, total, offset, bytes: read? };
            Ok(client.call::<BlobPut>(&request, PIECE).await)
        }
    })
    .await
}

/// A body, in a file without a name that is read from its start; its digest is checked.
///
/// # Errors
/// There is none, it is damaged, or connections break again and again.
pub async fn get_blob(session: &Session, what: &str, digest: &str) -> Result<File, CliError> {
    let mut file = spool::file()?;
    let (mut offset, mut fruitless) = (0, 0);
    while fruitless <= FRUITLESS_MAX {
        let client = connect(session).await?;
        match download(&client, digest, &mut file, &mut offset).await {
            Ok(()) => {
                let found = spool::digest(&mut file).map_err(|error| disk(what, &error))?.0;
                if found != digest {
                    return Err(CliError::Protocol(format!("{what}: the body {digest} arrived damaged")));
                }
                return Ok(file);
            }
            Err(Fault::Call(error)) if broke(&error) => fruitless += 1,
            Err(Fault::Call(error)) => return Err(failed(what, &error)),
            Err(Fault::Disk(error)) => return Err(disk(what, &error)),
        }
    }
    Err(CliError::Protocol(format!("{what}: the connection to luxid broke {fruitless} times")))
}

fn disk(what: &str, error: &io::Error) -> CliError {
    CliError::plain(format!("{what}: cannot keep it in the directory for temporary files: {error}"))
}

/// Why a download stopped.
enum Fault {
    Call(CallError),
    Disk(io::Error),
}

async fn download(client: &Client, digest: &str, file: &mut File, offset: &mut u64) -> Result<(), Fault> {
    let request = BlobGetRequest { digest: digest.to_owned(), offset: *offset };
    let mut stream = client.open::<BlobGet>(&request).await.map_err(Fault::Call)?;
    loop {
        match stream.next().await.map_err(Fault::Call)? {
            Event::Item(item) => {
                file.write_all(&item.bytes).map_err(Fault::Disk)?;
                *offset += item.bytes.len() as u64;
            }
            Event::End(()) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes on to each of these offsets; how many it took until it ended.
    fn until_the_end(nexts: impl IntoIterator<Item = u64>) -> Option<usize> {
        let mut reach = Reach::default();
        nexts.into_iter().position(|next| {
            reach.goes_on(next);
            reach.ends(100).is_some()
        })
    }

    #[test]
    fn only_what_was_never_reached_is_progress() {
        assert_eq!(until_the_end(1..=100), None);
        assert_eq!(until_the_end([0; 100]), Some(5), "nothing is taken");
        assert_eq!(until_the_end([1, 2, 0].into_iter().chain(1..=100)), None, "one restart");
        assert_eq!(until_the_end([1, 0].into_iter().cycle().take(1_000)), Some(11), "to and fro");
        let further = (1..100).flat_map(|most| (1..=most).chain([0]));
        assert_eq!(until_the_end(further), Some(26), "further each time, and still too often");
        let creeps = (1..100).flat_map(|next| [next; 6]);
        assert_eq!(until_the_end(creeps), None, "it creeps, but on");
    }
}
