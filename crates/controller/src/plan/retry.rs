//! VIPs whose placement is looked at now because somebody asks (`retryplacement`, `forcedelete`), and what came of it, in the planner's words.
//! What is done is the reconciler's, which does the same by itself on every change and every few seconds.

use super::decision::Decision;
use super::situation::Ground;
use super::{Planner, reconcile};
use crate::error::ApiError;
use crate::objects::Snapshot;
use std::time::SystemTime;

/// How a VIP was before it was looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    engines: Vec<String>,
    /// When something was last said of it.
    said: Option<SystemTime>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Looked {
    /// uuids of its engines now, the primary first.
    pub engines: Vec<String>,
    /// Those that it did not have before.
    pub added: Vec<String>,
    /// What was done, and why so.
    pub done: Option<String>,
    /// What it lacks, and why it does not get it.
    pub waits_for: Option<String>,
}

impl Planner {
    /// How a VIP is placed now.
    pub(super) fn before(&self, vsvip: &str) -> Before {
        Before {
            engines: self.assignment(vsvip).engines,
            said: self.last_scale(vsvip).map(|last| last.at),
        }
    }

    /// The VIPs that an engine has, be it to serve or to linger, and how each is placed now.
    pub(super) fn held(&self, engine: &str) -> Vec<(String, Before)> {
        let assignments = self.read().assignments.clone();
        let here = assignments.at(engine);
        here.map(|(vsvip, _)| (vsvip.to_owned(), self.before(vsvip)))
            .collect()
    }

    /// Looks at the placement of a VIP, and does what is to be done about it.
    ///
    /// # Errors
    /// The store writes nothing.
    pub(super) async fn look_at(&self, vsvip: &str) -> Result<Looked, ApiError> {
        let before = self.before(vsvip);
        let vips = [vsvip.to_owned()];
        reconcile::place(self, &self.objects.snapshot(), &vips).await?;
        self.publish();
        let snapshot = self.objects.snapshot();
        let mut ground = self.ground(&snapshot);
        Ok(self.came_of(&snapshot, &mut ground, vsvip, before))
    }

    /// What has become of a VIP since then. The ground is of the snapshot, and may be of many VIPs.
    pub(super) fn came_of(
        &self,
        snapshot: &Snapshot,
        ground: &mut Ground<'_>,
        vsvip: &str,
        before: Before,
    ) -> Looked {
        let engines = self.assignment(vsvip).engines;
        let is_new = |engine: &&String| !before.engines.contains(engine);
        let last = self.last_scale(vsvip);
        let last = last.filter(|last| last.success && Some(last.at) != before.said);
        Looked {
            added: engines.iter().filter(is_new).cloned().collect(),
            engines,
            done: last.map(|last| last.reason),
            waits_for: self.waits_for(snapshot, ground, vsvip),
        }
    }

    /// What would be done about a VIP and cannot.
    fn waits_for(
        &self,
        snapshot: &Snapshot,
        ground: &mut Ground<'_>,
        vsvip: &str,
    ) -> Option<String> {
        if !reconcile::is_wanted(snapshot, vsvip) {
            let text = "no virtual service of the VIP is enabled, and so it gets no service engines; set enabled to true";
            return Some(text.to_owned());
        }
        let demand = match ground.demand(vsvip) {
            Ok(demand) => demand,
            Err(error) => return Some(error.text),
        };
        let decision = Decision::of(ground, &demand, &self.assignment(vsvip));
        let why: Vec<String> = decision.refused.into_iter().map(|(_, why)| why).collect();
        (!why.is_empty()).then(|| why.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, v4};
    use serde_json::json;

    /// Another virtual service with a VIP of its own, which nobody has looked at yet.
    async fn another(fixture: &Fixture) -> String {
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.100.0.2")}]);
        let body = json!({"name": "vip-2", "vip": vip});
        let vsvip = fixture.create("vsvip", body).await;
        let service = json!({"name": "vs-2", "services": [{"port": 80}], "vsvip_ref": vsvip, "enable_rhi": true});
        fixture.create("virtualservice", service).await;
        vsvip
    }

    #[tokio::test]
    async fn what_is_placed_has_nothing_done_and_waits_for_nothing() {
        let fixture = Fixture::new().await;
        let looked = fixture.planner.look_at(&fixture.vsvip).await;
        let looked = looked.expect("looked at");
        assert_eq!(looked.engines, [fixture.engine.as_str()]);
        assert!(looked.added.is_empty(), "{looked:?}");
        assert_eq!((looked.done, looked.waits_for), (None, None));
    }

    #[tokio::test]
    async fn what_can_be_placed_is_and_what_cannot_says_why_of_each_engine() {
        let mut fixture = Fixture::new().await;
        let vsvip = another(&fixture).await;
        fixture
            .registry
            .close(&fixture.engine, fixture.session, "gone");
        let looked = fixture.planner.look_at(&vsvip).await.expect("looked at");
        assert!(looked.engines.is_empty(), "{looked:?}");
        let why = looked.waits_for.expect("it lacks one");
        assert!(why.contains("se-1: "), "{why}");
        fixture.connect();
        let looked = fixture.planner.look_at(&vsvip).await.expect("looked at");
        assert_eq!(looked.added, [fixture.engine.as_str()]);
        assert!(looked.done.is_some_and(|done| done.contains("se-1")));
        assert_eq!(looked.waits_for, None);
    }

    #[tokio::test]
    async fn a_service_that_is_disabled_is_placed_nowhere_and_says_so() {
        let fixture = Fixture::new().await;
        let vsvip = another(&fixture).await;
        let vs = fixture.uuid("virtualservice", "vs-2");
        fixture
            .update("virtualservice", &vs, |o| {
                drop(o.insert("enabled".into(), json!(false)));
            })
            .await;
        let looked = fixture.planner.look_at(&vsvip).await.expect("looked at");
        assert!(looked.engines.is_empty(), "{looked:?}");
        let why = looked.waits_for.expect("said");
        assert!(why.contains("set enabled to true"), "{why}");
    }
}
