//! The log of changes, as `GET /api/ek/audit` shows it.

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};

fn entries(http: &Http, query: &str) -> Vec<Value> {
    let page = http.get(&format!("/api/ek/audit?{query}")).good();
    page["results"].as_array().unwrap().clone()
}

fn revisions(entries: &[Value]) -> Vec<u64> {
    entries
        .iter()
        .map(|e| e["revision"].as_u64().unwrap())
        .collect()
}

#[test]
fn every_change_is_in_the_log_with_who_from_where_when_why_and_each_field() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make(
        "pool",
        json!({"name": "web", "servers": [{"ip": v4("10.0.0.1")}]}),
    );
    let uuid = made["uuid"].as_str().unwrap();
    let body =
        json!({"name": "web", "default_server_port": 8080, "servers": [{"ip": v4("10.0.0.2")}]});
    let said = http.with("X-Evenkeel-Message", "ticket%207%3A caf%C3%A9");
    let written = said.put(&path, &body);
    let revision: u64 = written.headers["X-Evenkeel-Revision"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    http.delete(&path);

    let found = entries(&http, &format!("type=pool&uuid={uuid}"));
    assert_eq!(found.len(), 3);
    let actions: Vec<_> = found
        .iter()
        .map(|e| e["objects"][0]["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["delete", "update", "create"]);
    let entry = &found[1];
    assert_eq!(entry["revision"], revision);
    assert_eq!([&entry["who"], &entry["from"]], ["admin", "127.0.0.1"]);
    assert_eq!(
        entry["message"],
        format!("update pool {uuid}: ticket 7: café")
    );
    let time = entry["time"].as_str().unwrap();
    assert!(
        time.starts_with("20") && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
    assert!(entry["time_us"].as_u64() > found[2]["time_us"].as_u64());
    let object = &entry["objects"][0];
    assert_eq!(
        [&object["type"], &object["uuid"], &object["name"]],
        ["pool", uuid, "web"]
    );
    assert_eq!(object["before"]["servers"][0]["ip"], v4("10.0.0.1"));
    assert_eq!(object["after"]["default_server_port"], 8080);
    let field = |name: &str| {
        let mut changes = object["changes"].as_array().unwrap().iter();
        changes
            .find(|c| c["field"] == name)
            .unwrap_or_else(|| panic!("{name}: {object}"))
    };
    let port = json!({"field": "default_server_port", "old": null, "new": 8080});
    assert_eq!(field("default_server_port"), &port);
    assert_eq!(field("servers[0].ip.addr")["new"], "10.0.0.2");
}

#[test]
fn the_log_is_searched_by_type_name_user_and_time_and_comes_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for n in 0..5 {
        http.make("pool", json!({"name": format!("p{n}")}));
    }
    let (path, _) = http.make("tenant", json!({"name": "p1"}));
    http.patch(&path, &json!({"replace": {"name": "renamed"}}))
        .good();

    let pools = entries(&http, "type=pool");
    assert_eq!(pools.len(), 5);
    assert_eq!(pools[0]["objects"][0]["name"], "p4");
    assert_eq!(entries(&http, "name=p1").len(), 3, "before and after count");
    assert_eq!(entries(&http, "name=p1&type=tenant").len(), 2);
    assert_eq!(entries(&http, "name=renamed").len(), 1);
    assert_eq!(entries(&http, "who=nobody").len(), 0);
    let boot = entries(&http, "who=system:bootstrap");
    assert_eq!(
        boot.len(),
        2,
        "the objects of the start, and the user admin"
    );
    assert_eq!(boot[0]["from"], "");
    let third = &pools[2];
    let (us, time) = (&third["time_us"], third["time"].as_str().unwrap());
    assert_eq!(
        entries(&http, &format!("since={us}&until={time}")),
        std::slice::from_ref(third)
    );
    let revision = &third["revision"];
    assert_eq!(
        entries(&http, &format!("revision={revision}")),
        std::slice::from_ref(third)
    );

    let page = http.get("/api/ek/audit?type=pool&page_size=2").good();
    assert_eq!(page["count"], 5);
    assert_eq!(
        revisions(page["results"].as_array().unwrap()),
        revisions(&pools[..2])
    );
    let next = page["next"].as_str().unwrap();
    assert!(
        next.contains("/api/ek/audit?page=2") && next.contains("type=pool"),
        "{next}"
    );
    assert_eq!(
        revisions(&entries(&http, "type=pool&page_size=2&page=3")),
        revisions(&pools[4..])
    );
}

#[test]
fn a_secret_is_never_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let peer = |secret: &str| {
        json!({"peer_ip": v4("10.0.0.9"), "subnet": {"ip_addr": v4("10.0.0.0"), "mask": 24},
               "remote_as": 65001, "md5_secret": secret})
    };
    let profile = |secret: &str| json!({"local_as": 65000, "ibgp": false, "peers": [peer(secret)]});
    let (path, _) = http.make(
        "vrfcontext",
        json!({"name": "v", "bgp_profile": profile("first-secret")}),
    );
    let replace = json!({"replace": {"bgp_profile": profile("second-secret")}});
    http.patch(&path, &replace).good();
    let reply = http.get("/api/ek/audit?type=vrfcontext&name=v");
    assert!(!reply.text.contains("-secret"), "{}", reply.text);
    let change = &reply.good()["results"][0]["objects"][0]["changes"][0];
    assert_eq!(change["field"], "bgp_profile.peers[0].md5_secret");
    assert_eq!(change["new"], "<sensitive>");
}

#[test]
fn what_a_search_or_a_message_gets_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for (query, field) in [
        ("since=yesterday", "since"),
        ("until=x", "until"),
        ("revision=x", "revision"),
    ] {
        let reply = http.get(&format!("/api/ek/audit?{query}"));
        assert_eq!(reply.status, 400);
        assert!(reply.text.contains(&format!("{field}:")), "{}", reply.text);
    }
    let reply = http
        .with("X-Evenkeel-Message", "%FF")
        .post("/api/pool", &json!({"name": "p"}));
    assert_eq!(reply.status, 400);
    assert!(reply.text.contains("X-Evenkeel-Message"), "{}", reply.text);
    assert_eq!(http.count("/api/pool?name=p"), 0);
}
