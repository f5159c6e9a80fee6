//! Planning everything from nothing, by itself: how long the decisions alone take, for those who measure
//! (`evenkeel-bench scale`). Objects are in memory, engines have sessions that nobody reads, nothing is placed or written.

use super::assignments::Assignments;
use super::{Planner, reconcile};
use crate::bootstrap;
use crate::engines::Registry;
use crate::engines::outbox::{Messages, Outbox};
use crate::objects::{Author, Draft, Objects};
use anyhow::Context as _;
use model::object::Object;
use model::schema::{ObjectType, object_type};
use proto::v1::Hello;
use serde_json::{Value, json};
use std::sync::Arc;

/// Objects that are made together.
const BATCH_LEN: usize = 50;

/// See the module's documentation.
pub struct Scratch {
    objects: Arc<Objects>,
    registry: Arc<Registry>,
    planner: Planner,
    /// What engines would hear of.
    sessions: Vec<Messages>,
}

impl Scratch {
    /// With what a controller has when it is new.
    ///
    /// # Errors
    /// The defaults cannot be made.
    pub async fn new() -> anyhow::Result<Self> {
        let objects = Arc::new(Objects::open(Arc::new(store::Memory::default())).await?);
        bootstrap::ensure(&objects).await?;
        let registry = Arc::new(Registry::default());
        let planner = Planner::open(objects.clone(), registry.clone()).await?;
        Ok(Self {
            objects,
            registry,
            planner,
            sessions: Vec::new(),
        })
    }

    /// Sets fields of an object that is there, by its type's path and its name.
    ///
    /// # Errors
    /// It is not there, or a field is wrong.
    pub async fn set(&self, path: &str, name: &str, fields: Value) -> anyhow::Result<()> {
        let (ty, fields) = (known(path)?, object(fields)?);
        let author = Author::system("scratch");
        let change = |draft: &mut Draft| {
            let found = draft.snapshot.by_name(path, name);
            let (uuid, mut object) = found
                .map(|(uuid, stored)| (uuid.to_owned(), stored.object.clone()))
                .ok_or_else(|| crate::error::ApiError::not_found(&ty.name))?;
            object.extend(fields);
            draft.update(ty, &uuid, object, &author)
        };
        self.objects.change(&author, "set", change).await?;
        Ok(())
    }

    /// Makes objects, each with its type's path.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub async fn create(&self, objects: Vec<(&str, Value)>) -> anyhow::Result<()> {
        let author = Author::system("scratch");
        let known = |(path, body)| Ok((known(path)?, object(body)?));
        let objects = objects.into_iter().map(known);
        let objects: Vec<(&'static ObjectType, Object)> = objects.collect::<anyhow::Result<_>>()?;
        for some in objects.chunks(BATCH_LEN) {
            let change = |draft: &mut Draft| {
                let mut all = some.iter();
                all.try_for_each(|(ty, body)| {
                    draft.create(ty, body.clone(), None, &author).map(drop)
                })
            };
            self.objects.change(&author, "create", change).await?;
        }
        Ok(())
    }

    /// An engine more, which has said hello.
    ///
    /// # Errors
    /// What is wrong with its name.
    pub async fn join(&mut self, hello: Hello) -> anyhow::Result<()> {
        let name = hello.name.clone();
        self.create(vec![("serviceengine", json!({ "name": name }))])
            .await?;
        let snapshot = self.objects.snapshot();
        let (uuid, _) = snapshot
            .by_name("serviceengine", &name)
            .context("it was made")?;
        let (outbox, receiver) = Outbox::new();
        self.registry.open(uuid, hello, outbox);
        self.sessions.push(receiver);
        Ok(())
    }

    /// Decides about every VIP of a virtual service, as the first round of a controller does; how many places VIPs get.
    ///
    /// # Errors
    /// A decision cannot be an assignment.
    pub fn plan(&self) -> anyhow::Result<usize> {
        let snapshot = self.objects.snapshot();
        let mut assignments = Assignments::default();
        let mut places = 0;
        let vips: Vec<String> = reconcile::wanted(&snapshot).into_iter().collect();
        for some in vips.chunks(reconcile::VIPS_AT_ONCE) {
            let mut ground = self.planner.ground_of(&snapshot, &assignments);
            let some = some.iter();
            let decided =
                reconcile::decisions(&self.planner, &snapshot, &mut ground, &assignments, some);
            for (vsvip, decision) in decided {
                places += decision.engines.len();
                let (engines, begun) = (decision.engines, decision.begun);
                let next = self.planner.moved_to(&vsvip, engines, begun)?;
                assignments.insert(vsvip, next);
            }
        }
        Ok(places)
    }
}

fn known(path: &str) -> anyhow::Result<&'static ObjectType> {
    object_type(path).with_context(|| format!("there is no type {path}"))
}

fn object(value: Value) -> anyhow::Result<Object> {
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Interface;

    #[tokio::test]
    async fn every_vip_gets_its_engines_and_nothing_is_placed() {
        let mut scratch = Scratch::new().await.expect("made");
        for number in 1..=3 {
            let address = format!("10.10.10.1{number}/24");
            let interface = Interface {
                name: "eth0".into(),
                up: true,
                addresses: vec![address],
                ..Interface::default()
            };
            let hello = Hello {
                name: format!("se-{number}"),
                interfaces: vec![interface],
                protocol_version: proto::PROTOCOL_VERSION,
                ..Hello::default()
            };
            scratch.join(hello).await.expect("joined");
        }
        let two = json!({"min_scaleout_per_vs": 2});
        let set = scratch.set("serviceenginegroup", "Default-Group", two);
        set.await.expect("set");
        let service = |number: u8| {
            let address = json!({"addr": format!("10.100.0.{number}"), "type": "V4"});
            let vip = json!([{"vip_id": "1", "ip_address": address}]);
            let name = format!("vs-{number}");
            let body = json!({"name": name, "services": [{"port": 80}], "vip": vip});
            ("virtualservice", body)
        };
        let services = (1..=5).map(service).collect();
        scratch.create(services).await.expect("created");
        for _ in 0..2 {
            assert_eq!(scratch.plan().expect("planned"), 10);
        }
        assert_eq!(scratch.planner.read().assignments.iter().count(), 0);
    }
}
