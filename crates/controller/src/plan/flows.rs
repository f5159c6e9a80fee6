//! Flows, as the engines know them at this moment, and what steering has counted.
//!
//! A question goes to all engines that have a session; those that do not answer in time are named beside the answers.

use super::runtime::Observer;
use crate::error::ApiError;
use crate::objects::Snapshot;
use model::view::VirtualService;
use proto::v1::{
    FlowAnswer, FlowEvent, FlowFilter, FlowQuery, FlowQuestion, FlowRow, FlowTable, Report,
};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// An engine that takes longer is left out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Rows per engine, unless `limit` says otherwise.
const LIMIT: u32 = 1000;

/// Parameters of a query by their names.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<String> + Sync + 'a;

/// What one engine said, or why nothing.
pub(super) struct Said {
    pub se: String,
    pub answer: Result<FlowAnswer, String>,
}

/// What is asked, and of which engines.
pub(super) struct Question {
    pub query: FlowQuery,
    pub engines: Vec<String>,
}

impl Observer<'_> {
    /// `GET /api/ek/flow`, `…/flowevent`: parameters are `se`, `vs`, `protocol`, `client`, `client_port`, `vip`,
    /// `vip_port`, `limit`, and `table` (`local` or `remote`).
    pub(super) fn flow_question(
        &self,
        table: FlowTable,
        lookup: &Lookup<'_>,
    ) -> Result<Question, ApiError> {
        let limit = number(lookup, "limit")?.unwrap_or(LIMIT);
        let filter = FlowFilter {
            protocol: protocol(lookup)?,
            client: address(lookup, "client")?,
            client_port: port(lookup, "client_port")?,
            vip: address(lookup, "vip")?,
            vip_port: port(lookup, "vip_port")?,
            vs_uuid: virtual_service(self.snapshot, lookup)?,
        };
        Ok(Question {
            query: query(table, filter, limit),
            engines: self.asked(lookup)?,
        })
    }

    /// `GET /api/ek/traceflow`: `protocol`, `client` and `vip` as `ADDRESS:PORT`, `seconds`.
    pub(super) fn trace_question(&self, lookup: &Lookup<'_>) -> Result<Question, ApiError> {
        let (client, vip) = (end(lookup, "client")?, end(lookup, "vip")?);
        if client.is_ipv4() != vip.is_ipv4() {
            let text = format!("client: {client} is of another address family than vip {vip}");
            return Err(ApiError::bad_request(text));
        }
        let filter = FlowFilter {
            protocol: match protocol(lookup)? {
                none if none.is_empty() => "tcp".into(),
                protocol => protocol,
            },
            client: client.ip().to_string(),
            client_port: client.port().into(),
            vip: vip.ip().to_string(),
            vip_port: vip.port().into(),
            vs_uuid: String::new(),
        };
        let seconds = number(lookup, "seconds")?.unwrap_or(0);
        Ok(Question {
            query: FlowQuery {
                trace_s: seconds,
                ..query(FlowTable::Trace, filter, LIMIT)
            },
            engines: self.asked(lookup)?,
        })
    }

    /// All engines, or the one that is named.
    fn asked(&self, lookup: &Lookup<'_>) -> Result<Vec<String>, ApiError> {
        let mut all = self.snapshot.all("serviceengine");
        let Some(name) = lookup("se") else {
            return Ok(all.map(|(uuid, _)| uuid.to_owned()).collect());
        };
        let found = all.find(|(uuid, stored)| *uuid == name || stored.name() == name);
        found.map(|(uuid, _)| vec![uuid.to_owned()]).ok_or_else(|| {
            ApiError::bad_request(format!(
                "se: there is no service engine {name:?}; see /api/serviceengine"
            ))
        })
    }

    /// Asks all of them at once.
    pub(super) async fn ask(&self, question: &Question) -> Vec<Said> {
        let each = question.engines.iter().map(|se| async {
            Said {
                se: se.clone(),
                answer: self.ask_one(se, question.query.clone()).await,
            }
        });
        futures_util::future::join_all(each).await
    }

    pub(super) async fn ask_one(&self, se: &str, query: FlowQuery) -> Result<FlowAnswer, String> {
        let pending = self.registry.ask(se, query);
        let mut pending = pending.ok_or("it has no session with the controller")?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, pending.answer()).await;
        let answer =
            answer.map_err(|_| format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))?;
        answer.ok_or_else(|| "its session ended".into())
    }

    /// Rows of all engines in one page; `count` has also those beyond the limit.
    pub(super) fn flows(&self, said: &[Said]) -> Value {
        let of = |(se, answer): (&str, &FlowAnswer)| -> Vec<Value> {
            answer.flows.iter().map(|f| self.flow(se, f)).collect()
        };
        let rows: Vec<Value> = answered(said).flat_map(of).collect();
        let matched: u64 = answered(said).map(|(_, a)| a.matched).sum();
        json!({"count": matched, "results": rows, "not_answered": self.silent(said)})
    }

    /// Events of all engines, oldest first.
    pub(super) fn flow_events(&self, said: &[Said]) -> Value {
        let matched: u64 = answered(said).map(|(_, a)| a.matched).sum();
        json!({"count": matched, "results": self.events(said), "not_answered": self.silent(said)})
    }

    /// `GET /api/ek/traceflow`: each engine's view of the flow, and the events.
    pub(super) fn trace(&self, question: &Question, said: &[Said]) -> Value {
        let filter = question.query.filter.clone().unwrap_or_default();
        let views = answered(said).map(|(se, answer)| self.view_of(se, answer));
        json!({
            "protocol": filter.protocol,
            "client": filter.client, "client_port": filter.client_port,
            "vip": filter.vip, "vip_port": filter.vip_port,
            "engines": views.collect::<Vec<_>>(),
            "events": self.events(said),
            "not_answered": self.silent(said),
        })
    }

    fn view_of(&self, se: &str, answer: &FlowAnswer) -> Value {
        let by = |how: &str| {
            let found = answer.flows.iter().find(|f| f.found_by == how);
            found.map(|f| self.flow(se, f))
        };
        json!({
            "se_uuid": se, "se_name": self.name(se),
            "holds_vip": answer.member,
            "local": by("socket"), "cached": by("cache"),
            "question": answer.question.as_ref().map(|q| self.question(q)),
            "problem": answer.problem,
        })
    }

    fn question(&self, question: &FlowQuestion) -> Value {
        let denied = question.denied_uuids.iter().map(|uuid| self.name(uuid));
        json!({
            "number": question.number, "probes": question.probes, "age_ms": question.age_ms,
            "denied_by": denied.collect::<Vec<_>>(),
        })
    }

    fn events(&self, said: &[Said]) -> Vec<Value> {
        let of = |(se, answer): (&str, &FlowAnswer)| -> Vec<(u64, Value)> {
            let events = answer.events.iter();
            events.map(|e| (e.unix_ns, self.event(se, e))).collect()
        };
        let mut all: Vec<(u64, Value)> = answered(said).flat_map(of).collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, event)| event).collect()
    }

    fn event(&self, se: &str, event: &FlowEvent) -> Value {
        json!({
            "unix_ns": event.unix_ns, "se_uuid": se, "se_name": self.name(se),
            "protocol": event.protocol,
            "client": event.client, "client_port": event.client_port,
            "vip": event.vip, "vip_port": event.vip_port,
            "verdict": event.verdict,
            "member": self.known(&event.member_uuid), "question": event.question,
        })
    }

    fn flow(&self, se: &str, flow: &FlowRow) -> Value {
        let mut row = json!({
            "se_uuid": se, "se_name": self.name(se),
            "protocol": flow.protocol,
            "client": flow.client, "client_port": flow.client_port,
            "vip": flow.vip, "vip_port": flow.vip_port,
            "owner": self.known(&flow.owner_uuid), "found_by": flow.found_by,
        });
        if flow.found_by == "socket" {
            let vs = self.snapshot.name_of("virtualservice", &flow.vs_uuid);
            row["virtual_service"] = json!(vs.unwrap_or(&flow.vs_uuid));
            row["server"] = json!(flow.server);
            row["age_ms"] = json!(flow.age_ms);
            row["bytes_in"] = json!(flow.bytes_in);
            row["bytes_out"] = json!(flow.bytes_out);
            row["hinted"] = json!(flow.hinted);
        }
        row
    }

    /// Name of an engine; null where none is meant, or is a member any more.
    pub(super) fn known(&self, uuid: &str) -> Option<String> {
        (!uuid.is_empty()).then(|| self.name(uuid))
    }

    fn silent(&self, said: &[Said]) -> Vec<Value> {
        let why = |said: &Said| match &said.answer {
            Err(why) => Some(why.clone()),
            Ok(answer) if !answer.problem.is_empty() => Some(answer.problem.clone()),
            Ok(_) => None,
        };
        let name = |s: &Said| {
            let reason = why(s)?;
            Some(json!({"se_uuid": s.se, "se_name": self.name(&s.se), "reason": reason}))
        };
        said.iter().filter_map(name).collect()
    }

    /// `GET /api/ek/steering`: what each engine's programs have counted.
    pub(super) fn steering(&self) -> Vec<Value> {
        let seen = self.all_seen();
        let of = |seen: super::routing::Seen| self.steering_of(&seen.uuid, &seen.report);
        seen.filter_map(of).collect()
    }

    fn steering_of(&self, se: &str, report: &Report) -> Option<Value> {
        let steering = report.steering.as_ref()?;
        let verdicts = steering.verdicts.iter();
        let verdicts: Map<String, Value> = verdicts
            .map(|v| (v.verdict.clone(), json!(v.packets)))
            .collect();
        let tunnelled = steering.tunnelled.iter().map(|t| {
            let name = self.name(&t.se_uuid);
            json!({
                "se_uuid": t.se_uuid, "se_name": name, "flows": t.flows, "flows_now": t.flows_now,
                "packets": t.packets, "bytes": t.bytes,
            })
        });
        let attachments = steering
            .attachments
            .iter()
            .map(|a| json!({"interface": a.interface, "hook": a.hook, "reason": a.reason}));
        let hints = report.virtual_services.iter().filter_map(|vs| {
            let hints = vs.hints.as_ref()?;
            let name = self.snapshot.name_of("virtualservice", &vs.uuid)?;
            Some(json!({
                "virtual_service": name, "stamped": hints.stamped, "renewed": hints.renewed,
                "unstamped_no_timestamps": hints.unstamped_no_timestamps, "stamp_failed": hints.stamp_failed,
            }))
        });
        Some(json!({
            "se_uuid": se, "se_name": self.name(se),
            "attachments": attachments.collect::<Vec<_>>(),
            "verdicts": verdicts,
            "tunnelled": tunnelled.collect::<Vec<_>>(),
            "probe_copies_per_s": steering.probe_copies_per_s,
            "hints": hints.collect::<Vec<_>>(),
        }))
    }
}

