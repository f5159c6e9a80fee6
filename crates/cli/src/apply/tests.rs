use super::*;
use serde_json::json;

const FILE: &str = "
virtualservice:
  - name: vs-1
    pool_ref: web
    vsvip_ref: vip-1
    services: [{port: 80}]
    enable_rhi: true
---
pool:
  - name: web
    default_server_port: 8080
    servers: [{ip: 10.20.20.11}]
vsvip:
  - name: vip-1
    vip: [{vip_id: '1', ip_address: 203.0.113.10}]
vrfcontext:
  - name: global
    bgp_profile:
      local_as: 65001
      ibgp: false
      peers: [{peer_ip: 10.10.10.1, subnet: 10.10.10.0/24, remote_as: 65000}]
";

fn ty(path: &str) -> &'static model::schema::ObjectType {
    model::schema::object_type(path).unwrap()
}

fn difference(path: &str, wanted: Value, current: Value) -> Option<String> {
    compare::difference(
        ty(path),
        wanted.as_object().unwrap(),
        current.as_object().unwrap(),
    )
}

fn refusal(text: &str) -> String {
    let error = Manifest::parse("f.yaml", text).unwrap_err();
    assert!(error.is::<UsageError>());
    error.to_string()
}

#[test]
fn objects_are_sorted_so_that_references_exist() {
    let manifest = Manifest::parse("f.yaml", FILE).unwrap();
    let order: Vec<&str> = manifest
        .objects
        .iter()
        .map(|wanted| wanted.object_type.path.as_str())
        .collect();
    assert_eq!(order, ["vrfcontext", "pool", "vsvip", "virtualservice"]);
}

#[test]
fn profiles_come_before_pools() {
    assert!(rank("healthmonitor") < rank("pool"));
    assert!(rank("networkprofile") > rank("cloud"));
}

#[test]
fn short_forms_expand_to_what_the_api_takes() {
    let manifest = Manifest::parse("f.yaml", FILE).unwrap();
    let object = |name: &str| {
        let wanted = manifest
            .objects
            .iter()
            .find(|wanted| wanted.name == name)
            .unwrap();
        Value::Object(wanted.object.clone())
    };
    assert_eq!(object("vs-1")["pool_ref"], "/api/pool?name=web");
    assert_eq!(
        object("web")["servers"][0]["ip"],
        json!({"addr": "10.20.20.11", "type": "V4"})
    );
    let peer = &object("global")["bgp_profile"]["peers"][0];
    assert_eq!(
        peer["subnet"],
        json!({"ip_addr": {"addr": "10.10.10.0", "type": "V4"}, "mask": 24})
    );
}

#[test]
fn full_forms_are_left_alone() {
    let uuid = "pool-3f1a0c52-0000-4000-8000-000000000000";
    let vs = json!({"name": "v", "pool_ref": uuid, "vsvip_ref": "/api/vsvip?name=a"});
    let expanded = shorthand::expand(ty("virtualservice"), vs.as_object().unwrap());
    assert_eq!(Value::Object(expanded), vs);
}

