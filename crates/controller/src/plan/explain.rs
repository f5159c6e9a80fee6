//! `explain vip`: the ordered conditions of "VIP v is announced by engine e to peer p", each met, failed or not
//! looked at yet; the first failing one is the answer, with the next thing to do.

use super::runtime::Observer;
use super::{routing, situation};
use crate::error::ApiError;
use axum::http::StatusCode;
use model::condition::Condition;
use model::view::{VirtualService, VrfContext, VsVip};
use proto::v1::{BgpSession, BgpState};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What a condition came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Met,
    Failed(String),
    /// It does not apply to this path.
    NotAsked,
}

/// The conditions of one path as far as they were looked at, in order.
#[derive(Debug, Default)]
struct Path {
    findings: Vec<(Condition, Finding)>,
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
        self.findings.push((condition, finding));
    }

    /// All before `condition` hold.
    fn reach(&mut self, condition: Condition) {
        let seen = self.findings.last().map(|(condition, _)| *condition);
        let before = Condition::ALL
            .into_iter()
            .filter(|c| Some(*c) > seen && *c < condition);
        self.findings.extend(before.map(|c| (c, Finding::Met)));
    }

    /// All before `condition` hold; that one does not.
    fn fail_at(&mut self, condition: Condition, text: String) {
        self.reach(condition);
        self.note(condition, Some(text));
    }

    /// The list of every condition, for people and programs. A last condition that fails beside a sent route
    /// (BFD) is named, and the route counts as announced.
    fn show(&self, se: (&str, &str), session: Option<&BgpSession>, prefix: &str) -> Value {
        let row = |condition: Condition| {
            let finding = self.findings.iter().find(|(c, _)| *c == condition);
            let (state, text) = match finding {
                Some((_, Finding::Met)) => ("met", ""),
                Some((_, Finding::Failed(text))) => ("failed", text.as_str()),
                Some((_, Finding::NotAsked)) => ("not_asked", ""),
                None => ("not_reached", ""),
            };
            json!({"condition": condition.code(), "sentence": condition.sentence(), "state": state, "text": text})
        };
        let failed = self.failed().map(|(condition, text)| {
            json!({"condition": condition.code(), "text": text, "next_step": condition.next_step()})
        });
        let route = session.and_then(|s| s.routes.iter().find(|r| r.prefix == prefix));
        json!({
            "se_name": se.0, "se_uuid": se.1,
            "peer": session.map_or("", |s| s.peer.as_str()),
            "local_address": session.map_or("", |s| s.local_address.as_str()),
            "announced": route.is_some_and(|r| r.sent),
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
    vsvip: VsVip,
    services: Vec<VirtualService>,
    engines: Vec<String>,
}

impl Observer<'_> {
    /// `GET /api/ek/explain/vip/ADDRESS`, for one engine when `se` names it.
    ///
    /// # Errors
    /// 400 for what is not an address, 404 for a VIP or an engine that is not configured.
    pub(super) fn explain_vip(&self, vip: &str, se: Option<&str>) -> Result<Value, ApiError> {
        let subject = self.subject(vip)?;
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
            paths.push(path.show(("", ""), None, ""));
        }
        let announced = paths.iter().filter(|p| p["announced"] == true).count();
        let names: Vec<_> = subject.services.iter().map(|vs| vs.name.as_str()).collect();
        Ok(json!({
            "vip": subject.address, "vsvip": subject.vsvip.name, "virtual_services": names,
            "paths_announced": announced, "paths": paths,
        }))
    }

    fn subject(&self, vip: &str) -> Result<Subject, ApiError> {
        let address: IpAddr = vip.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "{vip:?} is not an IP address; name the VIP by its address"
            ))
        })?;
        let has = |v: &VsVip| {
            v.vip
                .iter()
                .flat_map(|vip| vip.addresses())
                .any(|a| a == address)
        };
        let vsvip = self.snapshot.views::<VsVip>("vsvip").into_iter().find(has);
        let vsvip = vsvip.ok_or_else(|| {
            let text = format!(
                "no VsVip has the address {address}; `evenkeel show virtualservice` lists the VIPs"
            );
            ApiError::new(StatusCode::NOT_FOUND, text)
        })?;
        Ok(Subject {
            address,
            services: situation::services_of(self.snapshot, &vsvip.uuid),
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
        path.note(Condition::RhiOn, (!rhi).then(|| without_rhi(subject)));
        if rhi {
            path.note(Condition::BgpProfilePresent, self.without_peers(subject));
        }
        path
    }

    fn without_peers(&self, subject: &Subject) -> Option<String> {
        let reference = subject.vsvip.vrf_context_ref.as_ref();
        let vrf = reference.and_then(|r| self.snapshot.view::<VrfContext>("vrfcontext", r.uuid()));
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
        let name = self.name(engine);
        let (before, sessions) = self.up_to_sessions(subject, engine);
        let prefix = host_prefix(subject.address);
        if let Some(path) = before {
            return vec![path.show((&name, engine), None, &prefix)];
        }
        let of = |session: &BgpSession| {
            let mut path = Path::default();
            judge_session(&mut path, session, &prefix);
            let mut shown = path.show((&name, engine), Some(session), &prefix);
            let failed = path.failed().map(|(condition, _)| condition);
            shown["needed"] = json!(
                failed != Some(Condition::FamilyNegotiated)
                    || !carried_beside(session, &sessions, &prefix)
            );
            shown
        };
        sessions.iter().map(of).collect()
    }

    /// The path that ends before there are sessions, or the sessions.
    fn up_to_sessions(&self, subject: &Subject, engine: &str) -> (Option<Path>, Vec<BgpSession>) {
        let mut path = self.common(subject);
        if path.failed().is_some() {
            return (Some(path), Vec::new());
        }
        if !subject.engines.iter().any(|e| e == engine) {
            path.note(Condition::Placed, Some(self.placed_elsewhere(subject)));
            return (Some(path), Vec::new());
        }
        let status = self.engine_status(&self.registry.get(engine));
        let Some(seen) = self
            .seen(engine)
            .filter(|_| status["reason_code_string"] == "se_connected")
        else {
            let text = status["reason"][0].as_str().unwrap_or_default().to_owned();
            path.fail_at(Condition::EngineConnected, text);
            return (Some(path), Vec::new());
        };
        let vip = subject.address.to_string();
        let reported = seen.report.vips.iter().find(|v| v.address == vip);
        match reported {
            None => path.fail_at(
                Condition::VsUp,
                "the engine has not reported the VIP yet".to_owned(),
            ),
            Some(v) if !v.announced => {
                let condition = Condition::of_reason(&v.reason_code).unwrap_or(Condition::VsUp);
                path.fail_at(condition, self.sentence(subject, engine, &v.reason));
            }
            Some(_) if seen.report.bgp_sessions.is_empty() => path.fail_at(
                Condition::PeerConfigurationValid,
                "the engine has not reported a BGP session yet".to_owned(),
            ),
            Some(_) => return (None, seen.report.bgp_sessions),
        }
        (Some(path), Vec::new())
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

fn without_rhi(subject: &Subject) -> String {
    let names: Vec<_> = subject.services.iter().map(|vs| vs.name.as_str()).collect();
    if names.is_empty() {
        return format!("no virtual service uses the VIP {}", subject.vsvip.name);
    }
    format!("enable_rhi is false on {}", names.join(", "))
}

/// Another session of the same link carries the route: each address family on its own session is what most
/// operators configure.
fn carried_beside(session: &BgpSession, all: &[BgpSession], prefix: &str) -> bool {
    let sent = |s: &BgpSession| s.routes.iter().any(|r| r.prefix == prefix && r.sent);
    all.iter()
        .any(|s| s.interface == session.interface && sent(s))
}

fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// From the peer's configuration to BFD.
fn judge_session(path: &mut Path, session: &BgpSession, prefix: &str) {
    if let Some(condition) = Condition::from_code(&session.condition) {
        return path.fail_at(condition, session.condition_text.clone());
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
    path.findings.push((Condition::BfdUp, finding));
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
        "peer_not_reading" => "the peer reads too slowly".to_owned(),
        other => format!("withheld: {other}"),
    }
}
