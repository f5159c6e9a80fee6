//! What is observed of one virtual service beside its runtime (avi-api 5.2 and 10.2): its counters by engine, how its last
//! scaling went, who could take it, its connections. What nobody counts is left out.

use super::clear::Counted;
use super::flows::Lookup;
use super::flowtable::address;
use super::members::{CONNECTIONS_MAX, Inquiry, Shown};
use super::runtime::Observer;
use super::{Assignment, Planner, Requested};
use crate::error::ApiError;
use crate::objects::{Snapshot, Stored};
use model::object::{self, Object};
use model::schema::object_type;
use model::view::{Ref, VirtualService};
use proto::v1::{FlowAnswer, FlowRow, VirtualServiceStatus};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which sub-path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceView {
    /// `runtime/detail`.
    Detail,
    /// `scaleoutstatus`.
    ScaleoutStatus,
    /// `placement`.
    Placement,
    /// `candidatesehostlist`.
    Candidates,
    /// `runtime/internal`.
    Internal,
    /// `scaleoutstatus/detail`.
    ScaleoutDetail,
    /// `sescaleoutstatus`.
    EngineScaleout,
    /// `tcpstat`.
    Tcp,
    /// `udpstat`.
    Udp,
    /// `keyval`.
    KeyVal,
}

/// A number that is another one when what was written means something else: clients that compare objects must not see a
/// change where a write has changed nothing.
fn version(vs: &Stored) -> u32 {
    let mut digest = Sha256::new();
    if let Some(ty) = object_type("virtualservice") {
        let mut object = object::with_defaults(ty, &vs.object);
        object.shift_remove("_last_modified");
        digest_of(&Value::Object(object), &mut digest);
    }
    let digest = digest.finalize();
    // Positive wherever it is read.
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) >> 1
}

/// Fields in the order of their names, whatever order they were written in.
fn digest_of(value: &Value, digest: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                digest.update(format!("{name:?}:"));
                digest_of(value, digest);
            }
            digest.update("}");
        }
        Value::Array(items) => {
            items.iter().for_each(|item| digest_of(item, digest));
            digest.update("]");
        }
        other => digest.update(format!("{other},")),
    }
}

/// Fields of a virtual service that are the server's (avi-api 5.2). A page of them costs look-ups, and a digest of each.
pub(super) fn server_fields(planner: &Planner, snapshot: &Snapshot, vs: &Stored) -> Object {
    let mut fields = Object::new();
    fields.insert("version".into(), version(vs).into());
    let uuid_in = |field: &str| vs.object.get(field)?.as_str()?.rsplit('/').next();
    let Some(vsvip) = uuid_in("vsvip_ref") else {
        return fields;
    };
    let Requested {
        fewest,
        num_se,
        num_standby_se,
    } = planner.requested(snapshot, vsvip);
    let more = num_se - fewest;
    let stored = snapshot.get("vsvip", vsvip);
    let vips = stored.and_then(|v| v.object.get("vip")?.as_array());
    let of_vip = |vip: &Value| {
        json!({
            "vip_id": vip.get("vip_id").unwrap_or(&json!("0")), "num_additional_se": more,
            "requested_resource": {"num_se": num_se, "num_standby_se": num_standby_se},
        })
    };
    let all: Vec<Value> = vips.into_iter().flatten().map(of_vip).collect();
    fields.insert("vip_runtime".into(), all.into());
    fields
}

