//! What the API calls: actions on placement, join tokens, and everything that is observed.

mod actions;
mod views;

use super::scope::Narrow;
use super::{
    FlowView, HostView, Planner, Roles, RoutingText, ScaleIn, ServiceView, TopologyPage, Wanted,
    flows, preview, routing, runtime, scope, service, situation, topology,
};
use crate::api::{Context, Parts};
use crate::engines::ca::Ca;
use crate::engines::{Registry, join};
use crate::error::ApiError;
use crate::objects::{Objects, Planned, Snapshot, Stored, refs};
use model::object::Object;
use model::schema::ObjectType;
use model::view::{Ref, VirtualService, VsVip};
use prometheus_client::registry::Registry as Registered;
use proto::v1::FlowTable;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// See the module's documentation.
pub struct Backend {
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    planner: Arc<Planner>,
    ca: Arc<Ca>,
}

impl Backend {
    /// Over these parts.
    pub fn new(
        objects: Arc<Objects>,
        registry: Arc<Registry>,
        planner: Arc<Planner>,
        ca: Arc<Ca>,
    ) -> Self {
        Self {
            objects,
            registry,
            planner,
            ca,
        }
    }

    fn observer<'a>(&'a self, snapshot: &'a Snapshot) -> runtime::Observer<'a> {
        runtime::Observer {
            snapshot,
            registry: &self.registry,
            planner: &self.planner,
        }
    }

