//! `explain vip`: the ordered conditions of "VIP v is announced by engine e to peer p", each met, failed or not
//! looked at yet; the first failing one is the answer, with the next thing to do.

use super::refusal::Refusal;
use super::runtime::Observer;
use super::scope::Tells;
use super::{routing, situation};
use crate::engines::registry::EngineState;
use crate::error::ApiError;
use crate::objects::Stored;
use axum::http::StatusCode;
use model::condition::Condition;
use model::view::{VirtualService, VsVip};
use proto::ANSWERING;
use proto::v1::{BgpSession, BgpState};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What a condition came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Met,
    Failed(String),
    /// It does not apply to this path.
    NotAsked,
}

/// The conditions of one path as far as they were looked at.
#[derive(Debug, Clone, Default)]
struct Path {
    findings: BTreeMap<Condition, Finding>,
}

/// An engine, and whether what is known of it is so now.
#[derive(Debug, Clone, Copy)]
struct Seat<'a> {
    name: &'a str,
    uuid: &'a str,
    /// Without a session the last report may be old: the engine goes on without a controller.
    connected: bool,
    /// It has reported since the controller started.
    reported: bool,
}

impl Path {
    fn failed(&self) -> Option<(Condition, &str)> {
        self.findings
            .iter()
            .find_map(|(condition, finding)| match finding {
                Finding::Failed(text) => Some((*condition, text.as_str())),
                Finding::Met | Finding::NotAsked => None,
            })
    }

    fn note(&mut self, condition: Condition, failure: Option<String>) {
        let finding = failure.map_or(Finding::Met, Finding::Failed);
        self.findings.insert(condition, finding);
    }

    /// All before `condition` hold.
    fn reach(&mut self, condition: Condition) {
        for before in Condition::ALL.into_iter().filter(|c| *c < condition) {
            self.findings.entry(before).or_insert(Finding::Met);
        }
    }

    /// All before `condition` hold; that one does not.
    fn fail_at(&mut self, condition: Condition, text: String) {
        self.reach(condition);
        self.note(condition, Some(text));
    }

    /// `condition` does not hold either, unless an earlier one fails already.
    fn overlay(&mut self, condition: Condition, text: String) {
        if self.failed().is_none_or(|(first, _)| condition < first) {
            self.fail_at(condition, text);
        }
    }

