//! How others reach the owner of the state: a bounded queue of questions, each with its reply.

use super::owner::Owner;
use gantry_model::ids::JobOwner;
use gantry_proto::envelope::{Code, Fail};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc, oneshot};

/// Questions that may wait for the owner. It answers each within microseconds; a longer queue only
/// hides that it is overloaded.
const QUESTIONS_MAX: usize = 1024;

/// A question: what to do with the owner.
pub type Question = Box<dyn FnOnce(&mut Owner) + Send>;

/// Where an answer goes. Dropped without one, the asker hears that the outcome is not known.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<Result<T, Fail>>);

impl<T> Reply<T> {
    /// Sends the answer; nobody may be there to hear it.
    pub fn send(self, answer: Result<T, Fail>) {
        drop(self.0.send(answer));
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// The question was not taken.
fn stopping() -> Fail {
    Fail::new(Code::NotReady, "wconfd is stopping")
}

/// The question was taken, and no answer will come.
fn unknown() -> Fail {
    Fail::new(Code::Unknown, "wconfd stopped before it could answer: ask again")
}

/// Reaches the owner. Clones reach the same.
#[derive(Clone)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
    dropped: Arc<Dropped>,
}

/// The owner's end.
pub struct Inbox {
    /// What is asked.
    pub questions: mpsc::Receiver<Question>,
    /// Waits that nobody waits for any more.
    pub dropped: Arc<Dropped>,
}

/// A connected pair.
#[must_use]
pub fn pair() -> (Handle, Inbox) {
    let (send, questions) = mpsc::channel(QUESTIONS_MAX);
    let dropped = Arc::new(Dropped::default());
    (Handle { questions: send, dropped: Arc::clone(&dropped) }, Inbox { questions, dropped })
}

impl Handle {
    /// Asks the owner and waits for the answer. Once the question is in the queue it is carried out,
    /// also when this future is dropped.
    ///
    /// # Errors
    /// The owner's refusal; `NotReady` when the daemon is stopping; `Unknown` when it stopped before it
    /// answered.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Owner, Reply<T>) + Send + 'static,
    ) -> Result<T, Fail> {
        let (reply, answer) = oneshot::channel();
        self.tell(move |owner| question(owner, Reply(reply))).await?;
        answer.await.unwrap_or_else(|_| Err(unknown()))
    }

    /// Asks for something that may take until a lock is free. Dropping the wait withdraws it.
    ///
    /// # Errors
    /// That the daemon is stopping.
    pub async fn ask_waiting(
        &self,
        who: JobOwner,
        question: impl FnOnce(&mut Owner, Ticket, Reply<()>) + Send + 'static,
    ) -> Result<Wait, Fail> {
        let (reply, answer) = oneshot::channel();
        let ticket = self.dropped.ticket();
        let wait = Wait { answer, who, ticket, dropped: Arc::clone(&self.dropped) };
        self.tell(move |owner| question(owner, ticket, Reply(reply))).await?;
        Ok(wait)
    }

    async fn tell(&self, question: impl FnOnce(&mut Owner) + Send + 'static) -> Result<(), Fail> {
        self.questions.send(Box::new(question)).await.map_err(|_| stopping())
    }
}

/// Numbers one waiting request of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// Waits that were dropped and that the owner has not heard of. It holds at most one entry per call
/// under way.
#[derive(Debug, Default)]
pub struct Dropped {
    state: Mutex<(u64, Vec<(JobOwner, Ticket)>)>,
    news: Notify,
}

impl Dropped {
    fn ticket(&self) -> Ticket {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        Ticket(state.0)
    }

    /// Waits until something was dropped.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes what was dropped.
    pub fn take(&self) -> Vec<(JobOwner, Ticket)> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).1)
    }
}

/// A wait for a lock. Dropping it withdraws the request, if it still waits.
pub struct Wait {
    answer: oneshot::Receiver<Result<(), Fail>>,
    who: JobOwner,
    ticket: Ticket,
    dropped: Arc<Dropped>,
}

impl Wait {
    /// The answer. May be dropped and called again.
    ///
    /// # Errors
    /// The owner's refusal, or that the daemon is stopping.
    pub async fn answer(&mut self) -> Result<(), Fail> {
        (&mut self.answer).await.unwrap_or_else(|_| Err(unknown()))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // Closed first: a question still in the queue is not begun after this, and one that was begun
        // finds its ticket in the list.
        self.answer.close();
        let mut state = self.dropped.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.push((self.who, self.ticket));
        drop(state);
        self.dropped.news.notify_one();
    }
}
