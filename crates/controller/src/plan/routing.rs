//! Routing as the engines report it: sessions and BFD as data under `/api/ek/`, and the Service Engine's BGP and BFD
//! sub-paths of the contract (avi-api 10.4), whose texts are like those of a routing daemon's shell.

/// Text is only added to a `String`, which takes it all.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => { let _ = writeln!($text, $($arguments)*); };
}

mod config;

use super::refusal::Refusal;
use super::runtime::Observer;
use super::scope::Tells;
use model::view::{Ref, VirtualService, VsVip};
use proto::v1::{BfdDiscard, BfdSession, BgpSession, BgpState, DesiredState, LearnedRoute, Report};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a connected engine has reported, and where.
pub(super) struct Seen {
    pub uuid: String,
    pub name: String,
    pub vrf: String,
    pub report: Arc<Report>,
    /// What it was told last.
    desired: Option<Arc<DesiredState>>,
    /// Why that is not in force.
    refusal: Option<String>,
}

/// The state word of a BGP session, as everywhere.
pub(super) fn bgp_word(session: &BgpSession) -> &'static str {
    BgpState::try_from(session.state)
        .unwrap_or_default()
        .as_str_name()
        .trim_start_matches("BGP_STATE_")
}

impl Observer<'_> {
    /// What the engine has reported; `None` without a session, when its last word is no longer known to be so.
    pub(super) fn seen(&self, uuid: &str) -> Option<Seen> {
        let state = self.registry.get(uuid);
        state.connected_since?;
        let tells = self.told_beside("serviceengine", uuid);
        let refusal = Refusal::of(&state).map(|r| r.sentence_for(&tells));
        let vrf = state.desired.as_ref().and_then(|d| d.vrf.as_ref());
        Some(Seen {
            uuid: uuid.to_owned(),
            name: self.name(uuid),
            vrf: vrf.map(|v| v.name.clone()).unwrap_or_default(),
            report: state.report.unwrap_or_default(),
            desired: state.desired,
            refusal,
        })
    }

    /// The routers that an engine was told of.
    pub(super) fn peers_of(&self, uuid: &str) -> Vec<IpAddr> {
        let desired = self.registry.get(uuid).desired;
        let profile = desired.as_ref().and_then(|d| d.vrf.as_ref()?.bgp.as_ref());
        let peers = profile.into_iter().flat_map(|profile| &profile.peers);
        peers.filter_map(|peer| peer.address.parse().ok()).collect()
    }

    pub(super) fn all_seen(&self) -> impl Iterator<Item = Seen> {
        let engines = self.snapshot.all("serviceengine");
        engines.filter_map(|(uuid, _)| self.seen(uuid))
    }

    /// `/api/ek/bgp`: every BGP session of every engine.
    pub(super) fn bgp_sessions(&self) -> Vec<Value> {
        let of = |seen: Seen| {
            let sessions = seen.report.bgp_sessions.iter();
            sessions.map(|s| bgp_session(s, &seen)).collect::<Vec<_>>()
        };
        self.all_seen().flat_map(of).collect()
    }

    /// `/api/ek/bfd`: every BFD session of every engine.
    pub(super) fn bfd_sessions(&self) -> Vec<Value> {
        let of = |seen: Seen| {
            let sessions = seen.report.bfd_sessions.iter();
            sessions.map(|s| bfd_session(s, &seen)).collect::<Vec<_>>()
        };
        self.all_seen().flat_map(of).collect()
    }

    /// `/api/ek/learnedroute`: every route that engines have learned.
    pub(super) fn learned_routes(&self) -> Vec<Value> {
        let of = |seen: Seen| {
            let routes = seen.report.learned_routes.iter();
            routes.map(|r| learned_route(r, &seen)).collect::<Vec<_>>()
        };
        self.all_seen().flat_map(of).collect()
    }

    /// `serviceengine/UUID/bgp` (`BgpRuntime`).
    pub(super) fn engine_bgp(&self, uuid: &str, tells: &Tells<'_>) -> Value {
        let seen = self.seen(uuid);
        let sessions = seen.as_ref().map_or(&[][..], |s| &s.report.bgp_sessions);
        let desired = seen.as_ref().and_then(|s| s.desired.as_deref());
        let peers: Vec<Value> = sessions.iter().map(|s| runtime_peer(s, desired)).collect();
        let routes: BTreeSet<&str> = sessions.iter().flat_map(sent).collect();
        json!([{
            "se_uuid": uuid, "proc_id": "C0", "name": self.name(uuid),
            "local_as": sessions.first().map(|s| s.local_as), "vrf": 1,
            "active": i32::from(!sessions.is_empty()), "peer_bmp": [], "vs_names": self.announced_names(&routes, tells),
            "routes": routes, "peers": peers,
        }])
    }

    /// Names of the virtual services whose VIP's route was sent: of intent the objects speak. Of others the caller is not told.
    fn announced_names(&self, routes: &BTreeSet<&str>, tells: &Tells<'_>) -> Vec<String> {
        let is_sent = |vip: IpAddr| routes.iter().any(|r| r.starts_with(&format!("{vip}/")));
        let announced = |reference: &Ref| {
            let vsvip = self.snapshot.view::<VsVip>("vsvip", reference.uuid());
            vsvip.is_some_and(|v| v.vip.iter().flat_map(|v| v.addresses()).any(is_sent))
        };
        let services = self.snapshot.views::<VirtualService>("virtualservice");
        let here = services
            .into_iter()
            .filter(|vs| vs.enable_rhi && vs.vsvip_ref.as_ref().is_some_and(announced));
        here.filter(|vs| tells("virtualservice", &vs.uuid))
            .map(|vs| vs.name.clone())
            .collect()
    }

    /// A sub-path of `serviceengine/UUID/` (avi-api 10.4); one element, because an engine has one data VRF.
    pub(super) fn engine_routing(&self, uuid: &str, what: RoutingText) -> Value {
        let Some(seen) = self.seen(uuid) else {
            return json!([]);
        };
        let mut row = match what {
            RoutingText::PeerState => return json!([peer_state(&seen)]),
            RoutingText::PeerStatus => {
                let summary = |v4| summary(&seen, v4);
                json!({"ipv4_status": summary(true), "ipv6_status": summary(false)})
            }
            RoutingText::PeerInfo => json!({"peer_info": neighbors(&seen)}),
            RoutingText::AdvertisedRoutes => json!({"advertised_routes": advertised(&seen)}),
            RoutingText::RunningConfig => json!({"running_config": config::bgp(&seen)}),
            RoutingText::Debug => return json!([debug(&seen)]),
            RoutingText::BfdStatus => json!({"status": bfd_status(&seen)}),
            RoutingText::BfdConfig => json!({"running_config": config::bfd(&seen)}),
        };
        row["vrf"] = json!(seen.vrf);
        row["namespace"] = json!("default");
        json!([row])
    }
}

