//! Items of inventories (avi-api 10.5): the object, and what is observed of it.

use super::super::situation;
use super::{Observer, status};
use crate::api::Context;
use crate::objects::{Stored, pools};
use model::object;
use model::schema::ObjectType;
use model::view::{Ref, ServiceEngineGroup, VirtualService, VsVip};
use serde_json::{Value, json};
use std::sync::Arc;

impl Observer<'_> {
    /// An item of an inventory (avi-api 10.5).
    pub(in crate::plan) fn inventory(
        &self,
        ty: &ObjectType,
        uuid: &str,
        stored: &Stored,
        context: &Context,
    ) -> Value {
        let kind = ty.path.as_str();
        let runtime = match kind {
            "virtualservice" => self.virtual_service(uuid),
            "serviceengine" => Some(self.service_engine(uuid)),
            "pool" => self.pool(uuid),
            "poolgroup" => self.pool_group(uuid),
            "vsvip" => Some(self.vsvip(uuid)),
            "serviceenginegroup" => self.se_group(uuid),
            _ => Some(json!({})),
        };
        let mut config = object::with_defaults(ty, &stored.object);
        object::map_refs(ty, &mut config, &mut |r| {
            self.named(&r.value, r.target, context)
        });
        object::hide_secrets(ty, &mut config);
        config.insert(
            "url".into(),
            format!("{}/api/{kind}/{uuid}", context.origin).into(),
        );
        self.extend_config(kind, uuid, context, &mut config);
        let mut item = json!({"uuid": uuid, "config": config, "runtime": runtime, "_last_modified": stored.object.get("_last_modified")});
        if kind == "virtualservice" {
            item["pools"] = self.pools_of(uuid, context);
        }
        item
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

    fn named(&self, canonical: &str, target: &str, context: &Context) -> String {
        let uuid = canonical.rsplit('/').next().unwrap_or("");
        let name = self.snapshot.name_of(target, uuid).unwrap_or("");
        format!("{}{canonical}#{name}", context.origin)
    }

    fn extend_config(
        &self,
        kind: &str,
        uuid: &str,
        context: &Context,
        config: &mut object::Object,
    ) {
        let refs = |services: Vec<Arc<VirtualService>>| {
            let each = services.into_iter().map(|v| {
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
