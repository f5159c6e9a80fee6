//! Objects on the wire: identity, pages, patches, inline VIPs, rules across objects (avi-api sections 5, 6, 9, 12).

use crate::http::{Http, Server, own_path, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

fn vip(addr: &str) -> Value {
    json!([{"ip_address": v4(addr)}])
}

/// `(path, object)` of the only VsVip.
fn only_vsvip(http: &Http) -> (String, Value) {
    let page = http.get("/api/vsvip").good();
    assert_eq!(page["count"], 1, "{page}");
    (own_path(&page["results"][0]), page["results"][0].clone())
}

#[test]
fn a_new_object_gets_the_uuid_of_the_slug_and_says_where_it_is() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let reply = http
        .with("Slug", "pool-mine")
        .post("/api/pool", &json!({"name": "my p"}));
    assert_eq!(reply.good()["uuid"], "pool-mine");
    assert_eq!(
        reply.header("location"),
        format!("{}/api/pool/pool-mine#my%20p", http.url)
    );
    assert_eq!(
        reply.good()["url"],
        format!("{}/api/pool/pool-mine#my p", http.url)
    );
    let twice = http
        .with("Slug", "pool-mine")
        .post("/api/pool", &json!({"name": "q"}));
    assert_eq!(twice.status, 409);
    assert_eq!(
        http.with("Slug", "../x")
            .post("/api/pool", &json!({"name": "q"}))
            .status,
        400
    );
}

#[test]
fn the_next_page_is_a_url_that_asks_the_same_question() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for i in 0..5 {
        http.make("pool", json!({"name": format!("web {i}")}));
    }
    http.make("pool", json!({"name": "other"}));
    let mut path = "/api/pool?name.contains=web+&page_size=2&sort=name".to_owned();
    let mut names = Vec::new();
    loop {
        let page = http.get(&path).good();
        assert_eq!(page["count"], 5);
        let results = page["results"].as_array().unwrap();
        names.extend(
            results
                .iter()
                .map(|r| r["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.get("next").and_then(Value::as_str) else {
            break;
        };
        path = next.strip_prefix(&http.url).unwrap().to_owned();
    }
    assert_eq!(names, ["web 0", "web 1", "web 2", "web 3", "web 4"]);
}

/// Ansible and avisdk take the first of a name, and would change admin's object instead of the tenant's.
#[test]
fn a_name_finds_the_tenants_own_object_before_the_one_that_admin_shares() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("tenant", json!({"name": "blue"}));
    let blue = http.with("X-Avi-Tenant", "blue");
    // The order of those that are equal was one of random uuids: of eight, some would be wrong.
    for i in 0..8 {
        let name = format!("p{i}");
        let body = json!({"name": name, "type": "HEALTH_MONITOR_TCP"});
        http.make("healthmonitor", body.clone());
        let (_, own) = blue.make("healthmonitor", body);
        for order in ["name", "-name", "send_interval"] {
            let path = format!("/api/healthmonitor?name={name}&sort={order}");
            let found = blue.get(&path).good();
            assert_eq!(found["results"][0]["uuid"], own["uuid"], "{path}");
            assert_eq!(found["count"], 2);
        }
    }
    let downwards = http.get("/api/healthmonitor?sort=-name").good();
    assert_eq!(downwards["results"][0]["name"], "p7");
}

#[test]
fn a_body_of_sparse_reading_puts_the_same_object_back() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = json!({"name": "p", "servers": [{"ip": v4("10.0.0.1"), "enabled": false}], "default_server_port": 80});
    let (path, _) = http.make("pool", body);
    let full = http.get(&path).good();
    let sparse = http.get(&format!("{path}?skip_default=true")).good();
    assert!(sparse.get("default_server_port").is_none() && sparse.get("enabled").is_none());
    assert_eq!(sparse["servers"][0]["enabled"], false);
    http.put(&path, &sparse).good();
    let mut again = http.get(&path).good();
    again["_last_modified"] = full["_last_modified"].clone();
    assert_eq!(again, full);
    let some = http.get(&format!("{path}?fields=enabled")).good();
    let keys: Vec<_> = some.as_object().unwrap().keys().cloned().collect();
    assert!(
        keys.len() == 4 && keys.contains(&"enabled".to_owned()),
        "{keys:?}"
    );
}

