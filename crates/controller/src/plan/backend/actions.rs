//! Actions beside those that move traffic by themselves: what is looked at, sent, started or counted anew (avi-api section 9).

use super::{Backend, engine_in, flag, page, sees, vsvip_of};
use crate::api::Context;
use crate::engines::registry::DEAD_AFTER;
use crate::error::ApiError;
use crate::objects::{Draft, Snapshot, application};
use crate::plan::again::{NO_SESSION, Sent};
use crate::plan::retry::{Before, Looked};
use crate::plan::runtime::Observer;
use crate::plan::situation::Ground;
use crate::plan::{reconcile, situation};
use axum::http::StatusCode;
use futures_util::future::join_all;
use model::object::Object;
use model::schema::object_type;
use model::view::{Ref, VirtualService};
use serde_json::{Value, json};
use std::sync::Arc;

impl Backend {
    /// `POST /api/virtualservice/UUID/retryplacement`: the planner looks at the VIP now.
    ///
    /// # Errors
    /// 400 with the field, 404.
    pub async fn retry_placement(&self, vs: &str, body: &Object) -> Result<Value, ApiError> {
        let vsvip = self.retry_asked(vs, body)?;
        let looked = self.planner.look_at(&vsvip).await?;
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let shown = |se: &String| {
            let mut shown = engine(&observer, se);
            shown["added"] = looked.added.contains(se).into();
            shown
        };
        let engines: Vec<Value> = looked.engines.iter().map(shown).collect();
        Ok(json!({
            "placed": !engines.is_empty(),
            "num_se_assigned": engines.len(),
            "service_engine": engines,
            "reason": sentence(&observer, &looked),
            "waits_for": looked.waits_for,
        }))
    }

    /// The VIP that is to be looked at.
    ///
    /// # Errors
    /// As of [`Self::retry_placement`].
    pub fn retry_asked(&self, vs: &str, body: &Object) -> Result<String, ApiError> {
        let vsvip = vsvip_of(&self.objects.snapshot(), vs, body)?;
        // No virtual service is for traffic inside of a cloud alone: whatever is asked for, all are looked at alike.
        flag(body, "all_east_west")?;
        Ok(vsvip)
    }

    /// Engines of a virtual service, or those in `se_ref`.
    ///
    /// # Errors
    /// 400 with the field: an engine that does not have the VIP; 404.
    pub fn resync_asked(&self, vs: &str, body: &Object) -> Result<Vec<String>, ApiError> {
        let snapshot = self.objects.snapshot();
        let vsvip = vsvip_of(&snapshot, vs, body)?;
        let members = self.members(&vsvip);
        let asked = engines_in(&snapshot, body)?;
        check_members(&snapshot, asked.as_deref().unwrap_or_default(), &members)?;
        Ok(asked.unwrap_or(members))
    }

    /// `POST /api/virtualservice/UUID/resync`: these are sent their states again, made anew.
    pub fn resync(&self, engines: &[String]) -> Value {
        let sent = self.planner.send_again(engines);
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let each = sent.iter().map(|sent| was_sent(&observer, sent));
        page(each.collect())
    }

    /// Names of engines.
    pub fn engine_names(&self, engines: &[String]) -> Vec<String> {
        let snapshot = self.objects.snapshot();
        names(&self.observer(&snapshot), engines)
    }

    /// The VIP of a virtual service that has keys to rotate.
    ///
    /// # Errors
    /// 400: it has no port with TLS, or no VIP; 404.
    pub fn rotation_asked(&self, vs: &str) -> Result<String, ApiError> {
        let snapshot = self.objects.snapshot();
        let vsvip = vsvip_of(&snapshot, vs, &Object::new())?;
        let view: Option<Arc<VirtualService>> = snapshot.view("virtualservice", vs);
        if view.is_none_or(|vs| application::tls_port(&vs).is_none()) {
            let text = "services: no port of the virtual service has TLS (enable_ssl), so there are no keys to rotate";
            return Err(ApiError::bad_request(text));
        }
        Ok(vsvip)
    }