/// Which sub-path.
#[derive(Debug, Clone, Copy)]
pub enum RoutingText {
    /// `bgp/peer_state`.
    PeerState,
    /// `bgp/peer_status`.
    PeerStatus,
    /// `bgp/peer_info`.
    PeerInfo,
    /// `bgp/advertised_routes`.
    AdvertisedRoutes,
    /// `bgp/running_config`.
    RunningConfig,
    /// `bgp/debug`.
    Debug,
    /// `bfd/session_status`.
    BfdStatus,
    /// `bfd/running_config`.
    BfdConfig,
}

fn sent(session: &BgpSession) -> impl Iterator<Item = &str> {
    let sent = session.routes.iter().filter(|r| r.sent);
    sent.map(|r| r.prefix.as_str())
}

/// What the session does, and of the peer's settings what the contract asks for.
fn runtime_peer(s: &BgpSession, desired: Option<&DesiredState>) -> Value {
    let profile = desired.and_then(|d| d.vrf.as_ref()?.bgp.as_ref());
    let mut peers = profile.into_iter().flat_map(|p| &p.peers);
    let peer = peers.find(|p| p.address == s.peer);
    json!({
        "advertise_vip": peer.map(|p| p.advertise_vip), "advertise_snat_ip": peer.map(|p| p.advertise_snat_ip),
        "peer_ip": s.peer, "remote_as": s.remote_as, "peer_id": s.peer_router_id,
        "active": i32::from(s.state() == BgpState::Established), "bfd": i32::from(s.bfd_state != "off" && !s.bfd_state.is_empty()),
        "nexthop_ip": s.local_address, "bgp_state": bgp_word(s), "routes": sent(s).collect::<Vec<_>>(),
    })
}

