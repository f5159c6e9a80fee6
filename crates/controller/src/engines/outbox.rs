//! What is on its way to an engine. Each desired state replaces the ones before: however slowly the engine reads, only the newest
//! of them waits, and it is copied when it is its turn. An engine that lets one wait for long does not read.

use futures_util::Stream;
use proto::v1::{ControllerMessage, DesiredState, controller_message::Body};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that wait for an engine at most.
const WAITING_MAX: usize = 16;
/// A desired state waits for so long at most, whether newer ones have taken its place or not.
const STATE_WAITS_MAX: Duration = Duration::from_secs(30);

enum Waiting {
    /// The newest desired state of the moment in which it is its turn.
    State,
    Message(Box<Result<ControllerMessage, Status>>),
}

/// The newest desired state, and since when one has waited.
type Newest = Option<(Instant, Arc<DesiredState>)>;

#[derive(Clone, Default)]
struct Place(Arc<Mutex<Newest>>);

impl Place {
    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's documentation. The stream of [`Messages`] ends with the last of its outboxes.
pub struct Outbox {
    queue: mpsc::Sender<Waiting>,
    newest: Place,
}

/// One that does not keep the stream from ending.
pub(super) struct WeakOutbox {
    queue: mpsc::WeakSender<Waiting>,
    newest: Place,
}

/// Too much waits, or for too long, or the session has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotTaken;

impl Outbox {
    /// An outbox, and what comes out of it.
    pub fn new() -> (Self, Messages) {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        let newest = Place::default();
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
        self.desire_at(desired, Instant::now())
    }

    fn desire_at(&self, desired: Arc<DesiredState>, now: Instant) -> Result<(), NotTaken> {
        let mut newest = self.newest.lock();
        let since = newest.take().map(|(since, _)| since);
        let too_long = since.is_some_and(|s| now.duration_since(s) > STATE_WAITS_MAX);
        if too_long || self.queue.is_closed() {
            return Err(NotTaken);
        }
        if since.is_none() {
            self.put(Waiting::State)?;
        }
        *newest = Some((since.unwrap_or(now), desired));
        Ok(())
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
    newest: Place,
}

impl Messages {
    /// None where it was given up.
    fn take_newest(&self) -> Option<ControllerMessage> {
        let (_, desired) = self.newest.lock().take()?;
        // The copy takes a while: nobody waits for it.
        let body = Some(Body::DesiredState(Arc::unwrap_or_clone(desired)));
        Some(ControllerMessage { body })
    }
}

impl Stream for Messages {
    type Item = Result<ControllerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let message = match ready!(self.queue.poll_recv(cx)) {
                None => None,
                Some(Waiting::Message(message)) => Some(*message),
                Some(Waiting::State) => match self.take_newest() {
                    None => continue,
                    Some(message) => Some(Ok(message)),
                },
            };
            return Poll::Ready(message);
        }
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
        assert_eq!(outbox.desire(state(2)), Ok(()));
        for _ in 1..WAITING_MAX {
            assert_eq!(outbox.send(Body::Restart(Restart {})), Ok(()));
        }
        assert_eq!(outbox.desire(state(3)), Ok(()), "its place is there");
        assert_eq!(out(&mut messages)[0], "state 3");
    }

    #[test]
    fn an_engine_that_lets_a_state_wait_for_long_does_not_read() {
        let (outbox, mut messages) = Outbox::new();
        let began = Instant::now();
        assert_eq!(outbox.desire_at(state(1), began), Ok(()));
        assert_eq!(outbox.desire_at(state(2), began + STATE_WAITS_MAX), Ok(()));
        let late = began + STATE_WAITS_MAX + Duration::from_secs(1);
        assert_eq!(outbox.desire_at(state(3), late), Err(NotTaken));
        drop(outbox);
        assert_eq!(out(&mut messages)[0], "the end", "it was given up");
        let (outbox, mut messages) = Outbox::new();
        assert_eq!(outbox.desire_at(state(1), began), Ok(()));
        assert_eq!(out(&mut messages), ["state 1"]);
        assert_eq!(outbox.desire_at(state(2), late), Ok(()), "it has read");
    }

    #[test]
    fn nothing_is_taken_for_a_session_that_has_ended() {
        let (outbox, messages) = Outbox::new();
        assert_eq!(outbox.desire(state(1)), Ok(()));
        drop(messages);
        assert_eq!(outbox.desire(state(2)), Err(NotTaken));
        assert_eq!(outbox.desire(state(3)), Err(NotTaken));
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