    /// `POST /api/virtualservice/UUID/scaleout` (avi-api section 9).
    ///
    /// # Errors
    /// 400 with the field or the planner's reason.
    pub async fn scale_out(
        &self,
        vs: &str,
        body: Object,
        _context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [wanted]) = asked(&snapshot, vs, &body, ["to_se_ref"])?;
        let wanted = wanted_of(&body, wanted.as_deref())?;
        let choice = self.planner.scale_out(&vsvip, wanted).await?;
        Ok(self.scaled(&vsvip, &choice))
    }

    /// `POST /api/virtualservice/UUID/scalein` (avi-api section 9).
    ///
    /// # Errors
    /// 400 with the field or the planner's reason.
    pub async fn scale_in(
        &self,
        vs: &str,
        body: Object,
        _context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [wanted]) = asked(&snapshot, vs, &body, ["from_se_ref"])?;
        let ask = scale_in_asked(&body, wanted.as_deref())?;
        let (choice, left) = self.planner.scale_in(&vsvip, ask).await?;
        let mut reply = self.scaled(&vsvip, &choice);
        let field = if ask.force { "flows_cut" } else { "flows_left" };
        reply[field] = json!(left.map(|l| l.flows));
        Ok(reply)
    }

    /// `POST /api/virtualservice/UUID/migrate` (avi-api section 9).
    ///
    /// # Errors
    /// 400 with the field or the planner's reason.
    pub async fn migrate(&self, vs: &str, body: Object) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [from, to]) = asked(&snapshot, vs, &body, ["from_se_ref", "to_se_ref"])?;
        let to = wanted_of(&body, to.as_deref())?;
        let migrated = self.planner.migrate(&vsvip, from.as_deref(), to);
        Ok(self.scaled(&vsvip, &migrated.await?))
    }

    /// `POST /api/virtualservice/UUID/switchover` (avi-api section 9): `se_uuid` becomes the active engine.
    ///
    /// # Errors
    /// 400 with the field or the planner's reason.
    pub async fn switch_over(&self, vs: &str, body: Object) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [to]) = asked(&snapshot, vs, &body, ["se_uuid"])?;
        let choice = self.planner.switch_over(&vsvip, to.as_deref()).await?;
        Ok(self.scaled(&vsvip, &choice))
    }

    /// What [`Self::switch_over`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_switch_over(
        &self,
        vs: &str,
        body: &Object,
        context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [to]) = asked(&snapshot, vs, body, ["se_uuid"])?;
        let choice = self.planner.choose_switchover(&vsvip, to.as_deref())?;
        let roles = Roles {
            moves: vec![(vsvip, choice)],
            stay: Vec::new(),
        };
        Ok(self.preview_roles(&roles, context))
    }

    /// `POST /api/serviceengine/UUID/switchover` (avi-api section 9): others become active for all that this one is.
    ///
    /// # Errors
    /// 400 with the planner's reason.
    pub async fn hand_over(&self, se: &str, context: &Context) -> Result<Value, ApiError> {
        let roles = self.planner.hand_over(se).await?;
        Ok(self.roles(&roles, context))
    }

    /// What [`Self::hand_over`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_hand_over(&self, se: &str, context: &Context) -> Result<Value, ApiError> {
        let roles = self.planner.choose_hand_over(se)?;
        Ok(self.preview_roles(&roles, context))
    }

    /// `POST /api/serviceenginegroup/UUID/redistribute` (avi-api section 9): each VIP becomes active on the engine of its tag.
    ///
    /// # Errors
    /// 400 with the field or the planner's reason, 404.
    pub async fn redistribute(&self, group: &str, context: &Context) -> Result<Value, ApiError> {
        let roles = self.planner.redistribute(group).await?;
        Ok(self.roles(&roles, context))
    }

    /// What [`Self::redistribute`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_redistribute(&self, group: &str, context: &Context) -> Result<Value, ApiError> {
        let roles = self.planner.choose_redistribution(group)?;
        Ok(self.preview_roles(&roles, context))
    }

    /// What became of active roles: all are counted, and shown are those of VIPs that the caller sees.
    fn roles(&self, roles: &Roles, context: &Context) -> Value {
        let snapshot = self.objects.snapshot();
        let seen = |vsvip: &String| sees(context, "vsvip", vsvip, &snapshot);
        let vip = |vsvip: &str| {
            let services = situation::services_of(&snapshot, vsvip);
            let names: Vec<&str> = services.iter().map(|vs| vs.name.as_str()).collect();
            json!({
                "vsvip_ref": Ref::to("vsvip", vsvip).0,
                "vsvip": snapshot.name_of("vsvip", vsvip),
                "virtual_services": names,
            })
        };
        let moves = roles.moves.iter().filter(|(vsvip, _)| seen(vsvip));
        let moves = moves.map(|(vsvip, choice)| {
            let mut shown = vip(vsvip);
            shown["se_ref"] = Ref::to("serviceengine", &choice.engine).0.into();
            shown["se_name"] = choice.name.clone().into();
            shown["reason"] = choice.reason.clone().into();
            shown
        });
        let stay = roles.stay.iter().filter(|(vsvip, _)| seen(vsvip));
        let stay = stay.map(|(vsvip, why)| {
            let mut shown = vip(vsvip);
            shown["reason"] = why.clone().into();
            shown
        });
        json!({
            "switched_over": {"count": roles.moves.len(), "results": moves.collect::<Vec<_>>()},
            "stays": {"count": roles.stay.len(), "results": stay.collect::<Vec<_>>()},
        })
    }

    fn preview_roles(&self, roles: &Roles, context: &Context) -> Value {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let preview = preview::Preview::of_roles(&observer, roles);
        preview.show(&|path, uuid, snapshot| sees(context, path, uuid, snapshot))
    }

    /// What [`Self::migrate`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_migrate(
        &self,
        vs: &str,
        body: &Object,
        context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [from, to]) = asked(&snapshot, vs, body, ["from_se_ref", "to_se_ref"])?;
        let to = wanted_of(body, to.as_deref())?;
        let chosen = self.planner.choose_migration(&vsvip, from.as_deref(), to);
        let (from, choice) = chosen?;
        let kind = preview::AskedKind::Migrate { from: &from };
        Ok(self.preview_scaling(&snapshot, context, &vsvip, &choice, kind))
    }

    /// What a change of objects would do, as far as the caller sees it.
    pub fn preview(&self, planned: &Planned, context: &Context) -> Value {
        let observer = self.observer(&planned.before);
        let preview = preview::Preview::of_change(&observer, planned);
        preview.show(&|path, uuid, snapshot| sees(context, path, uuid, snapshot))
    }

    /// What [`Self::scale_out`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_scale_out(
        &self,
        vs: &str,
        body: &Object,
        context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [wanted]) = asked(&snapshot, vs, body, ["to_se_ref"])?;
        let wanted = wanted_of(body, wanted.as_deref())?;
        let choice = self.planner.choose_scale_out(&vsvip, wanted)?;
        let kind = preview::AskedKind::ScaleOut;
        Ok(self.preview_scaling(&snapshot, context, &vsvip, &choice, kind))
    }

    /// What [`Self::scale_in`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_scale_in(
        &self,
        vs: &str,
        body: &Object,
        context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let (vsvip, [wanted]) = asked(&snapshot, vs, body, ["from_se_ref"])?;
        let ask = scale_in_asked(body, wanted.as_deref())?;
        let choice = self.planner.choose_scale_in(&vsvip, ask)?;
        let kind = match ask.force {
            true => preview::AskedKind::ForcedScaleIn,
            false => preview::AskedKind::ScaleIn,
        };
        Ok(self.preview_scaling(&snapshot, context, &vsvip, &choice, kind))
    }

    fn preview_scaling(
        &self,
        snapshot: &Snapshot,
        context: &Context,
        vsvip: &str,
        choice: &placement::Choice,
        kind: preview::AskedKind<'_>,
    ) -> Value {
        let asked = preview::Asked {
            vsvip,
            engine: &choice.engine,
            reason: &choice.reason,
            kind,
        };
        let observer = self.observer(snapshot);
        let preview = preview::Preview::of_scaling(&observer, &asked);
        preview.show(&|path, uuid, snapshot| sees(context, path, uuid, snapshot))
    }

    fn scaled(&self, vsvip: &str, choice: &placement::Choice) -> Value {
        let rejected = choice.rejected.iter().map(|(name, why)| json!({"se_name": name, "reason_code": why.code(), "reason": why.to_string()}));
        json!({
            "se_ref": Ref::to("serviceengine", &choice.engine).0,
            "se_name": choice.name,
            "reason": choice.reason,
            "num_se_assigned": self.planner.assignment(vsvip).engines.len(),
            "rejected": rejected.collect::<Vec<_>>(),
        })
    }

    /// `POST /api/ek/jointoken`.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn create_join_token(&self, wish: join::Wish) -> Result<Value, ApiError> {
        join::create(&self.objects, self.ca.pem(), wish).await
    }

    /// `GET /api/virtualservice/UUID/runtime` (avi-api 10.2).
    ///
    /// # Errors
    /// 404.
    pub fn vs_runtime(&self, uuid: &str, _context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot)
            .virtual_service(uuid)
            .ok_or_else(|| ApiError::not_found("VirtualService"))
    }

    /// Fields of a virtual service that are the server's (avi-api 5.2).
    pub fn vs_server_fields(&self, snapshot: &Snapshot, vs: &Stored) -> Object {
        service::server_fields(&self.planner, snapshot, vs)
    }

    /// Fills what the engine says into a service engine's object that is about to be shown (avi-api section 12).
    pub fn fill_engine(
        &self,
        snapshot: &Snapshot,
        uuid: &str,
        stored: &Stored,
        object: &mut Object,
    ) {
        self.observer(snapshot).fill_engine(uuid, stored, object);
    }

    /// `GET /api/virtualservice/UUID/…` (avi-api 10.2).
    ///
    /// # Errors
    /// 404.
    pub fn vs_view(&self, uuid: &str, view: ServiceView) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot).service_view(uuid, view)
    }

    /// `GET /api/virtualservice/UUID/connections` (avi-api 10.2).
    ///
    /// # Errors
    /// 400 with the parameter, 404.
    pub async fn vs_connections(&self, uuid: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let lookup = |name: &str| parameter(context, name);
        self.observer(&snapshot).connections(uuid, &lookup).await
    }

    /// The peer of this `peer_ip`, or every peer of the engine.
    ///
    /// # Errors
    /// 400 for what is not the address of a peer of its profile.
    pub fn peers_to_reset(&self, se: &str, body: &Object) -> Result<Vec<IpAddr>, ApiError> {
        let snapshot = self.objects.snapshot();
        let peers = self.observer(&snapshot).peers_of(se);
        match body.get("peer_ip") {
            None => Ok(peers),
            Some(peer) => Ok(vec![peer_among(peer, &peers)?]),
        }
    }

    /// `POST /api/serviceengine/UUID/bgp/reset`: the engine closes its sessions with these peers with Cease 6/4, and opens
    /// them again.
    pub fn reset_sessions(&self, se: &str, peers: &[IpAddr]) -> Value {
        let now_unix_ms = routing::now_unix_ms();
        let at_unix_ms = self.planner.reset_sessions(se, peers, now_unix_ms);
        json!({"peers": peers, "reset_unix_ms": at_unix_ms})
    }

    /// `GET /api/serviceengine/UUID/runtime` (avi-api 10.4).
    ///
    /// # Errors
    /// 404.
    pub fn se_runtime(&self, uuid: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let tells = scope::tells(context, &snapshot);
        Ok(self.observer(&snapshot).service_engine(uuid, &tells))
    }

    /// `GET /api/serviceengine/UUID/bgp` (avi-api 10.4).
    ///
    /// # Errors
    /// 404.
    pub fn se_bgp(&self, uuid: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let tells = scope::tells(context, &snapshot);
        Ok(self.observer(&snapshot).engine_bgp(uuid, &tells))
    }

    /// `GET /api/serviceengine/UUID/bgp/…` and `bfd/…` (avi-api 10.4).
    pub fn se_routing(&self, uuid: &str, what: RoutingText) -> Value {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot).engine_routing(uuid, what)
    }

    /// `GET /api/serviceengine/UUID/interface`, `route`, `ip6route`, `arptable` (avi-api 10.4).
    pub async fn se_host(&self, uuid: &str, view: HostView) -> Value {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot).engine_host(uuid, view).await
    }

    /// `GET /api/serviceengine/UUID/flowtable` and `flowtable_remote` (avi-api 10.4).
    ///
    /// # Errors
    /// 400 with the parameter.
    pub async fn se_flows(
        &self,
        uuid: &str,
        view: FlowView,
        context: &Context,
    ) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let lookup = |name: &str| parameter(context, name);
        let observer = self.observer(&snapshot);
        observer.engine_flows(uuid, view, &lookup).await
    }

    /// `GET /api/serviceengine/UUID/flowtablestat` (avi-api 10.4).
    pub fn se_flow_counters(&self, uuid: &str) -> Value {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot).engine_flow_counters(uuid)
    }

    /// `GET /api/ek/bgp`: every session of every engine.
    pub fn ek_bgp(&self) -> Value {
        let snapshot = self.objects.snapshot();
        page(self.observer(&snapshot).bgp_sessions())
    }

    /// `GET /api/ek/bfd`: every BFD session of every engine.
    pub fn ek_bfd(&self) -> Value {
        let snapshot = self.objects.snapshot();
        page(self.observer(&snapshot).bfd_sessions())
    }

    /// `GET /api/ek/learnedroute`: every route that engines have learned.
    pub fn ek_learned(&self) -> Value {
        let snapshot = self.objects.snapshot();
        page(self.observer(&snapshot).learned_routes())
    }

    /// `GET /api/ek/steering`: what each engine's steering programs have counted.
    pub fn ek_steering(&self) -> Value {
        let snapshot = self.objects.snapshot();
        page(self.observer(&snapshot).steering())
    }

    /// `GET /metrics`: what engines report as Prometheus reads it, and what `own` adds.
    pub fn metrics(&self, own: impl FnOnce(&mut Registered)) -> String {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot).metrics(own)
    }

    /// `GET /api/ek/flow`: flows that live at an engine, or those that an engine has sent on, as all engines say now.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub async fn ek_flows(&self, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let table = flows::table(context.get("table"))?;
        let question = flow_question(&observer, table, context)?;
        Ok(observer.flows(&observer.ask(&question).await))
    }

    /// `GET /api/ek/flowevent`: probes and their answers, and packets of traced flows, of all engines.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub async fn ek_flow_events(&self, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let question = flow_question(&observer, FlowTable::Events, context)?;
        Ok(observer.flow_events(&observer.ask(&question).await))
    }

    /// `GET /api/ek/traceflow`: where a flow lives and what happens to its packets; for `seconds` from now on each of
    /// them is an event.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub async fn trace_flow(&self, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let question = observer.trace_question(&|name| parameter(context, name))?;
        let narrow = Narrow::of(&observer, context)?;
        let question = match narrow {
            Some(narrow) => narrow.narrow(question),
            None => question,
        };
        Ok(observer.trace(&question, &observer.ask(&question).await))
    }

    /// `GET /api/ek/topology`: the VIPs of the window that `window` makes of their number, and everything else.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub fn topology(
        &self,
        context: &Context,
        window: impl FnOnce(usize) -> Range<usize>,
    ) -> Result<TopologyPage, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        Ok(topology::Topology::of(&observer, context)?.page(window))
    }

    /// `GET /api/ek/explain/vip/ADDRESS`, with `?se=NAME` for one engine.
    ///
    /// # Errors
    /// 400, 404.
    pub fn explain_vip(&self, vip: &str, context: &Context) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let sees = |uuid: &str, stored: &Stored| scope::sees_vip(context, uuid, stored);
        let observer = self.observer(&snapshot);
        observer.explain_vip(vip, context.get("se"), &sees)
    }

    /// `GET /api/pool/UUID/runtime` (avi-api 10.3).
    ///
    /// # Errors
    /// 404.
    pub fn pool_runtime(&self, uuid: &str) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        self.observer(&snapshot)
            .pool(uuid)
            .ok_or_else(|| ApiError::not_found("Pool"))
    }

    /// An item of `GET /api/TYPE-inventory` (avi-api 10.5), as far as it is placement and engines; the object is with what the
    /// server fills into it.
    pub fn inventory(
        &self,
        snapshot: &Snapshot,
        ty: &ObjectType,
        item: (&str, &Object),
        context: &Context,
        parts: &Parts,
    ) -> Value {
        self.observer(snapshot).inventory(ty, item, context, parts)
    }
}

