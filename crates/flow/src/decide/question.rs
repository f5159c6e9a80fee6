//! Questions: who owns this flow?
//!
//! A denial means that at this member no socket fits **the packet that was asked about**. It says nothing about
//! other packets of the flow, or a forged segment could have a living flow reset. So a question is about one
//! packet, by its sequence and acknowledgment number; a packet with others is a new question.

use super::{Case, Fate, Members, Steering};
use crate::budget::Priority;
use crate::wire::{TunnelKind, VALUE_MASK, Word};
use std::time::{Duration, Instant};

/// A question is open for so long after its last probe: answers are taken, and the retries are counted.
pub const QUESTION_TTL: Duration = Duration::from_secs(2);

/// What all have denied stays denied for so long: the longest distance of two retransmissions (RFC 6298 section 2.5
/// allows 60 s, Linux takes 120 s), so that a client of an owner that is gone is reset at its next one.
pub const DENIED_TTL: Duration = Duration::from_secs(120);

/// About a flow, open or denied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    /// 14 bits, not 0.
    pub number: u16,
    /// Sequence and acknowledgment number of the packet; zeros for UDP.
    pub about: (u32, u32),
    /// When it was asked last.
    pub last: Instant,
    /// How often, while it was open.
    pub probes: u8,
    /// Who has denied.
    pub denied: Members,
}

impl Question {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    /// Answers are awaited.
    pub fn is_open(&self, now: Instant) -> bool {
        self.age(now) < QUESTION_TTL
    }
}

/// What asking has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Probes are off, or no other member is alive.
    NobodyElse,
    /// All live members have denied.
    Denied,
    /// There is no token.
    OverBudget,
    /// Not yet answered; the last probe is younger than the retry timer.
    Waiting,
    /// Not answered, and asked as often as is allowed.
    Silence,
    /// Cloned to the members that have not denied.
    Probe {
        /// To whom.
        fate: Fate,
        /// The last probe about the flow was not answered.
        timed_out: bool,
    },
}

impl Steering {
    /// Step 8.
    pub(super) fn ask(
        &mut self,
        case: &Case,
        about: (u32, u32),
        priority: Priority,
        denied_ttl: Duration,
    ) -> Asked {
        let live = case.ground.live;
        let same = self.question_about(case, about, denied_ttl);
        let denied = Members::of(case.returner).with(same.map(|q| q.denied).unwrap_or_default());
        let asked = live.without(denied);
        if !case.ground.probes || live.is_empty() {
            return Asked::NobodyElse;
        }
        if asked.is_empty() {
            return Asked::Denied;
        }
        let open = self
            .questions
            .peek(&case.flow)
            .filter(|q| q.is_open(case.now))
            .copied();
        if let Some(wait) = open.and_then(|open| self.must_wait(case.now, &open)) {
            return wait;
        }
        let client = case.flow.client.ip();
        if !self
            .budget
            .take(case.now, case.ground.group, client, asked.len(), priority)
        {
            return Asked::OverBudget;
        }
        let question = Question {
            number: same.map_or_else(|| number(case.draw), |q| q.number),
            about,
            last: case.now,
            probes: open.map_or(0, |open| open.probes).saturating_add(1),
            denied,
        };
        let before = self.questions.peek(&case.flow);
        Asked::Probe {
            timed_out: before.is_some_and(|q| !live.without(q.denied).is_empty()),
            fate: self.probe(case, question, asked),
        }
    }

    fn probe(&mut self, case: &Case, question: Question, asked: Members) -> Fate {
        self.questions.insert(case.flow, question);
        Fate::Clone {
            to: self.map.hops(&case.ground, asked),
            word: Word::new(TunnelKind::Probe, question.number),
            and_stack: false,
        }
    }

    /// What is known about this very packet; that it came back is one denial more.
    fn question_about(
        &mut self,
        case: &Case,
        about: (u32, u32),
        ttl: Duration,
    ) -> Option<Question> {
        let question = self.questions.get(&case.flow)?;
        if question.about != about || question.age(case.now) >= ttl {
            return None;
        }
        question.denied = question.denied.with(Members::of(case.returner));
        Some(*question)
    }

    fn must_wait(&self, now: Instant, open: &Question) -> Option<Asked> {
        let settings = &self.map.config().settings;
        if open.age(now) < settings.probe_retry_timer {
            return Some(Asked::Waiting);
        }
        (open.probes > settings.probe_retries).then_some(Asked::Silence)
    }
}

/// 1 to 2^14 - 1.
fn number(draw: u64) -> u16 {
    (draw % u64::from(VALUE_MASK)) as u16 + 1
}
