//! Counters that begin anew when an operator clears them. What they were at that moment is remembered here, and taken off where the API shows
//! them (avi-api 10.2 and 10.4). Engines, metrics and series know nothing of it, and go on.
//!
//! A counter that is below what it was then has begun anew by itself: its engine was started anew, or its interface made anew. What was
//! remembered of it is forgotten then, as it is with its engine, its virtual service, and this process.

use super::again::NO_SESSION;
use super::host;
use super::runtime::Observer;
use super::{Planner, service};
use crate::objects::Snapshot;
use model::view::{Ref, VirtualService};
use proto::v1::{HostAnswer, HostTable};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counters that begin anew together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counted {
    /// Of the virtual service with this uuid, on an engine: `runtime/detail`.
    Service(String),
    /// Of the engine's process: `load` of its runtime.
    Process,
    /// Of its host: the same.
    Host,
    /// Of its steering programs: `flowtablestat`.
    Verdicts,
    /// Of the interface with this name: `interface`.
    Interface(String),
}

impl Counted {
    /// Names of the counters, where there is anything else beside them.
    fn names(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::Service(_) => Some(&[
                "new_established_conns",
                "finished_conns",
                "rx_bytes",
                "tx_bytes",
                "connections_dropped",
            ]),
            Self::Process => Some(&["process_cpu_ms"]),
            Self::Host => Some(&[
                "host_busy_ms",
                "host_softirq_ms",
                "host_cpu_ms",
                "rx_packets",
                "rx_bytes",
                "tx_packets",
                "tx_bytes",
            ]),
            Self::Verdicts | Self::Interface(_) => None,
        }
    }

    /// They begin anew with the engine's process, also where they are above what they were.
    fn is_of_process(&self) -> bool {
        matches!(self, Self::Service(_) | Self::Process)
    }
}

/// What counters were when they were cleared.
#[derive(Debug)]
struct Baseline {
    /// Which start of the engine's process it was.
    boot_id: String,
    /// By name.
    values: BTreeMap<String, u64>,
}

impl Baseline {
    /// Whether these are the same counters, further on.
    fn is_of(&self, of: &Counted, boot_id: &str, now: &Map<String, Value>) -> bool {
        let value = |name: &str| now.get(name).and_then(Value::as_u64);
        let has_gone_on = |(name, then): (&String, &u64)| value(name).is_none_or(|v| v >= *then);
        let same_process = !of.is_of_process() || self.boot_id == boot_id;
        same_process && self.values.iter().all(has_gone_on)
    }
}

/// See the module's documentation. By engine; there are as many as there are counters.
#[derive(Debug, Default)]
pub(super) struct Baselines(Mutex<BTreeMap<(String, Counted), Baseline>>);

impl Baselines {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(String, Counted), Baseline>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters of an engine, as they are now, begin here.
    fn set(&self, se: &str, of: Counted, boot_id: &str, now: &Value) {
        let names = of.names();
        let is_counter = |name: &str| names.is_none_or(|names| names.contains(&name));
        let fields = now.as_object().into_iter().flatten();
        let counters = fields.filter(|(name, _)| is_counter(name));
        let values = counters.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
        let baseline = Baseline {
            boot_id: boot_id.to_owned(),
            values: values.collect(),
        };
        self.all().insert((se.to_owned(), of), baseline);
    }

    /// Those of an engine that are of this kind begin where they always did.
    fn forget(&self, se: &str, is_meant: impl Fn(&Counted) -> bool) {
        self.all()
            .retain(|(engine, of), _| engine != se || !is_meant(of));
    }

    /// Takes off what counters were when they were cleared.
    pub(super) fn take_off(&self, se: &str, of: Counted, boot_id: &str, now: &mut Value) {
        let Some(fields) = now.as_object_mut() else {
            return;
        };
        let mut all = self.all();
        let key = (se.to_owned(), of);
        let Some(baseline) = all.get(&key) else {
            return;
        };
        if !baseline.is_of(&key.1, boot_id, fields) {
            all.remove(&key);
            return;
        }
        for (name, then) in &baseline.values {
            if let Some(value) = fields.get_mut(name) {
                *value = value.as_u64().map_or(0, |v| v.saturating_sub(*then)).into();
            }
        }
    }
}

impl Planner {
    /// Forgets what counters were whose engine or virtual service is gone, or is not on that engine any more.
    pub(super) fn forget_baselines(&self, snapshot: &Snapshot) {
        let is_on = |se: &str, vs: &str| {
            let view = snapshot.view::<VirtualService>("virtualservice", vs);
            let vsvip = view.and_then(|vs| vs.vsvip_ref.clone());
            vsvip.is_some_and(|vsvip| self.assignment(vsvip.uuid()).is_at(se))
        };
        self.cleared.all().retain(|(se, of), _| {
            let there = snapshot.get("serviceengine", se).is_some();
            there
                && match of {
                    Counted::Service(vs) => is_on(se, vs),
                    _ => true,
                }
        });
    }
}

