//! Adj-RIB-Out of one peer: the routes it should hold against those it was sent
//! (RFC 4271 section 3.2), and when a difference is due.
//!
//! Rules, per route and session:
//!
//! * the first announcement goes out at once;
//! * every withdrawal goes out at once. RFC 4271 section 9.2.1.1 counts withdrawals into
//!   MinRouteAdvertisementInterval; a load balancer must not blackhole for seconds, so this is a
//!   deviation on purpose;
//! * later announcements of the same route are spaced by `advertisement_interval` with jitter (RFC 4271 section 10),
//!   counted from its last announcement, and only the net result is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::types::{Community, Family, LargeCommunity};

/// LOCAL_PREF when nothing is configured: what routers assume for a route that carries none.
pub const LOCAL_PREF_DEFAULT: u32 = 100;

/// ORIGIN (RFC 4271 section 5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Origin {
    /// Interior to the AS: our own routes.
    #[default]
    Igp,
    /// Learned by EGP.
    Egp,
    /// Learned by other means.
    Incomplete,
}

/// What the operator may say about a route; the session adds what follows from the peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteAttributes {
    origin: Origin,
    local_pref: u32,
    prepend: u8,
    communities: Vec<Community>,
    large_communities: Vec<LargeCommunity>,
    as_path: Vec<u32>,
}

/// The values of [`RouteAttributes`] before they are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeValues {
    /// ORIGIN of a learned route that is passed on: "SHOULD NOT be changed" (RFC 4271 section 5.1.1).
    pub origin: Origin,
    /// Preference towards internal peers; external ones do not get it.
    pub local_pref: u32,
    /// How often our AS is repeated towards external peers, on top of the first.
    pub prepend: u32,
    /// RFC 1997.
    pub communities: Vec<Community>,
    /// RFC 8092.
    pub large_communities: Vec<LargeCommunity>,
    /// The path of a learned route that is passed on; empty for our own.
    pub as_path: Vec<u32>,
}

impl Default for AttributeValues {
    fn default() -> Self {
        Self {
            origin: Origin::Igp,
            local_pref: LOCAL_PREF_DEFAULT,
            prepend: 0,
            communities: Vec::new(),
            large_communities: Vec::new(),
            as_path: Vec::new(),
        }
    }
}

/// Attributes beyond what the wire or the product allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// See [`RouteAttributes::PREPEND_MAX`].
    #[error("{0} AS path prepends, at most 13 are allowed")]
    TooManyPrepends(u32),
    /// See [`RouteAttributes::COMMUNITIES_MAX`].
    #[error("{0} communities, at most 128 are allowed")]
    TooManyCommunities(usize),
    /// See [`RouteAttributes::AS_PATH_MAX`].
    #[error("an AS path of {0} numbers, at most 200 are passed on")]
    AsPathTooLong(usize),
}

impl RouteAttributes {
    /// `num_as_path_prepend` of the API goes to 10, and a standby's route has 3 more.
    pub const PREPEND_MAX: u32 = 13;
    /// Of each kind; keeps the attributes below a message of 4096 octets, so that prefixes fit beside them.
    pub const COMMUNITIES_MAX: usize = 128;
    /// With our own AS and its repetitions it still fits one segment of 255.
    pub const AS_PATH_MAX: usize = 200;

    /// Communities are sorted, duplicates dropped.
    ///
    /// # Errors
    ///
    /// More prepends, communities or path than allowed.
    pub fn new(values: AttributeValues) -> Result<Self, AttributeError> {
        let AttributeValues {
            origin,
            local_pref,
            prepend,
            mut communities,
            mut large_communities,
            as_path,
        } = values;
        communities.sort_unstable();
        communities.dedup();
        large_communities.sort_unstable();
        large_communities.dedup();
        for count in [communities.len(), large_communities.len()] {
            if count > Self::COMMUNITIES_MAX {
                return Err(AttributeError::TooManyCommunities(count));
            }
        }
        if as_path.len() > Self::AS_PATH_MAX {
            return Err(AttributeError::AsPathTooLong(as_path.len()));
        }
        match u8::try_from(prepend) {
            Ok(small) if prepend <= Self::PREPEND_MAX => Ok(Self {
                origin,
                local_pref,
                prepend: small,
                communities,
                large_communities,
                as_path,
            }),
            _ => Err(AttributeError::TooManyPrepends(prepend)),
        }
    }

