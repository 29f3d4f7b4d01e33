//! The client: asks up to six candidates at once, each with a datagram of its own, and takes the newest answer. It never
//! asks in another form than it was made for: silence is an error, not a reason to try the weaker one.

use crate::core::ascii::TooLong;
use crate::core::collect::{ASKED_MAX, Collect, Step};
use crate::core::keys::{KeyError, Keys};
use crate::core::reply::{Heard, open};
use crate::core::request::{Kind, Query, Request};
use crate::core::wire::{Form, Mac, Outer, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, seal_request};
use gantry_rt::clock;
use gantry_rt::secret::SecretError;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UdpSocket;
use uuid::Uuid;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file of the node.
    #[error("can't read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key's file.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key.
    #[error("{} is no key", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// Nobody to ask.
    #[error("{} names no address of a master candidate", path.display())]
    Candidates {
        /// The file.
        path: PathBuf,
    },
    /// A request that no server takes.
    #[error(
        "the request would be longer than the {REQUEST_BYTES_MAX} bytes that servers take: ask with a shorter query"
    )]
    Long(#[from] TooLong),
    /// A type that Ganeti's form has not.
    #[error(
        "there is no type {} in the form {}: it is Gantry's own, which only the second form has (confd_digest both or sha256)",
        kind.name(), form.as_str()
    )]
    Kind {
        /// The type.
        kind: Kind,
        /// The form.
        form: Form,
    },
    /// No socket.
    #[error("can't open a UDP socket")]
    Socket(#[source] io::Error),
    /// Silence.
    #[error(
        "none of the {asked} candidate(s) asked answered: {peers}; they may be down, have another hmac.key, or not accept {form}"
    )]
    Silence {
        /// How many.
        asked: usize,
        /// Which.
        peers: String,
        /// In which form.
        form: &'static str,
    },
}

/// A candidate and whether it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// Whether it was heard.
    pub answered: bool,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The newest reply.
    pub reply: Heard,
    /// Whose it is.
    pub from: SocketAddr,
    /// All that were asked.
    pub peers: Vec<Peer>,
    /// Whether all replies with that serial say the same.
    pub consistent: bool,
}

/// A client. Keeps nothing between questions.
#[derive(Debug, Clone)]
pub struct Client {
    keys: Keys,
    form: Form,
    peers: Vec<SocketAddr>,
}

/// A request on its way.
struct Sent {
    peer: usize,
    rsalt: String,
    mac: Mac,
}

/// Sockets of both families, as far as peers need them.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Client {
    /// Asks these candidates in that form. More than [`ASKED_MAX`] are not asked.
    #[must_use]
    pub fn new(keys: Keys, form: Form, peers: Vec<SocketAddr>) -> Self {
        Self { keys, form, peers }
    }

    /// The same client, asking in another form.
    #[must_use]
    pub fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Asks one question of all and takes the newest answer. Gives up after ten seconds; dropping it is fine.
    ///
    /// # Errors
    /// Nobody answered, or nobody could be asked. A reply that says what is wrong is an [`Answer`] too.
    pub async fn ask(&self, kind: Kind, query: Query) -> Result<Answer, ClientError> {
        // Silence would be the answer.
        if Kind::of(u64::from(kind.number()), self.form).is_none() {
            return Err(ClientError::Kind { kind, form: self.form });
        }
        // Which six is by chance, so that no candidate is forgotten.
        let mut peers = self.peers.clone();
        peers.sort_by_cached_key(|_| Uuid::new_v4());
        peers.truncate(ASKED_MAX);
        let sockets = Sockets::open(&peers).await?;
        let mut collect = Collect::new(peers.len(), clock::millis());
        let mut sent = Vec::new();
        for peer in 0..peers.len() {
            sent.extend(self.send(&sockets, &peers, peer, kind, &query).await?);
        }
        let mut buffer = vec![0; REPLY_BYTES_MAX];
        loop {
            match collect.step(clock::millis()) {
                Step::Done => break,
                Step::Again(silent) => {
                    for peer in silent {
                        sent.extend(self.send(&sockets, &peers, peer, kind, &query).await?);
                    }
                }
                Step::Wait(until) => {
                    let left = Duration::from_millis(until.saturating_sub(clock::millis()));
                    // What can't be received, such as a refusal of a port, is a silent peer.
                    if let Ok(Ok(bytes)) = tokio::time::timeout(left, sockets.receive(&mut buffer)).await
                        && let Some((peer, reply)) = self.take(&sent, &buffer[..bytes])
                    {
                        collect.heard(peer, reply);
                    }
                }
            }
        }
        let outcome = collect.outcome();
        let named = || peers.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let silence =
            || ClientError::Silence { asked: peers.len(), peers: named(), form: self.form.as_str() };
        let (at, reply) = outcome.best.ok_or_else(silence)?;
        let heard = peers.iter().zip(outcome.answered);
        let all = heard.map(|(addr, answered)| Peer { addr: *addr, answered }).collect();
        Ok(Answer { reply, from: peers[at], peers: all, consistent: outcome.consistent })
    }

    /// Asks one peer; None if it can't be reached.
    async fn send(
        &self,
        sockets: &Sockets,
        peers: &[SocketAddr],
        peer: usize,
        kind: Kind,
        query: &Query,
    ) -> Result<Option<Sent>, ClientError> {
        let addr = peers[peer];
        let rsalt = Uuid::new_v4().to_string();
        let dst = (self.form == Form::Second).then(|| addr.ip().to_string());
        let request = Request { kind, query: query.clone(), rsalt: rsalt.clone(), dst };
        let message = request.message(self.form)?;
        let (datagram, mac) = seal_request(self.form, &self.keys, &seconds().to_string(), &message);
        // Quotes of the message are doubled in it, and servers drop what is too long without a word.
        if datagram.len() > REQUEST_BYTES_MAX {
            return Err(TooLong(REQUEST_BYTES_MAX).into());
        }
        let gone = match sockets.of(addr) {
            Some(socket) => socket.send_to(&datagram, addr).await.is_ok(),
            None => false,
        };
        Ok(gone.then_some(Sent { peer, rsalt, mac }))
    }

    /// Whose reply a datagram is; None if nobody's.
    fn take(&self, sent: &[Sent], datagram: &[u8]) -> Option<(usize, Heard)> {
        let outer = Outer::parse(datagram).ok()?;
        let asked = sent.iter().find(|sent| sent.rsalt == outer.salt)?;
        let reply = open(self.form, &self.keys, &asked.mac, &asked.rsalt, &outer, seconds()).ok()?;
        Some((asked.peer, reply))
    }
}

