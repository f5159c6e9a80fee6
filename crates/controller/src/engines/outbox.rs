//! What is on its way to an engine. Each desired state replaces the ones before: however slowly the engine reads, only the newest
//! of them waits, and it is copied when it is its turn.

use futures_util::Stream;
use proto::v1::{ControllerMessage, DesiredState, controller_message::Body};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that wait for an engine. One that lets more wait does not read.
const WAITING_MAX: usize = 16;

enum Waiting {
    /// The newest desired state of the moment in which it is its turn.
    State,
    Message(Box<Result<ControllerMessage, Status>>),
}

type Newest = Arc<Mutex<Option<Arc<DesiredState>>>>;

/// See the module's documentation. The stream of [`Messages`] ends with the last of its outboxes.
#[derive(Clone)]
pub struct Outbox {
    queue: mpsc::Sender<Waiting>,
    newest: Newest,
}

/// One that does not keep the stream from ending.
pub(super) struct WeakOutbox {
    queue: mpsc::WeakSender<Waiting>,
    newest: Newest,
}

/// Too much waits, or the session has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotTaken;

impl Outbox {
    /// An outbox, and what comes out of it.
    pub fn new() -> (Self, Messages) {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        let newest = Newest::default();
        let outbox = Self {
            queue: sender,
            newest: newest.clone(),
        };
        (outbox, Messages { queue, newest })
    }

    fn put(&self, waiting: Waiting) -> Result<(), NotTaken> {
        self.queue.try_send(waiting).map_err(|_| NotTaken)
    }

    /// Takes the place of a desired state that still waits.
    pub(super) fn desire(&self, desired: Arc<DesiredState>) -> Result<(), NotTaken> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.replace(desired) {
            Some(_) => Ok(()),
            None => self.put(Waiting::State).inspect_err(|_| *newest = None),
        }
    }

    pub(super) fn send(&self, body: Body) -> Result<(), NotTaken> {
        let message = ControllerMessage { body: Some(body) };
        self.put(Waiting::Message(Box::new(Ok(message))))
    }

    /// The last word.
    pub(super) fn end(&self, status: Status) -> Result<(), NotTaken> {
        self.put(Waiting::Message(Box::new(Err(status))))
    }

    pub(super) fn downgrade(&self) -> WeakOutbox {
        WeakOutbox {
            queue: self.queue.downgrade(),
            newest: self.newest.clone(),
        }
    }
}

impl WeakOutbox {
    /// None when there is no outbox any more.
    pub(super) fn upgrade(&self) -> Option<Outbox> {
        Some(Outbox {
            queue: self.queue.upgrade()?,
            newest: self.newest.clone(),
        })
    }
}

/// What comes out of an [`Outbox`], in the order in which it was put in; of desired states one at a time, the newest.
pub struct Messages {
    queue: mpsc::Receiver<Waiting>,
    newest: Newest,
}

impl Messages {
    fn take_newest(&self) -> Option<ControllerMessage> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let desired = Arc::unwrap_or_clone(newest.take()?);
        let body = Some(Body::DesiredState(desired));
        Some(ControllerMessage { body })
    }
}

impl Stream for Messages {
    type Item = Result<ControllerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.queue.poll_recv(cx)) {
            None => None,
            Some(Waiting::Message(message)) => Some(*message),
            // Each that waits here is put in together with its state.
            Some(Waiting::State) => self.take_newest().map(Ok),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _};
    use proto::v1::{FlowQuery, Restart};

    fn state(generation: u64) -> Arc<DesiredState> {
        Arc::new(DesiredState {
            generation,
            ..DesiredState::default()
        })
    }

    /// Words for what comes out now.
    fn out(messages: &mut Messages) -> Vec<String> {
        let next = || messages.next().now_or_never();
        let word = |message: Result<ControllerMessage, Status>| match message {
            Ok(message) => match message.body.expect("has one") {
                Body::DesiredState(desired) => format!("state {}", desired.generation),
                Body::FlowQuery(query) => format!("question {}", query.id),
                other => format!("{other:?}"),
            },
            Err(status) => status.message().to_owned(),
        };
        std::iter::from_fn(next)
            .map(|m| m.map_or("the end".to_owned(), word))
            .take(40)
            .collect()
    }

    #[test]
    fn of_desired_states_only_the_newest_waits_in_the_place_of_the_first() {
        let (outbox, mut messages) = Outbox::new();
        let question = |id| {
            Body::FlowQuery(FlowQuery {
                id,
                ..FlowQuery::default()
            })
        };
        assert_eq!(outbox.send(question(1)), Ok(()));
        for generation in 1..100 {
            assert_eq!(outbox.desire(state(generation)), Ok(()));
        }
        assert_eq!(outbox.send(question(2)), Ok(()));
        assert_eq!(out(&mut messages), ["question 1", "state 99", "question 2"]);
        assert_eq!(outbox.desire(state(100)), Ok(()));
        assert_eq!(out(&mut messages), ["state 100"]);
    }

    #[test]
    fn what_is_too_much_is_not_taken() {
        let (outbox, mut messages) = Outbox::new();
        for _ in 0..WAITING_MAX {
            assert_eq!(outbox.send(Body::Restart(Restart {})), Ok(()));
        }
        assert_eq!(outbox.desire(state(1)), Err(NotTaken));
        assert_eq!(outbox.end(Status::unavailable("stops")), Err(NotTaken));
        assert_eq!(out(&mut messages).len(), WAITING_MAX);
    }

    #[test]
    fn the_stream_ends_with_the_last_outbox_after_its_last_word() {
        let (outbox, mut messages) = Outbox::new();
        let weak = outbox.downgrade();
        let again = weak.upgrade().expect("there is one");
        drop(outbox);
        assert_eq!(again.end(Status::unavailable("stops")), Ok(()));
        drop(again);
        assert!(weak.upgrade().is_none());
        let both = [
            messages.next().now_or_never(),
            messages.next().now_or_never(),
        ];
        let [Some(Some(Err(last))), Some(None)] = both else {
            panic!("{both:?}");
        };
        assert_eq!(last.message(), "stops");
    }
}
