//! Which member of a natively scaled VIP answers ARP and neighbour discovery for it (`docs/dev/steering.md`, section 11).
//!
//! All members know the same order: the engine that the controller names first, then by member id. The first of those whose
//! process is there is the primary, and needs nobody's leave. What is decided here is only when *we* may speak:
//!
//! ```text
//!   listening ─ all others heard, or LISTEN over ─▶ silent ─ we are the first ─▶ checking ─ CHECK over ─▶ answering
//!       ▲                                             ▲                            │ somebody answers,      │ another one
//!       └── our process hung, or has just begun       │                            │ and we hear nobody     │ is the first,
//!                                                     └────────────────────────────┴────────────────────────┘ and speaks
//! ```
//!
//! An engine that hears none of the others is alone, or cut off; it cannot tell. It serves, as the last one of a group must, but
//! asks the link again and again whether somebody else answers, and is silent while that is so.

use crate::decide::Members;
use std::time::{Duration, Instant};

/// One that begins, or has hung, is silent until it has heard every other member, and for no longer than this.
pub const LISTEN: Duration = Duration::from_secs(1);
/// How long the link is asked for others before we speak: twice.
pub const CHECK: Duration = Duration::from_millis(200);
/// Between two questions of a check.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How often one that hears nobody asks whether somebody else answers.
pub const RECHECK: Duration = Duration::from_secs(1);
/// We speak up against a claim at most so often; routers need no more, and two that quarrel flood nobody.
pub const DEFEND: Duration = Duration::from_secs(1);
/// Announcements after a take-over (RFC 5227 section 2.3), this far apart.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// So many.
const ANNOUNCEMENTS: u32 = 3;
/// Longest time in which one that is the first no more answers for the one that is.
pub const YIELD: Duration = Duration::from_secs(1);
/// A process that was not run for so long has missed what the others decided.
pub const HUNG: Duration = Duration::from_millis(300);

/// What is known of a VIP's group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Circle {
    /// Our id.
    pub us: u8,
    /// The one that the controller names.
    pub first: u8,
    /// Members that may be the primary, without us: those that are leaving are not among them.
    pub others: Members,
    /// We may be.
    pub fit: bool,
    /// We may not because we leave, or are to take nothing new: until somebody else speaks we go on.
    pub leaves: bool,
    /// Those of the others whose process is there: it speaks, and holds a line to us.
    pub present: Members,
}

impl Circle {
    /// The primary, as far as can be known here; none = nobody may be.
    #[must_use]
    pub fn primary(&self) -> Option<u8> {
        let us = Members::of(self.fit.then_some(self.us));
        let there = self.present.without(Members::of([self.us])).with(us);
        let eligible = Members(self.others.with(us).0 & there.0);
        let first = Some(self.first).filter(|id| eligible.contains(*id));
        first.or_else(|| eligible.iter().next())
    }

    /// There are others, and none is heard.
    fn is_cut_off(&self) -> bool {
        !self.others.is_empty() && self.present.is_empty()
    }
}

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ask whether anybody has the VIP (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2).
    Probe,
    /// Say that we have it (RFC 5227 section 2.3, RFC 4861 section 7.2.6).
    Announce,
}

/// What one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Silent, because it has just begun or was not run for a while.
    Listening,
    /// Silent: another one is the primary, or answers.
    Silent,
    /// About to speak.
    Checking,
    /// Answers for the VIP.
    Answering,
}

impl Part {
    /// The word for it in reports, the API, the CLI and logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Silent => "silent",
            Self::Checking => "checking",
            Self::Answering => "answering",
        }
    }
}

/// The role of one engine for one VIP.
#[derive(Debug, Clone)]
pub struct Role {
    part: Part,
    /// When it became that.
    since: Instant,
    /// When we last ran.
    ran: Instant,
    asked: Option<Instant>,
    announced: Option<Instant>,
    announcements: u32,
    /// Somebody else has claimed the VIP since we last answered that.
    claimed: bool,
    /// When somebody did so last.
    claimed_at: Option<Instant>,
    /// Since when another one is the first, and we answer until it does.
    yields: Option<Instant>,
    present: Members,
}