fn answered(said: &[Said]) -> impl Iterator<Item = (&str, &FlowAnswer)> {
    said.iter()
        .filter_map(|s| Some((s.se.as_str(), s.answer.as_ref().ok()?)))
}

pub(super) fn query(table: FlowTable, filter: FlowFilter, limit: u32) -> FlowQuery {
    FlowQuery {
        table: table.into(),
        filter: Some(filter),
        limit,
        ..FlowQuery::default()
    }
}

/// The table that `table` names; flows that live somewhere unless it says otherwise.
pub(super) fn table(word: Option<&str>) -> Result<FlowTable, ApiError> {
    match word {
        None | Some("local") => Ok(FlowTable::Local),
        Some("remote") => Ok(FlowTable::Remote),
        Some(other) => Err(ApiError::bad_request(format!(
            "table: {other:?} is not a table of flows; use local or remote"
        ))),
    }
}

fn protocol(lookup: &Lookup<'_>) -> Result<String, ApiError> {
    match lookup("protocol").as_deref() {
        None => Ok(String::new()),
        Some(word @ ("tcp" | "udp")) => Ok(word.to_owned()),
        Some(other) => Err(ApiError::bad_request(format!(
            "protocol: {other:?} is not steered; use tcp or udp"
        ))),
    }
}

