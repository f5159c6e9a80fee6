//! Revert, and commits that revert themselves unless they are confirmed.

use crate::http::{Http, Reply, Server, v4, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn revision(reply: &Reply) -> u64 {
    reply.good();
    reply.headers["X-Evenkeel-Revision"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn revert(http: &Http, body: Value) -> Reply {
    http.post("/api/ek/revert", &body)
}

fn port(http: &Http, path: &str) -> Value {
    http.get(path).good()["default_server_port"].clone()
}

fn set_port(http: &Http, path: &str, port: u16) -> Reply {
    http.patch(path, &json!({"replace": {"default_server_port": port}}))
}

fn pending(http: &Http) -> Vec<Value> {
    let page = http.get("/api/ek/pending").good();
    page["results"].as_array().unwrap().clone()
}

#[test]
fn a_change_is_undone_unless_its_objects_were_changed_since() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make("pool", json!({"name": "web", "default_server_port": 81}));
    let second = revision(&set_port(&http, &path, 82));
    let third = revision(&set_port(&http, &path, 83));

    let refused = revert(&http, json!({"revision": second}));
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("Pool web"), "{}", refused.text);
    assert_eq!(port(&http, &path), 83);

    let done = revert(&http, json!({"revision": third}));
    let object = json!({"type": "pool", "uuid": made["uuid"], "name": "web", "result": "restored"});
    assert_eq!(done.good()["objects"], json!([object]));
    assert_eq!(port(&http, &path), 82);
    let log = http.get("/api/ek/audit?type=pool").good();
    assert_eq!(
        log["results"][0]["message"],
        format!("revert of revision {third}")
    );
    assert_eq!(log["results"][0]["revision"], revision(&done));

    // What was changed since and is undone is no change any more.
    revert(&http, json!({"revision": second})).good();
    assert_eq!(port(&http, &path), 81);
    let created = log["results"][3]["revision"].clone();
    revert(&http, json!({"revision": created})).good();
    assert_eq!(http.get(&path).status, 404);
}

#[test]
fn a_deleted_virtual_service_comes_back_with_its_vip_and_a_created_one_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.9")}]);
    let body = json!({"name": "vs", "services": [{"port": 80}], "vip": vip});
    let made = http.post("/api/virtualservice", &body);
    let path = crate::http::own_path(&made.good());
    let deleted = http.delete(&path);
    assert_eq!(deleted.status, 204);
    assert_eq!(http.count("/api/vsvip"), 0);
    let deleted: u64 = deleted.headers["X-Evenkeel-Revision"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();

    let back = revert(&http, json!({"revision": deleted})).good();
    assert_eq!(back["objects"].as_array().unwrap().len(), 2);
    assert_eq!(http.get(&path).good()["name"], "vs");
    assert_eq!(http.count("/api/vsvip"), 1);

    revert(&http, json!({"revision": revision(&made)})).good();
    assert_eq!(
        http.count("/api/virtualservice") + http.count("/api/vsvip"),
        0
    );
}

#[test]
fn a_revert_that_breaks_a_rule_is_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let made = http.post("/api/pool", &json!({"name": "web"}));
    let pool = crate::http::own_path(&made.good());
    let vs = json!({"name": "vs", "services": [{"port": 80}], "pool_ref": pool});
    let (vs, _) = http.make("virtualservice", vs);
    let used = revert(&http, json!({"revision": revision(&made)}));
    assert_eq!(used.status, 409);
    assert!(used.text.contains("VirtualService vs"), "{}", used.text);
    // And the other way round: what it refers to is gone.
    let gone = http.delete(&vs);
    let gone: u64 = gone.headers["X-Evenkeel-Revision"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(http.delete(&pool).status, 204);
    let missing = revert(&http, json!({"revision": gone}));
    assert_eq!(missing.status, 409);
    assert!(missing.text.contains("pool_ref"), "{}", missing.text);
    // A name that somebody else has by now.
    let renamed = http.post("/api/pool", &json!({"name": "old"}));
    let path = crate::http::own_path(&renamed.good());
    let renamed = revision(&http.patch(&path, &json!({"replace": {"name": "new"}})));
    http.make("pool", json!({"name": "old"}));
    assert_eq!(revert(&http, json!({"revision": renamed})).status, 409);
    let boot =
        http.get("/api/ek/audit?who=system:bootstrap").good()["results"][0]["revision"].clone();
    let refused = revert(&http, json!({"revision": boot}));
    assert_eq!(refused.status, 403, "{}", refused.text);
}

#[test]
fn one_object_goes_back_to_any_revision() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make("pool", json!({"name": "web", "default_server_port": 81}));
    let second = revision(&set_port(&http, &path, 82));
    set_port(&http, &path, 83).good();
    let to = |revision: u64| json!({"type": "pool", "uuid": made["uuid"], "revision": revision});
    let back = revert(&http, to(second)).good();
    assert_eq!(back["objects"][0]["result"], "restored");
    assert_eq!(port(&http, &path), 82);
    let again = revert(&http, to(second)).good();
    assert_eq!(again["objects"][0]["result"], "unchanged");
    assert_eq!(again["revision"], Value::Null);
    http.delete(&path);
    revert(&http, to(second)).good();
    assert_eq!(port(&http, &path), 82);
    revert(&http, to(1)).good();
    assert_eq!(
        http.get(&path).status,
        404,
        "it was not there at revision 1"
    );
    assert_eq!(revert(&http, to(1)).status, 404);
}

