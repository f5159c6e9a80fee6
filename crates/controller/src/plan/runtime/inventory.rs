//! Items of inventories (avi-api 10.5): the object, and what is observed of it.

use super::super::{scope, situation};
use super::{Observer, status};
use crate::api::{Context, Part, Parts};
use crate::objects::pools;
use model::object::{self, Object};
use model::schema::ObjectType;
use model::view::{Ref, ServiceEngineGroup, VirtualService, VsVip};
use serde_json::{Value, json};
use std::sync::Arc;

impl Observer<'_> {
    /// An item of an inventory (avi-api 10.5), with these of its parts. The object is with what the server fills into it.
    pub(in crate::plan) fn inventory(
        &self,
        ty: &ObjectType,
        (uuid, object): (&str, &Object),
        context: &Context,
        parts: &Parts,
    ) -> Value {
        let kind = ty.path.as_str();
        let mut item = json!({"uuid": uuid, "_last_modified": object.get("_last_modified")});
        if parts.has(Part::Config) {
            item["config"] = self.config(ty, uuid, object, context).into();
        }
        if parts.has(Part::Config) && kind == "virtualservice" {
            item["pools"] = self.pools_of(uuid, context);
            item["app_profile_type"] = json!(self.application_type(uuid));
        }
        if !(parts.has(Part::Runtime) || parts.has(Part::Faults)) {
            return item;
        }
        let runtime = self.runtime(kind, uuid, context);
        if let Some(faults) = faults(&runtime).filter(|_| parts.has(Part::Faults)) {
            item["faults"] = faults;
        }
        if parts.has(Part::Runtime) {
            item["runtime"] = runtime;
        }
        item
    }

    /// What is observed of an object; null when it is gone.
    fn runtime(&self, kind: &str, uuid: &str, context: &Context) -> Value {
        let tells = scope::tells(context, self.snapshot);
        let runtime = match kind {
            "virtualservice" => self.virtual_service(uuid),
            "serviceengine" => Some(self.service_engine(uuid, &tells)),
            "pool" => self.pool(uuid),
            "poolgroup" => self.pool_group(uuid),
            "vsvip" => Some(self.vsvip(uuid)),
            "serviceenginegroup" => self.se_group(uuid),
            _ => Some(json!({})),
        };
        runtime.unwrap_or_default()
    }

    /// The object with names in its references, and what refers to it.
    fn config(&self, ty: &ObjectType, uuid: &str, object: &Object, context: &Context) -> Object {
        let kind = ty.path.as_str();
        let mut config = object::with_defaults(ty, object);
        object::map_refs(ty, &mut config, &mut |r| {
            self.named(&r.value, r.target, context)
        });
        object::hide_secrets(ty, &mut config);
        config.insert(
            "url".into(),
            format!("{}/api/{kind}/{uuid}", context.origin).into(),
        );
        self.extend_config(kind, uuid, context, &mut config);
        config
    }

    /// `type` of the application profile of a virtual service.
    fn application_type(&self, vs: &str) -> Option<Value> {
        let view = self.snapshot.view::<VirtualService>("virtualservice", vs)?;
        let profile = view.application_profile_ref.as_ref()?.uuid();
        let stored = self.snapshot.get("applicationprofile", profile)?;
        stored.object.get("type").cloned()
    }

    /// How many engines of an SE group may be lost, and the VIPs have room on the others.
    pub(in crate::plan) fn se_group(&self, uuid: &str) -> Option<Value> {
        let group = self
            .snapshot
            .view::<ServiceEngineGroup>("serviceenginegroup", uuid)?;
        let mut engines = self.planner.ground(self.snapshot).engines;
        engines.retain(|e| e.se_group == uuid);
        let here = engines.iter().filter(|e| e.is_here()).count();
        let spare = placement::spare(&engines, group.max_vs_per_se, group.buffer_se);
        Some(json!({
            "num_se": engines.len(), "num_se_connected": here,
            "buffer_se": {"wanted": spare.wanted, "survives": spare.survives, "short": spare.is_short()},
        }))
    }

    /// All pools of a virtual service, also those of its group.
    fn pools_of(&self, vs: &str, context: &Context) -> Value {
        let view = self.snapshot.view::<VirtualService>("virtualservice", vs);
        let used = view.iter().flat_map(|vs| pools::of(self.snapshot, vs));
        let named = used.map(|uuid| self.named(&Ref::to("pool", &uuid).0, "pool", context));
        named.collect::<Vec<_>>().into()
    }

    /// A reference that is not canonical is shown as it is.
    fn named(&self, canonical: &str, target: &str, context: &Context) -> String {
        if !canonical.starts_with('/') {
            return canonical.to_owned();
        }
        let uuid = canonical.rsplit('/').next().unwrap_or("");
        let name = self.snapshot.name_of(target, uuid).unwrap_or("");
        format!("{}{canonical}#{name}", context.origin)
    }

    fn extend_config(&self, kind: &str, uuid: &str, context: &Context, config: &mut Object) {
        let tells = scope::tells(context, self.snapshot);
        let refs = |services: Vec<Arc<VirtualService>>| {
            let told = services.into_iter();
            let told = told.filter(|v| tells("virtualservice", &v.uuid));
            let each = told.map(|v| {
                self.named(
                    &Ref::to("virtualservice", &v.uuid).0,
                    "virtualservice",
                    context,
                )
            });
            Value::from(each.collect::<Vec<_>>())
        };
        match kind {
            "virtualservice" => {
                let vsvip = config
                    .get("vsvip_ref")
                    .and_then(Value::as_str)
                    .map(|r| Ref(r.to_owned()));
                let vip = vsvip.and_then(|r| {
                    self.snapshot
                        .get("vsvip", r.uuid())?
                        .object
                        .get("vip")
                        .cloned()
                });
                config.extend(vip.map(|v| ("vip".to_owned(), v)));
            }
            "serviceengine" => {
                let vips = self.planner.served(uuid).into_iter();
                let services = vips.flat_map(|vsvip| situation::services_of(self.snapshot, &vsvip));
                config.insert("virtualservice_refs".into(), refs(services.collect()));
                let vnic = config.get("mgmt_vnic");
                let address = vnic.and_then(|v| v.pointer("/vnic_networks/0/ip/ip_addr"));
                let address = address.cloned();
                config.extend(address.map(|a| ("mgmt_ip_address".to_owned(), a)));
            }
            "pool" => {
                let users = pools::users(self.snapshot, uuid);
                config.insert("virtualservice_refs".into(), refs(users));
            }
            "poolgroup" => {
                let users = pools::users_of_group(self.snapshot, uuid);
                config.insert("virtualservice_refs".into(), refs(users));
            }
            _ => {}
        }
    }

    fn vsvip(&self, uuid: &str) -> Value {
        let services = situation::services_of(self.snapshot, uuid);
        let view = self.snapshot.view::<VsVip>("vsvip", uuid);
        match (services.first(), view) {
            (Some(vs), Some(vsvip)) => self.summary(vs, &vsvip),
            _ => {
                json!({"num_se_assigned": 0, "oper_status": status("OPER_UNUSED", "unused", "no virtual service uses it")})
            }
        }
    }
}