impl Observer<'_> {
    /// `virtualservice/UUID/…`.
    ///
    /// # Errors
    /// 404.
    pub(super) fn service_view(&self, uuid: &str, view: ServiceView) -> Result<Value, ApiError> {
        let vs: Arc<VirtualService> = self
            .snapshot
            .view("virtualservice", uuid)
            .ok_or_else(|| ApiError::not_found("VirtualService"))?;
        match view {
            ServiceView::Detail => Ok(self.detail(&vs)),
            ServiceView::ScaleoutStatus => Ok(self.of_each_vip(uuid, SCALE_FIELDS)),
            ServiceView::Placement => Ok(self.of_each_vip(uuid, PLACEMENT_FIELDS)),
            ServiceView::Candidates => self.candidates(&vs),
            ServiceView::Internal => Ok(self.internal(&vs)),
            ServiceView::ScaleoutDetail => Ok(self.scaleout_detail(&vs)),
            ServiceView::EngineScaleout => Ok(self.engine_scaleout(&vs)),
            ServiceView::Tcp => Ok(self.tcp_counters(&vs)),
            ServiceView::Udp => Ok(self.udp_counters(&vs)),
            ServiceView::KeyVal => Ok(self.key_values(&vs)),
        }
    }

    /// An element per engine that serves it, or has connections left.
    fn detail(&self, vs: &VirtualService) -> Value {
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let Assignment { engines, group, .. } = self.planner.assignment(vsvip);
        let of = |se: &str| {
            let report = self.registry.get(se).report;
            let mut services = report.iter().flat_map(|r| &r.virtual_services);
            let own = services.find(|s| s.uuid == vs.uuid);
            json!({
                "se_uuid": se, "proc_id": "C0", "se_name": self.name(se), "vs_uuid": vs.uuid, "name": vs.name,
                "lingering": !engines.iter().any(|e| e == se),
                "oper_status": self.dated_on(vs, se),
                "fel4stats": own.map(|own| self.counters_on(se, own)).into_iter().collect::<Vec<_>>(),
            })
        };
        group.members.iter().map(|m| of(&m.engine)).collect()
    }

    fn counters_on(&self, se: &str, own: &VirtualServiceStatus) -> Value {
        let mut shown = counters(own);
        self.since_cleared(se, Counted::Service(own.uuid.clone()), &mut shown);
        shown
    }

    /// These fields of the runtime's summary of each VIP.
    pub(super) fn of_each_vip(&self, uuid: &str, fields: &[&str]) -> Value {
        let runtime = self.virtual_service(uuid).unwrap_or_default();
        let vips = runtime["vip_summary"].as_array().into_iter().flatten();
        let pick = |vip: &Value| -> Object {
            let kept = fields.iter();
            kept.filter_map(|f| Some(((*f).to_owned(), vip.get(*f)?.clone())))
                .collect()
        };
        vips.map(pick).collect()
    }

    /// The engines that could take it, as the planner sees them now, and why the others cannot.
    fn candidates(&self, vs: &VirtualService) -> Result<Value, ApiError> {
        let Some(vsvip) = &vs.vsvip_ref else {
            return Ok(json!({"se": [], "host": [], "can_spawn_new_se": false}));
        };
        let situation = self.planner.situation(self.snapshot, vsvip.uuid())?;
        let (demand, engines) = (&situation.demand, &situation.engines);
        let assigned = &situation.assigned;
        let choice = placement::scale_out(demand, engines, assigned, None);
        let best = choice.as_ref().ok().map(|c| c.engine.as_str());
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        for engine in engines {
            let mut row = json!({
                "se_ref": Ref::to("serviceengine", &engine.uuid).0, "se_name": engine.name,
            });
            match placement::unfit(demand, engine, engines, assigned) {
                None => {
                    row["recommended"] = (best == Some(engine.uuid.as_str())).into();
                    fit.push(row);
                }
                Some(why) => {
                    row["reason_code"] = why.code().into();
                    row["reason"] = why.to_string().into();
                    unfit.push(row);
                }
            }
        }
        Ok(json!({
            "se": fit, "host": [], "can_spawn_new_se": false, "unfit_se": unfit,
            "reason": choice.map_or_else(|e| e.to_string(), |c| c.reason),
        }))
    }

    /// `virtualservice/UUID/connections`: `ip_addr`, `ip_mask` and `port` are of the client; an element per engine.
    ///
    /// # Errors
    /// 400 with the parameter, 404.
    pub(super) async fn connections(
        &self,
        uuid: &str,
        lookup: &Lookup<'_>,
    ) -> Result<Value, ApiError> {
        let inquiry = self.inquiry(uuid, lookup)?;
        // What the engine cannot sift is sifted here, so that all of it has to come.
        let many = match inquiry.filter.is_exact() {
            true => inquiry.limit,
            false => CONNECTIONS_MAX,
        };
        let shown = self.ask_members(&inquiry, many, "connection", connections);
        Ok(shown.await)
    }
}

pub(super) const SCALE_FIELDS: &[&str] = &[
    "vip_id",
    "scale_status",
    "last_scale_status",
    "progress_percent",
    "num_se_requested",
    "num_se_assigned",
    "scaleout_in_progress",
    "scalein_in_progress",
    "migrate_in_progress",
];

const PLACEMENT_FIELDS: &[&str] = &[
    "vip_id",
    "oper_status",
    "num_se_requested",
    "num_se_assigned",
    "vip_placement_resolution_info",
    "service_engine",
    "lingering_service_engine",
];