#[test]
fn a_secret_that_was_replaced_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let profile = |secret: &str| {
        let peer = json!({"peer_ip": v4("10.0.0.9"), "subnet": {"ip_addr": v4("10.0.0.0"), "mask": 24},
                          "remote_as": 65001, "md5_secret": secret});
        json!({"local_as": 65000, "ibgp": false, "peers": [peer]})
    };
    let (path, _) = http.make(
        "vrfcontext",
        json!({"name": "v", "bgp_profile": profile("one")}),
    );
    let change = json!({"replace": {"bgp_profile": profile("two")}});
    let changed = revision(&http.patch(&path, &change));
    revert(&http, json!({"revision": changed})).good();
    // Only a difference that is there is shown, so writing the old secret again changes nothing.
    http.patch(&path, &json!({"replace": {"bgp_profile": profile("one")}}))
        .good();
    let log = http.get("/api/ek/audit?type=vrfcontext&name=v").good();
    assert_eq!(log["results"][0]["objects"][0]["changes"], json!([]));
}

#[test]
fn what_a_revert_gets_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for (body, status, word) in [
        (json!({}), 400, "revision:"),
        (json!({"revision": "x"}), 400, "revision:"),
        (json!({"revision": 999_999}), 404, "999999"),
        (json!({"revision": 0}), 404, "revision 0"),
        (json!({"revision": u64::MAX}), 404, "changed no object"),
        (json!({"revision": 1, "type": "pool"}), 400, "go together"),
        (
            json!({"revision": 1, "type": "nothing", "uuid": "x"}),
            404,
            "nothing",
        ),
        (
            json!({"revision": 1, "type": "pool", "uuid": "x"}),
            404,
            "Pool",
        ),
    ] {
        let reply = revert(&http, body);
        assert_eq!(reply.status, status, "{}", reply.text);
        assert!(reply.text.contains(word), "{}", reply.text);
    }
}

