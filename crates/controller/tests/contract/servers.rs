//! Servers: how they are checked, what they see, and what is told of them.

use crate::engine::{Engine, service};
use crate::events::make_service;
use crate::http::{Http, Server, v4, wait_for};
use serde_json::{Value, json};
use tempfile::tempdir;

#[test]
fn a_half_open_check_has_nothing_to_say() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body =
        |tcp: Value| json!({"name": "half", "type": "HEALTH_MONITOR_TCP", "tcp_monitor": tcp});
    for field in ["tcp_request", "tcp_response", "maintenance_response"] {
        let tcp = json!({"tcp_half_open": true, field: "hello"});
        let text = http.post("/api/healthmonitor", &body(tcp)).refused(400);
        let expected = format!("tcp_monitor.{field}: goes with no tcp_half_open");
        assert!(text.starts_with(&expected), "{text}");
    }
    let tcp = json!({"tcp_half_open": true, "tcp_request": ""});
    let (path, _) = http.make("healthmonitor", body(tcp));
    let read = http.get(&path).good();
    assert_eq!(read["tcp_monitor"]["tcp_half_open"], true);
}

/// A virtual service whose servers see its VIP, in this group.
fn from_vip(http: &Http, group: &str) -> Value {
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.9")}]);
    let (vsvip, _) = http.make("vsvip", json!({"name": "v", "vip": vip}));
    json!({"name": "vs", "vsvip_ref": vsvip, "services": [{"port": 80}], "use_vip_as_snat": true,
        "se_group_ref": format!("/api/serviceenginegroup?name={group}")})
}

#[test]
fn a_source_address_is_one_virtual_services() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = |name: &str, snat: Value| json!({"name": name, "services": [{"port": 80}], "snat_ip": snat});
    let [one, two] = ["10.9.9.1", "10.9.9.2"].map(v4);
    let (path, _) = http.make("virtualservice", vs("a", json!([one, two])));
    http.put(&path, &vs("a", json!([two, one]))).good();
    let create = |snat: Value| http.post("/api/virtualservice", &vs("b", snat));
    assert_eq!(
        create(json!([v4("10.9.9.3"), one])).refused(400),
        "snat_ip[1]: 10.9.9.1 is used by virtual service a as its snat_ip; use another address: servers' answers must come to one engine"
    );
    let twice = create(json!([v4("10.9.9.3"), v4("10.9.9.3")])).refused(400);
    let expected = "snat_ip[1].addr: 10.9.9.3 is used twice; remove one of them";
    assert!(twice.starts_with(expected), "{twice}");
    create(json!([v4("10.9.9.3")])).good();
    let (vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    let mut elsewhere = vs("c", json!([one]));
    elsewhere["vrf_context_ref"] = json!(vrf);
    http.make("virtualservice", elsewhere);
    let loopback = create(json!([v4("127.0.0.1")])).refused(400);
    let expected = "snat_ip[0].addr: 127.0.0.1 cannot be a source";
    assert!(loopback.starts_with(expected), "{loopback}");
}

#[test]
fn a_vip_and_a_source_address_are_two_addresses() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vip = |addr: &str| json!({"name": "v", "vip": [{"vip_id": "1", "ip_address": v4(addr)}]});
    let (vsvip, _) = http.make("vsvip", vip("10.9.9.1"));
    let vs = |addr: &str| json!({"name": "a", "services": [{"port": 80}], "snat_ip": [v4(addr)]});
    let text = http
        .post("/api/virtualservice", &vs("10.9.9.1"))
        .refused(400);
    assert!(
        text.starts_with("snat_ip[0]: 10.9.9.1 is used by VsVip v"),
        "{text}"
    );
    http.post("/api/virtualservice", &vs("10.9.9.2")).good();
    let text = http.put(&vsvip, &vip("10.9.9.2")).refused(400);
    let expected = "vip[0].ip_address: 10.9.9.2 is used by virtual service a as its snat_ip";
    assert!(text.starts_with(expected), "{text}");
    let range = json!({"range": {"begin": v4("10.9.9.1"), "end": v4("10.9.9.9")}});
    let subnet =
        json!({"prefix": {"ip_addr": v4("10.9.9.0"), "mask": 24}, "static_ip_ranges": [range]});
    http.make(
        "network",
        json!({"name": "n", "configured_subnets": [subnet]}),
    );
    let asks = json!({"name": "w", "vip": [{"vip_id": "1", "auto_allocate_ip": true}]});
    let (_, made) = http.make("vsvip", asks);
    assert_eq!(
        made["vip"][0]["ip_address"],
        v4("10.9.9.3"),
        "1 and 2 are used"
    );
}