    /// `POST /api/virtualservice/UUID/rotatekeys`: clients of TLS cannot go on with what they had agreed on before.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn rotate_keys(&self, vs: &str, vsvip: &str) -> Result<Value, ApiError> {
        let number = self.planner.rotate(vs, vsvip).await?;
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let members = self.members(vsvip);
        let each = members.iter().map(|se| self.was_told(&observer, se));
        let mut reply = page(each.collect());
        reply["rotated_unix_ms"] = number.into();
        Ok(reply)
    }

    /// That an engine can be told to start anew.
    ///
    /// # Errors
    /// 400: it has no session, or is older.
    pub fn check_reboot(&self, se: &str) -> Result<(), ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let (state, name) = (self.registry.get(se), observer.name(se));
        let refused = |why: String| Err(ApiError::bad_request(format!("{name}: {why}")));
        if state.connected_since.is_none() {
            return refused(format!(
                "{NO_SESSION}, so that it cannot be told; start it anew on its host"
            ));
        }
        if !state.starts_anew {
            return refused(format!(
                "{}, which does not start anew when it is told to; upgrade it, or start it anew on its host",
                older(&state.version)
            ));
        }
        Ok(())
    }

    /// `POST /api/serviceengine/UUID/reboot`: its process starts anew, in place.
    ///
    /// # Errors
    /// 503: it does not read.
    pub fn reboot(&self, se: &str) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let name = observer.name(se);
        if !self.registry.restart(se) {
            let text = format!("{name}: it reads too slowly to be told; repeat it");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let mut reply = engine(&observer, se);
        let reason = format!(
            "it was told to stop in order and to start again in its place; its virtual services stay its own unless it is gone for {} s",
            DEAD_AFTER.as_secs()
        );
        reply["told"] = true.into();
        reply["reason"] = reason.into();
        Ok(reply)
    }

    /// `POST /api/serviceengine/UUID/forcedelete`: its object is deleted, whatever it holds, and its places are given to others now, as far as
    /// there are some that can take them.
    ///
    /// # Errors
    /// 404; that it is a dry run.
    pub async fn force_delete(&self, se: &str, context: &Context) -> Result<Value, ApiError> {
        let ty = object_type("serviceengine").expect("in the schema");
        let mut deleted = engine(&self.observer(&self.objects.snapshot()), se);
        let held = self.planner.held(se);
        let message = format!("force delete serviceengine {se}");
        let delete = |draft: &mut Draft| draft.delete(ty, se);
        let author = &context.author;
        self.objects.change(author, &message, delete).await?;
        reconcile::tidy(&self.planner).await;
        let vips = held.iter().map(|(vsvip, _)| vsvip.clone());
        reconcile::settle(&self.planner, vips.collect()).await;
        let snapshot = self.objects.snapshot();
        // It looks at every engine: once, and not once for each VIP.
        let mut ground = self.planner.ground(&snapshot);
        let count = held.len();
        let seen = |(vsvip, _): &(String, Before)| sees(context, "vsvip", vsvip, &snapshot);
        let shown = held.into_iter().filter(seen);
        let shown = shown
            .map(|(vsvip, before)| self.given_away(&snapshot, &mut ground, (se, &vsvip), before));
        deleted["places"] = json!({"count": count, "results": shown.collect::<Vec<_>>()});
        Ok(deleted)
    }

    /// Where a VIP is now that was on an engine which is gone.
    fn given_away(
        &self,
        snapshot: &Snapshot,
        ground: &mut Ground<'_>,
        (se, vsvip): (&str, &str),
        before: Before,
    ) -> Value {
        let observer = self.observer(snapshot);
        let looked = left_by(self.planner.came_of(snapshot, ground, vsvip, before), se);
        let services = situation::services_of(snapshot, vsvip);
        let services: Vec<&str> = services.iter().map(|vs| vs.name.as_str()).collect();
        json!({
            "vsvip_ref": Ref::to("vsvip", vsvip).0,
            "vsvip": snapshot.name_of("vsvip", vsvip),
            "virtual_services": services,
            "engines": names(&observer, &looked.engines),
            "added": names(&observer, &looked.added),
            "reason": looked.done,
            "waits_for": looked.waits_for,
        })
    }

    /// `POST /api/virtualservice/clear`: the counters of these begin anew in `runtime/detail`.
    pub fn clear_services(&self, uuids: &[String]) -> Value {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let clear = |uuid: &String| {
            let vs: Arc<VirtualService> = snapshot.view("virtualservice", uuid)?;
            let engines = observer.clear_service(&vs);
            Some(json!({
                "vs_ref": Ref::to("virtualservice", uuid).0,
                "vs_name": vs.name,
                "engines": names(&observer, &engines),
            }))
        };
        page(uuids.iter().filter_map(clear).collect())
    }

    /// `POST /api/serviceengine/clear`: all counters of these begin anew in their runtime, `flowtablestat` and `interface`.
    pub async fn clear_engines(&self, uuids: &[String]) -> Value {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let each = uuids.iter().map(|se| clear_engine(&observer, se));
        page(join_all(each).await)
    }

    /// `POST /api/serviceengine/UUID/flowtablestat/clear`.
    ///
    /// # Errors
    /// 400: there are none.
    pub fn clear_flow_counters(&self, se: &str) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        if observer.clear_verdicts(se).is_none() {
            return Err(not_cleared(&observer, se, observer.why_no_verdicts(se)));
        }
        let mut reply = engine(&observer, se);
        reply["cleared"] = json!(["flowtablestat"]);
        Ok(reply)
    }

    /// That an engine's steering programs have counters that can be cleared.
    ///
    /// # Errors
    /// 400: there are none.
    pub fn check_flow_counters(&self, se: &str) -> Result<(), ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        match observer.reported_verdicts(se) {
            Some(_) => Ok(()),
            None => Err(not_cleared(&observer, se, observer.why_no_verdicts(se))),
        }
    }

    /// That an engine says its interfaces' counters, which can be cleared then.
    ///
    /// # Errors
    /// 400: it does not.
    pub async fn check_interfaces(&self, se: &str) -> Result<(), ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let said = observer.interfaces_now(se).await;
        said.map(drop)
            .map_err(|why| not_cleared(&observer, se, &why))
    }

    /// `POST /api/serviceengine/UUID/interface/clear`.
    ///
    /// # Errors
    /// 400: the engine does not say what they are.
    pub async fn clear_interfaces(&self, se: &str) -> Result<Value, ApiError> {
        let snapshot = self.objects.snapshot();
        let observer = self.observer(&snapshot);
        let cleared = observer.clear_interfaces(se).await;
        let interfaces = cleared.map_err(|why| not_cleared(&observer, se, &why))?;
        let mut reply = engine(&observer, se);
        reply["cleared"] = json!(["interface"]);
        reply["interfaces"] = interfaces.into();
        Ok(reply)
    }

    /// uuids of the engines that have the VIP, be it to serve or to linger.
    fn members(&self, vsvip: &str) -> Vec<String> {
        let members = self.planner.assignment(vsvip).group.members;
        members.into_iter().map(|member| member.engine).collect()
    }

    /// Whether an engine has been told of a rotation.
    fn was_told(&self, observer: &Observer<'_>, se: &str) -> Value {
        let state = self.registry.get(se);
        let ignores = || {
            let version = older(&state.version);
            let text = format!("{version}, and its clients go on as before; upgrade it");
            (!state.starts_anew).then_some(text)
        };
        let why_not = self.planner.why_not_told(se).or_else(ignores);
        let mut shown = engine(observer, se);
        shown["sent"] = why_not.is_none().into();
        shown["reason"] = why_not.into();
        shown
    }
}