/// About flows, as far as the caller may see them.
fn flow_question(
    observer: &runtime::Observer<'_>,
    table: FlowTable,
    context: &Context,
) -> Result<flows::Question, ApiError> {
    let Some(narrow) = Narrow::of(observer, context)? else {
        return observer.flow_question(table, &|name| parameter(context, name));
    };
    let own = |name: &str| narrow.parameter(name).or_else(|| parameter(context, name));
    Ok(narrow.narrow(observer.flow_question(table, &own)?))
}

/// Whether the caller sees an object of a snapshot.
fn sees(context: &Context, path: &str, uuid: &str, snapshot: &Snapshot) -> bool {
    let stored = snapshot.get(path, uuid);
    stored.is_some_and(|s| context.reaches(path, uuid, s))
}

/// One that is empty counts as not given.
fn parameter(context: &Context, name: &str) -> Option<String> {
    context
        .get(name)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

fn page(results: Vec<Value>) -> Value {
    json!({"count": results.len(), "results": results})
}

/// The VsVip that an action on a virtual service is about; `vip_id` may be left out when there is one VIP.
fn vsvip_of(snapshot: &Snapshot, vs: &str, body: &Object) -> Result<String, ApiError> {
    let view: Arc<VirtualService> = snapshot
        .view("virtualservice", vs)
        .ok_or_else(|| ApiError::not_found("VirtualService"))?;
    let reference = view.vsvip_ref.as_ref().ok_or_else(|| {
        ApiError::bad_request(format!(
            "vsvip_ref: virtual service {} has no VIP; set vsvip_ref",
            view.name
        ))
    })?;
    let vsvip: Arc<VsVip> = snapshot
        .view("vsvip", reference.uuid())
        .ok_or_else(|| ApiError::not_found("VsVip"))?;
    if let Some(id) = body.get("vip_id").and_then(Value::as_str) {
        let ids: Vec<_> = vsvip.vip.iter().map(|v| v.vip_id.as_str()).collect();
        if !ids.contains(&id) {
            return Err(ApiError::bad_request(format!(
                "vip_id: {id:?} is not a VIP of {}; use one of {ids:?}",
                view.name
            )));
        }
    }
    Ok(vsvip.uuid.clone())
}

/// A field that is true or false; absent is false.
fn flag(body: &Object, field: &str) -> Result<bool, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(ApiError::bad_request(format!(
            "{field}: must be true or false, not {other}"
        ))),
    }
}

