//! What is seen of a virtual service beside what was written (avi-api 5.2 and 10.2), without engines.

use crate::http::{Http, Server, own_path, v4};
use serde_json::{Value, json};
use tempfile::tempdir;

fn service(http: &Http) -> String {
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.9")}]);
    let body = json!({"name": "vs", "services": [{"port": 80}], "vip": vip});
    own_path(&http.post("/api/virtualservice", &body).good())
}

#[test]
fn a_virtual_service_shows_the_servers_fields_and_a_write_of_them_is_none() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let path = service(&http);
    let read = http.get(&path).good();
    let vip = json!([{"vip_id": "1", "num_additional_se": 0, "requested_resource": {"num_se": 1, "num_standby_se": 0}}]);
    assert_eq!(
        (&read["vip_runtime"], &read["marked_for_delete"]),
        (&vip, &json!(false))
    );
    let mut body = read.clone();
    body["version"] = json!(1);
    body["vip_runtime"] = json!([]);
    http.put(&path, &body).good();
    let again = http.get(&path).good();
    assert_eq!(again["vip_runtime"], vip);
    assert!(again["version"].is_u64(), "{again}");
    assert_eq!(again["version"], read["version"], "nothing has changed");
    let change = json!({"replace": {"description": "another"}});
    let changed = http.patch(&path, &change).good();
    assert_ne!(changed["version"], read["version"]);
    let export = http.get("/api/ek/export").good();
    let stored = &export["objects"]["virtualservice"][0];
    assert_eq!(stored.get("vip_runtime"), None, "{stored}");
    let sparse = http.get(&format!("{path}?skip_default=true")).good();
    assert_eq!(sparse.get("vip_runtime"), None);
}

#[test]
fn each_vip_of_a_virtual_service_has_its_own_summary_and_the_first_one_is_on_the_top_level() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let vip = json!([
        {"vip_id": "1", "ip_address": v4("10.9.9.9")},
        {"vip_id": "2", "ip_address": v4("10.9.9.10")},
    ]);
    let body = json!({"name": "vs", "services": [{"port": 80}], "vip": vip});
    let path = own_path(&http.post("/api/virtualservice", &body).good());
    let runtime = http.get(&format!("{path}/runtime")).good();
    let all = |of: &Value, field: &str| {
        let vips = of.as_array().unwrap().iter();
        vips.map(|vip| vip[field].clone()).collect::<Vec<_>>()
    };
    let vips = &runtime["vip_summary"];
    assert_eq!(all(vips, "vip_id"), ["1", "2"]);
    assert_eq!(all(vips, "ip_address"), [v4("10.9.9.9"), v4("10.9.9.10")]);
    assert_eq!(all(vips, "num_se_requested"), [1, 1]);
    assert_eq!(
        (&runtime["vip_id"], &runtime["num_se_requested"]),
        (&json!("1"), &json!(1))
    );
    let config = &runtime["config_status"];
    assert_eq!(
        (&config["state"], &config["reason_code_string"]),
        (&json!("CONFIG_RESOURCES"), &json!("not_placed"))
    );
    assert_eq!(runtime["oper_status"]["reason_code"], 24);
    assert_eq!(runtime["progress_percent"], 100);
    assert_eq!(runtime["first_se_assigned_time"], Value::Null);
    for view in ["scaleoutstatus", "placement"] {
        let shown = http.get(&format!("{path}/{view}")).good();
        assert_eq!(all(&shown, "vip_id"), ["1", "2"], "{view}");
    }
}

#[test]
fn every_view_has_its_shape_before_there_is_an_engine() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let path = service(&http);
    let get = |view: &str| http.get(&format!("{path}/{view}")).good();
    assert_eq!(get("runtime/detail"), json!([]));
    assert_eq!(get("connections"), json!([]));
    let scale = get("scaleoutstatus");
    assert_eq!(
        (&scale[0]["vip_id"], &scale[0]["num_se_assigned"]),
        (&json!("1"), &json!(0))
    );
    assert_eq!(get("placement")[0]["service_engine"], json!([]));
    let candidates = get("candidatesehostlist/");
    assert_eq!(
        (&candidates["se"], &candidates["can_spawn_new_se"]),
        (&json!([]), &json!(false))
    );
    let reason = candidates["reason"].as_str().unwrap();
    assert!(reason.contains("no service engine"), "{reason}");
    let missing = http.get("/api/virtualservice/virtualservice-no/placement");
    assert!(
        missing
            .refused(404)
            .contains("VirtualService object not found!")
    );
    let wrong: Value = http.get(&format!("{path}/connections?ip_addr=x")).json();
    assert_eq!(wrong["error"], "ip_addr: \"x\" is no IP address");
}