fn bgp_session(s: &BgpSession, seen: &Seen) -> Value {
    let routes = s.routes.iter().map(|r| json!({"prefix": r.prefix, "next_hop": r.next_hop, "sent": r.sent, "reason": r.reason, "sent_unix_ms": r.sent_unix_ms}));
    json!({
        "se_name": seen.name, "se_uuid": seen.uuid, "vrf": seen.vrf, "peer": s.peer, "local_address": s.local_address,
        "interface": s.interface, "label": s.label, "state": bgp_word(s), "state_since_unix_ms": s.state_since_unix_ms,
        "condition": s.condition, "condition_text": s.condition_text,
        "local_as": s.local_as, "remote_as": s.remote_as, "local_router_id": s.local_router_id, "peer_router_id": s.peer_router_id,
        "hold_time_s": s.hold_time_s, "keepalive_s": s.keepalive_s, "connect_timer_s": s.connect_timer_s,
        "advertisement_interval_s": s.advertisement_interval_s, "ttl": s.ttl, "min_ttl": s.min_ttl, "md5": s.md5, "tcp_ao": "unsupported",
        "md5_failures": s.md5_failures, "accepted": s.accepted, "bfd_state": s.bfd_state,
        "capabilities": s.capabilities, "refused_capabilities": s.refused_capabilities,
        "last_error": s.last_error, "last_error_code": s.last_error_code, "last_error_received": s.last_error_received,
        "last_error_unix_ms": s.last_error_unix_ms, "messages_in": s.messages_in, "messages_out": s.messages_out,
        "updates_in": s.updates_in, "updates_out": s.updates_out, "prefixes_in": s.prefixes_in,
        "treated_as_withdraw": s.treated_as_withdraw, "attributes_discarded": s.attributes_discarded,
        "times_established": s.times_established, "routes": routes.collect::<Vec<_>>(),
    })
}

fn bfd_session(s: &BfdSession, seen: &Seen) -> Value {
    let engine = seen.report.bfd.clone().unwrap_or_default();
    json!({
        "se_name": seen.name, "se_uuid": seen.uuid, "vrf": seen.vrf, "peer": s.peer, "local_address": s.local_address,
        "interface": s.interface, "multihop": s.multihop, "state": s.state, "state_since_unix_ms": s.state_since_unix_ms,
        "remote_state": s.remote_state, "diagnostic": s.diagnostic, "remote_diagnostic": s.remote_diagnostic,
        "local_discriminator": s.local_discriminator, "remote_discriminator": s.remote_discriminator,
        "transmit_interval_us": s.transmit_interval_us, "detection_time_us": s.detection_time_us,
        "detect_multiplier": s.detect_multiplier, "remote_detect_multiplier": s.remote_detect_multiplier,
        "remote_min_rx_us": s.remote_min_rx_us, "remote_desired_min_tx_us": s.remote_desired_min_tx_us,
        "packets_in": s.packets_in, "packets_out": s.packets_out, "packets_discarded": s.packets_discarded,
        "times_up": s.times_up, "times_down": s.times_down, "problem": s.problem, "discards": discards(&s.discards),
        "engine": {"scheduling": engine.scheduling, "discards": discards(&engine.discards), "kernel_drops": engine.kernel_drops},
    })
}

/// Packets by reason.
fn discards(discards: &[BfdDiscard]) -> Value {
    let counts = discards
        .iter()
        .map(|d| (d.reason.clone(), d.packets.into()));
    Value::Object(counts.collect())
}

fn learned_route(r: &LearnedRoute, seen: &Seen) -> Value {
    json!({
        "se_name": seen.name, "se_uuid": seen.uuid, "vrf": seen.vrf, "prefix": r.prefix, "next_hop": r.next_hop,
        "peer": r.peer, "installed": r.installed, "reason": r.reason,
    })
}

fn peer_state(seen: &Seen) -> Value {
    let peers = seen.report.bgp_sessions.iter().map(
        |s| json!({"peer_ip": s.peer, "state": state_word(s), "upOrDownTime": age(s.state_since_unix_ms)}),
    );
    json!({"vrf_name": seen.vrf, "peers_state": peers.collect::<Vec<_>>()})
}