/// Which engine is to get the VIP. None is made here.
fn wanted_of<'a>(body: &'a Object, engine: Option<&'a str>) -> Result<Wanted<'a>, ApiError> {
    let hint =
        "no service engine is made here; start one with a join token, and name it in to_se_ref";
    if flag(body, "to_new_se")? {
        return Err(ApiError::bad_request(format!("to_new_se: {hint}")));
    }
    if body
        .get("new_vcpus")
        .is_some_and(|v| !v.is_null() && *v != 0)
    {
        let text = format!("new_vcpus: is for a new service engine, and {hint}");
        return Err(ApiError::bad_request(text));
    }
    let host = host_in(body)?;
    Ok(Wanted { engine, host })
}

/// A host is known by its name alone: the text, or what a reference ends with.
fn host_in(body: &Object) -> Result<Option<&str>, ApiError> {
    match body.get("to_host_ref") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(match text.split_once("/api/") {
            None => text,
            Some((_, path)) => path.rsplit(['/', '=', '#']).next().unwrap_or(path),
        })),
        Some(other) => Err(ApiError::bad_request(format!(
            "to_host_ref: must be the name of a host (text), not {other}"
        ))),
    }
}

/// The VsVip, and the engines in these fields.
fn asked<const N: usize>(
    snapshot: &Snapshot,
    vs: &str,
    body: &Object,
    fields: [&str; N],
) -> Result<(String, [Option<String>; N]), ApiError> {
    let vsvip = vsvip_of(snapshot, vs, body)?;
    check_administered(snapshot, vs, body)?;
    let mut engines = [const { None }; N];
    for (engine, field) in engines.iter_mut().zip(fields) {
        *engine = engine_in(snapshot, body, field)?;
    }
    Ok((vsvip, engines))
}