    /// The same route, marked as about to go away (RFC 8326): the community for external peers, the lowest
    /// preference for internal ones, which need no policy for it.
    #[must_use]
    pub fn shutting_down(&self) -> Self {
        let mut marked = self.clone();
        marked.local_pref = 0;
        if let Err(at) = marked
            .communities
            .binary_search(&Community::GRACEFUL_SHUTDOWN)
        {
            marked.communities.insert(at, Community::GRACEFUL_SHUTDOWN);
        }
        marked
    }

    /// IGP for our own routes.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Preference towards internal peers.
    #[must_use]
    pub fn local_pref(&self) -> u32 {
        self.local_pref
    }

    /// How often our AS is repeated towards external peers, on top of the first.
    #[must_use]
    pub fn prepend(&self) -> u8 {
        self.prepend
    }

    /// Sorted, without duplicates.
    #[must_use]
    pub fn communities(&self) -> &[Community] {
        &self.communities
    }

    /// Sorted, without duplicates.
    #[must_use]
    pub fn large_communities(&self) -> &[LargeCommunity] {
        &self.large_communities
    }

    /// The path of a learned route that is passed on; empty for our own.
    #[must_use]
    pub fn as_path(&self) -> &[u32] {
        &self.as_path
    }
}

impl Default for RouteAttributes {
    fn default() -> Self {
        Self {
            origin: Origin::Igp,
            local_pref: LOCAL_PREF_DEFAULT,
            prepend: 0,
            communities: Vec::new(),
            large_communities: Vec::new(),
            as_path: Vec::new(),
        }
    }
}

/// The routes one peer should hold: host routes of VIPs, and what `routing_options` adds.
pub type RouteTable = BTreeMap<IpNet, Arc<RouteAttributes>>;

/// What to send now: withdrawals first, then announcements grouped by equal attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// By family.
    pub withdraw: BTreeMap<Family, Vec<IpNet>>,
    /// By family and attributes.
    pub announce: BTreeMap<(Family, Arc<RouteAttributes>), Vec<IpNet>>,
}

impl Batch {
    /// Nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    desired: Option<Arc<RouteAttributes>>,
    sent: Option<Arc<RouteAttributes>>,
    /// The peer has asked for it again.
    resend: bool,
    /// In this session.
    last_announced: Option<Instant>,
    /// What is taken off the advertisement interval after that announcement.
    jitter: Jitter,
}

impl Entry {
    fn in_force(&self) -> bool {
        self.desired == self.sent
    }

    fn is_settled(&self) -> bool {
        self.in_force() && !self.resend
    }

    /// When the difference may go out; only meaningful while there is one.
    fn due(&self, interval: Duration) -> Option<Instant> {
        self.desired.as_ref().filter(|_| !self.resend)?;
        self.last_announced.map(|at| at + self.jitter.of(interval))
    }
}

/// A factor from 0.75 to 1.0 for a duration (RFC 4271 section 10); the default leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Jitter(u16);

impl Jitter {
    /// From 1.0 (step 0) to 0.75 (the largest).
    #[must_use]
    pub fn from_step(step: u16) -> Self {
        Self(step)
    }

    /// The duration with this factor.
    #[must_use]
    pub fn of(self, duration: Duration) -> Duration {
        duration - duration / 4 * u32::from(self.0) / (1 << 16)
    }
}

/// Where a desired route stands at the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteState {
    /// The destination.
    pub prefix: IpNet,
    /// The current announcement is what the peer was sent last.
    pub in_force: bool,
    /// The peer was sent some announcement that is not withdrawn (perhaps with older attributes).
    pub sent: bool,
    /// When it was last announced in this session.
    pub last_announced: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct AdjRibOut {
    interval: Duration,
    /// Families agreed with the peer; empty while there is no session.
    families: BTreeSet<Family>,
    entries: BTreeMap<IpNet, Entry>,
    /// Addresses whose desired and sent state differ, of agreed families only.
    unsettled: BTreeSet<IpNet>,
}