#[test]
fn a_change_that_nobody_confirms_reverts_itself_and_a_confirmed_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make("pool", json!({"name": "web", "default_server_port": 81}));
    let within = |seconds: &str| http.with("X-Evenkeel-Confirm-Within", seconds);
    let kept = revision(&set_port(&within("3600"), &path, 82));
    let waiting = pending(&http);
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        [&waiting[0]["revision"], &waiting[0]["within_s"]],
        [kept, 3600]
    );
    assert_eq!(
        [&waiting[0]["who"], &waiting[0]["state"]],
        ["admin", "waiting"]
    );
    assert_eq!(port(&http, &path), 82, "it is applied at once");
    http.post("/api/ek/confirm", &json!({"revision": kept}))
        .good();
    assert_eq!(pending(&http).len(), 0);
    let last = http.get("/api/ek/audit").good()["results"][0].clone();
    assert_eq!(last["message"], format!("confirmation of revision {kept}"));
    assert_eq!([&last["who"], &last["from"]], ["admin", "127.0.0.1"]);
    assert_eq!(last["objects"], json!([]));
    let twice = http.post("/api/ek/confirm", &json!({"revision": kept}));
    assert_eq!(twice.status, 404, "{}", twice.text);

    let lost = revision(&set_port(&within("1"), &path, 83));
    wait_until("reverted", || port(&http, &path) == 82);
    assert_eq!(pending(&http).len(), 0);
    let log = http.get("/api/ek/audit?type=pool").good();
    let message = format!("revert of revision {lost}: not confirmed within 1 s");
    assert_eq!(log["results"][0]["message"], message);
    assert_eq!(log["results"][0]["who"], "system:confirm");
}

#[test]
fn what_waits_survives_a_restart_and_what_was_due_meanwhile_reverts_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make("pool", json!({"name": "web", "default_server_port": 81}));
    let (other, _) = http.make("pool", json!({"name": "other", "default_server_port": 81}));
    let waits = revision(&set_port(
        &http.with("X-Evenkeel-Confirm-Within", "3600"),
        &other,
        82,
    ));
    // Two on top of each other: they are undone from the last to the first.
    let soon = http.with("X-Evenkeel-Confirm-Within", "2");
    set_port(&soon, &path, 82).good();
    let due = Instant::now() + Duration::from_millis(2100);
    set_port(&soon, &path, 83).good();
    drop(server);
    wait_until("the deadline", || Instant::now() > due);

    let server = Server::start(folder.path());
    let http = server.logged_in();
    wait_until("reverted at start", || port(&http, &path) == 81);
    let left = pending(&http);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["revision"], waits);
    http.post("/api/ek/confirm", &json!({"revision": waits}))
        .good();
    assert_eq!(port(&http, &other), 82);
}

#[test]
fn a_revert_that_meets_a_later_change_fails_as_a_whole_and_says_so_until_it_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let writes = ["one", "two"].map(|n| json!({"type": "pool", "object": {"name": n}}));
    let soon = http.with("X-Evenkeel-Confirm-Within", "2");
    let made = soon.post("/api/ek/change", &json!({"writes": writes}));
    let revision = revision(&made);
    let objects = made.good()["objects"].clone();
    let path = |i: usize| format!("/api/pool/{}", objects[i]["uuid"].as_str().unwrap());
    set_port(&http, &path(1), 99).good();

    wait_until("failed", || {
        pending(&http).iter().any(|p| p["state"] == "failed")
    });
    let failed = &pending(&http)[0];
    assert_eq!(failed["revision"], revision);
    assert!(
        failed["reason"].as_str().unwrap().contains("Pool two"),
        "{failed}"
    );
    assert_eq!(http.get(&path(0)).status, 200, "nothing is half reverted");
    assert_eq!(port(&http, &path(1)), 99);
    http.post("/api/ek/confirm", &json!({"revision": revision}))
        .good();
    assert_eq!(pending(&http).len(), 0);
}

#[test]
fn a_time_to_confirm_is_checked_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for seconds in ["0", "86401", "soon"] {
        let reply = http
            .with("X-Evenkeel-Confirm-Within", seconds)
            .post("/api/pool", &json!({"name": "p"}));
        assert_eq!(reply.status, 400);
        assert!(
            reply.text.contains("X-Evenkeel-Confirm-Within"),
            "{}",
            reply.text
        );
    }
    let action = http.with("X-Evenkeel-Confirm-Within", "60");
    let reply = action.post("/api/ek/jointoken", &json!({}));
    assert_eq!(
        reply.status, 400,
        "an action cannot be reverted: {}",
        reply.text
    );
    assert_eq!(http.count("/api/pool?name=p"), 0);
    assert_eq!(pending(&http).len(), 0);
}
