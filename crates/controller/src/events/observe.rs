//! What engines observe, compared with what they observed before: what came up and what went down. Pure.
//!
//! A virtual service, a pool, a server is up while one engine at least says so; a VIP while one engine at least announces
//! it. An engine without a session is not known to serve: what it alone had up counts as down, in the words of the API.
//! Of pools and servers nothing is known then, and nothing is said until somebody reports them again.
//!
//! After a start nothing is known yet. What events say of before ([`Observed::remember`]) holds until an engine says
//! something else; what existed before and of which no event tells is taken as it comes ([`Observed::begin`]).

use model::reason::Reason;
use proto::ANSWERING;
use proto::v1::{BgpSession, BgpState, OperState, Report, VipStatus};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Reason code for what only engines without a session have.
pub const DISCONNECTED: &str = "se_disconnected";
/// Reason code for what no engine has.
pub const NOT_PLACED: &str = "not_placed";
/// Reason code for what no engine has reported since the controller started.
pub const NOT_REPORTED: &str = "not_reported";

/// What is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A virtual service.
    Service,
    /// An address of a VsVip: announced or not.
    Vip,
    /// A pool.
    Pool,
    /// A server of a pool.
    Server,
    /// A BGP session of an engine.
    Peer,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// uuid of the virtual service, VsVip, pool or, for a peer, engine.
    pub uuid: String,
    /// The address, the server or the peer; empty where the object itself is meant.
    pub part: String,
}

impl Thing {
    fn new(kind: Kind, uuid: &str, part: &str) -> Self {
        Self {
            kind,
            uuid: uuid.to_owned(),
            part: part.to_owned(),
        }
    }
}

/// It came up or went down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub thing: Thing,
    /// It is up now.
    pub up: bool,
    /// Why: reason code; of a peer the word for its state.
    pub code: String,
    /// Why, in words; may be empty.
    pub text: String,
}

/// How many engines see it how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// It is up there.
    pub up: u32,
    /// It is down there.
    pub down: u32,
    /// It is switched off.
    pub off: u32,
    /// Not known yet, or not any more.
    pub unknown: u32,
}

impl Count {
    fn of(&mut self, state: State) -> &mut u32 {
        match state {
            State::Up => &mut self.up,
            State::Down => &mut self.down,
            State::Off => &mut self.off,
            State::Unknown => &mut self.unknown,
        }
    }

    fn shift(&mut self, from: Option<State>, to: Option<State>) {
        if let Some(from) = from {
            *self.of(from) -= 1;
        }
        if let Some(to) = to {
            *self.of(to) += 1;
        }
    }

    fn is_nowhere(self) -> bool {
        self == Self::default()
    }

    /// Up, down, or nobody knows.
    fn is_up(self) -> Option<bool> {
        match self {
            Self { up: 1.., .. } => Some(true),
            Self {
                down: 0, off: 0, ..
            } => None,
            _ => Some(false),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Off,
    Unknown,
}

impl State {
    fn of(word: i32) -> Self {
        match OperState::try_from(word).unwrap_or_default() {
            OperState::Up => Self::Up,
            OperState::Down => Self::Down,
            OperState::Disabled => Self::Off,
            OperState::Initializing | OperState::Unspecified => Self::Unknown,
        }
    }
}

/// What has been said of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    /// Nothing, and what is seen first is how it has been all the time.
    Quiet,
    Up(bool),
}

#[derive(Debug, Clone)]
struct Total {
    thing: Arc<Thing>,
    count: Count,
    said: Said,
    /// How often a peer's session has been established.
    times: u64,
}

/// A thing as an engine sees it.
struct Sight<'a> {
    kind: Kind,
    uuid: &'a str,
    part: String,
    state: State,
    times: u64,
    code: &'a str,
    text: &'a str,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Observed {
    numbers: BTreeMap<Arc<Thing>, u32>,
    totals: Vec<Option<Total>>,
    free: Vec<u32>,
    engines: HashMap<String, HashMap<u32, State>>,
    /// uuids of objects that existed at the start, until [`Observed::settle`].
    before: HashSet<String>,
}

impl Observed {
    /// These objects existed before the start.
    pub fn begin(&mut self, uuids: impl IntoIterator<Item = String>) {
        self.before = uuids.into_iter().collect();
    }

    /// What the last event before the start said.
    pub fn remember(&mut self, thing: &Thing, up: bool) {
        let number = self.number(thing.kind, &thing.uuid, &thing.part);
        if let Some(total) = self.total(number) {
            total.said = Said::Up(up);
        }
    }

    /// The engines have had time to say what they have. What was up, and none has spoken of, is down.
    pub fn settle(&mut self) -> Vec<Change> {
        self.before.clear();
        let silent = |t: &&Total| t.count.is_nowhere() && t.said != Said::Nothing;
        let silent: Vec<Arc<Thing>> = self
            .totals
            .iter()
            .flatten()
            .filter(silent)
            .map(|t| t.thing.clone())
            .collect();
        let each = silent.into_iter().filter_map(|thing| {
            let number = *self.numbers.get(&thing)?;
            let text = "no engine has reported it since the controller started";
            self.vanish(number, NOT_REPORTED, text)
        });
        each.collect()
    }

