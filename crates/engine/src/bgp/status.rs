//! From the core's view to the report's: same words, wall-clock times.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bgp::session::{RouteStatus, Withheld};
use bgp::{Connection, Session, StateName};
use ipnet::IpNet;
use model::condition::Condition;
use proto::v1;

use super::condition::Facts;
use super::learn::BestRoutes;
use super::md5::Md5Failures;
use super::plan::{Absent, SessionKey, SessionPlan};
use super::session::BfdState;
use crate::fib::Failures;

const UNNEEDED: &str = "no virtual service with route health injection is placed here";

/// Relates the monotonic clock to the wall clock once, so that a moment keeps its timestamp.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    instant: Instant,
    unix_ms: u64,
}

impl WallClock {
    pub(super) fn new(instant: Instant) -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            instant,
            unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn unix_ms(self, at: Instant) -> u64 {
        let after = u64::try_from(at.saturating_duration_since(self.instant).as_millis())
            .unwrap_or(u64::MAX);
        self.unix_ms.saturating_add(after)
    }
}

pub(super) fn wire_state(state: StateName) -> v1::BgpState {
    match state {
        StateName::Idle => v1::BgpState::Idle,
        StateName::Connect => v1::BgpState::Connect,
        StateName::Active => v1::BgpState::Active,
        StateName::OpenSent => v1::BgpState::OpenSent,
        StateName::OpenConfirm => v1::BgpState::OpenConfirm,
        StateName::Established => v1::BgpState::Established,
    }
}

