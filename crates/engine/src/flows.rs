//! Answers to questions about flows: which live here, which live elsewhere, and what happens to one of them.
//!
//! Nothing of it is reported by itself: there may be hundreds of thousands of flows, and nobody looks at most of them.

use crate::steering::{Plan, Watch};
use dataplane::steering::{Event, FlowTables, WATCHED_MAX};
use flow::key::Protocol;
use flow::{Config, Flow, Verdict};
use proto::v1::{FlowAnswer, FlowEvent, FlowFilter, FlowQuery, FlowQuestion, FlowRow, FlowTable};
use proxy::{OpenFlow, ProxyHandle};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::watch;

/// Rows of an answer, whatever was asked for: an answer is one message.
const ROWS_MAX: usize = 10_000;

/// A flow is traced no longer than this after it was last asked about.
const TRACE_MAX: Duration = Duration::from_secs(60);

/// What answers need; clones share it.
#[derive(Clone)]
pub(crate) struct Flows {
    pub proxy: ProxyHandle,
    pub plans: watch::Receiver<Arc<Plan>>,
    pub watch: Watch,
    /// Of the pinned programs.
    pub bpf_dir: PathBuf,
    /// Our own uuid.
    pub se_uuid: String,
}

impl Flows {
    /// What is asked for, or why not.
    pub(crate) async fn answer(self, query: FlowQuery) -> FlowAnswer {
        let answer = match Filter::parse(query.filter.as_ref()) {
            Ok(filter) => self.answer_for(&query, filter).await,
            Err(problem) => problem_only(problem),
        };
        FlowAnswer {
            id: query.id,
            ..answer
        }
    }

    async fn answer_for(self, query: &FlowQuery, filter: Filter) -> FlowAnswer {
        let limit = (query.limit as usize).min(ROWS_MAX);
        match query.table() {
            FlowTable::Local => self.local(filter, limit).await,
            FlowTable::Remote => self.remote(filter, limit).await,
            FlowTable::Events => self.events(&filter, limit),
            FlowTable::Trace => match filter.flow() {
                Some(flow) => self.trace(flow, query, limit).await,
                None => problem_only(
                    "a trace needs protocol, client, client_port, vip and vip_port".into(),
                ),
            },
            FlowTable::Unspecified => {
                problem_only("this engine does not know what is asked for: upgrade it".into())
            }
        }
    }

    async fn local(&self, filter: Filter, limit: usize) -> FlowAnswer {
        let wanted = move |vs: &str, protocol, client, service| {
            let flow = Flow {
                protocol,
                client,
                service,
            };
            filter.fits(&flow) && filter.fits_service(vs)
        };
        let found = self.proxy.flows(Arc::new(wanted), limit).await;
        FlowAnswer {
            flows: found.flows.iter().map(|f| self.local_row(f)).collect(),
            matched: found.matched,
            ..FlowAnswer::default()
        }
    }

    fn local_row(&self, open: &OpenFlow) -> FlowRow {
        let flow = Flow {
            protocol: open.protocol,
            client: open.client,
            service: open.vip,
        };
        FlowRow {
            owner_uuid: self.se_uuid.clone(),
            found_by: "socket".into(),
            vs_uuid: open.vs_uuid.clone(),
            server: open.server.map(|s| s.to_string()).unwrap_or_default(),
            age_ms: millis(open.age),
            bytes_in: open.bytes_in,
            bytes_out: open.bytes_out,
            hinted: open.hinted,
            ..row(&flow)
        }
    }

    /// The table is read on a thread that may block.
    async fn remote(&self, filter: Filter, limit: usize) -> FlowAnswer {
        let (dir, plan) = (self.bpf_dir.clone(), self.plans.borrow().clone());
        let read = move || match FlowTables::open(&dir) {
            Ok(tables) => remote(&tables, &plan.config, &filter, limit),
            Err(error) => unsteered(&error),
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| problem_only(error.to_string()))
    }

