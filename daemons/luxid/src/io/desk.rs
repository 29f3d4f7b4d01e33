//! One start of a job, from its process's birth to its end: a task that starts the process (or finds that of an
//! earlier luxid), says go, takes its reports, and learns of its death (P4). What the queue wants of it lies on
//! its [`Desk`]; what happens goes to the queue as events. It decides nothing.

use super::actor::Inbox;
use super::bodies;
use super::life::Life;
use super::liveness::{self, Verdict};
use super::spawn::{Newborn, Program, Started};
use super::spool;
use crate::core::queue::{Event, Process, READY_MS};
use gantry_model::ids::JobOwner;
use gantry_model::job::{Class, Report};
use gantry_model::root::Root;
use gantry_proto::codec::Json;
use gantry_proto::hello::Hello;
use gantry_proto::job::{Attach, Cancel, Confirm, ConfirmRequest, Go, GoRequest, SetPriority};
use gantry_proto::verb::Verb;
use gantry_rpc::{CallError, Client, ConnectError, Event as Piece, Stream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a call to a job may take before it is tried again: a stopped job answers late, not never.
const CALL_MS: u64 = 30_000;
/// First and longest wait between two looks at a process that lives and can't be spoken to.
const LOOK_MS: (u64, u64) = (5, 1_000);
/// How long a process that was never heard of is waited for.
const AWAY_MS: u64 = 2_000;
/// Wait before the second of several failed starts of a job in a row; doubles up to the longest.
const RETRY_MS: (u64, u64) = (100, 5_000);

/// What all starts share.
#[derive(Debug)]
pub struct Office {
    /// How processes are started.
    pub program: Program,
    /// What luxid says first to a job.
    pub hello: Hello,
    /// Where events go.
    pub inbox: Inbox,
    /// luxid stops: leave everything as it is.
    pub stop: CancellationToken,
}

impl Office {
    fn root(&self) -> &Root {
        &self.program.root
    }
}

/// What becomes of the files of a start that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leavings {
    /// What they say is stored: delete them.
    Clean,
    /// They are of no current start.
    Discard,
}

/// What the queue wants of one start. Later wishes replace earlier ones of their kind, so it stays small.
#[derive(Debug, Default)]
pub struct Desk {
    orders: Mutex<Orders>,
    /// Wakes the task; it waits for one thing at a time.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Orders {
    go: Option<GoRequest>,
    confirm: Option<ConfirmRequest>,
    cancel: bool,
    priority: Option<i32>,
    abandoned: bool,
    leavings: Option<Leavings>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, set: impl FnOnce(&mut Orders)) {
        set(&mut self.lock());
        self.bell.notify_one();
    }

    /// Tell the process to go.
    pub fn go(&self, request: GoRequest) {
        self.order(|o| o.go = Some(request));
    }

    /// Tell it that a report is stored.
    pub fn confirm(&self, request: ConfirmRequest) {
        self.order(|o| o.confirm = Some(request));
    }

    /// Tell it to cancel.
    pub fn cancel(&self) {
        self.order(|o| o.cancel = true);
    }

    /// Tell it its new priority.
    pub fn set_priority(&self, priority: i32) {
        self.order(|o| o.priority = Some(priority));
    }

    /// End the process, which was not told to go.
    pub fn abandon(&self) {
        self.order(|o| o.abandoned = true);
    }

    /// The queue has no more interest in this start.
    pub fn leave(&self, leavings: Leavings) {
        self.order(|o| {
            o.leavings.get_or_insert(leavings);
        });
    }

    /// Waits until `look` finds what it looks for.
    async fn until<T>(&self, mut look: impl FnMut(&mut Orders) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            self.bell.notified().await;
        }
    }
}

/// A connection over which the job reports.
enum Link {
    Go(Client, Stream<Go>),
    Attach(Client, Stream<Attach>),
}

/// The task of one start.
pub struct Start {
    office: Arc<Office>,
    owner: JobOwner,
    class: Class,
    desk: Arc<Desk>,
    /// Of a process that this luxid started.
    life: Option<Life>,
    /// luxid's end of the socketpair. Its closing tells a job that heard no go to leave; go may be said and not
    /// heard for a while, so it is kept as long as this.
    pair: Option<Newborn>,
    process: Option<Process>,
    /// Kept to say it again when the connection broke before the job heard it.
    go: Option<GoRequest>,
}