#[test]
fn a_put_of_some_fields_resets_the_others_and_keeps_what_is_the_servers() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, made) = http.make(
        "pool",
        json!({"name": "p", "description": "d", "default_server_port": 81}),
    );
    let put = http
        .put(&path, &json!({"name": "p", "default_server_port": 82}))
        .good();
    assert_eq!(put["default_server_port"], 82);
    assert!(put.get("description").is_none());
    for kept in ["uuid", "url", "tenant_ref", "cloud_ref"] {
        assert_eq!(put[kept], made[kept], "{kept}");
    }
    let moved = json!({"name": "p", "tenant_ref": "/api/tenant/none"});
    assert_eq!(http.put(&path, &moved).status, 400);
}

#[test]
fn a_json_patch_changes_what_its_paths_name_or_nothing() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make(
        "pool",
        json!({"name": "p", "servers": [{"ip": v4("10.0.0.1")}]}),
    );
    let patch = |steps: Value| http.patch(&path, &json!({"json_patch": steps}));
    let done = patch(json!([
        {"op": "add", "path": "/servers/-", "value": {"ip": v4("10.0.0.2")}},
        {"op": "replace", "path": "/servers/0/no_such_field", "value": false},
        {"op": "remove", "path": "/servers/0/hostname"},
    ]));
    let text = done.refused(400);
    assert!(
        text.starts_with("json_patch[1]: there is nothing to replace"),
        "{text}"
    );
    assert_eq!(
        http.get(&path).good()["servers"].as_array().unwrap().len(),
        1
    );
    let done = patch(json!([
        {"op": "add", "path": "/servers/-", "value": {"ip": v4("10.0.0.2")}},
        // A default is there to be replaced, since it is read.
        {"op": "replace", "path": "/servers/0/enabled", "value": false},
        {"op": "test", "path": "/name", "value": "p"},
    ]));
    assert!(done.refused(400).contains("op is not known"));
    let done = patch(json!([
        {"op": "add", "path": "/servers/-", "value": {"ip": v4("10.0.0.2")}},
        {"op": "replace", "path": "/servers/0/enabled", "value": false},
    ]))
    .good();
    assert_eq!(done["servers"][0]["enabled"], false);
    assert_eq!(done["servers"][1]["ip"]["addr"], "10.0.0.2");
    let wrong =
        patch(json!([{"op": "add", "path": "/default_server_port", "value": 0}])).refused(400);
    assert!(
        wrong.starts_with("default_server_port: 0 is out of range"),
        "{wrong}"
    );
}

#[test]
fn a_vip_written_into_a_virtual_service_lives_and_goes_with_it() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = |addr: &str| json!({"name": "vs1", "services": [{"port": 80}], "vip": vip(addr)});
    let (path, made) = http.make("virtualservice", body("10.9.9.1"));
    assert!(made["vsvip_ref"].as_str().unwrap().ends_with("#vsvip-vs1"));
    assert_eq!(only_vsvip(&http).1["vip"][0]["vip_id"], "0");
    let put = http.put(&path, &body("10.9.9.2")).good();
    assert_eq!(put["vsvip_ref"], made["vsvip_ref"]);
    assert_eq!(
        only_vsvip(&http).1["vip"][0]["ip_address"]["addr"],
        "10.9.9.2"
    );
    assert_eq!(http.delete(&path).status, 204);
    assert_eq!(http.count("/api/vsvip"), 0);
}

#[test]
fn a_vip_that_the_user_made_or_that_others_share_stays() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (mine, _) = http.make("vsvip", json!({"name": "mine", "vip": vip("10.9.9.1")}));
    let (path, _) = http.make("virtualservice", json!({"name": "a", "vsvip_ref": mine}));
    let text = http
        .put(&path, &json!({"name": "a", "vip": vip("10.9.9.7")}))
        .refused(400);
    assert!(
        text.starts_with("vip: the VIP is that of VsVip mine"),
        "{text}"
    );
    http.delete(&path);
    assert_eq!(http.get(&mine).status, 200);

    let (first, made) = http.make(
        "virtualservice",
        json!({"name": "b", "vip": vip("10.9.9.2"), "services": [{"port": 80}]}),
    );
    let shared = json!({"name": "c", "vsvip_ref": made["vsvip_ref"], "services": [{"port": 81}]});
    http.make("virtualservice", shared);
    http.delete(&first);
    assert_eq!(http.count("/api/vsvip"), 2);
}