/// Why an object is not up, and where: what stands in its own state and in those of its engines. An engine that is up and has
/// something to say (a state that it refuses) says it. `None` for what has no state.
fn faults(runtime: &Value) -> Option<Value> {
    let own = runtime.get("oper_status")?;
    let engines = runtime["service_engine"].as_array();
    let engines = engines.into_iter().flatten();
    let there = engines.map(|e| (&e["oper_status"], Some(&e["name"])));
    let all = std::iter::once((own, None)).chain(there);
    let faults = all.filter(|(oper, _)| !is_well(oper));
    let faults = faults.map(|(oper, se_name)| {
        let mut fault = json!({
            "state": oper["state"],
            "reason_code": oper["reason_code_string"],
            "reason": oper["reason"],
        });
        if let Some(se_name) = se_name {
            fault["se_name"] = se_name.clone();
        }
        fault
    });
    Some(faults.collect::<Vec<_>>().into())
}

fn is_well(oper: &Value) -> bool {
    let says_nothing = oper["reason"].as_array().is_none_or(Vec::is_empty);
    oper["state"] == "OPER_UP" && says_nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oper(state: &str, code: &str, why: &str) -> Value {
        status(state, code, why)
    }

    #[test]
    fn what_is_up_everywhere_has_no_faults_and_what_has_no_state_no_word_of_them() {
        let up = oper("OPER_UP", "up", "");
        let engines = json!([{"name": "se-1", "oper_status": up}]);
        let runtime = json!({"oper_status": up, "service_engine": engines});
        assert_eq!(faults(&runtime), Some(json!([])));
        assert_eq!(faults(&json!({"num_se": 2})), None);
        assert_eq!(faults(&Value::Null), None);
    }

    #[test]
    fn faults_are_its_own_and_those_of_its_engines_by_name() {
        let down = oper("OPER_DOWN", "pool_down", "no server is up");
        let refuses = oper("OPER_UP", "desired_state_refused", "pools[0]: too many");
        let engines = json!([
            {"name": "se-1", "oper_status": down}, {"name": "se-2", "oper_status": oper("OPER_UP", "up", "")},
            {"name": "se-3", "oper_status": refuses},
        ]);
        let found = faults(&json!({"oper_status": down, "service_engine": engines})).unwrap();
        let own = json!({"state": "OPER_DOWN", "reason_code": "pool_down", "reason": ["no server is up"]});
        let mut first = own.clone();
        first["se_name"] = json!("se-1");
        assert_eq!((&found[0], &found[1]), (&own, &first));
        assert_eq!(
            (&found[2]["se_name"], &found[2]["reason_code"]),
            (&json!("se-3"), &json!("desired_state_refused"))
        );
        assert_eq!(found[3], Value::Null);
    }
}