    /// The engine says this.
    pub fn report(&mut self, se: &str, report: &Report) -> Vec<Change> {
        let mut before = self.engines.remove(se).unwrap_or_default();
        let mut now = HashMap::with_capacity(before.len());
        let mut changes = Vec::new();
        for sight in sights(se, report) {
            let number = self.number(sight.kind, sight.uuid, &sight.part);
            // A thing that is named twice counts once, as it was named first.
            if now.contains_key(&number) {
                continue;
            }
            now.insert(number, sight.state);
            let old = before.remove(&number);
            changes.extend(self.flap(number, old, &sight));
            if old != Some(sight.state) {
                self.shift(number, old, Some(sight.state));
                changes.extend(self.judge(number, sight.code, sight.text));
            }
        }
        for (number, old) in before {
            self.shift(number, Some(old), None);
            changes.extend(self.judge(number, NOT_PLACED, "it is on no engine any more"));
        }
        self.engines.insert(se.to_owned(), now);
        changes
    }

    /// The engine has no session any more.
    pub fn lost(&mut self, se: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut all = self.engines.remove(se).unwrap_or_default();
        for (number, state) in &mut all {
            let kind = self.total(*number).map(|t| t.thing.kind);
            let new = match kind {
                Some(Kind::Service | Kind::Vip) => State::Down,
                _ => State::Unknown,
            };
            if *state != new {
                self.shift(*number, Some(*state), Some(new));
                *state = new;
                let text = "the engines that have it have no session with the controller; they may serve it all the same";
                changes.extend(self.judge(*number, DISCONNECTED, text));
            }
        }
        self.engines.insert(se.to_owned(), all);
        changes
    }

    /// The engine does not exist any more: what it had is not there.
    pub fn forget(&mut self, se: &str) -> Vec<Change> {
        self.report(se, &Report::default())
    }

    /// How many engines see this thing how.
    pub fn count(&self, kind: Kind, uuid: &str, part: &str) -> Count {
        let number = self.numbers.get(&Thing::new(kind, uuid, part));
        let total = number.and_then(|n| self.totals.get(*n as usize)?.as_ref());
        total.map(|t| t.count).unwrap_or_default()
    }

    /// The engine says that this object is up there.
    pub fn is_up_at(&self, kind: Kind, uuid: &str, se: &str) -> bool {
        let number = self.numbers.get(&Thing::new(kind, uuid, ""));
        let state = number.and_then(|n| self.engines.get(se)?.get(n));
        state == Some(&State::Up)
    }

    /// Servers of a pool that are up, and all of them that are switched on, as far as engines report them.
    pub fn servers(&self, pool: &str) -> (u32, u32) {
        let from = self.numbers.range(Thing::new(Kind::Server, pool, "")..);
        let here = from.take_while(|(t, _)| t.kind == Kind::Server && t.uuid == pool);
        let totals = here.filter_map(|(_, n)| self.totals.get(*n as usize)?.as_ref());
        let on = totals.map(|t| t.count).filter(|c| c.up + c.down > 0);
        on.fold((0, 0), |(up, all), c| (up + u32::from(c.up > 0), all + 1))
    }

