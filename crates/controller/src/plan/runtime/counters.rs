//! `tcpstat`, `udpstat` and `keyval` of a virtual service (avi-api 10.2): what each engine has counted since it is
//! there, or since that was cleared. Segments,
//! retransmissions and windows are the kernel's, which does not count them by virtual service: they are left out.

use super::super::again::NO_SESSION;
use super::super::clear::Counted;
use super::Observer;
use super::service::{reported, udp_status};
use model::view::{Ref, VirtualService};
use proto::v1::{HintStats, VirtualServiceStatus};
use serde_json::{Value, json};

impl Observer<'_> {
    /// An element per engine.
    pub(in crate::plan) fn tcp_counters(&self, vs: &VirtualService) -> Value {
        self.counted(vs, "tcp_stat", tcp)
    }

    /// An element per engine; null where no port is UDP's.
    pub(in crate::plan) fn udp_counters(&self, vs: &VirtualService) -> Value {
        self.counted(vs, "udp_stat", |status| {
            status.udp.map(udp_status).unwrap_or_default()
        })
    }

    /// An element per engine: scripts keep values there, and engines run none.
    pub(in crate::plan) fn key_values(&self, vs: &VirtualService) -> Value {
        self.counted(vs, "keyval", |_| json!([]))
    }

    fn counted(
        &self,
        vs: &VirtualService,
        field: &str,
        of: impl Fn(&VirtualServiceStatus) -> Value,
    ) -> Value {
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let group = self.planner.assignment(vsvip).group;
        let each = group.members.iter().map(|member| {
            let se = member.engine.as_str();
            let state = self.registry.get(se);
            let mut element = json!({
                "se_uuid": se, "proc_id": "C0", "se_name": self.name(se), "vs_uuid": vs.uuid, "name": vs.name,
            });
            match reported(&state, vs).filter(|_| state.connected_since.is_some()) {
                Some(status) => {
                    let mut shown = of(status);
                    self.since_cleared(se, Counted::Service(vs.uuid.clone()), &mut shown);
                    element[field] = shown;
                }
                None if state.connected_since.is_none() => element["not_answered"] = NO_SESSION.into(),
                None => element["not_answered"] = "it has not reported it yet".into(),
            }
            element
        });
        each.collect()
    }
}

/// Where UDP ports are beside TCP's, what is counted of both together is left out.
fn tcp(status: &VirtualServiceStatus) -> Value {
    let udp_flows = status.udp.map_or(0, |udp| udp.flows);
    let open = status.open_connections.saturating_sub(udp_flows);
    let mut shown = json!({"open_conns": open});
    if status.udp.is_none() {
        shown["new_established_conns"] = status.total_connections.into();
        shown["finished_conns"] = status.total_connections.saturating_sub(open).into();
        shown["rx_bytes"] = status.bytes_in.into();
        shown["tx_bytes"] = status.bytes_out.into();
    }
    if let Some(hints) = status.hints {
        shown["owner_hints"] = owner_hints(hints);
    }
    shown
}

fn owner_hints(hints: HintStats) -> Value {
    let HintStats {
        stamped,
        unstamped_no_timestamps,
        stamp_failed,
        renewed,
    } = hints;
    json!({
        "stamped": stamped, "renewed": renewed,
        "unstamped_no_timestamps": unstamped_no_timestamps, "stamp_failed": stamp_failed,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::ServiceView;
    use super::super::super::fixture::Fixture;
    use super::*;
    use proto::v1::{Report, UdpStatus};

    fn report(fixture: &Fixture, status: VirtualServiceStatus) -> String {
        let uuid = fixture.uuid("virtualservice", "vs-1");
        let report = Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: uuid.clone(),
                ..status
            }],
            ..Report::default()
        };
        let (engine, session) = (&fixture.engine, fixture.session);
        fixture.registry.reported(engine, session, report);
        uuid
    }

    fn shown(fixture: &Fixture, vs: &str, view: ServiceView) -> Value {
        let shown = fixture.observe(|o| o.service_view(vs, view));
        shown.expect("there")[0].clone()
    }

    #[tokio::test]
    async fn tcp_is_told_from_udp_as_far_as_it_is_counted_apart() {
        let fixture = Fixture::new().await;
        let status = VirtualServiceStatus {
            open_connections: 5,
            total_connections: 9,
            bytes_in: 100,
            bytes_out: 200,
            ..VirtualServiceStatus::default()
        };
        let vs = report(&fixture, status.clone());
        let alone = shown(&fixture, &vs, ServiceView::Tcp);
        let expected = json!({"open_conns": 5, "new_established_conns": 9, "finished_conns": 4,
            "rx_bytes": 100, "tx_bytes": 200});
        assert_eq!(alone["tcp_stat"], expected);
        assert_eq!(alone["se_uuid"], json!(fixture.engine));
        let none = shown(&fixture, &vs, ServiceView::Udp);
        assert_eq!(none.get("udp_stat"), Some(&Value::Null));
        let udp = UdpStatus {
            flows: 2,
            dropped: 1,
            ..UdpStatus::default()
        };
        let both = VirtualServiceStatus {
            udp: Some(udp),
            ..status
        };
        report(&fixture, both);
        let tcp = shown(&fixture, &vs, ServiceView::Tcp);
        assert_eq!(tcp["tcp_stat"], json!({"open_conns": 3}));
        let udp = shown(&fixture, &vs, ServiceView::Udp);
        let udp = &udp["udp_stat"];
        assert_eq!((&udp["flows"], &udp["dropped"]), (&json!(2), &json!(1)));
    }

    #[tokio::test]
    async fn an_engine_that_says_nothing_is_no_engine_that_has_counted_nothing() {
        let fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let new = shown(&fixture, &vs, ServiceView::Tcp);
        assert_eq!(new["not_answered"], "it has not reported it yet");
        assert_eq!(new.get("tcp_stat"), None);
        report(&fixture, VirtualServiceStatus::default());
        let values = shown(&fixture, &vs, ServiceView::KeyVal);
        assert_eq!(values["keyval"], json!([]));
        let (engine, session) = (&fixture.engine, fixture.session);
        fixture.registry.close(engine, session, "gone");
        let gone = shown(&fixture, &vs, ServiceView::KeyVal);
        assert_eq!(gone["not_answered"], NO_SESSION);
    }
}