impl Role {
    /// Of an engine that has just begun.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            part: Part::Listening,
            since: now,
            ran: now,
            asked: None,
            announced: None,
            announcements: 0,
            claimed: false,
            claimed_at: None,
            yields: None,
            present: Members::default(),
        }
    }

    /// What it is.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// Questions about the VIP are answered.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.part == Part::Answering
    }

    /// Another one's address was said to be the VIP's: whoever waited for that is silent from now on.
    pub fn on_claim(&mut self) {
        self.claimed = true;
        if self.yields.take().is_some() && self.part == Part::Answering {
            self.part = Part::Silent;
        }
    }

    /// To be called every 50 ms or so: what is to be sent now.
    pub fn tick(&mut self, now: Instant, circle: &Circle) -> Vec<Act> {
        let hung = now.saturating_duration_since(self.ran) > HUNG;
        self.ran = now;
        if self.claimed {
            self.claimed_at = Some(now);
        }
        if hung || !(circle.fit || circle.leaves) {
            self.become_(Part::Listening, now);
        }
        let is_first = circle.primary() == Some(circle.us);
        let acts = match self.part {
            Part::Listening if circle.fit => self.listen(now, circle),
            Part::Listening => Vec::new(),
            Part::Silent if is_first => self.wait(now, circle),
            Part::Checking if is_first => self.check(now, circle),
            Part::Answering if is_first => self.answer(now, circle),
            Part::Silent => Vec::new(),
            Part::Checking => self.become_(Part::Silent, now),
            Part::Answering => self.give_way(now, circle),
        };
        self.present = circle.present;
        acts
    }

    fn become_(&mut self, part: Part, now: Instant) -> Vec<Act> {
        self.part = part;
        self.since = now;
        self.claimed = false;
        self.yields = None;
        Vec::new()
    }

    /// Another one is the first: we answer until it says that it has the VIP, so that somebody always does. One that leaves waits for
    /// as long as that takes.
    fn give_way(&mut self, now: Instant, circle: &Circle) -> Vec<Act> {
        // It has spoken already: a link that had fallen in two is one again.
        if !due(self.claimed_at, now, YIELD) {
            return self.become_(Part::Silent, now);
        }
        let since = *self.yields.get_or_insert(now);
        if !circle.leaves && now.saturating_duration_since(since) >= YIELD {
            return self.become_(Part::Silent, now);
        }
        Vec::new()
    }

    fn listen(&mut self, now: Instant, circle: &Circle) -> Vec<Act> {
        let all = circle.others.without(circle.present).is_empty();
        if all || now.saturating_duration_since(self.since) >= LISTEN {
            self.become_(Part::Silent, now);
        }
        Vec::new()
    }

    /// Silent, and the first: it begins to check at once, but for one that hears nobody and was answered just now.
    fn wait(&mut self, now: Instant, circle: &Circle) -> Vec<Act> {
        if circle.is_cut_off() && !due(self.asked, now, RECHECK) {
            return Vec::new();
        }
        self.become_(Part::Checking, now);
        self.probe(now)
    }

    fn probe(&mut self, now: Instant) -> Vec<Act> {
        self.asked = Some(now);
        vec![Act::Probe]
    }

    /// Where others are heard, the order decides: whoever still answers has not heard yet, or is dead. Where nobody is, whoever
    /// answers is right.
    fn check(&mut self, now: Instant, circle: &Circle) -> Vec<Act> {
        if self.claimed && circle.is_cut_off() {
            return self.become_(Part::Silent, now);
        }
        if now.saturating_duration_since(self.since) < CHECK {
            let is_due = due(self.asked, now, PROBE_EVERY);
            return if is_due { self.probe(now) } else { Vec::new() };
        }
        self.become_(Part::Answering, now);
        self.announcements = 0;
        self.announce(now)
    }

    fn announce(&mut self, now: Instant) -> Vec<Act> {
        self.claimed = false;
        self.announced = Some(now);
        self.announcements = self.announcements.saturating_add(1);
        vec![Act::Announce]
    }

    fn answer(&mut self, now: Instant, circle: &Circle) -> Vec<Act> {
        self.yields = None;
        if self.claimed && circle.is_cut_off() {
            return self.become_(Part::Silent, now);
        }
        // Whoever is back may have spoken where we were not heard.
        let is_back = !circle.present.without(self.present).is_empty();
        if is_back {
            self.announcements = 0;
        }
        let repeats =
            self.announcements < ANNOUNCEMENTS && due(self.announced, now, ANNOUNCE_EVERY);
        let defends = self.claimed && due(self.announced, now, DEFEND);
        if is_back || repeats || defends {
            return self.announce(now);
        }
        let asks = circle.is_cut_off() && due(self.asked, now, RECHECK);
        if asks { self.probe(now) } else { Vec::new() }
    }
}

fn due(last: Option<Instant>, now: Instant, every: Duration) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= every)
}

#[cfg(test)]
mod tests;