/// As routing daemons write it: `Established`.
fn state_word(session: &BgpSession) -> &'static str {
    match session.state() {
        BgpState::Established => "Established",
        BgpState::OpenConfirm => "OpenConfirm",
        BgpState::OpenSent => "OpenSent",
        BgpState::Active => "Active",
        BgpState::Connect => "Connect",
        BgpState::Idle | BgpState::Unspecified => "Idle",
    }
}

pub(super) fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// `01:02:03`, or `4d05h` from a day on.
fn age(since_unix_ms: u64) -> String {
    let s = now_unix_ms().saturating_sub(since_unix_ms) / 1000;
    match s / 86400 {
        _ if since_unix_ms == 0 => "never".to_owned(),
        0 => format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        days => format!("{days}d{:02}h", s / 3600 % 24),
    }
}

fn of_family(seen: &Seen, v4: bool) -> impl Iterator<Item = &BgpSession> {
    let is = move |s: &&BgpSession| s.peer.parse::<IpAddr>().is_ok_and(|p| p.is_ipv4() == v4);
    seen.report.bgp_sessions.iter().filter(is)
}

fn summary(seen: &Seen, v4: bool) -> String {
    let mut text = String::new();
    if let Some(first) = of_family(seen, v4).next() {
        line!(
            text,
            "BGP router identifier {}, local AS number {}",
            first.local_router_id,
            first.local_as
        );
        line!(text, "");
        line!(
            text,
            "{:<24} V {:>10} {:>8} {:>8} {:>10} {:>12}",
            "Neighbor",
            "AS",
            "MsgRcvd",
            "MsgSent",
            "Up/Down",
            "State/PfxSnt"
        );
    }
    for s in of_family(seen, v4) {
        let sent = sent(s).count().to_string();
        let state = if s.state() == BgpState::Established {
            &sent
        } else {
            state_word(s)
        };
        line!(
            text,
            "{:<24} 4 {:>10} {:>8} {:>8} {:>10} {:>12}",
            s.peer,
            s.remote_as,
            s.messages_in,
            s.messages_out,
            age(s.state_since_unix_ms),
            state
        );
    }
    text
}