    /// The list of every condition, for people and programs. `announced` is what the engine reports, whatever fails:
    /// beside a sent route a condition may fail that would keep it from being sent again, or BFD.
    fn show(&self, seat: &Seat<'_>, session: Option<&BgpSession>, prefix: &str) -> Value {
        let row = |condition: Condition| {
            let (state, text) = match self.findings.get(&condition) {
                Some(Finding::Met) => ("met", ""),
                Some(Finding::Failed(text)) => ("failed", text.as_str()),
                Some(Finding::NotAsked) => ("not_asked", ""),
                None => ("not_reached", ""),
            };
            json!({"condition": condition.code(), "sentence": condition.sentence(), "state": state, "text": text})
        };
        let failed = self.failed().map(|(condition, text)| {
            json!({"condition": condition.code(), "text": text, "next_step": condition.next_step()})
        });
        let route = session.and_then(|s| s.routes.iter().find(|r| r.prefix == prefix));
        let sent = route.is_some_and(|r| r.sent);
        json!({
            "se_name": seat.name, "se_uuid": seat.uuid,
            "peer": session.map_or("", |s| s.peer.as_str()),
            "local_address": session.map_or("", |s| s.local_address.as_str()),
            "announced": seat.connected.then_some(sent),
            "last_reported_announced": seat.reported.then_some(sent),
            "needed": true,
            "next_hop": route.map_or("", |r| r.next_hop.as_str()),
            "sent_unix_ms": route.map_or(0, |r| r.sent_unix_ms),
            "first_failed": failed,
            "conditions": Condition::ALL.into_iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// A VIP and everything that is configured for it.
struct Subject {
    address: IpAddr,
    vsvip: Arc<VsVip>,
    /// By name.
    services: Vec<Arc<VirtualService>>,
    engines: Vec<String>,
}

/// Which VsVips the caller may ask about, by uuid.
type Sees<'a> = &'a dyn Fn(&str, &Stored) -> bool;

impl Observer<'_> {
    /// `GET /api/ek/explain/vip/ADDRESS`, of a VsVip that the caller sees, for one engine when `se` names it.
    ///
    /// # Errors
    /// 400 for what is not an address, 404 for a VIP or an engine that is not configured.
    pub(super) fn explain_vip(
        &self,
        vip: &str,
        se: Option<&str>,
        sees: Sees<'_>,
    ) -> Result<Value, ApiError> {
        let subject = self.subject(vip, sees)?;
        let engines = match se {
            Some(se) => vec![self.engine_named(se)?],
            None => subject.engines.clone(),
        };
        let mut paths: Vec<Value> = Vec::new();
        for engine in &engines {
            paths.extend(self.paths(&subject, engine));
        }
        if engines.is_empty() {
            let mut path = self.common(&subject);
            if path.failed().is_none() {
                path.note(Condition::Placed, Some(self.why_not_placed(&subject)));
            }
            paths.push(path.show(&NOWHERE, None, ""));
        }
        let unknown = paths.iter().filter(|p| p["announced"].is_null()).count();
        let announced = paths.iter().filter(|p| p["announced"] == true).count();
        let names: Vec<_> = subject.services.iter().map(|vs| vs.name.as_str()).collect();
        Ok(json!({
            "vip": subject.address, "vsvip": subject.vsvip.name, "virtual_services": names,
            "paths_announced": announced, "paths_unknown": unknown, "paths": paths,
        }))
    }

    fn subject(&self, vip: &str, sees: Sees<'_>) -> Result<Subject, ApiError> {
        let address: IpAddr = vip.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "{vip:?} is not an IP address; name the VIP by its address"
            ))
        })?;
        let has = |v: &Arc<VsVip>| {
            v.vip
                .iter()
                .flat_map(|vip| vip.addresses())
                .any(|a| a == address)
        };
        let seen = self.snapshot.all("vsvip").filter(|(uuid, s)| sees(uuid, s));
        let mut views = seen.filter_map(|(uuid, _)| self.snapshot.view::<VsVip>("vsvip", uuid));
        let vsvip = views.find(has);
        let vsvip = vsvip.ok_or_else(|| {
            let text = format!(
                "no VsVip has the address {address}; `evenkeel show virtualservice` lists the VIPs"
            );
            ApiError::new(StatusCode::NOT_FOUND, text)
        })?;
        let mut services = situation::services_of(self.snapshot, &vsvip.uuid);
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Subject {
            address,
            services,
            engines: self.planner.assignment(&vsvip.uuid).engines,
            vsvip,
        })
    }

    fn engine_named(&self, se: &str) -> Result<String, ApiError> {
        let by_name = self
            .snapshot
            .by_name("serviceengine", se)
            .map(|(uuid, _)| uuid);
        let by_uuid = || self.snapshot.get("serviceengine", se).map(|_| se);
        by_name.or_else(by_uuid).map(str::to_owned).ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                format!("there is no service engine {se:?}"),
            )
        })
    }

    /// What does not depend on engine and peer.
    fn common(&self, subject: &Subject) -> Path {
        let mut path = Path::default();
        let rhi = subject.services.iter().any(|vs| vs.enable_rhi);
        path.note(Condition::RhiOn, (!rhi).then(|| self.without_rhi(subject)));
        if rhi {
            path.note(Condition::BgpProfilePresent, self.without_peers(subject));
        }
        path
    }

    /// Such a VIP is scaled natively.
    fn without_rhi(&self, subject: &Subject) -> String {
        let names: Vec<_> = subject.services.iter().map(|vs| vs.name.as_str()).collect();
        if names.is_empty() {
            return format!("no virtual service uses the VIP {}", subject.vsvip.name);
        }
        let vsvip = &subject.vsvip.uuid;
        let mut engines = subject.engines.iter();
        let answers = engines.find(|se| self.native_part(vsvip, se) == ANSWERING);
        let answers = match answers {
            Some(se) => format!("{} answers ARP for it", self.name(se)),
            None => "no engine answers ARP for it".to_owned(),
        };
        let names = names.join(", ");
        format!("enable_rhi is false on {names}, so that the VIP is scaled natively: {answers}")
    }

    fn without_peers(&self, subject: &Subject) -> Option<String> {
        let reference = subject.vsvip.vrf_context_ref.as_ref();
        let vrf = reference.and_then(|r| situation::vrf_context(self.snapshot, r.uuid()));
        let name = vrf.as_ref().map_or("", |v| v.name.as_str());
        match vrf.as_ref().and_then(|v| v.bgp_profile.as_ref()) {
            None => Some(format!("VRF context {name:?} has no bgp_profile")),
            Some(profile) if profile.peers.is_empty() => Some(format!(
                "the bgp_profile of VRF context {name:?} has no peers"
            )),
            Some(_) => None,
        }
    }

    fn why_not_placed(&self, subject: &Subject) -> String {
        let last = self.planner.last_scale(&subject.vsvip.uuid);
        last.map_or_else(
            || "placement has not been decided yet".to_owned(),
            |last| last.reason,
        )
    }

    /// A path per session of the engine, or one that ends before there is a session.
    fn paths(&self, subject: &Subject, engine: &str) -> Vec<Value> {
        let state = self.registry.get(engine);
        let seat = Seat {
            name: &self.name(engine),
            uuid: engine,
            connected: state.connected_since.is_some(),
            reported: state.report.is_some(),
        };
        let prefix = host_prefix(subject.address);
        let before = self.before_sessions(subject, engine, &state);
        let sessions = &state
            .report
            .as_ref()
            .map_or(&[][..], |r| &r.bgp_sessions[..]);
        let judged = judge(&before, sessions, &prefix, seat.connected);
        let tells = self.told_beside("vsvip", &subject.vsvip.uuid);
        let show = |(session, mut path): (Option<&BgpSession>, Path)| {
            put_engine_over(&mut path, &state, session, &tells);
            if let Some(late) = self.planner.late_sentence(&subject.vsvip.uuid, engine) {
                path.overlay(Condition::MembersInformed, late);
            }
            let mut shown = path.show(&seat, session, &prefix);
            let failed = path.failed().map(|(condition, _)| condition);
            let beside = session.is_some_and(|s| carried_beside(s, sessions, &prefix));
            shown["needed"] = json!(failed != Some(Condition::FamilyNegotiated) || !beside);
            shown
        };
        judged.into_iter().map(show).collect()
    }

    /// What comes before the sessions: configuration, placement, the engine and its virtual services.
    fn before_sessions(&self, subject: &Subject, engine: &str, state: &EngineState) -> Path {
        let mut path = self.common(subject);
        if path.failed().is_some() {
            return path;
        }
        if !subject.engines.iter().any(|e| e == engine) {
            let text = self.lingers(subject, engine);
            let text = text.unwrap_or_else(|| self.placed_elsewhere(subject));
            path.note(Condition::Placed, Some(text));
            return path;
        }
        if state.connected_since.is_none() {
            let status = self.engine_status(state);
            let text = status["reason"][0].as_str().unwrap_or_default().to_owned();
            path.fail_at(Condition::EngineConnected, text);
            return path;
        }
        let report = state.report.clone().unwrap_or_default();
        let vip = subject.address.to_string();
        match report.vips.iter().find(|v| v.address == vip) {
            None => path.fail_at(
                Condition::VsUp,
                "the engine has not reported the VIP yet".to_owned(),
            ),
            Some(v) if !v.announced => {
                let condition = Condition::of_reason(&v.reason_code).unwrap_or(Condition::VsUp);
                path.fail_at(condition, self.sentence(subject, engine, &v.reason));
            }
            Some(_) if report.bgp_sessions.is_empty() => path.fail_at(
                Condition::PeerConfigurationValid,
                "the engine has not reported a BGP session yet".to_owned(),
            ),
            Some(_) => path.reach(Condition::PeerConfigurationValid),
        }
        path
    }

    fn lingers(&self, subject: &Subject, engine: &str) -> Option<String> {
        let vsvip = &subject.vsvip.uuid;
        let group = self.planner.assignment(vsvip).group;
        group.lingering().find(|(m, _)| m.engine == engine)?;
        let left = self.planner.left(self.snapshot, vsvip, engine);
        let left = left.map_or(String::new(), |left| format!(": {}", left.sentence()));
        Some(format!("{} was scaled in{left}", self.name(engine)))
    }

    fn placed_elsewhere(&self, subject: &Subject) -> String {
        let names: Vec<_> = subject.engines.iter().map(|e| self.name(e)).collect();
        match names.as_slice() {
            [] => self.why_not_placed(subject),
            names => format!("the VIP is placed on {}", names.join(", ")),
        }
    }

    /// The VIP's reason, with that of the first virtual service that is not up.
    fn sentence(&self, subject: &Subject, engine: &str, reason: &str) -> String {
        let services = subject.services.iter();
        let down = services.filter_map(|vs| {
            let oper = self.service_on(vs, engine);
            let why = oper["reason"][0].as_str().unwrap_or_default();
            (oper["state"] != "OPER_UP").then(|| format!("{reason} {}: {why}", vs.name))
        });
        down.into_iter().next().unwrap_or_else(|| reason.to_owned())
    }
}

