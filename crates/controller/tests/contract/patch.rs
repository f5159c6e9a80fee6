//! PATCH of lists, item by item (avi-api section 6).

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

/// A list field: how to make its object, an item that is there, the same item changed, and another.
struct List {
    ty: &'static str,
    field: &'static str,
    first: Value,
    changed: Value,
    other: Value,
}

fn lists(http: &Http) -> Vec<List> {
    let pool = |name: &str| http.make("pool", json!({"name": name})).0;
    let (a, _b) = (pool("member a"), pool("member b"));
    let server = |addr: &str, on: bool| json!({"ip": v4(addr), "port": 80, "enabled": on});
    let vip = |id: &str, addr: &str| json!({"vip_id": id, "ip_address": v4(addr)});
    let route = |id: &str, to: &str| json!({"route_id": id, "prefix": {"ip_addr": v4(to), "mask": 24}, "next_hop": v4("10.0.0.1")});
    vec![
        List {
            ty: "pool",
            field: "servers",
            first: server("10.0.0.1", true),
            changed: server("10.0.0.1", false),
            other: server("10.0.0.2", true),
        },
        List {
            ty: "vsvip",
            field: "vip",
            first: vip("1", "10.9.9.1"),
            changed: vip("1", "10.9.9.3"),
            other: vip("2", "10.9.9.2"),
        },
        List {
            ty: "vrfcontext",
            field: "static_routes",
            first: route("1", "10.1.0.0"),
            changed: route("1", "10.2.0.0"),
            other: route("2", "10.3.0.0"),
        },
        List {
            ty: "virtualservice",
            field: "services",
            first: json!({"port": 80}),
            changed: json!({"port": 80, "port_range_end": 88}),
            other: json!({"port": 443}),
        },
        // References mean the same in every form, here too.
        List {
            ty: "poolgroup",
            field: "members",
            first: json!({"pool_ref": a}),
            changed: json!({"pool_ref": "/api/pool?name=member a", "ratio": 7}),
            other: json!({"pool_ref": "/api/pool?name=member b"}),
        },
    ]
}

/// The item has what was written, as far as it is plain.
fn has(item: &Value, written: &Value) -> bool {
    let fields = written.as_object().unwrap().iter();
    let mut plain = fields.filter(|(_, v)| !v.as_str().is_some_and(|t| t.starts_with("/api/")));
    plain.all(|(name, value)| item.get(name) == Some(value))
}

#[test]
fn items_of_lists_are_known_by_their_keys() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for List {
        ty,
        field,
        first,
        changed,
        other,
    } in lists(&http)
    {
        let (path, _) = http.make(ty, json!({"name": "patched", field: [first]}));
        let patch = |operation: &str, item: &Value| {
            let shown = http
                .patch(&path, &json!({operation: {field: [item]}}))
                .good();
            shown.get(field).and_then(Value::as_array).cloned()
        };
        let list = patch("add", &changed).unwrap();
        assert!(
            list.len() == 1 && has(&list[0], &first),
            "{ty}: what is there is not added: {list:?}"
        );
        let list = patch("add", &other).unwrap();
        assert!(list.len() == 2 && has(&list[1], &other), "{ty}: {list:?}");
        let list = patch("replace", &changed).unwrap();
        assert!(list.len() == 2 && has(&list[0], &changed), "{ty}: {list:?}");
        let list = patch("delete", &first).unwrap();
        assert!(list.len() == 1 && has(&list[0], &other), "{ty}: {list:?}");
        assert_eq!(patch("delete", &other), None, "{ty}: an empty list is none");
    }
}

#[test]
fn peers_are_known_by_their_addresses_and_options_by_their_label() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let subnet = json!({"ip_addr": v4("10.10.10.0"), "mask": 24});
    let peer = json!({"peer_ip": v4("10.10.10.1"), "subnet": subnet});
    let profile = json!({"local_as": 65001, "ibgp": true, "peers": [peer]});
    let (path, _) = http.make("vrfcontext", json!({"name": "v", "bgp_profile": profile}));
    // Depth 1 only: a message is replaced as a whole.
    let other = json!({"local_as": 65002, "ibgp": true});
    let shown = http
        .patch(&path, &json!({"replace": {"bgp_profile": other}}))
        .good();
    assert!(
        shown["bgp_profile"]["local_as"] == 65002 && shown["bgp_profile"].get("peers").is_none(),
        "{shown}"
    );
    let ty = model::schema::message("BgpProfile").unwrap();
    let same = |field: &str, a: Value, b: Value| ty.field(field).unwrap().same_item(&a, &b);
    assert!(same(
        "peers",
        json!({"peer_ip": v4("10.0.0.1"), "bfd": true}),
        json!({"peer_ip": v4("10.0.0.1")})
    ));
    assert!(!same(
        "peers",
        json!({"peer_ip": v4("10.0.0.1")}),
        json!({"peer_ip": v4("10.0.0.2")})
    ));
    assert!(same(
        "routing_options",
        json!({"label": "a", "learn_routes": true}),
        json!({"label": "a"})
    ));
}

#[test]
fn lists_of_text_are_known_by_value_and_references_by_their_target() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make(
        "pool",
        json!({"name": "p", "health_monitor_refs": ["/api/healthmonitor?name=System-TCP"]}),
    );
    let patch = |body: Value| {
        let shown = http.patch(&path, &body).good();
        let refs = shown
            .get("health_monitor_refs")
            .and_then(Value::as_array)
            .cloned();
        let names = refs
            .into_iter()
            .flatten()
            .map(|r| r.as_str().unwrap().rsplit('#').next().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let refs = |names: &[&str]| json!({"health_monitor_refs": names.iter().map(|n| format!("/api/healthmonitor?name={n}")).collect::<Vec<_>>()});
    assert_eq!(
        patch(json!({"add": refs(&["System-TCP", "System-Ping"])})),
        ["System-TCP", "System-Ping"]
    );
    assert_eq!(
        patch(json!({"delete": refs(&["System-TCP"])})),
        ["System-Ping"]
    );
    assert_eq!(
        patch(json!({"replace": refs(&["System-UDP"])})),
        ["System-UDP"],
        "as a whole"
    );
    assert_eq!(
        patch(json!({"delete": {"health_monitor_refs": null}})),
        [""; 0]
    );
    let (vs, _) = http.make("vsvip", json!({"name": "v", "bgp_peer_labels": ["a"]}));
    let labels = |body: Value| http.patch(&vs, &body).good()["bgp_peer_labels"].clone();
    assert_eq!(
        labels(json!({"add": {"bgp_peer_labels": ["a", "b"]}})),
        json!(["a", "b"])
    );
    assert_eq!(
        labels(json!({"delete": {"bgp_peer_labels": ["a"]}})),
        json!(["b"])
    );
}

#[test]
fn several_operations_are_done_in_order_and_a_field_goes_back_to_its_default() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (path, _) = http.make(
        "pool",
        json!({"name": "p", "enabled": false, "default_server_port": 81, "x_list": [1]}),
    );
    let shown = http.patch(&path, &json!({"add": {"description": "d", "x_list": [2]}, "replace": {"default_server_port": 82}, "delete": {"enabled": null}})).good();
    let fields =
        ["description", "default_server_port", "enabled", "x_list"].map(|f| shown[f].clone());
    assert_eq!(fields, [json!("d"), json!(82), json!(true), json!([1, 2])]);
    let unknown = json!({"replace": {"vrf_ref": "/api/vrfcontext?name=none"}});
    assert!(
        http.patch(&path, &unknown)
            .refused(400)
            .starts_with("vrf_ref: VrfContext object not found!")
    );
}
