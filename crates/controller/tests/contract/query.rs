//! Every query parameter of a collection (avi-api 5.3).

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

fn names(http: &Http, query: &str) -> Vec<String> {
    let page = http.get(query).good();
    let results = page["results"].as_array().unwrap().iter();
    results
        .map(|r| r["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Three pools; gives the uuid of the first.
fn pools(http: &Http) -> String {
    http.make("cloud", json!({"name": "c2", "vtype": "CLOUD_NONE"}));
    let monitors = json!([
        "/api/healthmonitor?name=System-TCP",
        "/api/healthmonitor?name=System-Ping"
    ]);
    let (_, web) = http.make(
        "pool",
        json!({"name": "Web", "default_server_port": 81, "health_monitor_refs": monitors,
        "servers": [{"ip": v4("10.20.30.40")}]}),
    );
    http.make(
        "pool",
        json!({"name": "web-2", "default_server_port": 9, "enabled": false}),
    );
    http.make(
        "pool",
        json!({"name": "db", "cloud_ref": "/api/cloud?name=c2"}),
    );
    web["uuid"].as_str().unwrap().to_owned()
}

#[test]
fn filters_of_a_collection() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let uuid = pools(&http);
    let cloud = http.get("/api/cloud?name=c2").good()["results"][0].clone();
    let (cloud, url) = (
        cloud["uuid"].as_str().unwrap().to_owned(),
        cloud["url"].as_str().unwrap().to_owned(),
    );
    let tcp = http.get("/api/healthmonitor?name=System-TCP").good()["results"][0]["uuid"].clone();
    let tcp = tcp.as_str().unwrap();
    for (query, expected) in [
        ("name=Web".to_owned(), "Web"),
        ("name=we".into(), ""),
        ("name.contains=eb".into(), "Web web-2"),
        ("name.contains=web".into(), "web-2"),
        ("name.icontains=WEB".into(), "Web web-2"),
        ("name.in=db,Web,none".into(), "Web db"),
        (format!("uuid={uuid}"), "Web"),
        (format!("uuid.in={uuid},pool-none"), "Web"),
        ("cloud_ref.name=c2".into(), "db"),
        (format!("cloud_ref.uuid={cloud}"), "db"),
        (format!("cloud_ref={url}"), "db"),
        (format!("cloud_uuid={cloud}"), "db"),
        ("cloud=Default-Cloud".into(), "Web web-2"),
        ("default_server_port=81".into(), "Web"),
        ("default_server_port=80".into(), "db"),
        ("enabled=false".into(), "web-2"),
        ("enabled=True".into(), "Web db"),
        ("vrf_ref.name=global".into(), "Web db web-2"),
        ("health_monitor_refs.name=System-Ping".into(), "Web"),
        (format!("health_monitor_refs.uuid={tcp}"), "Web"),
        (format!("refers_to=healthmonitor:{tcp}"), "Web"),
        ("refers_to=healthmonitor:none".into(), ""),
        ("referred_by=virtualservice:none".into(), ""),
        ("search=eb".into(), "Web web-2"),
        ("search=WEB".into(), ""),
        ("search=20.30".into(), "Web"),
        ("isearch=WEB".into(), "Web web-2"),
        ("isearch=10.20".into(), "Web"),
        ("no_such_parameter=1".into(), "Web db web-2"),
    ] {
        let found = names(&http, &format!("/api/pool?{query}"));
        assert_eq!(found.join(" "), expected, "{query}");
    }
    // A type without clouds is not restricted to one.
    assert_eq!(
        names(&http, "/api/healthmonitor?name=System-TCP&cloud=c2"),
        ["System-TCP"]
    );
    for query in ["refers_to=pool", "referred_by=nothing:1"] {
        let text = http.get(&format!("/api/pool?{query}")).refused(400);
        assert!(text.contains("write TYPE:UUID"), "{text}");
    }
}

#[test]
fn order_and_pages_of_a_collection() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    pools(&http);
    for (query, expected) in [
        ("sort=default_server_port", "web-2 db Web"),
        ("sort=-default_server_port", "Web db web-2"),
        ("sort=-name", "web-2 db Web"),
        ("page_size=2", "Web db"),
        ("page_size=2&page=2", "web-2"),
        ("page_size=2&page=3", ""),
        ("limit_by=1", "Web"),
    ] {
        assert_eq!(
            names(&http, &format!("/api/pool?{query}")).join(" "),
            expected,
            "{query}"
        );
    }
    assert_eq!(http.count("/api/pool?page_size=1"), 3);
}

#[test]
fn how_objects_are_shown() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let uuid = pools(&http);
    let (_, vs) = http.make("virtualservice", json!({"name": "v", "pool_ref": uuid}));
    let vs = vs["uuid"].as_str().unwrap().to_owned();
    let one =
        |query: &str| http.get(&format!("/api/pool?name=Web&{query}")).good()["results"][0].clone();
    let keys = |object: &Value| {
        let mut keys: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(
        keys(&one("fields=enabled,default_server_port")),
        "default_server_port enabled name url uuid"
    );
    let without = one("exclude=enabled,servers");
    assert!(
        without.get("enabled").is_none()
            && without.get("servers").is_none()
            && without.get("name").is_some()
    );
    assert!(
        one("")["vrf_ref"]
            .as_str()
            .is_some_and(|r| !r.contains('#'))
    );
    for query in ["include_name", "include_name=", "include_name=True"] {
        assert!(
            one(query)["vrf_ref"].as_str().unwrap().ends_with("#global"),
            "{query}"
        );
        assert!(
            one(query)["health_monitor_refs"][1]
                .as_str()
                .unwrap()
                .ends_with("#System-Ping"),
            "{query}"
        );
    }
    assert!(one("skip_default=true").get("enabled").is_none());
    assert!(one("").get("virtualservice_refs").is_none());
    let plain = json!([format!("{}/api/virtualservice/{vs}", http.url)]);
    assert_eq!(one("include_refs=")["virtualservice_refs"], plain);
    assert!(one("").get("runtime").is_none());
    for (ty, field) in [("pool", "num_servers"), ("virtualservice", "vip_summary")] {
        let page = http
            .get(&format!("/api/{ty}?join_subresources=runtime&fields=name"))
            .good();
        let runtime = &page["results"][0]["runtime"];
        assert!(
            runtime.get("oper_status").is_some() && runtime.get(field).is_some(),
            "{ty}: {page}"
        );
    }
    assert!(
        http.get("/api/healthmonitor?join_subresources=runtime")
            .good()["results"][0]
            .get("runtime")
            .is_none()
    );
}
