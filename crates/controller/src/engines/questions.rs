//! Questions to engines that are open: who asks waits for the answer of this number.

use proto::v1::FlowAnswer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Questions(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    last: u64,
    waiting: BTreeMap<u64, (String, oneshot::Sender<FlowAnswer>)>,
}

/// An answer that is awaited; nobody waits for it any more when this is dropped.
pub struct Pending {
    id: u64,
    open: Arc<Mutex<Open>>,
    answer: oneshot::Receiver<FlowAnswer>,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Questions {
    /// A new question to this engine, and its number.
    pub(super) fn ask(&self, se: &str) -> (u64, Pending) {
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
    pub(super) fn answered(&self, se: &str, answer: FlowAnswer) {
        let mut open = lock(&self.0);
        let asked = open.waiting.get(&answer.id);
        if asked.is_none_or(|(of, _)| of != se) {
            return;
        }
        if let Some((_, sender)) = open.waiting.remove(&answer.id) {
            sender.send(answer).ok();
        }
    }
}

impl Pending {
    /// The answer; none when the question was dropped. Cancel-safe.
    pub async fn answer(&mut self) -> Option<FlowAnswer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Pending {
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
