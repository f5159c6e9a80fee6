//! Several objects as one change; export and import; backup and restore.

use crate::http::{Http, PASSWORD, Server, v4};
use evenkeel_controller::{Args, Command};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::Path;

fn peers(secret: &str) -> Value {
    let peer = json!({"peer_ip": v4("10.0.0.9"), "subnet": {"ip_addr": v4("10.0.0.0"), "mask": 24},
                      "remote_as": 65001, "md5_secret": secret});
    json!({"local_as": 65000, "ibgp": false, "peers": [peer]})
}

/// One of everything that refers to something.
fn fill(http: &Http) {
    let (cloud, _) = http.make("cloud", json!({"name": "east", "vtype": "CLOUD_NONE"}));
    let in_cloud = json!({"name": "own", "cloud_ref": cloud, "bgp_profile": peers("a-secret")});
    let (vrf, _) = http.make("vrfcontext", in_cloud);
    let pool = json!({"name": "web", "servers": [{"ip": v4("10.0.0.1")}], "cloud_ref": cloud, "vrf_ref": vrf});
    let (pool, _) = http.make("pool", pool);
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.9")}]);
    let vs = json!({"name": "vs", "services": [{"port": 80}], "vip": vip, "pool_ref": pool,
                    "cloud_ref": cloud, "vrf_context_ref": vrf});
    http.make("virtualservice", vs);
    http.make(
        "virtualservice",
        json!({"name": "plain", "services": [{"port": 80}]}),
    );
}

fn results(reply: &Value) -> Vec<&str> {
    let objects = reply["objects"].as_array().unwrap().iter();
    objects.map(|o| o["result"].as_str().unwrap()).collect()
}

#[test]
fn several_objects_are_written_as_one_change_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make("pool", json!({"name": "old"}));
    let vs = json!({"name": "vs", "services": [{"port": 80}], "pool_ref": "/api/pool?name=new"});
    let old = json!({"name": "old", "default_server_port": 99});
    let mut writes = vec![
        json!({"type": "pool", "object": {"name": "new"}}),
        json!({"type": "virtualservice", "object": vs}),
        json!({"type": "pool", "uuid": made["uuid"], "object": old}),
    ];
    let done = http
        .post("/api/ek/change", &json!({"writes": writes}))
        .good();
    assert_eq!(results(&done), ["created", "created", "updated"]);
    let revision = &done["revision"];
    let log = http
        .get(&format!("/api/ek/audit?revision={revision}"))
        .good();
    assert_eq!(log["results"][0]["objects"].as_array().unwrap().len(), 3);
    assert_eq!(http.get(&path).good()["default_server_port"], 99);

    writes[0]["object"]["name"] = json!("newer");
    let refused = http.post("/api/ek/change", &json!({"writes": writes}));
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("writes[1]:"), "{}", refused.text);
    assert_eq!(http.count("/api/pool?name=newer"), 0);
}

#[test]
fn an_export_makes_another_controller_the_same_but_for_secrets() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Server::start(one.path());
    fill(&source.logged_in());
    let file = source.logged_in().get("/api/ek/export");
    assert!(!file.text.contains("a-secret"));
    let file = file.good();

    let target = Server::start(two.path());
    let http = target.logged_in();
    let done = http.post("/api/ek/import", &file).good();
    assert_eq!(done["secrets_missing"], json!(["VrfContext own"]));
    let log = http.get("/api/ek/audit?type=virtualservice").good();
    assert_eq!(log["count"], 1, "one change for all");
    let vs = http.get("/api/virtualservice?name=vs&include_name").good()["results"][0].clone();
    for (field, name) in [
        ("pool_ref", "#web"),
        ("vrf_context_ref", "#own"),
        ("cloud_ref", "#east"),
    ] {
        let reference = vs[field].as_str().unwrap();
        assert!(reference.ends_with(name), "{field}: {reference}");
    }
    // System objects have other uuids here; references follow them.
    let plain = http
        .get("/api/virtualservice?name=plain&include_name")
        .good()["results"][0]
        .clone();
    let group = plain["se_group_ref"].as_str().unwrap().to_owned();
    assert!(group.ends_with("#Default-Group"), "{group}");
    let group = &group[group.find("/api/").unwrap()..group.find('#').unwrap()];
    assert_eq!(http.get(group).status, 200);
    let count = |http: &Http, ty: &str| http.count(&format!("/api/{ty}"));
    for ty in [
        "cloud",
        "vrfcontext",
        "serviceenginegroup",
        "pool",
        "vsvip",
        "virtualservice",
    ] {
        assert_eq!(count(&http, ty), count(&source.logged_in(), ty), "{ty}");
    }

    let again = http.post("/api/ek/import", &file).good();
    assert_eq!(again["revision"], Value::Null, "{again}");
    assert!(results(&again).iter().all(|r| *r == "unchanged"), "{again}");
}