/// Where there is no engine yet, there is nothing to be unsure of.
const NOWHERE: Seat<'static> = Seat {
    name: "",
    uuid: "",
    connected: true,
    reported: false,
};

/// The paths of an engine. One that fails before there are sessions is one path, unless routes are out all the same,
/// or may be: the engine goes on with what it has.
fn judge<'a>(
    before: &Path,
    sessions: &'a [BgpSession],
    prefix: &str,
    connected: bool,
) -> Vec<(Option<&'a BgpSession>, Path)> {
    if before.failed().is_none() {
        let judged = sessions.iter().map(|session| {
            let mut path = before.clone();
            judge_session(&mut path, session, prefix);
            (Some(session), path)
        });
        return judged.collect();
    }
    let shown = sessions.iter().filter(|s| !connected || sends(s, prefix));
    let paths: Vec<_> = shown.map(|s| (Some(s), before.clone())).collect();
    match paths.is_empty() {
        true => vec![(None, before.clone())],
        false => paths,
    }
}

/// What is to be said of the engine as a whole: it does not do what it was told, or was told to drain.
fn put_engine_over(
    path: &mut Path,
    state: &EngineState,
    session: Option<&BgpSession>,
    tells: &Tells<'_>,
) {
    if state.connected_since.is_none() {
        return;
    }
    if let Some(why) = &state.stuck {
        let text = format!("what is in force stays, no newer state can be made: {why}");
        path.overlay(Condition::EngineConnected, text);
    }
    if let Some(refusal) = Refusal::of(state) {
        let peer = session.map_or("", |s| s.peer.as_str());
        path.overlay(refusal.condition(peer), refusal.sentence_for(tells));
    }
    if state.desired.as_ref().is_some_and(|d| d.draining) {
        path.overlay(Condition::EngineEnabled, DRAINING.to_owned());
    }
}

