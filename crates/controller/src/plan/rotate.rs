//! Clients of TLS go on with what they had agreed on with an engine before, until an operator makes them begin anew (`rotatekeys`).
//!
//! Engines keep in memory what they have agreed on, each by itself for each virtual service; there are no keys of tickets. So the engines of a
//! virtual service are told a number, and one that is another than before makes them forget. It is stored, so that another controller, or this
//! one when it starts again, tells the same; should it go back with an older copy of the store, clients begin anew once more, and no harm is done.

use super::routing::now_unix_ms;
use super::writing::meta;
use super::{Planner, Tables};
use crate::error::ApiError;
use crate::objects::Snapshot;
use std::collections::BTreeMap;
use store::{Expect, Op, Store};

const PREFIX: &str = "/tlsrotation/";
/// Deletions of one commit, well within what etcd takes.
const AT_ONCE: usize = 32;

/// The number of each virtual service that has one, by uuid.
pub(super) type Rotations = BTreeMap<String, u64>;

/// Those in the store.
pub(super) async fn load(store: &dyn Store) -> Result<Rotations, ApiError> {
    let listing = store.list(PREFIX).await?;
    let each = listing.entries.into_iter().map(|entry| {
        let number = serde_json::from_slice(&entry.value)
            .map_err(|e| ApiError::internal(&format!("reading {}", entry.key), &e))?;
        Ok((entry.key[PREFIX.len()..].to_owned(), number))
    });
    each.collect()
}

impl Planner {
    /// Clients of this virtual service begin anew, at all engines of its VIP. Durable before an engine hears of it; gives the number.
    pub(super) async fn rotate(&self, vs: &str, vsvip: &str) -> Result<u64, ApiError> {
        let _one = self.deciding.lock().await;
        let before = self.read().rotations.get(vs).copied();
        let now = now_unix_ms();
        // Another one, also where the clock was set back in between.
        let number = before.map_or(now, |before| now.max(before + 1));
        let op = Op::put(format!("{PREFIX}{vs}"), number.to_string(), Expect::Any);
        let meta = meta(format!("clients of TLS begin anew ({vs})"));
        let revision = self.objects.store().commit(vec![op], meta).await?;
        let mut tables = self.write();
        tables.revision = revision.max(tables.revision);
        tables.rotations.insert(vs.to_owned(), number);
        tables.mark_members(vsvip);
        drop(tables);
        self.publish();
        Ok(number)
    }

    /// Those of virtual services that are gone go, too.
    pub(super) async fn forget_rotations(&self, snapshot: &Snapshot) -> Result<(), ApiError> {
        let gone = self.read().rotations_without(snapshot);
        for some in gone.chunks(AT_ONCE) {
            let ops = some.iter();
            let ops = ops.map(|vs| Op::delete(format!("{PREFIX}{vs}"), Expect::Any));
            let meta = meta("virtual services with TLS were deleted".into());
            let store = self.objects.store();
            store.commit(ops.collect(), meta).await?;
            let is_gone = |vs: &String| some.contains(vs);
            self.write().rotations.retain(|vs, _| !is_gone(vs));
        }
        Ok(())
    }
}

impl Tables {
    fn rotations_without(&self, snapshot: &Snapshot) -> Vec<String> {
        let all = self.rotations.keys();
        let gone = all.filter(|vs| snapshot.get("virtualservice", vs).is_none());
        gone.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    async fn stored(fixture: &Fixture) -> Rotations {
        load(&**fixture.objects.store()).await.expect("read")
    }

    #[tokio::test]
    async fn an_engine_is_told_a_number_that_grows_and_outlives_the_controller() {
        let fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        assert!(fixture.told().tls_rotations.is_empty());
        let first = fixture.planner.rotate(&vs, &fixture.vsvip).await;
        let first = first.expect("stored");
        let told = || fixture.told().tls_rotations.clone();
        let number = |number| {
            let vs_uuid = vs.clone();
            vec![proto::v1::TlsRotation { vs_uuid, number }]
        };
        assert_eq!(told(), number(first));
        let second = fixture.planner.rotate(&vs, &fixture.vsvip).await;
        let second = second.expect("stored");
        assert!(second > first, "{second} is not above {first}");
        assert_eq!(told(), number(second));
        let (objects, registry) = (fixture.objects.clone(), fixture.registry.clone());
        let again = Planner::open(objects, registry).await.expect("opened");
        assert_eq!(again.read().rotations.get(&vs), Some(&second));
    }

    #[tokio::test]
    async fn the_number_of_a_service_that_is_deleted_is_forgotten() {
        let fixture = Fixture::new().await;
        let vs = fixture.uuid("virtualservice", "vs-1");
        let rotated = fixture.planner.rotate(&vs, &fixture.vsvip).await;
        rotated.expect("stored");
        fixture.round().await;
        assert!(stored(&fixture).await.contains_key(&vs), "it is there");
        fixture.delete("virtualservice", &vs).await;
        fixture.round().await;
        assert!(stored(&fixture).await.is_empty());
        assert!(fixture.planner.read().rotations.is_empty());
    }
}