/// The same where that engine is gone: it may still have its place, if the store did not take what was decided.
fn left_by(mut looked: Looked, se: &str) -> Looked {
    if looked.engines.iter().any(|engine| engine == se) {
        let text = "the place of the deleted engine could not be given away yet; that is tried again every few seconds";
        looked.engines.retain(|engine| engine != se);
        looked.waits_for = Some(text.to_owned());
    }
    looked
}

fn engine(observer: &Observer<'_>, se: &str) -> Value {
    json!({"se_ref": Ref::to("serviceengine", se).0, "se_name": observer.name(se)})
}

fn names(observer: &Observer<'_>, engines: &[String]) -> Vec<String> {
    engines.iter().map(|se| observer.name(se)).collect()
}

fn older(version: &str) -> String {
    match version {
        "" => "it is of an older version".to_owned(),
        version => format!("it is of version {version}"),
    }
}

/// What came of a look at a VIP's placement, in one sentence.
fn sentence(observer: &Observer<'_>, looked: &Looked) -> String {
    match (&looked.done, &looked.waits_for) {
        (Some(done), None) => done.clone(),
        (Some(done), Some(waits_for)) => format!("{done}; it lacks more: {waits_for}"),
        (None, Some(waits_for)) => waits_for.clone(),
        (None, None) => {
            let on = names(observer, &looked.engines).join(", ");
            format!("it is placed already, on {on}, and lacks nothing")
        }
    }
}