    fn events(&self, filter: &Filter, limit: usize) -> FlowAnswer {
        let plan = self.plans.borrow().clone();
        let seen = self.watch.lock();
        let fits = |event: &&Event| filter.fits(&event.flow);
        let matched = seen.events().filter(fits).count();
        let newest = seen
            .events()
            .filter(fits)
            .skip(matched.saturating_sub(limit));
        FlowAnswer {
            events: newest.map(|e| event_row(e, &plan.config)).collect(),
            matched: matched as u64,
            ..FlowAnswer::default()
        }
    }

    async fn trace(&self, flow: Flow, query: &FlowQuery, limit: usize) -> FlowAnswer {
        let filter = || Filter::of(&flow);
        let mut answer = self.events(&filter(), limit);
        let plan = self.plans.borrow().clone();
        answer.member = group_of(&plan.config, &flow).is_some();
        if query.trace_s > 0 && !self.watch_flow(flow, query.trace_s) {
            answer.problem = format!(
                "{WATCHED_MAX} flows are being traced here already: only probes and answers of this one are seen"
            );
        }
        answer.flows = self.local(filter(), 1).await.flows;
        match FlowTables::open(&self.bpf_dir) {
            Ok(tables) => {
                let cached = remote_row(&tables, &plan.config, flow);
                answer.flows.extend(cached);
                answer.question = question(&tables, &plan.config, flow);
            }
            Err(error) => answer.problem = unsteered(&error).problem,
        }
        answer
    }

    fn watch_flow(&self, flow: Flow, seconds: u32) -> bool {
        let while_ = Duration::from_secs(seconds.into()).min(TRACE_MAX);
        self.watch.lock().trace(flow, Instant::now() + while_)
    }
}

fn problem_only(problem: String) -> FlowAnswer {
    FlowAnswer {
        problem,
        ..FlowAnswer::default()
    }
}

fn unsteered(error: &dataplane::steering::Error) -> FlowAnswer {
    problem_only(format!("no steering program is loaded here: {error}"))
}

fn remote(tables: &FlowTables, config: &Config, filter: &Filter, limit: usize) -> FlowAnswer {
    let found = tables.remote(&|flow| filter.fits(flow), limit);
    let rows = found.flows.iter();
    FlowAnswer {
        flows: rows.map(|f| cached(&f.flow, f.member, config)).collect(),
        matched: found.matched,
        ..FlowAnswer::default()
    }
}

fn remote_row(tables: &FlowTables, config: &Config, flow: Flow) -> Option<FlowRow> {
    Some(cached(&flow, tables.owner(&flow)?, config))
}

fn cached(flow: &Flow, member: u8, config: &Config) -> FlowRow {
    FlowRow {
        owner_uuid: member_uuid(config, flow, member).unwrap_or_default(),
        found_by: "cache".into(),
        ..row(flow)
    }
}

fn question(tables: &FlowTables, config: &Config, flow: Flow) -> Option<FlowQuestion> {
    let question = tables.question(&flow)?;
    let denied = (0..64).filter(|id| question.denied >> id & 1 == 1);
    Some(FlowQuestion {
        number: question.number.into(),
        probes: question.probes.into(),
        denied_uuids: denied
            .filter_map(|id| member_uuid(config, &flow, id))
            .collect(),
        age_ms: millis(question.age),
    })
}

fn row(flow: &Flow) -> FlowRow {
    FlowRow {
        protocol: flow.protocol.code().into(),
        client: flow.client.ip().to_string(),
        client_port: flow.client.port().into(),
        vip: flow.service.ip().to_string(),
        vip_port: flow.service.port().into(),
        ..FlowRow::default()
    }
}