#[test]
fn the_id_of_a_vip_does_not_change() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = json!({"name": "v", "vip": [{"ip_address": v4("10.9.9.1"), "vip_id": "5"}]});
    let (path, _) = http.make("vsvip", body);
    let other = json!({"name": "v", "vip": [{"ip_address": v4("10.9.9.1"), "vip_id": "6"}]});
    let text = http.put(&path, &other).refused(400);
    assert!(
        text.contains("Changing an existing VIP's vip_id is not supported"),
        "{text}"
    );
    let without = json!({"name": "v", "vip": [{"ip_address": v4("10.9.9.2")}, {"ip_address": v4("10.9.9.1")}]});
    let put = http.put(&path, &without).good();
    assert_eq!(
        (&put["vip"][0]["vip_id"], &put["vip"][1]["vip_id"]),
        (&json!("0"), &json!("5"))
    );
}

#[test]
fn virtual_services_that_share_a_vip_need_other_ports_one_group_and_one_vrf() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (vsvip, _) = http.make("vsvip", json!({"name": "v", "vip": vip("10.9.9.1")}));
    let services = |port: u16| json!([{"port": port, "port_range_end": port + 9}]);
    http.make(
        "virtualservice",
        json!({"name": "a", "vsvip_ref": vsvip, "services": services(80)}),
    );
    let (other_vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    let (other_group, _) = http.make("serviceenginegroup", json!({"name": "other"}));
    let (foreign_pool, _) = http.make("pool", json!({"name": "p", "vrf_ref": other_vrf}));
    let base = json!({"name": "b", "vsvip_ref": vsvip, "services": services(90)});
    for (field, value, expected) in [
        (
            "services",
            services(85),
            "services[0].port: port 85 is used by a on the same VIP",
        ),
        (
            "se_group_ref",
            json!(other_group),
            "se_group_ref: a shares the VIP and is of another group",
        ),
        (
            "vrf_context_ref",
            json!(other_vrf),
            "vsvip_ref: VsVip v is in another VRF context",
        ),
        (
            "pool_ref",
            json!(foreign_pool),
            "pool_ref: pool p is in another VRF context",
        ),
    ] {
        let mut body = base.clone();
        body[field] = value;
        let text = http.post("/api/virtualservice", &body).refused(400);
        assert!(text.starts_with(expected), "{text}");
    }
    let mut body = http.get(&vsvip).good();
    body["vrf_context_ref"] = json!(other_vrf);
    let text = http.put(&vsvip, &body).refused(400);
    assert!(
        text.starts_with("vrf_context_ref: virtual service a uses this VsVip"),
        "{text}"
    );
    http.make("virtualservice", base);
}

#[test]
fn an_address_is_used_once_in_a_vrf_and_again_in_another() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    http.make("vsvip", json!({"name": "a", "vip": vip("10.9.9.1")}));
    let again = json!({"name": "b", "vip": vip("10.9.9.1")});
    assert!(
        http.post("/api/vsvip", &again)
            .refused(400)
            .contains("is used by VsVip a")
    );
    http.make(
        "vsvip",
        json!({"name": "b", "vip": vip("10.9.9.1"), "vrf_context_ref": vrf}),
    );
}

#[test]
fn an_object_of_another_cloud_gets_the_vrf_and_the_group_of_its_cloud() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("cloud", json!({"name": "c2", "vtype": "CLOUD_NONE"}));
    let body = json!({"name": "vs", "cloud_ref": "/api/cloud?name=c2", "vip": vip("10.9.9.1")});
    let (path, _) = http.make("virtualservice", body);
    let vs = http.get(&path).good();
    for field in ["se_group_ref", "vrf_context_ref", "vsvip_ref"] {
        let target = vs[field]
            .as_str()
            .unwrap()
            .strip_prefix(&http.url)
            .unwrap()
            .to_owned();
        assert_eq!(
            http.get(&target).good()["cloud_ref"],
            vs["cloud_ref"],
            "{field}"
        );
    }
}

