//! The connection to gantry-vmd: made when needed, made again when lost.

use crate::driver::{Class, DriverError};
use gantry_proto::vmd::PROTOCOL;
use gantry_rpc::{CallError, Client, Code, Fail, Hello, Verb};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// How long a command that is being waited for may be without vmd: boot starts it again at once.
const AWAY: Duration = Duration::from_secs(10);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Helper {
    socket: PathBuf,
    client: Mutex<Option<Client>>,
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
    ];
    all.into_iter().find(|class| class.name() == name).unwrap_or(match fail.code {
        Code::BadRequest => Class::BadImage,
        Code::NotFound => Class::NotFound,
        _ => Class::Locked,
    })
}

impl Helper {
    /// The vmd of that socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, client: Mutex::new(None) }
    }

    async fn client(&self) -> Result<Client, Failed> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let made = Client::unix(&self.socket, &Hello::new(PROTOCOL, "gantry-noded")).await;
        let client = made.map_err(|error| Failed::Away(format!("gantry-vmd can't be reached: {error}")))?;
        Ok(kept.insert(client).clone())
    }

    async fn once<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, Failed> {
        let client = self.client().await?;
        client.call_waiting::<V>(request).await.map_err(|error| match error {
            CallError::Fail(fail) if fail.code == Code::NotReady => Failed::Away(fail.text),
            CallError::Fail(fail) => Failed::Told(DriverError::new(class_of(&fail), fail.text)),
            other => Failed::Away(format!("gantry-vmd went away: {other}")),
        })
    }

    /// Calls a verb that changes or shows VMs; vmd away is [`Class::Locked`]: boot starts it again.
    ///
    /// # Errors
    /// vmd's own, by class.
    pub async fn call<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, DriverError> {
        self.once::<V>(request).await.map_err(|failed| match failed {
            Failed::Away(text) => DriverError::new(Class::Locked, text),
            Failed::Told(error) => error,
        })
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