impl Observer<'_> {
    /// Takes off what counters of an engine were when they were cleared.
    pub(super) fn since_cleared(&self, se: &str, of: Counted, now: &mut Value) {
        let boot_id = self.registry.get(se).report_boot_id;
        self.planner.cleared.take_off(se, of, &boot_id, now);
    }

    /// Clears the counters of a virtual service on each of its engines; gives those that have reported some.
    pub(super) fn clear_service(&self, vs: &VirtualService) -> Vec<String> {
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let members = self.planner.assignment(vsvip).group.members;
        let engines = members.into_iter().map(|member| member.engine);
        engines
            .filter(|se| self.clear_service_on(vs, se).is_some())
            .collect()
    }

    fn clear_service_on(&self, vs: &VirtualService, se: &str) -> Option<()> {
        let state = self.registry.get(se);
        let report = state.report?;
        let own = report.virtual_services.iter().find(|s| s.uuid == vs.uuid)?;
        let of = Counted::Service(vs.uuid.clone());
        let now = service::counters(own);
        self.planner
            .cleared
            .set(se, of, &state.report_boot_id, &now);
        Some(())
    }

    /// Clears the counters of an engine's runtime; none while it has reported none.
    pub(super) fn clear_load(&self, se: &str) -> Option<()> {
        let state = self.registry.get(se);
        let load = state.report.as_ref()?.stats.as_ref()?.load?;
        let now = super::runtime::engine_load(load);
        for of in [Counted::Process, Counted::Host] {
            self.planner
                .cleared
                .set(se, of, &state.report_boot_id, &now);
        }
        Some(())
    }

    /// Clears the counters of an engine's steering programs; none while there are none, as far as is known.
    pub(super) fn clear_verdicts(&self, se: &str) -> Option<()> {
        let now = self.reported_verdicts(se)?;
        self.planner.cleared.set(se, Counted::Verdicts, "", &now);
        Some(())
    }

    /// Counters of an engine's steering programs, as it reports them.
    pub(super) fn reported_verdicts(&self, se: &str) -> Option<Value> {
        let seen = self.seen(se)?;
        seen.report.steering.as_ref()?;
        Some(host::verdicts(&seen.report))
    }

    /// Clears the counters of an engine's interfaces, as it says them now; gives their names.
    ///
    /// # Errors
    /// Why it says nothing.
    pub(super) async fn clear_interfaces(&self, se: &str) -> Result<Vec<String>, String> {
        let answer = self.interfaces_now(se).await?;
        let cleared = &self.planner.cleared;
        cleared.forget(se, |of| matches!(of, Counted::Interface(_)));
        let mut names = Vec::new();
        for row in &answer.interfaces {
            let name = row.interface.clone().unwrap_or_default().name;
            if let Some(counters) = row.counters {
                let now = host::interface_stats(counters);
                cleared.set(se, Counted::Interface(name.clone()), "", &now);
                names.push(name);
            }
        }
        Ok(names)
    }

    /// An engine's interfaces and their counters, as it says them now.
    ///
    /// # Errors
    /// Why it says nothing.
    pub(super) async fn interfaces_now(&self, se: &str) -> Result<HostAnswer, String> {
        let answer = self.ask_host(se, HostTable::Interfaces).await?;
        match answer.problem.is_empty() {
            true => Ok(answer),
            false => Err(answer.problem),
        }
    }

    /// Why an engine's programs have no counters that could be cleared.
    pub(super) fn why_no_verdicts(&self, se: &str) -> &'static str {
        match self.registry.is_connected(se) {
            false => NO_SESSION,
            true => "it has not reported any: no steering program is loaded there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::{EngineView, ServiceView};
    use super::*;
    use proto::v1::{
        EngineLoad, EngineStats, Hello, Report, Steering, VerdictCount, VirtualServiceStatus,
    };
    use serde_json::json;

    const ETH0: &str = "eth0";

    fn shown(baselines: &Baselines, mut now: Value) -> Value {
        let of = Counted::Interface(ETH0.into());
        baselines.take_off("se", of, "", &mut now);
        now
    }

    #[test]
    fn what_counters_were_is_taken_off_until_one_begins_anew_by_itself() {
        let baselines = Baselines::default();
        let of = Counted::Interface(ETH0.into());
        let now = |packets: u64, errors: u64| json!({"ipackets": packets, "ierrors": errors});
        assert_eq!(shown(&baselines, now(5, 1)), now(5, 1));
        baselines.set("se", of.clone(), "", &now(5, 1));
        assert_eq!(shown(&baselines, now(5, 1)), now(0, 0));
        assert_eq!(shown(&baselines, now(9, 1)), now(4, 0));
        assert_eq!(shown(&baselines, now(9, 0)), now(9, 0), "made anew");
        assert_eq!(shown(&baselines, now(10, 2)), now(10, 2), "and forgotten");
        baselines.set("se", of, "", &now(10, 2));
        baselines.forget("se", |of| matches!(of, Counted::Verdicts));
        assert_eq!(shown(&baselines, now(10, 2)), now(0, 0));
        baselines.forget("se", |of| matches!(of, Counted::Interface(_)));
        assert_eq!(shown(&baselines, now(10, 2)), now(10, 2));
    }

    #[test]
    fn counters_of_a_process_begin_anew_with_it_also_where_they_are_higher() {
        let baselines = Baselines::default();
        let load = |cpu: u64, packets: u64| json!({"at_ms": 1000, "process_cpu_ms": cpu, "rx_packets": packets});
        for of in [Counted::Process, Counted::Host] {
            baselines.set("se", of, "first", &load(10, 100));
        }
        let seen = |boot_id: &str, mut now: Value| {
            for of in [Counted::Process, Counted::Host] {
                baselines.take_off("se", of, boot_id, &mut now);
            }
            now
        };
        assert_eq!(seen("first", load(15, 130)), load(5, 30));
        assert_eq!(seen("second", load(20, 140)), load(20, 40));
    }

    fn report(vs: &str, connections: u64, packets: u64) -> Report {
        Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: vs.into(),
                open_connections: 2,
                total_connections: connections,
                bytes_in: 10 * connections,
                connections_dropped: Some(connections),
                ..VirtualServiceStatus::default()
            }],
            stats: Some(EngineStats {
                load: Some(EngineLoad {
                    rx_packets: packets,
                    ..EngineLoad::default()
                }),
                ..EngineStats::default()
            }),
            steering: Some(Steering {
                verdicts: vec![VerdictCount {
                    verdict: "local_new".into(),
                    packets,
                }],
                ..Steering::default()
            }),
            ..Report::default()
        }
    }

    /// Connections, packets and new flows, as the API shows them; what was dropped, and the first two in other views.
    fn counts(fixture: &Fixture, vs: &str) -> [Value; 6] {
        fixture.observe(|o| {
            let detail = o.service_view(vs, ServiceView::Detail).expect("there");
            let runtime = o.service_engine(&fixture.engine, &|_, _| true);
            let flows = o.engine_flow_counters(&fixture.engine);
            let tcp = o.service_view(vs, ServiceView::Tcp).expect("there");
            let cpu = o.engine_view(&fixture.engine, EngineView::Cpu, &|_, _| true);
            let own = &detail[0]["fel4stats"][0];
            [
                own["new_established_conns"].clone(),
                runtime["load"]["rx_packets"].clone(),
                flows[0]["dispatch"][0]["flow_rx_create"].clone(),
                own["connections_dropped"].clone(),
                tcp[0]["tcp_stat"]["new_established_conns"].clone(),
                cpu[0]["cpu"]["rx_packets"].clone(),
            ]
        })
    }

    #[tokio::test]
    async fn every_view_begins_anew_and_a_new_process_ends_it_for_what_it_counts() {
        let mut fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let reports = |fixture: &Fixture, connections, packets| {
            let report = report(&vs, connections, packets);
            let (se, session) = (&fixture.engine, fixture.session);
            fixture.registry.reported(se, session, report);
        };
        reports(&fixture, 9, 100);
        fixture.observe(|o| {
            let view = o.snapshot.view::<VirtualService>("virtualservice", &vs);
            let engines = o.clear_service(&view.expect("there"));
            assert_eq!(engines, [fixture.engine.as_str()]);
            o.clear_load(&fixture.engine).expect("reported");
            o.clear_verdicts(&fixture.engine).expect("reported");
        });
        assert_eq!(counts(&fixture, &vs), [0; 6]);
        reports(&fixture, 11, 130);
        assert_eq!(counts(&fixture, &vs), [2, 30, 30, 2, 2, 30]);
        // Programs and interfaces go on counting under a new process.
        let hello = Hello {
            boot_id: "another".into(),
            ..Hello::default()
        };
        let (outbox, receiver) = crate::engines::outbox::Outbox::new();
        std::mem::forget(receiver);
        fixture.session = fixture.registry.open(&fixture.engine, hello, outbox);
        // It has not reported.
        assert_eq!(counts(&fixture, &vs), [2, 30, 30, 2, 2, 30]);
        reports(&fixture, 12, 140);
        assert_eq!(counts(&fixture, &vs), [12, 40, 40, 12, 12, 40]);
    }

    #[tokio::test]
    async fn what_is_remembered_goes_with_the_engine_and_the_service() {
        let fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let (se, session) = (&fixture.engine, fixture.session);
        fixture.registry.reported(se, session, report(&vs, 9, 100));
        fixture.observe(|o| {
            let view = o.snapshot.view::<VirtualService>("virtualservice", &vs);
            o.clear_service(&view.expect("there"));
            o.clear_load(se).expect("reported");
        });
        let remembered = || fixture.planner.cleared.all().len();
        fixture.round().await;
        assert_eq!(remembered(), 3);
        fixture.delete("virtualservice", &vs).await;
        fixture.round().await;
        assert_eq!(remembered(), 2);
        fixture.delete("serviceengine", se).await;
        fixture.round().await;
        assert_eq!(remembered(), 0);
    }
}