fn neighbors(seen: &Seen) -> String {
    let mut text = String::new();
    for s in &seen.report.bgp_sessions {
        let kind = if s.local_as == s.remote_as {
            "internal"
        } else {
            "external"
        };
        line!(
            text,
            "BGP neighbor is {}, remote AS {}, local AS {}, {kind} link",
            s.peer,
            s.remote_as,
            s.local_as
        );
        line!(
            text,
            "  BGP version 4, remote router ID {}, local router ID {}",
            or_none(&s.peer_router_id),
            or_none(&s.local_router_id)
        );
        line!(
            text,
            "  BGP state = {}, for {}",
            state_word(s),
            age(s.state_since_unix_ms)
        );
        line!(
            text,
            "  Hold time is {}, keepalive interval is {} seconds",
            s.hold_time_s,
            s.keepalive_s
        );
        line!(
            text,
            "  Neighbor capabilities: {}",
            or_none(&s.capabilities.join(", "))
        );
        line!(
            text,
            "  Messages sent {}, received {}; updates sent {}, received {}",
            s.messages_out,
            s.messages_in,
            s.updates_out,
            s.updates_in
        );
        line!(
            text,
            "  Local host: {}, interface {}; BFD {}",
            or_none(&s.local_address),
            or_none(&s.interface),
            s.bfd_state
        );
        line!(
            text,
            "  Connections established {}; last error: {}",
            s.times_established,
            or_none(&s.last_error)
        );
        line!(text, "");
    }
    text
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn advertised(seen: &Seen) -> Vec<Value> {
    let of = |s: &BgpSession| {
        let routes = |v4: bool| {
            let mut text = String::new();
            let own = s
                .routes
                .iter()
                .filter(|r| r.sent && r.prefix.contains(':') != v4);
            for r in own {
                line!(text, "*> {:<44} {}", r.prefix, r.next_hop);
            }
            text
        };
        let kind = if s.peer.contains(':') { "V6" } else { "V4" };
        json!({"peer_ip": {"addr": s.peer, "type": kind}, "ipv4_routes": routes(true), "ipv6_routes": routes(false)})
    };
    seen.report.bgp_sessions.iter().map(of).collect()
}

fn debug(seen: &Seen) -> Value {
    let routes = |v4: bool| {
        let mut text = String::new();
        for s in &seen.report.bgp_sessions {
            let own = s.routes.iter().filter(|r| r.prefix.contains(':') != v4);
            for r in own {
                let standing = if r.sent { "sent" } else { r.reason.as_str() };
                line!(text, "{:<44} {:<40} {standing}", r.prefix, s.peer);
            }
        }
        text
    };
    json!({
        "vrf": seen.vrf, "ipv4_summary": summary(seen, true), "ipv4_route_info": routes(true),
        "ipv6_summary": summary(seen, false), "ipv6_route_info": routes(false),
        "neighbor_info": neighbors(seen), "quagga_config": config::bgp(seen),
    })
}

fn bfd_status(seen: &Seen) -> String {
    let mut text = String::new();
    for s in &seen.report.bfd_sessions {
        let hops = if s.multihop { " multihop" } else { "" };
        line!(
            text,
            "peer {} local-address {}{hops}",
            s.peer,
            s.local_address
        );
        line!(
            text,
            "  ID: {}, remote ID: {}",
            s.local_discriminator,
            s.remote_discriminator
        );
        line!(
            text,
            "  Status: {}, for {}",
            s.state,
            age(s.state_since_unix_ms)
        );
        if !s.problem.is_empty() {
            line!(text, "  Cannot be started: {}", s.problem);
        }
        line!(
            text,
            "  Diagnostics: {}; remote diagnostics: {}",
            s.diagnostic,
            s.remote_diagnostic
        );
        line!(
            text,
            "  Transmission interval: {} us, detection time: {} us",
            s.transmit_interval_us,
            s.detection_time_us
        );
        line!(
            text,
            "  Control packets in {}, out {}, discarded {}; up {} times, down {} times",
            s.packets_in,
            s.packets_out,
            s.packets_discarded,
            s.times_up,
            s.times_down
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::BgpRoute;

    fn seen() -> Seen {
        let route = |prefix: &str, sent| BgpRoute {
            prefix: prefix.to_owned(),
            next_hop: "10.0.0.11".to_owned(),
            sent,
            ..BgpRoute::default()
        };
        let established = BgpSession {
            peer: "10.0.0.1".to_owned(),
            local_address: "10.0.0.11".to_owned(),
            state: BgpState::Established.into(),
            local_as: 65001,
            remote_as: 65001,
            local_router_id: "10.0.0.11".to_owned(),
            routes: vec![route("192.0.2.1/32", true), route("192.0.2.2/32", false)],
            md5: true,
            bfd_state: "up".to_owned(),
            ..BgpSession::default()
        };
        let idle = BgpSession {
            peer: "2001:db8::1".to_owned(),
            state: BgpState::Idle.into(),
            local_as: 65001,
            remote_as: 65002,
            ..BgpSession::default()
        };
        Seen {
            uuid: "serviceengine-1".to_owned(),
            name: "se-1".to_owned(),
            vrf: "global".to_owned(),
            report: Arc::new(Report {
                bgp_sessions: vec![established, idle],
                ..Report::default()
            }),
            desired: None,
            refusal: None,
        }
    }

    #[test]
    fn the_summaries_are_by_family_and_say_state_or_prefixes_sent() {
        let (v4, v6) = (summary(&seen(), true), summary(&seen(), false));
        assert!(v4.starts_with("BGP router identifier 10.0.0.11, local AS number 65001\n"));
        let line = v4.lines().last().unwrap_or_default();
        assert!(
            line.starts_with("10.0.0.1 ") && line.ends_with(" 1"),
            "{line}"
        );
        let line = v6.lines().last().unwrap_or_default();
        assert!(
            line.starts_with("2001:db8::1 ") && line.ends_with(" Idle"),
            "{line}"
        );
    }

    #[test]
    fn only_what_was_sent_is_advertised() {
        let advertised = advertised(&seen());
        assert_eq!(advertised[0]["peer_ip"]["type"], "V4");
        let text = advertised[0]["ipv4_routes"].as_str().unwrap_or_default();
        assert!(
            text.contains("192.0.2.1/32") && !text.contains("192.0.2.2/32"),
            "{text}"
        );
        assert_eq!(advertised[1]["ipv6_routes"], "");
    }

    #[tokio::test]
    async fn an_engines_bgp_has_its_peers_and_the_services_whose_routes_are_out() {
        use super::super::fixture::{Fixture, PEER, VIP, established};
        let fixture = Fixture::new().await;
        fixture.told();
        fixture.report(vec![established()]);
        let shown = || fixture.observe(|o| o.engine_bgp(&fixture.engine, &|_, _| true))[0].clone();
        let bgp = shown();
        assert_eq!(
            (&bgp["vs_names"], &bgp["active"]),
            (&json!(["vs-1"]), &json!(1))
        );
        assert_eq!(bgp["routes"], json!([format!("{VIP}/32")]));
        let peer = &bgp["peers"][0];
        assert_eq!(
            (
                &peer["peer_ip"],
                &peer["advertise_vip"],
                &peer["advertise_snat_ip"]
            ),
            (&json!(PEER), &json!(true), &json!(true))
        );
        let mut withheld = established();
        withheld.routes[0].sent = false;
        fixture.report(vec![withheld]);
        assert_eq!(shown()["vs_names"], json!([]), "placed is not announced");
    }

    #[tokio::test]
    async fn every_sub_path_of_a_connected_engine_has_the_contracts_fields() {
        use super::super::fixture::{Fixture, established};
        let fixture = Fixture::new().await;
        fixture.told();
        fixture.report(vec![established()]);
        for (what, fields) in [
            (RoutingText::PeerState, &["vrf_name", "peers_state"][..]),
            (
                RoutingText::PeerStatus,
                &["vrf", "namespace", "ipv4_status", "ipv6_status"],
            ),
            (RoutingText::PeerInfo, &["vrf", "namespace", "peer_info"]),
            (
                RoutingText::AdvertisedRoutes,
                &["vrf", "namespace", "advertised_routes"],
            ),
            (
                RoutingText::RunningConfig,
                &["vrf", "namespace", "running_config"],
            ),
            (
                RoutingText::Debug,
                &[
                    "vrf",
                    "ipv4_summary",
                    "ipv4_route_info",
                    "ipv6_summary",
                    "ipv6_route_info",
                    "neighbor_info",
                    "quagga_config",
                ],
            ),
            (RoutingText::BfdStatus, &["vrf", "namespace", "status"]),
            (
                RoutingText::BfdConfig,
                &["vrf", "namespace", "running_config"],
            ),
        ] {
            let rows = fixture.observe(|o| o.engine_routing(&fixture.engine, what));
            let row = rows[0].as_object().expect("an element per VRF");
            let seen: BTreeSet<&str> = row.keys().map(String::as_str).collect();
            assert_eq!(seen, fields.iter().copied().collect(), "{what:?}");
        }
        let sessions = fixture.observe(|o| o.bgp_sessions());
        assert_eq!(
            (&sessions[0]["state"], &sessions[0]["tcp_ao"]),
            (&json!("ESTABLISHED"), &json!("unsupported"))
        );
        assert_eq!(sessions[0]["se_name"], "se-1");
    }

    #[test]
    fn neighbors_and_states_are_in_the_words_of_routing_daemons() {
        assert!(neighbors(&seen()).contains(
            "BGP neighbor is 2001:db8::1, remote AS 65002, local AS 65001, external link"
        ));
        assert_eq!(
            peer_state(&seen())["peers_state"][0]["state"],
            "Established"
        );
    }

    #[test]
    fn the_debug_text_has_routes_that_were_sent_and_reasons_of_others() {
        let mut seen = seen();
        Arc::make_mut(&mut seen.report).bgp_sessions[0].routes[1].reason =
            "peer_label_mismatch".to_owned();
        let debug = debug(&seen);
        let text = debug["ipv4_route_info"].as_str().unwrap_or_default();
        let ends = |prefix: &str, end: &str| {
            let mut lines = text.lines().filter(|l| l.starts_with(prefix));
            lines.any(|l| l.ends_with(end))
        };
        assert!(ends("192.0.2.1/32", " sent"), "{text}");
        assert!(ends("192.0.2.2/32", " peer_label_mismatch"), "{text}");
        for field in [
            "vrf",
            "ipv4_summary",
            "ipv6_summary",
            "ipv6_route_info",
            "neighbor_info",
            "quagga_config",
        ] {
            assert!(debug[field].is_string(), "{field}");
        }
    }
}