    fn number(&mut self, kind: Kind, uuid: &str, part: &str) -> u32 {
        let thing = Thing::new(kind, uuid, part);
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        let thing = Arc::new(thing);
        let quiet = self.before.contains(uuid);
        let total = Total {
            thing: thing.clone(),
            count: Count::default(),
            said: if quiet { Said::Quiet } else { Said::Nothing },
            times: 0,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.totals.push(None);
            u32::try_from(self.totals.len() - 1).unwrap_or(u32::MAX)
        });
        self.totals[number as usize] = Some(total);
        self.numbers.insert(thing, number);
        number
    }

    fn total(&mut self, number: u32) -> Option<&mut Total> {
        self.totals.get_mut(number as usize)?.as_mut()
    }

    fn shift(&mut self, number: u32, from: Option<State>, to: Option<State>) {
        if let Some(total) = self.total(number) {
            total.count.shift(from, to);
        }
    }

    /// A session that was lost and made again between two reports.
    fn flap(&mut self, number: u32, old: Option<State>, sight: &Sight<'_>) -> Vec<Change> {
        let Some(total) = self.total(number).filter(|t| t.thing.kind == Kind::Peer) else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut total.times, sight.times);
        let stayed = old == Some(State::Up) && sight.state == State::Up;
        if !stayed || sight.times <= before {
            return Vec::new();
        }
        let change = |up: bool, code: &str, text: &str| Change {
            thing: Thing::clone(&total.thing),
            up,
            code: code.to_owned(),
            text: text.to_owned(),
        };
        let down = "the session was lost and established again within moments";
        vec![change(false, "IDLE", down), change(true, sight.code, "")]
    }

    /// What is to be said of it now, if something is.
    fn judge(&mut self, number: u32, code: &str, text: &str) -> Option<Change> {
        let total = self.total(number)?;
        if total.count.is_nowhere() {
            return self.vanish(number, code, text);
        }
        let up = total.count.is_up()?;
        let said = std::mem::replace(&mut total.said, Said::Up(up));
        let first_down = said == Said::Nothing && !up;
        // These are down before they are up; and what is switched off from the start is no news.
        let down_before_up = matches!(total.thing.kind, Kind::Peer | Kind::Vip);
        let expected = first_down && (down_before_up || total.count.down == 0);
        let silent = said == Said::Up(up) || said == Said::Quiet || expected;
        (!silent).then(|| Change {
            thing: Thing::clone(&total.thing),
            up,
            code: code.to_owned(),
            text: text.to_owned(),
        })
    }

    /// No engine has it any more. A pool that nobody uses is not down; a service that nobody has is.
    fn vanish(&mut self, number: u32, code: &str, text: &str) -> Option<Change> {
        let total = self.totals.get_mut(number as usize)?.take()?;
        self.free.push(number);
        self.numbers.remove(&total.thing);
        let missed =
            matches!(total.thing.kind, Kind::Service | Kind::Vip) && total.said == Said::Up(true);
        missed.then(|| Change {
            thing: Arc::unwrap_or_clone(total.thing),
            up: false,
            code: code.to_owned(),
            text: text.to_owned(),
        })
    }
}

/// Of a VIP that is scaled natively the engine says who answers: while it hears of another one that does, or is about to
/// itself, it knows nothing against it.
fn vip_state(v: &VipStatus) -> State {
    match v.native_part.as_str() {
        _ if v.announced => State::Up,
        ANSWERING => State::Up,
        "" => State::Down,
        _ if v.native_primary_uuid.is_empty() => State::Down,
        _ => State::Unknown,
    }
}

/// Everything that a report tells of.
fn sights<'a>(se: &'a str, report: &'a Report) -> impl Iterator<Item = Sight<'a>> {
    let services = report.virtual_services.iter().map(|s| Sight {
        code: &s.reason_code,
        text: &s.reason,
        ..sight(Kind::Service, &s.uuid, String::new(), State::of(s.state))
    });
    let vips = report.vips.iter().map(|v| {
        let state = vip_state(v);
        // That no router is told of it is no reason against a VIP that is scaled natively.
        let (code, text) = match (state, v.native_part.is_empty()) {
            (State::Up, false) => ("", ""),
            _ => (v.reason_code.as_str(), v.reason.as_str()),
        };
        Sight {
            code,
            text,
            ..sight(Kind::Vip, &v.vsvip_uuid, v.address.clone(), state)
        }
    });
    let pools = report.pools.iter().map(|p| {
        let state = State::of(p.state);
        let reason = match state {
            State::Up => Reason::Up,
            State::Off => Reason::PoolDisabled,
            State::Unknown => Reason::HealthChecksPending,
            State::Down => Reason::PoolDown,
        };
        Sight {
            code: reason.code(),
            ..sight(Kind::Pool, &p.uuid, String::new(), state)
        }
    });
    let servers = report.pools.iter().flat_map(|p| {
        p.servers.iter().map(move |s| Sight {
            text: &s.reason,
            ..sight(
                Kind::Server,
                &p.uuid,
                end(&s.address, s.port),
                State::of(s.state),
            )
        })
    });
    let peers = report.bgp_sessions.iter().map(move |s| peer(se, s));
    services
        .chain(vips)
        .chain(pools)
        .chain(servers)
        .chain(peers)
}

fn sight(kind: Kind, uuid: &str, part: String, state: State) -> Sight<'_> {
    Sight {
        kind,
        uuid,
        part,
        state,
        times: 0,
        code: "",
        text: "",
    }
}

fn peer<'a>(se: &'a str, session: &'a BgpSession) -> Sight<'a> {
    let state = BgpState::try_from(session.state).unwrap_or_default();
    let up = state == BgpState::Established;
    let text = match session.last_error.as_str() {
        "" => session.condition_text.as_str(),
        error => error,
    };
    let part = match session.local_address.as_str() {
        "" => session.peer.clone(),
        local => format!("{} {local}", session.peer),
    };
    let state_word = state.as_str_name().trim_start_matches("BGP_STATE_");
    Sight {
        times: session.times_established,
        code: state_word,
        text: if up { "" } else { text },
        ..sight(
            Kind::Peer,
            se,
            part,
            if up { State::Up } else { State::Down },
        )
    }
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`.
fn end(address: &str, port: u32) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests;