#[test]
fn a_cloud_goes_with_what_came_with_it_unless_that_is_used() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (cloud, _) = http.make("cloud", json!({"name": "c2", "vtype": "CLOUD_NONE"}));
    let (vsvip, _) = http.make(
        "vsvip",
        json!({"name": "v", "cloud_ref": cloud, "vip": vip("10.9.9.1")}),
    );
    let text = http.delete(&cloud).refused(409);
    assert!(text.contains("referred by: ['VsVip v']"), "{text}");
    assert_eq!(http.count("/api/vrfcontext"), 4);
    http.delete(&vsvip);
    assert_eq!(http.delete(&cloud).status, 204);
    assert_eq!(
        http.count("/api/vrfcontext") + http.count("/api/serviceenginegroup"),
        3
    );
}

#[test]
fn names_of_older_clients_stand_for_references() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("pool", json!({"name": "100% & more"}));
    let body = json!({"name": "vs", "pool_name": "100% & more", "application_profile_name": "System-L4-Application"});
    let (_, made) = http.make("virtualservice", body);
    assert!(
        made["pool_ref"].as_str().unwrap().ends_with("#100% & more"),
        "{made}"
    );
    assert!(
        made["application_profile_ref"]
            .as_str()
            .unwrap()
            .ends_with("#System-L4-Application")
    );
}

#[test]
fn what_every_system_has_cannot_be_renamed_deleted_or_claimed() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let group = http
        .get("/api/serviceenginegroup?name=Default-Group")
        .good()["results"][0]
        .clone();
    let path = own_path(&group);
    let text = http
        .patch(&path, &json!({"replace": {"name": "x"}}))
        .refused(400);
    assert!(
        text.starts_with("name: of a system default object cannot be changed"),
        "{text}"
    );
    http.patch(
        &path,
        &json!({"replace": {"system_default": false, "max_scaleout_per_vs": 8}}),
    )
    .good();
    assert!(
        http.delete(&path)
            .refused(403)
            .contains("Cannot delete system default object")
    );
    let (own, _) = http.make("pool", json!({"name": "p", "system_default": true}));
    http.patch(&own, &json!({"add": {"system_default": true}}))
        .good();
    assert_eq!(http.delete(&own).status, 204);
}

#[test]
fn an_md5_secret_leaves_only_when_told_to() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let profile = |secret: Option<&str>| {
        let subnet = json!({"ip_addr": v4("10.10.10.0"), "mask": 24});
        let mut peer = json!({"peer_ip": v4("10.10.10.1"), "subnet": subnet});
        if let Some(secret) = secret {
            peer["md5_secret"] = json!(secret);
        }
        json!({"name": "v", "bgp_profile": {"local_as": 65001, "ibgp": true, "peers": [peer]}})
    };
    let (path, made) = http.make("vrfcontext", profile(Some("hunter2")));
    assert!(!made.to_string().contains("hunter2"));
    let secret = |reply: Value| reply["bgp_profile"]["peers"][0].get("md5_secret").cloned();
    for kept in [None, Some("<sensitive>")] {
        assert_eq!(
            secret(http.put(&path, &profile(kept)).good()),
            Some(json!("<sensitive>"))
        );
    }
    assert_eq!(secret(http.put(&path, &profile(Some(""))).good()), None);
    assert_eq!(secret(http.put(&path, &profile(None)).good()), None);
    let number = json!({"name": "w", "bgp_profile": {"local_as": 1, "ibgp": true, "peers": [{"peer_ip": v4("10.0.0.1"), "md5_secret": 7}]}});
    let text = http.post("/api/vrfcontext", &number).refused(400);
    assert!(
        text.starts_with("bgp_profile.peers[0].md5_secret: must be text"),
        "{text}"
    );
}