#[test]
fn json_is_read_as_well() {
    let manifest = Manifest::parse("f.json", r#"{"pool": [{"name": "web"}]}"#).unwrap();
    assert_eq!(manifest.objects[0].name, "web");
}

#[test]
fn mistakes_name_file_type_and_place() {
    assert_eq!(
        refusal("pool: [{}]"),
        "f.yaml: pool[0]: `name` is missing: objects are found by their name"
    );
    assert_eq!(
        refusal("pool: {name: web}"),
        "f.yaml: pool: a list of objects is expected here"
    );
    assert_eq!(
        refusal("virtualservic: []"),
        "f.yaml: \"virtualservic\" is not an object type; similar: virtualservice"
    );
    assert_eq!(refusal("---"), "f.yaml: there is no object in it");
    assert!(refusal("pool: [").starts_with("f.yaml: "));
}

#[test]
fn object_as_read_back_is_unchanged() {
    let wanted = json!({"name": "web", "default_server_port": 8080, "lb_algorithm": "LB_ALGORITHM_LEAST_CONNECTIONS",
        "servers": [{"ip": {"addr": "10.20.20.11", "type": "V4"}}]});
    let current = json!({"name": "web", "uuid": "pool-1", "url": "https://c/api/pool/pool-1#web", "default_server_port": 8080,
        "_last_modified": "17", "tenant_ref": "https://c/api/tenant/admin#admin", "cloud_ref": "https://c/api/cloud/cloud-1#Default-Cloud",
        "vrf_ref": "https://c/api/vrfcontext/vrfcontext-1#global", "enabled": true,
        "lb_algorithm": "LB_ALGORITHM_LEAST_CONNECTIONS",
        "servers": [{"ip": {"addr": "10.20.20.11", "type": "V4"}, "hostname": "10.20.20.11", "enabled": true, "ratio": 1}]});
    assert_eq!(difference("pool", wanted, current), None);
}

#[test]
fn what_an_engine_reports_is_no_difference() {
    let vnic = json!({"if_name": "eth0", "mtu": 1500, "vrf_ref": "https://c/api/vrfcontext/vrf-1#blue", "vnic_networks": [{"mode": "STATIC"}]});
    let current = json!({"name": "se-1", "resources": {"num_vcpus": 2}, "data_vnics": [vnic]});
    let with = |vrf: &str| json!({"name": "se-1", "data_vnics": [{"if_name": "eth0", "vrf_ref": format!("/api/vrfcontext?name={vrf}")}]});
    for wanted in [json!({"name": "se-1"}), with("blue")] {
        assert_eq!(difference("serviceengine", wanted, current.clone()), None);
    }
    assert_eq!(
        difference("serviceengine", with("red"), current).as_deref(),
        Some("data_vnics[0].vrf_ref")
    );
}

#[test]
fn reference_by_name_equals_the_same_reference_by_uuid_and_name() {
    let wanted = json!({"name": "v", "pool_ref": "/api/pool?name=web"});
    let current =
        |name| json!({"name": "v", "pool_ref": format!("https://c/api/pool/pool-1#{name}")});
    assert_eq!(
        difference("virtualservice", wanted.clone(), current("web")),
        None
    );
    assert_eq!(
        difference("virtualservice", wanted, current("other")).as_deref(),
        Some("pool_ref")
    );
}

#[test]
fn difference_names_the_path_of_the_field() {
    let wanted =
        json!({"name": "web", "servers": [{"ip": {"addr": "10.0.0.1", "type": "V4"}, "port": 81}]});
    let current =
        json!({"name": "web", "servers": [{"ip": {"addr": "10.0.0.1", "type": "V4"}, "port": 80}]});
    assert_eq!(
        difference("pool", wanted, current).as_deref(),
        Some("servers[0].port")
    );
}

#[test]
fn field_that_the_file_no_longer_has_is_a_difference() {
    let current = json!({"name": "v", "enable_rhi": true});
    assert_eq!(
        difference("virtualservice", json!({"name": "v"}), current).as_deref(),
        Some("enable_rhi")
    );
}

#[test]
fn removed_list_item_is_a_difference() {
    let server = json!({"ip": {"addr": "10.0.0.1", "type": "V4"}});
    let current = json!({"name": "web", "servers": [server, server]});
    assert_eq!(
        difference("pool", json!({"name": "web", "servers": [server]}), current).as_deref(),
        Some("servers")
    );
}

#[test]
fn text_that_is_no_address_is_left_to_the_controller_to_refuse_by_its_field() {
    let vsvip = json!({"name": "v", "vip": [{"ip_address": "203.0.113.300"}, {"ip_address": "2001:db8::1"}]});
    let expanded = Value::Object(shorthand::expand(ty("vsvip"), vsvip.as_object().unwrap()));
    assert_eq!(
        expanded["vip"][0]["ip_address"],
        json!({"addr": "203.0.113.300", "type": "V4"})
    );
    assert_eq!(expanded["vip"][1]["ip_address"]["type"], "V6");
}

#[test]
fn an_address_that_the_controller_picked_is_no_difference_and_one_that_it_did_not_is() {
    let vsvip = |vip: Value| json!({"name": "v", "vip": [vip]});
    let address = json!({"addr": "10.9.0.10", "type": "V4"});
    let asks = json!({"vip_id": "1", "auto_allocate_ip": true});
    let mut has = asks.clone();
    has["ip_address"] = address.clone();
    has["ip6_address"] = json!({"addr": "fd00::1", "type": "V6"});
    let between = |wanted: &Value, current: &Value| {
        difference("vsvip", vsvip(wanted.clone()), vsvip(current.clone()))
    };
    assert_eq!(between(&asks, &has), None);
    let off = json!({"vip_id": "1"});
    let mut kept = json!({"vip_id": "1", "avi_allocated_vip": true, "ip_address": address});
    assert_eq!(between(&off, &kept), None);
    kept["avi_allocated_vip"] = json!(false);
    assert_eq!(between(&off, &kept).as_deref(), Some("vip[0].ip_address"));
    let mut other = asks;
    other["ip_address"] = json!({"addr": "10.9.0.11", "type": "V4"});
    assert_eq!(
        between(&other, &has).as_deref(),
        Some("vip[0].ip_address.addr")
    );
}
