//! Compaction, values in another form, and scrubbing.

use super::relay::{Fate, Relay};
use super::server::{run, shared, spawn};
use super::{depose, leading, put, raw, within};
use evenkeel_store::{Expect, Meta, Op, Store as _};
use std::sync::Arc;
use std::time::Duration;

/// Writes of one key: more than one transaction deletes.
const WRITES: u64 = 200;

#[test]
fn a_compaction_that_is_interrupted_says_nothing_wrong_and_is_finished_by_the_next() {
    let Some(server) = shared() else { return };
    run(async {
        let (relay, direct, mut through) = Relay::before(server).await;
        // It is the test that ends it.
        through.lease_ttl = Duration::from_secs(600);
        let (old, _leadership) = leading(&through, "old").await;
        for _ in 1..WRITES {
            put(&old, "/gone", "x").await.unwrap();
        }
        let delete = Op::delete("/gone", Expect::Any);
        old.commit(vec![delete], Meta::default()).await.unwrap();
        put(&old, "/other", "x").await.unwrap();

        let amid = format!("{}/log/{:020}/", direct.prefix, WRITES / 2);
        relay.catch(amid, Fate::LastOfAll);
        let old = Arc::new(old);
        let compacting = old.clone();
        let compaction = spawn(async move { compacting.compact(WRITES + 1).await });
        within(relay.caught()).await;
        compaction.abort();

        let mut client = server.client().await;
        depose(&mut client, &direct).await;
        let (new, _leadership) = leading(&direct, "new").await;
        let left = raw(&client, &direct, "history/").await.len() as u64;
        assert!((2..WRITES).contains(&left), "it was not amid: {left}");
        assert_eq!(new.history("/gone", 999).await.unwrap(), []);
        assert_eq!(new.get_at("/gone", WRITES + 1).await.unwrap(), None);
        let commit = new.read_commit(WRITES + 1).await.unwrap().unwrap();
        assert_eq!(commit.writes[0].before, None);

        assert_eq!(new.compact(WRITES + 1).await.unwrap(), WRITES + 1);
        for part in ["history/", "log/", "head/"] {
            let left = raw(&client, &direct, part).await;
            assert_eq!(left.len(), 1, "{left:?}");
        }
    });
}