fn event_row(event: &Event, config: &Config) -> FlowEvent {
    let at = event.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let member =
        names_member(event.verdict).then(|| member_uuid(config, &event.flow, event.member));
    let row = row(&event.flow);
    FlowEvent {
        unix_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        protocol: row.protocol,
        client: row.client,
        client_port: row.client_port,
        vip: row.vip,
        vip_port: row.vip_port,
        verdict: event.verdict.code().into(),
        member_uuid: member.flatten().unwrap_or_default(),
        question: event.number.into(),
    }
}

/// Whether the event of this verdict says a member that is not us.
fn names_member(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::TunnelNew
            | Verdict::TunnelHint
            | Verdict::TunnelCache
            | Verdict::DeliverData
            | Verdict::Return
            | Verdict::Returned
            | Verdict::ClaimTaken
            | Verdict::DenyTaken
    )
}

/// The group of the flow's service.
fn group_of<'a>(config: &'a Config, flow: &Flow) -> Option<&'a flow::Group> {
    let of = |s: &&flow::Service| s.address == flow.service && s.protocol == flow.protocol;
    let service = config.services.iter().find(of)?;
    config.groups.get(service.group)
}

fn member_uuid(config: &Config, flow: &Flow, id: u8) -> Option<String> {
    let members = &group_of(config, flow)?.members;
    let member = members.iter().find(|m| m.id == id)?;
    Some(config.peers.get(member.peer)?.se_uuid.clone())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Which flows; what is not said is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Filter {
    protocol: Option<Protocol>,
    client: Option<IpAddr>,
    client_port: Option<u16>,
    vip: Option<IpAddr>,
    vip_port: Option<u16>,
    vs_uuid: String,
}

impl Filter {
    /// An error names the field.
    fn parse(filter: Option<&FlowFilter>) -> Result<Self, String> {
        let Some(filter) = filter else {
            return Ok(Self::default());
        };
        let protocol = match filter.protocol.as_str() {
            "" => None,
            word => Some(
                Protocol::from_code(word).ok_or(format!("protocol: {word:?} is not tcp or udp"))?,
            ),
        };
        Ok(Self {
            protocol,
            client: address("client", &filter.client)?,
            client_port: port("client_port", filter.client_port)?,
            vip: address("vip", &filter.vip)?,
            vip_port: port("vip_port", filter.vip_port)?,
            vs_uuid: filter.vs_uuid.clone(),
        })
    }

    /// Exactly this flow.
    fn of(flow: &Flow) -> Self {
        Self {
            protocol: Some(flow.protocol),
            client: Some(flow.client.ip()),
            client_port: Some(flow.client.port()),
            vip: Some(flow.service.ip()),
            vip_port: Some(flow.service.port()),
            vs_uuid: String::new(),
        }
    }

    /// The only flow that fits, if it says so much.
    fn flow(&self) -> Option<Flow> {
        Some(Flow {
            protocol: self.protocol?,
            client: SocketAddr::new(self.client?, self.client_port?),
            service: SocketAddr::new(self.vip?, self.vip_port?),
        })
    }

    fn fits(&self, flow: &Flow) -> bool {
        fn is<T: PartialEq>(wanted: Option<T>, there: T) -> bool {
            wanted.is_none_or(|wanted| wanted == there)
        }
        is(self.protocol, flow.protocol)
            && is(self.client, flow.client.ip())
            && is(self.client_port, flow.client.port())
            && is(self.vip, flow.service.ip())
            && is(self.vip_port, flow.service.port())
    }

    fn fits_service(&self, uuid: &str) -> bool {
        self.vs_uuid.is_empty() || self.vs_uuid == uuid
    }
}

fn address(field: &str, text: &str) -> Result<Option<IpAddr>, String> {
    match text {
        "" => Ok(None),
        text => {
            let parsed = text.parse();
            parsed
                .map(Some)
                .map_err(|_| format!("{field}: {text:?} is no IP address"))
        }
    }
}

fn port(field: &str, number: u32) -> Result<Option<u16>, String> {
    match u16::try_from(number) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(format!("{field}: {number} is no port")),
    }
}

#[cfg(test)]
mod tests;
