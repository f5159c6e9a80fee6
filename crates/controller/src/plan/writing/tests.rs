use super::*;
use crate::plan::fixture::{Fixture, v4};
use serde_json::json;

/// VIPs that are placed nowhere yet, more than one commit takes; their SE group has room for them.
async fn with_vips(count: usize) -> (Fixture, Vec<String>) {
    let fixture = Fixture::new().await;
    let group = fixture.uuid("serviceenginegroup", "Default-Group");
    let room = |o: &mut model::object::Object| drop(o.insert("max_vs_per_se".into(), json!(1000)));
    fixture.update("serviceenginegroup", &group, room).await;
    let mut vips = Vec::new();
    for n in 0..count {
        let address = format!("10.101.0.{}", n + 1);
        let vip = json!([{"vip_id": "1", "ip_address": v4(&address)}]);
        let vsvip = json!({"name": format!("vip-of-{n}"), "vip": vip});
        let vsvip = fixture.create("vsvip", vsvip).await;
        let service =
            json!({"name": format!("vs-of-{n}"), "services": [{"port": 80}], "vsvip_ref": vsvip});
        fixture.create("virtualservice", service).await;
        vips.push(vsvip);
    }
    (fixture, vips)
}

fn revision(fixture: &Fixture) -> u64 {
    *fixture.objects.store().revision().borrow()
}

/// How many of these have an engine, here and in the store.
async fn placed(fixture: &Fixture, vips: &[String]) -> (usize, usize) {
    let here = vips.iter();
    let here = here.filter(|v| !fixture.planner.assignment(v).engines.is_empty());
    let listing = fixture.objects.store().list(PREFIX).await.expect("read");
    let stored = listing.entries.iter().map(|e| &e.key[PREFIX.len()..]);
    let stored = stored.filter(|vsvip| vips.iter().any(|v| v == vsvip));
    (here.count(), stored.count())
}

#[tokio::test]
async fn many_are_placed_by_few_commits_and_taken_off_by_few() {
    let (fixture, vips) = with_vips(AT_ONCE * 2 + 1).await;
    let before = revision(&fixture);
    fixture.short_round().await;
    assert_eq!(placed(&fixture, &vips).await, (vips.len(), vips.len()));
    assert_eq!(revision(&fixture) - before, 3);
    for n in 0..vips.len() {
        let service = fixture.uuid("virtualservice", &format!("vs-of-{n}"));
        fixture.delete("virtualservice", &service).await;
    }
    let before = revision(&fixture);
    fixture.short_round().await;
    assert_eq!(placed(&fixture, &vips).await, (0, 0));
    assert_eq!(revision(&fixture) - before, 3);
}

#[tokio::test]
async fn one_that_somebody_else_changed_is_refused_and_the_others_of_its_commit_are_not() {
    let (fixture, vips) = with_vips(5).await;
    let theirs = json!({"engines": ["serviceengine-of-theirs"]}).to_string();
    let op = Op::put(format!("{PREFIX}{}", vips[2]), theirs, Expect::Any);
    let stolen = fixture.objects.store().commit(vec![op], Meta::default());
    stolen.await.expect("written");
    let next = |vsvip: &String| Placement {
        vsvip: vsvip.clone(),
        next: fixture
            .planner
            .moved_to(vsvip, vec![fixture.engine.clone()], Vec::new())
            .expect("there is room"),
        message: format!("placed {vsvip}"),
    };
    let before = revision(&fixture);
    let outcome = fixture.planner.write_many(vips.iter().map(next).collect());
    let outcome = outcome.await;
    let refused: Vec<_> = vips
        .iter()
        .filter(|v| !outcome.written.contains(*v))
        .collect();
    assert_eq!(refused, [&vips[2]]);
    let why = outcome.rest.expect_err("refused").text;
    assert!(why.contains(&vips[2]), "{why}");
    assert_eq!(revision(&fixture) - before, 4);
    // What the other one wrote is known from now on, so that it can be changed.
    let engines = |n: usize| fixture.planner.assignment(&vips[n]).engines;
    assert_eq!(engines(2), ["serviceengine-of-theirs"]);
    assert_eq!(engines(3), [fixture.engine.as_str()]);
    let again = fixture.planner.write_many(vec![next(&vips[2])]).await;
    assert_eq!(again.rest, Ok(()));
    assert_eq!(engines(2), [fixture.engine.as_str()]);
}

#[tokio::test]
async fn what_is_written_says_why() {
    let (fixture, vips) = with_vips(2).await;
    fixture.short_round().await;
    let heads = fixture.objects.store().log(PREFIX, u64::MAX, 1).await;
    let head = &heads.expect("read")[0];
    assert_eq!(head.keys.len(), vips.len());
    assert!(
        head.meta.message.starts_with("2 VIPs: placed on se-1"),
        "{head:?}"
    );
}