fn was_sent(observer: &Observer<'_>, sent: &Sent) -> Value {
    let mut shown = engine(observer, &sent.engine);
    shown["sent"] = sent.generation.is_some().into();
    shown["generation"] = sent.generation.into();
    shown["changed"] = sent.changed.into();
    shown["reason"] = sent.why_not.clone().into();
    shown
}

/// uuids of the engines in `se_ref`, each once; none where it is not given, or empty.
fn engines_in(snapshot: &Snapshot, body: &Object) -> Result<Option<Vec<String>>, ApiError> {
    let references = match body.get("se_ref") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(references)) if references.is_empty() => return Ok(None),
        Some(Value::Array(references)) => references.clone(),
        Some(one) => vec![one.clone()],
    };
    let mut engines: Vec<String> = Vec::new();
    for (i, reference) in references.into_iter().enumerate() {
        let field = format!("se_ref[{i}]");
        let one = Object::from_iter([(field.clone(), reference)]);
        let engine = engine_in(snapshot, &one, &field)?;
        let new = engine.filter(|engine| !engines.contains(engine));
        engines.extend(new);
    }
    Ok(Some(engines))
}

fn check_members(
    snapshot: &Snapshot,
    engines: &[String],
    members: &[String],
) -> Result<(), ApiError> {
    let Some(other) = engines.iter().find(|engine| !members.contains(engine)) else {
        return Ok(());
    };
    let name = |se: &String| {
        let name = snapshot.name_of("serviceengine", se);
        name.unwrap_or(se.as_str()).to_owned()
    };
    let there: Vec<String> = members.iter().map(name).collect();
    let there = match there.is_empty() {
        true => "there are none".to_owned(),
        false => there.join(", "),
    };
    Err(ApiError::bad_request(format!(
        "se_ref: {} does not have the VIP of the virtual service; those that have it: {there}",
        name(other)
    )))
}

/// What of an engine's counters could be cleared, and why the rest could not.
async fn clear_engine(observer: &Observer<'_>, se: &str) -> Value {
    let load = observer.clear_load(se);
    let verdicts = observer.clear_verdicts(se);
    let interfaces = observer.clear_interfaces(se).await;
    let all = [
        (
            "runtime",
            load.ok_or_else(|| "it has reported none".to_owned()),
        ),
        (
            "flowtablestat",
            verdicts.ok_or_else(|| observer.why_no_verdicts(se).to_owned()),
        ),
        ("interface", interfaces.map(drop)),
    ];
    let (mut cleared, mut not_cleared) = (Vec::new(), Object::new());
    for (what, outcome) in all {
        match outcome {
            Ok(()) => cleared.push(what),
            Err(why) => drop(not_cleared.insert(what.to_owned(), why.into())),
        }
    }
    let mut shown = engine(observer, se);
    shown["cleared"] = cleared.into();
    shown["not_cleared"] = not_cleared.into();
    shown
}

fn not_cleared(observer: &Observer<'_>, se: &str, why: &str) -> ApiError {
    let name = observer.name(se);
    ApiError::bad_request(format!("{name}: its counters were not cleared: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_gone_has_no_place_and_one_that_it_still_has_waits() {
        let looked = |engines: &[&str]| Looked {
            engines: engines.iter().map(|se| (*se).to_owned()).collect(),
            added: Vec::new(),
            done: None,
            waits_for: None,
        };
        let given = left_by(looked(&["se-2"]), "se-1");
        assert_eq!(
            (given.engines, given.waits_for),
            (vec!["se-2".into()], None)
        );
        let not_yet = left_by(looked(&["se-1", "se-2"]), "se-1");
        assert_eq!(not_yet.engines, ["se-2"]);
        assert!(
            not_yet
                .waits_for
                .is_some_and(|why| why.contains("tried again"))
        );
    }
}