fn address(lookup: &Lookup<'_>, field: &str) -> Result<String, ApiError> {
    let Some(text) = lookup(field) else {
        return Ok(String::new());
    };
    match text.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(ApiError::bad_request(format!(
            "{field}: {text:?} is no IP address"
        ))),
    }
}

pub(super) fn number(lookup: &Lookup<'_>, field: &str) -> Result<Option<u32>, ApiError> {
    let Some(text) = lookup(field) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("{field}: {text:?} is no number, or too large")))
}

fn port(lookup: &Lookup<'_>, field: &str) -> Result<u32, ApiError> {
    match number(lookup, field)? {
        None => Ok(0),
        Some(port @ 1..=65535) => Ok(port),
        Some(port) => Err(ApiError::bad_request(format!(
            "{field}: {port} is no port; use 1 to 65535"
        ))),
    }
}

fn end(lookup: &Lookup<'_>, field: &str) -> Result<SocketAddr, ApiError> {
    let text = lookup(field).unwrap_or_default();
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "{field}: {text:?} is not ADDRESS:PORT, as in 192.0.2.7:40000 or [2001:db8::7]:40000"
        ))
    })
}

fn virtual_service(snapshot: &Snapshot, lookup: &Lookup<'_>) -> Result<String, ApiError> {
    let Some(name) = lookup("vs") else {
        return Ok(String::new());
    };
    if let Some((uuid, _)) = snapshot.by_name("virtualservice", &name) {
        return Ok(uuid.to_owned());
    }
    match snapshot.view::<VirtualService>("virtualservice", &name) {
        Some(vs) => Ok(vs.uuid.clone()),
        None => Err(ApiError::bad_request(format!(
            "vs: there is no virtual service {name:?}; see /api/virtualservice"
        ))),
    }
}

#[cfg(test)]
mod tests;