const DRAINING: &str = "the engine is disabled (SE_STATE_DISABLED): its routes are marked with GRACEFUL_SHUTDOWN, and after a while withdrawn";

fn sends(session: &BgpSession, prefix: &str) -> bool {
    session.routes.iter().any(|r| r.prefix == prefix && r.sent)
}

/// Another session of the same link carries the route: each address family on its own session is what most
/// operators configure.
fn carried_beside(session: &BgpSession, all: &[BgpSession], prefix: &str) -> bool {
    all.iter()
        .any(|s| s.interface == session.interface && sends(s, prefix))
}

pub(super) fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// From the peer's configuration to BFD.
fn judge_session(path: &mut Path, session: &BgpSession, prefix: &str) {
    if let Some(condition) = Condition::from_code(&session.condition) {
        path.fail_at(condition, session.condition_text.clone());
        if condition == Condition::Md5Accepted {
            // What is signed with another key gets no answer at all (RFC 2385 section 2).
            path.findings
                .insert(Condition::TcpConnected, Finding::NotAsked);
        }
        return;
    }
    if session.state() != BgpState::Established {
        let text = format!("the session is {}", routing::bgp_word(session));
        return path.fail_at(Condition::SessionEstablished, text);
    }
    let route = session.routes.iter().find(|r| r.prefix == prefix);
    match route {
        None => path.fail_at(
            Condition::UpdateSent,
            "the session has not taken it up yet".to_owned(),
        ),
        Some(route) if !route.sent => {
            let condition = Condition::of_reason(&route.reason).unwrap_or(Condition::UpdateSent);
            path.fail_at(condition, withheld_sentence(session, &route.reason));
        }
        Some(_) => judge_bfd(path, session),
    }
}

fn judge_bfd(path: &mut Path, session: &BgpSession) {
    let finding = match session.bfd_state.as_str() {
        "off" | "" => Finding::NotAsked,
        "up" => Finding::Met,
        "waiting_for_peer" => Finding::Failed("BFD is waiting for the peer".to_owned()),
        "cannot_start" => Finding::Failed("BFD cannot be started, see show bfd".to_owned()),
        other => Finding::Failed(format!("BFD is {other}")),
    };
    path.reach(Condition::BfdUp);
    path.findings.insert(Condition::BfdUp, finding);
}

fn withheld_sentence(session: &BgpSession, reason: &str) -> String {
    let label = if session.label.is_empty() {
        "no label".to_owned()
    } else {
        format!("the label {:?}", session.label)
    };
    match reason {
        "peer_label_mismatch" => {
            format!("the peer has {label}, and the VIP's bgp_peer_labels name others")
        }
        "advertise_vip_off" => "advertise_vip of the peer is false".to_owned(),
        "advertise_snat_ip_off" => "advertise_snat_ip of the peer is false".to_owned(),
        "family_not_negotiated" => {
            "the peer did not offer this address family in its OPEN".to_owned()
        }
        "no_next_hop" => format!("{} has no address of this family", session.interface),
        "advertisement_interval" => format!(
            "the route changed again within the advertisement interval of {} s",
            session.advertisement_interval_s
        ),
        "draining" => DRAINING.to_owned(),
        "peer_not_reading" => "the peer reads too slowly".to_owned(),
        other => format!("withheld: {other}"),
    }
}

#[cfg(test)]
mod tests;