/// `admin_up` and `admin_down` say what the virtual service is to be while it is scaled. Its `enabled` says what it is, and scaling
/// writes no such field.
fn check_administered(snapshot: &Snapshot, vs: &str, body: &Object) -> Result<(), ApiError> {
    let view: Option<Arc<VirtualService>> = snapshot.view("virtualservice", vs);
    let is_up = view.is_some_and(|vs| vs.enabled);
    for (field, wanted, word) in [
        ("admin_up", true, "disabled"),
        ("admin_down", false, "enabled"),
    ] {
        if flag(body, field)? && is_up != wanted {
            return Err(ApiError::bad_request(format!(
                "{field}: the virtual service is {word}; write enabled: {wanted} into it first, or leave {field} out"
            )));
        }
    }
    Ok(())
}

fn scale_in_asked<'a>(body: &Object, wanted: Option<&'a str>) -> Result<ScaleIn<'a>, ApiError> {
    Ok(ScaleIn {
        wanted,
        primary: flag(body, "scalein_primary")?,
        force: flag(body, "force")?,
    })
}

/// The engine named by a field, in any form of a reference.
fn engine_in(snapshot: &Snapshot, body: &Object, field: &str) -> Result<Option<String>, ApiError> {
    let Some(value) = body.get(field).filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    let text = value.as_str().ok_or_else(|| {
        ApiError::bad_request(format!("{field}: must be a reference (text), not {value}"))
    })?;
    if let Some((uuid, _)) = snapshot.by_name("serviceengine", text) {
        return Ok(Some(uuid.to_owned()));
    }
    let resolved = refs::resolve(snapshot, "serviceengine", text);
    resolved
        .map(Some)
        .map_err(|e| ApiError::bad_request(format!("{field}: {e}; name an existing serviceengine")))
}

/// The peer of this address.
fn peer_among(text: &Value, peers: &[IpAddr]) -> Result<IpAddr, ApiError> {
    let address = text.as_str().and_then(|t| t.parse().ok());
    address.filter(|a| peers.contains(a)).ok_or_else(|| {
        let known: Vec<String> = peers.iter().map(ToString::to_string).collect();
        ApiError::bad_request(format!(
            "peer_ip: {text} is no BGP peer of this service engine; its peers are: {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        ))
    })
}