#[test]
fn every_field_that_is_wrong_is_named_at_once() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = json!({"name": "p", "default_server_port": 0, "servers": [{"ip": v4("10.0.0.1"), "port": "x"}], "enabled": 1});
    let text = http.post("/api/pool", &body).refused(400);
    for path in ["default_server_port: ", "servers[0].port: ", "enabled: "] {
        assert!(
            text.lines().any(|l| l.starts_with(path)),
            "{path} in {text}"
        );
    }
    let refs =
        json!({"name": "v", "pool_ref": "/api/pool?name=a", "vsvip_ref": "/api/vsvip?name=b"});
    let text = http.post("/api/virtualservice", &refs).refused(400);
    assert!(
        text.contains("pool_ref: Pool object not found!")
            && text.contains("vsvip_ref: VsVip object not found!"),
        "{text}"
    );
    assert_eq!(
        http.count("/api/pool") + http.count("/api/virtualservice"),
        0
    );
}

#[test]
fn actions_can_be_read_and_those_that_there_are_not_say_what_to_do_instead() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make("virtualservice", json!({"name": "v"}));
    for action in [
        "scaleout",
        "scalein",
        "migrate",
        "switchover",
        "retryplacement",
        "resync",
    ] {
        let page = http
            .get(&format!("{path}/{action}?include_refs=&include_name="))
            .good();
        assert_eq!(page, json!({"count": 0, "results": []}), "{action}");
    }
    let (pool, _) = http.make("pool", json!({"name": "p"}));
    for action in ["scaleout", "scalein"] {
        let path = format!("{pool}/{action}");
        assert_eq!(http.get(&path).good(), json!({"count": 0, "results": []}));
        let text = http.post(&path, &json!({"reason": "load"})).refused(400);
        let says = text.starts_with(&format!("{action}: a pool has the servers"));
        assert!(says && text.contains("add servers to the pool"), "{text}");
    }
    assert_eq!(
        http.post(&format!("{path}/nothing"), &json!({})).status,
        404
    );
}

#[test]
fn active_roles_of_an_engine_and_of_a_group_are_asked_for_with_an_empty_body() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (se, _) = http.make("serviceengine", json!({"name": "se-1"}));
    let page = json!({"count": 0, "results": []});
    let switchover = format!("{se}/switchover");
    assert_eq!(http.get(&switchover).good(), page);
    let none = json!({"switched_over": page, "stays": page});
    assert_eq!(http.post(&switchover, &json!({})).good(), none);
    let plan = http.post(&format!("{switchover}?dry_run=true"), &json!({}));
    assert_eq!(plan.good()["placement"]["count"], 0);
    let unknown = "/api/serviceengine/serviceengine-none/switchover";
    assert_eq!(http.post(unknown, &json!({})).status, 404);

    let mode = "HA_MODE_LEGACY_ACTIVE_STANDBY";
    let (shared, _) = http.make("serviceenginegroup", json!({"name": "shared"}));
    let pair = json!({"name": "pair", "ha_mode": mode, "distribute_load_active_standby": true});
    let (pair, _) = http.make("serviceenginegroup", pair);
    let redistribute = |group: &str| http.post(&format!("{group}/redistribute"), &json!({}));
    assert_eq!(http.get(&format!("{pair}/redistribute")).good(), page);
    assert_eq!(redistribute(&pair).good(), none);
    let text = redistribute(&shared).refused(400);
    assert!(text.starts_with("ha_mode: "), "{text}");
}

#[test]
fn everything_acknowledged_is_there_after_a_restart_and_nothing_is_made_twice() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make(
        "virtualservice",
        json!({"name": "v", "vip": vip("10.9.9.1")}),
    );
    let before = http.get(&path).good();
    let types = [
        "cloud",
        "vrfcontext",
        "serviceenginegroup",
        "healthmonitor",
        "networkprofile",
        "applicationprofile",
    ];
    let counts = |http: &Http| types.map(|t| http.count(&format!("/api/{t}")));
    let counted = counts(&http);
    drop(server);
    let server = Server::start(folder.path());
    let again = server.logged_in();
    let strip = |v: &Value, url: &str| v.to_string().replace(url, "");
    let after = again.get(&path).good();
    assert_eq!(strip(&after, &again.url), strip(&before, &http.url));
    assert_eq!(counts(&again), counted);
}