pub(super) fn session_status(
    key: &SessionKey,
    plan: &SessionPlan,
    core: &Session,
    bfd: BfdState,
    md5: Md5Failures,
    clock: WallClock,
) -> v1::BgpSession {
    let facts = Facts {
        plan,
        core,
        bfd,
        md5,
    };
    let failed = facts.first_failed();
    let negotiated = core.negotiated();
    let counters = core.counters();
    let error = core.last_error();
    v1::BgpSession {
        peer: key.peer.to_string(),
        local_address: key.local.to_string(),
        interface: key.interface.clone(),
        state: wire_state(core.state()).into(),
        state_since_unix_ms: clock.unix_ms(core.state_since()),
        local_as: core.config().local_as.get(),
        remote_as: core.config().remote_as.get(),
        peer_router_id: negotiated
            .map(|peer| peer.peer_router_id.to_string())
            .unwrap_or_default(),
        hold_time_s: negotiated.map_or(0, |peer| peer.hold_time.seconds().into()),
        keepalive_s: core
            .keepalive_interval()
            .map_or(0, |interval| interval.as_secs() as u32),
        last_error: error.map(|e| e.text.clone()).unwrap_or_default(),
        last_error_unix_ms: error.map_or(0, |e| clock.unix_ms(e.at)),
        messages_in: counters.messages_in,
        messages_out: counters.messages_out,
        routes: routes(plan, core, clock),
        capabilities: negotiated
            .map(|peer| peer.capabilities.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        last_error_code: error
            .and_then(|e| e.notification.as_ref())
            .map(|n| format!("{}/{}", n.code, n.subcode))
            .unwrap_or_default(),
        last_error_received: error.is_some_and(|e| e.received),
        updates_in: counters.updates_in,
        updates_out: counters.updates_out,
        prefixes_in: counters.prefixes_in,
        treated_as_withdraw: counters.treated_as_withdraw,
        attributes_discarded: counters.attributes_discarded,
        times_established: counters.established,
        label: plan.label.clone(),
        local_router_id: core.config().router_id.to_string(),
        connect_timer_s: core.config().connect_retry.as_secs() as u32,
        advertisement_interval_s: core.config().advertisement_interval.as_secs() as u32,
        ttl: plan.transport.ttl.into(),
        min_ttl: plan.transport.min_ttl.into(),
        md5: plan.transport.md5_key.expose().is_some(),
        accepted: core.connection() == Connection::Accepted,
        bfd_state: bfd.word().to_owned(),
        refused_capabilities: core.refused_capabilities(),
        condition: failed
            .as_ref()
            .map(|(condition, _)| condition.code().to_owned())
            .unwrap_or_default(),
        condition_text: failed.map(|(_, text)| text).unwrap_or_default(),
        md5_failures: md5.wrong + md5.unexpected,
    }
}

fn routes(plan: &SessionPlan, core: &Session, clock: WallClock) -> Vec<v1::BgpRoute> {
    let kept_back = plan
        .withheld
        .iter()
        .map(|(prefix, code)| withheld(*prefix, code));
    let announced = core.routes().map(|route| route_status(&route, clock));
    announced.chain(kept_back).collect()
}

fn route_status(route: &RouteStatus, clock: WallClock) -> v1::BgpRoute {
    v1::BgpRoute {
        prefix: route.prefix.to_string(),
        next_hop: route
            .next_hop
            .map(|hop| hop.to_string())
            .unwrap_or_default(),
        sent: route.sent,
        reason: route
            .withheld
            .map(Withheld::code)
            .unwrap_or_default()
            .to_owned(),
        sent_unix_ms: route
            .announced_at
            .filter(|_| route.sent)
            .map_or(0, |at| clock.unix_ms(at)),
    }
}

fn withheld(prefix: IpNet, reason: &str) -> v1::BgpRoute {
    v1::BgpRoute {
        prefix: prefix.to_string(),
        reason: reason.to_owned(),
        ..v1::BgpRoute::default()
    }
}

/// A row per next hop.
pub(super) fn learned_routes(best: &BestRoutes, failures: &Failures) -> Vec<v1::LearnedRoute> {
    let rows = best.iter().flat_map(|(prefix, route)| {
        let failure = failures.get(prefix);
        let peers: Vec<_> = route.peers.iter().map(ToString::to_string).collect();
        route.next_hops.iter().map(move |hop| v1::LearnedRoute {
            prefix: prefix.to_string(),
            next_hop: hop.to_string(),
            peer: peers.join(" "),
            installed: failure.is_none(),
            reason: failure.cloned().unwrap_or_default(),
        })
    });
    rows.collect()
}

/// A peer without a session: Idle, with the reason where an error would stand.
pub(super) fn absent_status(
    absent: &Absent,
    routes: impl IntoIterator<Item = std::net::IpAddr>,
    since_unix_ms: u64,
) -> v1::BgpSession {
    v1::BgpSession {
        peer: absent.peer.clone(),
        state: v1::BgpState::Idle.into(),
        state_since_unix_ms: since_unix_ms,
        local_as: absent.local_as,
        remote_as: absent.remote_as,
        last_error: absent.text.clone(),
        last_error_unix_ms: since_unix_ms,
        condition: Condition::of_reason(absent.code)
            .map(|condition| condition.code().to_owned())
            .unwrap_or_default(),
        condition_text: absent.text.clone(),
        routes: routes
            .into_iter()
            .map(|vip| withheld(vip.into(), absent.code))
            .collect(),
        ..v1::BgpSession::default()
    }
}

/// A session that could be opened and is not, because nothing needs it.
pub(super) fn unneeded_status(
    key: &SessionKey,
    plan: &SessionPlan,
    since_unix_ms: u64,
) -> v1::BgpSession {
    v1::BgpSession {
        peer: key.peer.to_string(),
        local_address: key.local.to_string(),
        interface: key.interface.clone(),
        state: v1::BgpState::Idle.into(),
        state_since_unix_ms: since_unix_ms,
        local_as: plan.core.local_as.get(),
        remote_as: plan.core.remote_as.get(),
        last_error: UNNEEDED.to_owned(),
        last_error_unix_ms: since_unix_ms,
        condition: Condition::Placed.code().to_owned(),
        condition_text: UNNEEDED.to_owned(),
        ..v1::BgpSession::default()
    }
}

impl WallClock {
    /// Now, on this clock.
    pub(super) fn now_unix_ms(self) -> u64 {
        self.unix_ms(super::session::now())
    }
}