impl AdjRibOut {
    /// An empty table; `interval` is the advertisement interval, 0 allowed.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            families: BTreeSet::new(),
            entries: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        }
    }

    /// Takes effect for what is waiting, too.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// The whole desired state; only differences lead to messages.
    pub fn set_desired(&mut self, table: &RouteTable, now: Instant) {
        let interval = self.interval;
        for (prefix, entry) in &mut self.entries {
            if entry.desired.is_some() && !table.contains_key(prefix) {
                entry.desired = None;
            }
        }
        for (prefix, attributes) in table {
            self.entries.entry(*prefix).or_default().desired = Some(attributes.clone());
        }
        // A withdrawn route is remembered only as long as it would delay its own return.
        self.entries.retain(|_, entry| {
            let gone = entry.desired.is_none() && entry.sent.is_none();
            let until = entry
                .last_announced
                .map(|at| at + entry.jitter.of(interval));
            !gone || until.is_some_and(|at| at > now)
        });
        self.recompute();
    }

    /// A session was established: the peer holds nothing yet.
    pub fn start_session(&mut self, families: impl IntoIterator<Item = Family>) {
        self.families = families.into_iter().collect();
        for entry in self.entries.values_mut() {
            let desired = entry.desired.take();
            *entry = Entry {
                desired,
                ..Entry::default()
            };
        }
        self.recompute();
    }

    /// The session is gone, and with it everything the peer held (RFC 4271 section 6).
    pub fn end_session(&mut self) {
        self.start_session([]);
    }

    /// RFC 2918: everything of this family again, at once.
    pub fn refresh(&mut self, family: Family) {
        for (prefix, entry) in &mut self.entries {
            if Family::of_prefix(*prefix) == family && entry.desired.is_some() {
                entry.resend = true;
            }
        }
        self.recompute();
    }

    fn recompute(&mut self) {
        self.entries.retain(|_, entry| *entry != Entry::default());
        self.unsettled = self
            .entries
            .iter()
            .filter(|(prefix, entry)| {
                !entry.is_settled() && self.families.contains(&Family::of_prefix(**prefix))
            })
            .map(|(prefix, _)| *prefix)
            .collect();
    }

    /// Takes everything that is due, and counts it as sent. What is announced by it may change again after the
    /// advertisement interval with this jitter; one for all keeps them together.
    pub fn take_due(&mut self, now: Instant, jitter: Jitter) -> Batch {
        let mut batch = Batch::default();
        let interval = self.interval;
        let entries = &mut self.entries;
        self.unsettled.retain(|prefix| {
            let Some(entry) = entries.get_mut(prefix) else {
                return false;
            };
            if entry.due(interval).is_some_and(|at| at > now) {
                return true;
            }
            settle(*prefix, entry, now, &mut batch);
            entry.jitter = jitter;
            false
        });
        batch
    }

    /// Takes a withdrawal of everything the peer holds, whatever is desired: the session is about to
    /// be closed on purpose.
    pub fn take_withdraw_all(&mut self) -> Batch {
        let mut batch = Batch::default();
        for (prefix, entry) in &mut self.entries {
            entry.resend = false;
            if entry.sent.take().is_some() {
                batch
                    .withdraw
                    .entry(Family::of_prefix(*prefix))
                    .or_default()
                    .push(*prefix);
            }
        }
        self.recompute();
        batch
    }

    /// When the next waiting announcement becomes due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.unsettled
            .iter()
            .filter_map(|a| self.entries.get(a)?.due(self.interval))
            .min()
    }

    /// Something differs (due or not).
    #[must_use]
    pub fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// The desired routes and where they stand, by prefix.
    pub fn routes(&self) -> impl Iterator<Item = RouteState> + '_ {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.desired.is_some())
            .map(|(prefix, entry)| RouteState {
                prefix: *prefix,
                in_force: entry.in_force(),
                sent: entry.sent.is_some(),
                last_announced: entry.last_announced,
            })
    }
}

fn settle(prefix: IpNet, entry: &mut Entry, now: Instant, batch: &mut Batch) {
    let family = Family::of_prefix(prefix);
    match &entry.desired {
        Some(attributes) => {
            entry.last_announced = Some(now);
            batch
                .announce
                .entry((family, attributes.clone()))
                .or_default()
                .push(prefix);
        }
        None => batch.withdraw.entry(family).or_default().push(prefix),
    }
    entry.sent = entry.desired.clone();
    entry.resend = false;
}

#[cfg(test)]
mod tests;
