//! Questions to engines that are open: who asks waits for the answer of this number. Each kind of question has its
//! own numbers.

use proto::v1::{FlowAnswer, HostAnswer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// An answer of an engine, with the number of its question.
pub(super) trait Numbered {
    /// The number.
    fn number(&self) -> u64;
}

impl Numbered for FlowAnswer {
    fn number(&self) -> u64 {
        self.id
    }
}

impl Numbered for HostAnswer {
    fn number(&self) -> u64 {
        self.id
    }
}

/// See the module's documentation.
pub(super) struct Questions<A>(Arc<Mutex<Open<A>>>);

struct Open<A> {
    last: u64,
    waiting: BTreeMap<u64, (String, oneshot::Sender<A>)>,
}

impl<A> Default for Questions<A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Open {
            last: 0,
            waiting: BTreeMap::new(),
        })))
    }
}

/// An answer that is awaited; nobody waits for it any more when this is dropped.
pub struct Pending<A> {
    id: u64,
    open: Arc<Mutex<Open<A>>>,
    answer: oneshot::Receiver<A>,
}

fn lock<A>(open: &Mutex<Open<A>>) -> MutexGuard<'_, Open<A>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: Numbered> Questions<A> {
    /// A new question to this engine, and its number.
    pub(super) fn ask(&self, se: &str) -> (u64, Pending<A>) {
        let (sender, answer) = oneshot::channel();
        let mut open = lock(&self.0);
        open.last += 1;
        let id = open.last;
        open.waiting.insert(id, (se.to_owned(), sender));
        let pending = Pending {
            id,
            open: self.0.clone(),
            answer,
        };
        (id, pending)
    }

    /// An answer of this engine; one that nobody waits for, or that another engine was asked for, is ignored.
    pub(super) fn answered(&self, se: &str, answer: A) {
        let mut open = lock(&self.0);
        let asked = open.waiting.get(&answer.number());
        if asked.is_none_or(|(of, _)| of != se) {
            return;
        }
        if let Some((_, sender)) = open.waiting.remove(&answer.number()) {
            sender.send(answer).ok();
        }
    }
}

impl<A> Pending<A> {
    /// The answer; none when the question was dropped. Cancel-safe.
    pub async fn answer(&mut self) -> Option<A> {
        (&mut self.answer).await.ok()
    }
}

impl<A> Drop for Pending<A> {
    fn drop(&mut self) {
        lock(&self.open).waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u64) -> FlowAnswer {
        FlowAnswer {
            id,
            ..FlowAnswer::default()
        }
    }

    #[tokio::test]
    async fn an_answer_reaches_who_asked_and_nobody_answers_for_another_engine() {
        let questions = Questions::default();
        let (first, mut pending) = questions.ask("se-1");
        let (second, mut other) = questions.ask("se-2");
        questions.answered("se-2", answer(first));
        questions.answered("se-2", answer(second));
        questions.answered("se-1", answer(first));
        assert_eq!(pending.answer().await.map(|a| a.id), Some(first));
        assert_eq!(other.answer().await.map(|a| a.id), Some(second));
        let (id, dropped) = questions.ask("se-1");
        drop(dropped);
        questions.answered("se-1", answer(id));
        assert!(lock(&questions.0).waiting.is_empty());
    }
}