/// Since the virtual service is on the engine; of UDP, flows count as connections.
pub(super) fn counters(status: &VirtualServiceStatus) -> Value {
    let finished = status
        .total_connections
        .saturating_sub(status.open_connections);
    let mut shown = json!({
        "open_conns": status.open_connections, "new_established_conns": status.total_connections,
        "finished_conns": finished, "rx_bytes": status.bytes_in, "tx_bytes": status.bytes_out,
    });
    // Engines of older versions do not count them.
    if let Some(dropped) = status.connections_dropped {
        shown["connections_dropped"] = dropped.into();
    }
    shown
}

/// As many as are to be shown.
fn connections(inquiry: &Inquiry, answer: &FlowAnswer) -> Shown {
    let limit = inquiry.limit as usize;
    let rows = inquiry.fitting(answer).take(limit);
    let rows: Vec<Value> = rows.map(connection).collect();
    let cut = rows.len() == limit && answer.flows.len() > rows.len();
    Shown { rows, cut }
}

/// The engine's own address towards the server is not known here.
fn connection(flow: &FlowRow) -> Value {
    let ip = |text: &str| text.parse().map_or(Value::Null, address);
    let server: Option<SocketAddr> = flow.server.parse().ok();
    json!({
        "client_src_ip": ip(&flow.client), "client_src_port": flow.client_port,
        "client_dst_ip": ip(&flow.vip), "client_dst_port": flow.vip_port,
        "server_dst_ip": server.map(|s| address(s.ip())), "server_dst_port": server.map(|s| s.port()),
        "protocol": flow.protocol.to_uppercase(), "age_ms": flow.age_ms,
        "bytes_in": flow.bytes_in, "bytes_out": flow.bytes_out,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, established};
    use super::*;
    use proto::v1::Report;

    #[tokio::test]
    async fn counters_are_those_that_each_engine_reports() {
        let fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let report = Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: vs.clone(),
                state: proto::v1::OperState::Up.into(),
                open_connections: 2,
                total_connections: 9,
                bytes_in: 100,
                bytes_out: 200,
                ..VirtualServiceStatus::default()
            }],
            ..Report::default()
        };
        fixture
            .registry
            .reported(&fixture.engine, fixture.session, report);
        let shown = fixture.observe(|o| o.service_view(&vs, ServiceView::Detail));
        let element = &shown.expect("there")[0];
        assert_eq!(
            element["fel4stats"],
            json!([{"open_conns": 2, "new_established_conns": 9, "finished_conns": 7, "rx_bytes": 100, "tx_bytes": 200}])
        );
        assert_eq!(element["oper_status"]["state"], "OPER_UP");
        assert_eq!(element["lingering"], false);
    }

    #[tokio::test]
    async fn candidates_are_the_planners_with_the_reason_of_the_others() {
        let fixture = Fixture::new().await;
        fixture.report(vec![established()]);
        let second = fixture
            .create("serviceengine", json!({"name": "se-2"}))
            .await;
        let third = fixture
            .create("serviceengine", json!({"name": "se-3"}))
            .await;
        fixture.open_session(&second, "10.10.10.12/24");
        let vs = fixture.uuid("virtualservice", "vs-1");
        let shown = fixture
            .observe(|o| o.service_view(&vs, ServiceView::Candidates))
            .expect("there");
        assert_eq!(shown["se"].as_array().map(Vec::len), Some(1), "{shown}");
        assert_eq!(
            (&shown["se"][0]["se_name"], &shown["se"][0]["recommended"]),
            (&json!("se-2"), &json!(true))
        );
        let unfit = shown["unfit_se"].as_array().expect("a list");
        let of = |name: &str| unfit.iter().find(|r| r["se_name"] == name);
        assert_eq!(of("se-1").expect("se-1")["reason_code"], "already_placed");
        let gone = of("se-3").expect("se-3");
        assert_eq!(gone["reason_code"], "not_connected");
        assert_eq!(gone["se_ref"], Ref::to("serviceengine", &third).0);
    }

    #[tokio::test]
    async fn the_servers_fields_say_how_many_engines_there_are() {
        let fixture = Fixture::new().await;
        let snapshot = fixture.snapshot();
        let (_, stored) = snapshot.by_name("virtualservice", "vs-1").expect("there");
        let fields = server_fields(&fixture.planner, &snapshot, stored);
        let resource = json!({"num_se": 1, "num_standby_se": 0});
        assert_eq!(
            fields["vip_runtime"],
            json!([{"vip_id": "1", "num_additional_se": 0, "requested_resource": resource}])
        );
    }
}