impl Start {
    /// The task of a start that is to be made.
    #[must_use]
    pub fn new(office: Arc<Office>, owner: JobOwner, class: Class, desk: Arc<Desk>) -> Self {
        Self { office, owner, class, desk, life: None, pair: None, process: None, go: None }
    }

    /// Starts the process and sees it through. `failed` starts of the job failed before.
    pub async fn run(mut self, failed: u32) {
        let stop = self.office.stop.clone();
        let life = async {
            if failed > 0 {
                let wait = RETRY_MS.0.saturating_mul(1 << failed.min(10)).min(RETRY_MS.1);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            match self.begin().await {
                Ok(link) => self.see_through(Some(link)).await,
                Err(why) => {
                    tracing::debug!(owner = %self.owner, why, "start failed");
                    self.end_process().await;
                    spool::clean(self.office.root(), self.owner);
                    self.tell(Event::StartFailed(self.owner, why)).await;
                }
            }
        };
        tokio::select! {
            () = life => {}
            () = stop.cancelled() => {}
        }
    }

    /// Attaches to the process of an earlier luxid, or finds it dead. `settled` is dropped as soon as it is
    /// known which (P4.7).
    pub async fn adopt(mut self, process: Option<Process>, settled: tokio::sync::mpsc::Sender<()>) {
        self.process = process;
        let stop = self.office.stop.clone();
        let life = async {
            if liveness::probe(self.office.root(), self.owner, self.process.as_ref()).await == Verdict::Dead {
                self.tell_dead().await;
                drop(settled);
                return self.clear_desk().await;
            }
            tracing::info!(owner = %self.owner, "adopts a job of an earlier luxid");
            drop(settled);
            self.see_through(None).await;
        };
        tokio::select! {
            () = life => {}
            () = stop.cancelled() => {}
        }
    }

    async fn tell(&self, event: Event) {
        self.office.inbox.event(event).await;
    }

    // --- up to go ---

    async fn begin(&mut self) -> Result<Link, String> {
        self.start_process().await?;
        self.go = Some(self.wait_for_go().await?);
        self.first_link().await
    }

    async fn start_process(&mut self) -> Result<(), String> {
        let desk = Arc::clone(&self.desk);
        let process = tokio::select! {
            process = self.born_and_ready() => process?,
            () = desk.until(|o| o.abandoned.then_some(())) => return Err("abandoned".to_owned()),
        };
        self.process = Some(process.clone());
        self.tell(Event::Ready(self.owner, process)).await;
        Ok(())
    }

    /// Has the process started, and waits until it says ready. What is known of it by then is kept, for its end.
    async fn born_and_ready(&mut self) -> Result<Process, String> {
        let limit = Duration::from_millis(READY_MS);
        let started = timeout(limit, self.asked_for()).await;
        let started = started.map_err(|_| format!("not started within {READY_MS} ms"))??;
        let pair = self.pair.insert(Newborn::new(started.pair));
        let Ok(born) = timeout(limit, pair.born()).await else {
            started.nursery.into_iter().for_each(|nursery| self.office.program.give_up(nursery));
            return Err(format!("not born within {READY_MS} ms"));
        };
        let life = born.map_err(|error| format!("not born: {error}"))?;
        started.nursery.into_iter().for_each(|nursery| self.office.program.proved(nursery));
        self.life = Some(life);
        let ready =
            timeout(limit, pair.ready()).await.map_err(|_| format!("not ready within {READY_MS} ms"))?;
        let ready = ready.map_err(|error| format!("no ready line: {error}"))?;
        match self.life.as_ref().and_then(|life| life.pid().ok()) {
            Some(pid) if pid == ready.pid => {}
            other => return Err(format!("pid {} says it is ready; born was {other:?}", ready.pid)),
        }
        liveness::process(ready.pid).map_err(|e| format!("it left at once: {e}"))
    }

    async fn asked_for(&self) -> Result<Started, String> {
        loop {
            match self.office.program.start(self.owner) {
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(LOOK_MS.0)).await;
                }
                other => return other.map_err(|why| format!("can't start gantry-job: {why}")),
            }
        }
    }

    /// Waits until `running` is stored. The process may die meanwhile.
    async fn wait_for_go(&mut self) -> Result<GoRequest, String> {
        let life = self.life.as_ref().ok_or("no process")?;
        tokio::select! {
            biased;
            request = self.desk.until(|o| if o.abandoned { Some(None) } else { o.go.take().map(Some) }) => {
                request.ok_or_else(|| "abandoned".to_owned())
            }
            () = life.ended() => Err("it died before it was told to go".to_owned()),
        }
    }

    /// Connects and says go. Err: nothing was sent, and the process is gone.
    async fn first_link(&mut self) -> Result<Link, String> {
        let mut wait = LOOK_MS.0;
        loop {
            match self.connect().await {
                Ok(link) => return Ok(link),
                Err(why) => {
                    if self.life.as_ref().is_none_or(Life::is_over) {
                        return Err(format!("it died before it was told to go: {why}"));
                    }
                    tracing::debug!(owner = %self.owner, %why, "can't say go yet");
                }
            }
            self.pause(&mut wait).await;
        }
    }

    async fn end_process(&mut self) {
        if let Some(life) = &self.life {
            life.kill();
            life.ended().await;
        } else if let Some(pair) = &mut self.pair {
            // One that has not even said that it is there, if there is one, leaves by itself, unless it stands still.
            let _ = timeout(Duration::from_millis(AWAY_MS), pair.send_away()).await;
        }
    }

    // --- from go to the end ---

    /// Takes reports, reconnects, until the process is gone and the queue has heard all of it.
    async fn see_through(&mut self, mut link: Option<Link>) {
        let mut wait = LOOK_MS.0;
        loop {
            if let Some(link) = link.take() {
                if self.attend(link).await {
                    wait = LOOK_MS.0;
                }
                if self.desk.lock().leavings.is_some() {
                    break;
                }
            }
            match self.look_again(&mut wait).await {
                Some(new) => link = Some(new),
                None => {
                    self.tell_dead().await;
                    break;
                }
            }
        }
        self.clear_desk().await;
    }

    /// Connects anew; None when the process is dead.
    async fn look_again(&mut self, wait: &mut u64) -> Option<Link> {
        loop {
            if self.life.as_ref().is_some_and(Life::is_over) {
                return None;
            }
            match self.connect().await {
                Ok(link) => {
                    // A process that can't be attached to yet is not asked in a tight loop.
                    self.pause(wait).await;
                    return Some(link);
                }
                Err(ConnectError::Io(error))
                    if liveness::judge(&error, self.process.as_ref()) == Verdict::Dead =>
                {
                    return None;
                }
                Err(why) => tracing::debug!(owner = %self.owner, %why, "lives and can't be spoken to"),
            }
            self.pause(wait).await;
        }
    }

    async fn pause(&mut self, wait: &mut u64) {
        let pause = tokio::time::sleep(Duration::from_millis(*wait));
        *wait = (*wait * 2).min(LOOK_MS.1);
        match &self.life {
            Some(life) => tokio::select! {
                () = pause => {}
                () = life.ended() => {}
            },
            None => pause.await,
        }
    }

    async fn connect(&self) -> Result<Link, ConnectError> {
        let client = Client::unix(&self.office.root().job_socket(self.owner), &self.office.hello).await?;
        let found = client.peer_cred().map(|(pid, _)| pid);
        let wanted = self.process.as_ref().and_then(|p| i32::try_from(p.pid).ok());
        if wanted.is_some() && found != wanted {
            let (wanted, found) = (format!("pid {wanted:?}"), format!("pid {found:?}"));
            return Err(ConnectError::WrongPeer { wanted, found });
        }
        let opened = match &self.go {
            Some(request) => client.open::<Go>(request).await.map(|s| Link::Go(client, s)),
            None => client.open::<Attach>(&self.owner).await.map(|s| Link::Attach(client, s)),
        };
        opened.map_err(|error| ConnectError::Hello(error.to_string()))
    }

    /// Takes reports and carries out orders until the connection ends. True when the job said anything.
    async fn attend(&mut self, link: Link) -> bool {
        let mut heard = false;
        match link {
            Link::Go(client, mut stream) => tokio::select! {
                () = self.hear(&mut stream, &mut heard) => {}
                () = self.speak(&client) => {}
            },
            Link::Attach(client, mut stream) => tokio::select! {
                () = self.hear(&mut stream, &mut heard) => {}
                () = self.speak(&client) => {}
            },
        }
        heard
    }

    async fn hear<V: Verb<Item = Json<Report>, Reply = ()>>(&self, stream: &mut Stream<V>, heard: &mut bool) {
        loop {
            match stream.next().await {
                Ok(Piece::Item(json)) => match json.read() {
                    Ok(report) if report.owner == self.owner => {
                        *heard = true;
                        let report = self.checked(report).await;
                        self.tell(Event::Reported(Box::new(report))).await;
                    }
                    Ok(report) => {
                        tracing::error!(owner = %self.owner, found = %report.owner, "another start's report");
                        return;
                    }
                    Err(error) => {
                        tracing::error!(owner = %self.owner, %error, "a report can't be read");
                        return;
                    }
                },
                Ok(Piece::End(())) => return,
                Err(why) => {
                    tracing::debug!(owner = %self.owner, %why, "the connection to the job ended");
                    return;
                }
            }
        }
    }

    /// Carries out orders; ends when the connection does. An order stays on the desk until it was answered, for
    /// this future may be dropped at any time and another connection follow.
    async fn speak(&self, client: &Client) {
        while !client.is_closed() {
            let (confirm, cancel, priority) = self
                .desk
                .until(|o| {
                    let any = o.confirm.is_some() || o.cancel || o.priority.is_some();
                    any.then_some((o.confirm, o.cancel, o.priority))
                })
                .await;
            if let Some(request) = confirm
                && self.call::<Confirm>(client, &request).await
            {
                self.desk.lock().confirm.take_if(|newest| *newest == request);
            }
            if cancel && self.call::<Cancel>(client, &()).await {
                self.desk.lock().cancel = false;
            }
            if let Some(priority) = priority
                && self.call::<SetPriority>(client, &priority).await
            {
                self.desk.lock().priority.take_if(|newest| *newest == priority);
            }
        }
    }

    /// Calls the job; true when it answered, be it with a refusal.
    async fn call<V: Verb<Reply = ()>>(&self, client: &Client, request: &V::Request) -> bool {
        match client.call::<V>(request, Duration::from_millis(CALL_MS)).await {
            Ok(()) => true,
            Err(CallError::Closed(_) | CallError::Deadline { .. }) => false,
            Err(why) => {
                tracing::debug!(owner = %self.owner, verb = V::NAME, %why, "the job refuses");
                true
            }
        }
    }

    /// The report as far as it can be stored: see [`bodies`].
    async fn checked(&self, report: Report) -> Report {
        if self.class == Class::Attempt { bodies::check(self.office.root(), report).await } else { report }
    }

    // --- the end ---

    async fn tell_dead(&mut self) {
        if let Some(life) = &self.life {
            life.ended().await;
        }
        let mut spool = spool::read(self.office.root(), self.owner).await;
        if let Some(report) = spool.take() {
            spool = Some(self.checked(report).await);
        }
        tracing::debug!(owner = %self.owner, outcome = ?spool.as_ref().map(|s| s.outcome), "process is dead");
        self.tell(Event::Dead(self.owner, spool.map(Box::new))).await;
    }

    /// Waits until the queue is done with this start and its process has left, then deletes its files.
    async fn clear_desk(&mut self) {
        let leavings = self.desk.until(|o| o.leavings).await;
        if let Some(life) = &self.life {
            life.ended().await;
        }
        match leavings {
            Leavings::Clean => spool::clean(self.office.root(), self.owner),
            Leavings::Discard => spool::discard(self.office.root(), self.owner).await,
        }
    }
}