#[test]
fn a_vip_is_a_source_on_one_engine_only() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let wide = json!({"name": "wide", "max_scaleout_per_vs": 2});
    http.make("serviceenginegroup", wide);
    let single = json!({"name": "single", "max_scaleout_per_vs": 1});
    let (group, _) = http.make("serviceenginegroup", single);
    let mut body = from_vip(&http, "wide");
    let text = http.post("/api/virtualservice", &body).refused(400);
    let expected = "use_vip_as_snat: SE group wide may place the VIP on several service engines (max_scaleout_per_vs is 2, ha_mode HA_MODE_SHARED)";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("name a group in se_group_ref"), "{text}");
    body["se_group_ref"] = json!("/api/serviceenginegroup?name=single");
    body["snat_ip"] = json!([v4("10.9.9.8")]);
    let text = http.post("/api/virtualservice", &body).refused(400);
    let expected = "use_vip_as_snat: goes with no snat_ip";
    assert!(text.starts_with(expected), "{text}");
    body.as_object_mut().unwrap().remove("snat_ip");
    let (path, _) = http.make("virtualservice", body);
    let wider = json!({"replace": {"max_scaleout_per_vs": 2}});
    let text = http.patch(&group, &wider).refused(400);
    let expected = "max_scaleout_per_vs: virtual service vs sends from its VIP (use_vip_as_snat)";
    assert!(text.starts_with(expected), "{text}");
    let off = json!({"replace": {"use_vip_as_snat": false}});
    http.patch(&path, &off).good();
    http.patch(&group, &wider).good();
    let on = json!({"replace": {"use_vip_as_snat": true}});
    let text = http.patch(&path, &on).refused(400);
    assert!(
        text.starts_with("use_vip_as_snat: SE group single"),
        "{text}"
    );
}

#[test]
fn the_runtime_says_why_a_server_is_down_and_how_much_it_gets() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vs = make_service(&http, "web");
    let pool = http.get("/api/pool?name=pool-web").good();
    let pool = pool["results"][0]["uuid"].as_str().unwrap().to_owned();
    let engine = Engine::join(&server, &http, "se-1");
    let shown = |code: &str| {
        wait_for(&format!("a server with {code:?}"), || {
            let list = http.get(&format!("/api/pool/{pool}/runtime/server")).good();
            let first = list[0].clone();
            match first["failure_code"] == code {
                true => Ok(first),
                false => Err(list.to_string()),
            }
        })
    };
    let mut report = service(&vs, false);
    let told = &mut report.pools[0].servers[0];
    told.failure_code = "RESPONSE_CODE_MISMATCH".into();
    told.reason = "the response has no expected code".into();
    told.inline_health_share = Some(25);
    engine.report(report);
    let down = shown("RESPONSE_CODE_MISMATCH");
    assert_eq!(down["oper_status"]["state"], "OPER_DOWN");
    let reason = down["oper_status"]["reason"].to_string();
    assert!(
        reason.contains("the response has no expected code"),
        "{reason}"
    );
    assert_eq!(down["inline_health_share"], 25);
    engine.report(service(&vs, true));
    let up = shown("");
    assert_eq!(up["oper_status"]["state"], "OPER_UP");
    assert_eq!(up["inline_health_share"], Value::Null, "an older engine");
}
