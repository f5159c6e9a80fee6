//! `GET /api/ek/topology` without engines: its shape, its filters, its pages.

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

fn service(http: &Http, name: &str, addr: &str, vrf: &str) {
    let vip = json!([{"vip_id": "1", "ip_address": v4(addr)}]);
    let vrf = format!("/api/vrfcontext?name={vrf}");
    let vs = json!({"name": name, "services": [{"port": 80}], "vip": vip, "vrf_context_ref": vrf});
    http.make("virtualservice", vs);
}

fn vips(topology: &Value) -> Vec<&str> {
    let vips = topology["vips"]["results"].as_array().unwrap().iter();
    vips.map(|v| v["virtual_services"][0]["name"].as_str().unwrap())
        .collect()
}

#[test]
fn the_topology_is_paged_by_vips_and_filtered_by_name() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("vrfcontext", json!({"name": "blue"}));
    http.make("serviceengine", json!({"name": "se-1"}));
    for n in 1..=3 {
        service(&http, &format!("vs-{n}"), &format!("10.9.9.{n}"), "global");
    }
    service(&http, "vs-b", "10.9.9.1", "blue");
    let get = |query: &str| http.get(&format!("/api/ek/topology{query}")).good();
    let all = get("");
    assert_eq!(vips(&all), ["vs-1", "vs-2", "vs-3", "vs-b"]);
    for list in ["routers", "sessions", "pools"] {
        assert_eq!(all[list], json!([]), "{list}");
    }
    let engine = &all["engines"][0];
    assert_eq!(
        (&engine["se_name"], &engine["connected"], &engine["vrf"]),
        (&json!("se-1"), &json!(false), &json!("global"))
    );
    assert_eq!(
        engine["oper_status"]["reason_code_string"],
        "se_never_connected"
    );
    let vip = &all["vips"]["results"][0];
    assert_eq!(
        (&vip["addresses"], &vip["next_hops"], &vip["engines"]),
        (&json!(["10.9.9.1"]), &json!([]), &json!([]))
    );
    let page = get("?page_size=2&page=2");
    assert_eq!(vips(&page), ["vs-3", "vs-b"]);
    assert_eq!(
        (&page["vips"]["count"], page["vips"].get("next")),
        (&json!(4), None)
    );
    assert!(get("?page_size=2")["vips"]["next"].is_string());
    assert_eq!(vips(&get("?vs=vs-2")), ["vs-2"]);
    assert_eq!(vips(&get("?vrf=blue")), ["vs-b"]);
    assert_eq!(vips(&get("?se=se-1")), Vec::<&str>::new());
    for (query, parameter) in [("?vs=no", "vs"), ("?se=no", "se"), ("?vrf=no", "vrf")] {
        let text = http.get(&format!("/api/ek/topology{query}")).refused(400);
        assert!(text.starts_with(&format!("{parameter}: ")), "{text}");
    }
}