#[test]
fn an_import_into_where_it_came_from_keeps_secrets_and_brings_back_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    fill(&http);
    let file = http.get("/api/ek/export").good();
    let pool = http.get("/api/pool?name=web").good()["results"][0].clone();
    let path = crate::http::own_path(&pool);
    http.patch(&path, &json!({"replace": {"default_server_port": 99}}))
        .good();
    let done = http.post("/api/ek/import", &file).good();
    let changed: Vec<_> = results(&done)
        .into_iter()
        .filter(|r| *r != "unchanged")
        .collect();
    assert_eq!(
        (changed, &done["secrets_missing"]),
        (vec!["updated"], &json!([]))
    );
    assert_eq!(http.get(&path).good()["default_server_port"], 80);
    let vrf = http.get("/api/vrfcontext?name=own").good()["results"][0].clone();
    assert_eq!(vrf["bgp_profile"]["peers"][0]["md5_secret"], "<sensitive>");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_told_where() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let good = json!({"name": "good", "uuid": "pool-good"});
    for (body, word) in [
        (json!({"objects": {}}), "evenkeel_export"),
        (
            json!({"evenkeel_export": 2, "objects": {}}),
            "newer program",
        ),
        (json!({"evenkeel_export": 1}), "objects:"),
        (
            json!({"evenkeel_export": 1, "objects": {"pool": {}}}),
            "objects.pool",
        ),
        (
            json!({"evenkeel_export": 1, "objects": {"pool": [good, {"name": "x"}]}}),
            "objects.pool[1].uuid",
        ),
        (
            json!({"evenkeel_export": 1, "objects": {"pool": [good, {"name": "x", "uuid": "a/b"}]}}),
            "objects.pool[1].uuid",
        ),
        (
            json!({"evenkeel_export": 1, "objects": {"pool": [good, {"name": "x", "uuid": "x", "vrf_ref": "/api/vrfcontext/gone"}]}}),
            "Pool x",
        ),
    ] {
        let reply = http.post("/api/ek/import", &body);
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert!(reply.text.contains(word), "{}", reply.text);
    }
    assert_eq!(http.count("/api/pool"), 0);
}

fn take_backup(http: &Http, file: &Path) {
    let (status, bytes) = http.bytes("POST", "/api/ek/backup");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
    std::fs::write(file, bytes).unwrap();
}

fn restore(file: &Path, data: &Path) -> anyhow::Result<()> {
    evenkeel_controller::run(Args {
        command: Some(Command::Restore {
            file: file.to_owned(),
        }),
        data_dir: Some(data.to_owned()),
        ..Args::default()
    })
}

#[test]
fn a_backup_makes_a_controller_with_all_that_the_first_one_had() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = one.path().join("backup");
    let server = Server::start(one.path());
    let http = server.logged_in();
    fill(&http);
    http.wait_until_sealed();
    let log = http.get("/api/ek/audit").text;
    take_backup(&http, &file);
    http.make("pool", json!({"name": "later"}));
    assert!(!one.path().join("data/backup.new").exists());

    let data = two.path().join("data");
    restore(&file, &data).unwrap();
    let content = |folder: &Path, name: &str| {
        let mut bytes = Vec::new();
        let mut file = std::fs::File::open(folder.join("data").join(name)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let names = std::fs::read_dir(one.path().join("data")).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    // What happened is no configuration: the other one begins anew.
    let other = ["evenkeel.db", "events.", "alerts."];
    let keys: Vec<_> = names
        .filter(|n| !other.iter().any(|o| n.starts_with(o)))
        .collect();
    let seal_keys = "seal-keys.json".to_owned();
    assert!(
        keys.len() >= 3 && keys.contains(&seal_keys),
        "the CA is among them, too: {keys:?}"
    );
    for name in keys {
        assert_eq!(
            content(one.path(), &name),
            content(two.path(), &name),
            "{name}"
        );
    }
    // The password is the first one's, too.
    std::fs::write(two.path().join("password"), "another one").unwrap();
    let again = Server::start(two.path());
    let mut http = again.http();
    assert_eq!(http.log_in(PASSWORD).status, 200);
    let origin = |text: &str, server: &Server| text.replace(&server.address.to_string(), "HERE");
    let restored = http.get("/api/ek/audit").text;
    assert_eq!(origin(&restored, &again), origin(&log, &server));
    assert_eq!(http.count("/api/pool?name=later"), 0);
    http.make("pool", json!({"name": "and it goes on"}));
}

#[test]
fn a_restore_wants_an_empty_folder_and_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let file = folder.path().join("backup");
    take_backup(&server.logged_in(), &file);
    let refused = |file: &Path, data: &Path| format!("{:#}", restore(file, data).unwrap_err());
    let text = refused(&file, &folder.path().join("data"));
    assert!(
        text.contains("is not empty") && text.contains("--data-dir"),
        "{text}"
    );
    let empty = folder.path().join("empty");
    let text = refused(&folder.path().join("password"), &empty);
    assert!(text.contains("is no backup"), "{text}");
    assert_eq!(
        std::fs::read_dir(&empty).unwrap().count(),
        0,
        "nothing is left"
    );
    restore(&file, &empty).unwrap();
}