/// The wall clock.
fn seconds() -> u64 {
    clock::now().0
}

impl Sockets {
    async fn open(peers: &[SocketAddr]) -> Result<Self, ClientError> {
        let open = async |wanted: bool, any: IpAddr| match wanted {
            true => UdpSocket::bind((any, 0)).await.map(Some).map_err(ClientError::Socket),
            false => Ok(None),
        };
        Ok(Self {
            v4: open(peers.iter().any(SocketAddr::is_ipv4), Ipv4Addr::UNSPECIFIED.into()).await?,
            v6: open(peers.iter().any(SocketAddr::is_ipv6), Ipv6Addr::UNSPECIFIED.into()).await?,
        })
    }

    fn of(&self, addr: SocketAddr) -> Option<&UdpSocket> {
        if addr.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.v4, &self.v6) {
            (Some(one), None) | (None, Some(one)) => one.recv(buffer).await,
            (Some(v4), Some(v6)) => {
                tokio::select! {
                    ready = v4.readable() => ready.and_then(|()| v4.try_recv(buffer)),
                    ready = v6.readable() => ready.and_then(|()| v6.try_recv(buffer)),
                }
            }
            (None, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::keys::tests::FILE;

    /// Asks a peer that never answers; how many bytes it was sent, or why none.
    fn ask(form: Form, kind: Kind, query: &str) -> Result<usize, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let client = Client::new(Keys::new(FILE).unwrap(), form, vec![peer.local_addr().unwrap()]);
            let mut buffer = [0; 2 * REQUEST_BYTES_MAX];
            tokio::select! {
                bytes = peer.recv(&mut buffer) => Ok(bytes.unwrap()),
                answer = client.ask(kind, Query::Text(query.to_owned())) => Err(answer.unwrap_err()),
            }
        })
    }

    #[test]
    fn a_request_longer_than_servers_take_is_refused_and_not_sent() {
        for form in [Form::Legacy, Form::Second] {
            let rest = ask(form, Kind::Config, "").unwrap();
            let of = |bytes: usize| ask(form, Kind::Config, &"/".repeat(bytes - rest));
            assert_eq!(of(REQUEST_BYTES_MAX).unwrap(), REQUEST_BYTES_MAX);
            for bytes in [REQUEST_BYTES_MAX + 1, 2 * REQUEST_BYTES_MAX] {
                let said = of(bytes).unwrap_err().to_string();
                assert!(said.contains("longer than the 4096 bytes"), "{said}");
            }
        }
    }

    #[test]
    fn a_type_that_the_form_has_not_is_refused_and_not_sent() {
        let said = ask(Form::Legacy, Kind::Slots, "p").unwrap_err().to_string();
        assert!(said.contains("no type slots in the form plj0"), "{said}");
        assert!(ask(Form::Second, Kind::Slots, "p").is_ok());
    }
}
