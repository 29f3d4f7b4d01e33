//! The connection to gantry-vmd: made when needed, made again when lost.

use crate::driver::{Class, DriverError};
use gantry_proto::noded::OutputPiece;
use gantry_proto::vmd::{self, CommandEnd, PROTOCOL, Stream};
use gantry_rpc::{CallError, Client, Code, Event, Fail, Hello, Verb};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep};

/// How long a command that is being waited for may be without vmd: boot starts it again at once.
const AWAY: Duration = Duration::from_secs(10);
/// Connections for followers: with the calls of one connection they carry as many as a node allows.
const FOLLOWER_CLIENTS: usize = 4;
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Helper {
    socket: PathBuf,
    client: Mutex<Option<Client>>,
    /// For calls that wait long, so that they never take the places of others.
    followers: [Mutex<Option<Client>>; FOLLOWER_CLIENTS],
    next: AtomicUsize,
}

/// Why there was no answer.
enum Failed {
    /// vmd is not there, or went while it was asked.
    Away(String),
    /// It answered so.
    Told(DriverError),
}

fn class_of(fail: &Fail) -> Class {
    let name = String::from_utf8_lossy(&fail.body);
    let all = [
        Class::NotFound,
        Class::Exists,
        Class::Running,
        Class::NotRunning,
        Class::Locked,
        Class::NoSpace,
        Class::BadImage,
        Class::Timeout,
        Class::Lost,
        Class::Refused,
    ];
    all.into_iter().find(|class| class.name() == name).unwrap_or(match fail.code {
        Code::BadRequest => Class::BadImage,
        Code::NotFound => Class::NotFound,
        _ => Class::Locked,
    })
}

fn failed(error: CallError) -> Failed {
    match error {
        CallError::Fail(fail) if fail.code == Code::NotReady => Failed::Away(fail.text),
        CallError::Fail(fail) => Failed::Told(DriverError::new(class_of(&fail), fail.text)),
        other => Failed::Away(format!("gantry-vmd went away: {other}")),
    }
}

/// For calls that may be made again: vmd away is [`Class::Locked`].
fn told(failed: Failed) -> DriverError {
    match failed {
        Failed::Away(text) => DriverError::new(Class::Locked, text),
        Failed::Told(error) => error,
    }
}

impl Helper {
    /// The vmd of that socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, client: Mutex::default(), followers: Default::default(), next: AtomicUsize::new(0) }
    }

    async fn client(&self) -> Result<Client, Failed> {
        self.connected(&self.client).await
    }

    async fn connected(&self, kept: &Mutex<Option<Client>>) -> Result<Client, Failed> {
        let mut kept = kept.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let made = Client::unix(&self.socket, &Hello::new(PROTOCOL, "gantry-noded")).await;
        let client = made.map_err(|error| Failed::Away(format!("gantry-vmd can't be reached: {error}")))?;
        Ok(kept.insert(client).clone())
    }

    async fn once<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, Failed> {
        let client = self.client().await?;
        client.call_waiting::<V>(request).await.map_err(failed)
    }

    async fn relay_once(
        &self,
        request: &mut vmd::FollowRequest,
        pieces: &mpsc::Sender<OutputPiece>,
    ) -> Result<CommandEnd, Failed> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % FOLLOWER_CLIENTS;
        let client = self.connected(&self.followers[turn]).await?;
        let mut stream = client.open::<vmd::Follow>(request).await.map_err(failed)?;
        loop {
            let piece = match stream.next().await.map_err(failed)? {
                Event::End(end) => return Ok(end),
                Event::Item(piece) => piece,
            };
            let after = Some(piece.offset + piece.bytes.len() as u64);
            match piece.stream {
                Stream::Out => request.out = after,
                Stream::Err => request.err = after,
            }
            let gone = |_| Failed::Told(DriverError::new(Class::Lost, "the follower is gone"));
            pieces.send(piece).await.map_err(gone)?;
        }
    }

    /// Follows a command to its end. When vmd dies meanwhile this goes on where it was, once vmd is back.
    ///
    /// # Errors
    /// As [`Helper::follow`].
    pub async fn relay(
        &self,
        mut request: vmd::FollowRequest,
        pieces: &mpsc::Sender<OutputPiece>,
    ) -> Result<CommandEnd, DriverError> {
        let mut away = None::<Instant>;
        loop {
            let before = (request.out, request.err);
            match self.relay_once(&mut request, pieces).await {
                Ok(end) => return Ok(end),
                Err(Failed::Told(error)) => return Err(error),
                Err(Failed::Away(text)) => {
                    let since = away.filter(|_| before == (request.out, request.err));
                    let since = *away.insert(since.unwrap_or_else(Instant::now));
                    if since.elapsed() > AWAY {
                        return Err(DriverError::new(Class::Lost, text));
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Calls a verb that changes or shows VMs; vmd away is [`Class::Locked`]: boot starts it again.
    ///
    /// # Errors
    /// vmd's own, by class.
    pub async fn call<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, DriverError> {
        self.once::<V>(request).await.map_err(told)
    }

    /// As [`Helper::call`], of a verb that a vmd of an earlier release does not know: None then.
    ///
    /// # Errors
    /// vmd's own, by class.
    pub async fn call_known<V: Verb>(&self, request: &V::Request) -> Result<Option<V::Reply>, DriverError> {
        let client = self.client().await.map_err(told)?;
        match client.call_waiting::<V>(request).await {
            Err(CallError::Fail(fail)) if fail.code == Code::UnknownVerb => Ok(None),
            answer => answer.map(Some).map_err(|error| told(failed(error))),
        }
    }

    /// What vmd tells of deaths from now on, and the connection by which it does.
    ///
    /// # Errors
    /// [`Class::Locked`]: vmd is away.
    pub async fn deaths(&self) -> Result<(Client, gantry_rpc::Stream<vmd::Deaths>), DriverError> {
        let client = self.client().await.map_err(told)?;
        let stream = client.open::<vmd::Deaths>(&()).await.map_err(|error| told(failed(error)))?;
        Ok((client, stream))
    }

    /// Calls a verb about a command. When vmd dies meanwhile its records say how it ended, once it is back.
    ///
    /// # Errors
    /// vmd's own, by class; [`Class::Lost`] when it stays away.
    pub async fn follow<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, DriverError> {
        let begun = Instant::now();
        loop {
            match self.once::<V>(request).await {
                Ok(reply) => return Ok(reply),
                Err(Failed::Told(error)) => return Err(error),
                Err(Failed::Away(text)) if begun.elapsed() > AWAY => {
                    return Err(DriverError::new(Class::Lost, text));
                }
                Err(Failed::Away(_)) => sleep(PAUSE).await,
            }
        }
    }

    /// vmd's process, by the kernel's word.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn pid(&self) -> Result<i32, DriverError> {
        let away = |text: String| DriverError::new(Class::Locked, text);
        match self.client().await {
            Ok(client) => client.peer_cred().map(|(pid, _)| pid).ok_or_else(|| away("no peer".to_owned())),
            Err(Failed::Away(text)) => Err(away(text)),
            Err(Failed::Told(error)) => Err(error),
        }
    }
}
