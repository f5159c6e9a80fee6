//! Addresses that VIPs ask for: which they get, that they keep them, and what is said where there is none (avi-api section
//! 12, network and vsvip). Any sequence of writes is tested beside `objects/ipam.rs`.

use crate::http::{Http, Server, v4};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tempfile::tempdir;

fn v6(addr: &str) -> Value {
    json!({"addr": addr, "type": "V6"})
}

fn address(text: &str) -> Value {
    if text.contains(':') {
        v6(text)
    } else {
        v4(text)
    }
}

fn prefix(text: &str) -> Value {
    let (addr, mask) = text.split_once('/').unwrap();
    json!({"ip_addr": address(addr), "mask": mask.parse::<u8>().unwrap()})
}

/// A subnet with one range, unless its begin is empty.
fn subnet(net: &str, begin: &str, end: &str, kind: &str) -> Value {
    let range = json!({"range": {"begin": address(begin), "end": address(end)}, "type": format!("STATIC_IPS_FOR_{kind}")});
    let ranges = if begin.is_empty() {
        json!([])
    } else {
        json!([range])
    };
    json!({"prefix": prefix(net), "static_ip_ranges": ranges})
}

fn network(http: &Http, name: &str, subnets: Value) -> String {
    let body = json!({"name": name, "configured_subnets": subnets});
    http.make("network", body).0
}

/// The network `front`: 10.9.0.10 to 10.9.0.12.
fn front(http: &Http) -> String {
    network(
        http,
        "front",
        json!([subnet("10.9.0.0/24", "10.9.0.10", "10.9.0.12", "VIP")]),
    )
}

/// A VsVip with a VIP of each of these.
fn vsvip(name: &str, vips: &[Value]) -> Value {
    let vip = |(i, vip): (usize, &Value)| {
        let mut vip = vip.clone();
        vip["vip_id"] = json!((i + 1).to_string());
        vip
    };
    let vips: Vec<_> = vips.iter().enumerate().map(vip).collect();
    json!({"name": name, "vip": vips})
}

fn asks() -> Value {
    json!({"auto_allocate_ip": true})
}

fn asks_of(network: &str) -> Value {
    json!({"auto_allocate_ip": true, "ipam_network_subnet": {"network_ref": network}})
}

/// What the VIPs of a VsVip have: `10.9.0.10`, `10.9.0.10 fd00::1`, `written 10.9.0.10`.
fn addresses(vsvip: &Value) -> Vec<String> {
    let say = |vip: &Value| {
        let both = ["ip_address", "ip6_address"].iter();
        let both = both.filter_map(|name| vip[name]["addr"].as_str());
        let origin = if vip["avi_allocated_vip"] == true {
            ""
        } else {
            "written "
        };
        format!("{origin}{}", both.collect::<Vec<_>>().join(" "))
    };
    vsvip["vip"].as_array().unwrap().iter().map(say).collect()
}

fn made(http: &Http, name: &str, vips: &[Value]) -> (String, Vec<String>) {
    let (path, made) = http.make("vsvip", vsvip(name, vips));
    (path, addresses(&made))
}

#[test]
fn a_vip_that_asks_gets_the_lowest_address_that_is_free() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let network = front(&http);
    let (first, made_first) = http.make("vsvip", vsvip("a", &[asks_of(&network)]));
    assert_eq!(made_first["vip"][0]["ip_address"], v4("10.9.0.10"));
    assert_eq!(made_first["vip"][0]["avi_allocated_vip"], true);
    assert_eq!(
        http.get(&first).good()["vip"][0]["ip_address"],
        v4("10.9.0.10")
    );
    assert!(made_first["vip"][0].get("ip6_address").is_none());
    assert!(made_first["vip"][0].get("discovered_networks").is_none());
    assert_eq!(made(&http, "b", &[asks_of(&network)]).1, ["10.9.0.11"]);
    http.delete(&first);
    assert_eq!(made(&http, "c", &[asks_of(&network)]).1, ["10.9.0.10"]);
    assert_eq!(made(&http, "d", &[asks_of(&network)]).1, ["10.9.0.12"]);
    let text = http
        .post("/api/vsvip", &vsvip("e", &[asks_of(&network)]))
        .refused(400);
    assert!(
        text.starts_with("vip[0].ip_address: No available free IPs: network front has 3 addresses for VIPs (10.9.0.10 to 10.9.0.12), and all are in use; widen"),
        "{text}"
    );
    assert_eq!(http.count("/api/vsvip?name=e"), 0);
}

#[test]
fn an_address_stays_whatever_a_client_sends_back() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let network = front(&http);
    let (other, _) = made(&http, "other", &[asks_of(&network)]);
    let body = vsvip("v", &[asks_of(&network)]);
    let (path, _) = http.make("vsvip", body.clone());
    // A lower one is free now, and nobody moves there.
    http.delete(&other);

    let same = |what: &str, reply: Value| assert_eq!(addresses(&reply), ["10.9.0.11"], "{what}");
    same("only what was written", http.put(&path, &body).good());
    same(
        "all that was read",
        http.put(&path, &http.get(&path).good()).good(),
    );
    let sparse = http.get(&format!("{path}?skip_default=true")).good();
    same("all without defaults", http.put(&path, &sparse).good());
    let mut without_id = body.clone();
    without_id["vip"] = json!([asks_of(&network)]);
    let put = http.put(&path, &without_id).good();
    assert_eq!(put["vip"][0]["vip_id"], "1");
    same("no vip_id", put);
    let mut any_network = body.clone();
    any_network["vip"][0] = json!({"vip_id": "1", "auto_allocate_ip": true});
    same("no network", http.put(&path, &any_network).good());
    let off =
        json!({"replace": {"vip": [{"vip_id": "1", "enabled": false, "auto_allocate_ip": true}]}});
    same("a patch of the VIP", http.patch(&path, &off).good());
    same(
        "a patch of another field",
        http.patch(&path, &json!({"replace": {"bgp_peer_labels": ["a"]}}))
            .good(),
    );
    let steps = json!({"json_patch": [{"op": "replace", "path": "/vip/0/enabled", "value": true}]});
    same("a JSON patch", http.patch(&path, &steps).good());
}

#[test]
fn a_vip_that_no_longer_asks_keeps_its_address() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let network = front(&http);
    let (path, _) = made(&http, "v", &[asks_of(&network)]);
    let off = vsvip("v", &[json!({"auto_allocate_ip": false})]);
    for what in ["switched off", "the same again"] {
        let put = http.put(&path, &off).good();
        assert_eq!(addresses(&put), ["10.9.0.10"], "{what}");
        assert_eq!(put["vip"][0]["auto_allocate_ip"], false);
    }
    assert_eq!(made(&http, "next", &[asks_of(&network)]).1, ["10.9.0.11"]);
    let own = vsvip("v", &[json!({"ip_address": v4("10.9.0.99")})]);
    assert_eq!(
        addresses(&http.put(&path, &own).good()),
        ["written 10.9.0.99"]
    );
    let bare = vsvip("v", &[json!({})]);
    assert_eq!(
        addresses(&http.put(&path, &bare).good()),
        ["written "],
        "a PUT without it"
    );
    assert_eq!(made(&http, "free", &[asks_of(&network)]).1, ["10.9.0.10"]);
}

#[test]
fn a_vip_moves_where_the_body_names_another_network_or_address() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let front = front(&http);
    let back = network(
        &http,
        "back",
        json!([
            subnet("10.8.0.0/24", "10.8.0.5", "10.8.0.9", "VIP"),
            subnet("10.8.1.0/24", "10.8.1.5", "10.8.1.9", "VIP"),
        ]),
    );
    let (path, _) = made(&http, "v", &[asks_of(&front)]);
    let put = |vip: Value| addresses(&http.put(&path, &vsvip("v", &[vip])).good());
    assert_eq!(put(asks_of(&back)), ["10.8.0.5"]);
    let mut of_subnet = asks_of(&back);
    of_subnet["ipam_network_subnet"]["subnet"] = prefix("10.8.0.0/24");
    assert_eq!(put(of_subnet.clone()), ["10.8.0.5"], "it is there already");
    of_subnet["ipam_network_subnet"]["subnet"] = prefix("10.8.1.0/24");
    assert_eq!(put(of_subnet.clone()), ["10.8.1.5"]);
    of_subnet["ip_address"] = v4("10.8.1.200");
    assert_eq!(
        put(of_subnet),
        ["written 10.8.1.200"],
        "what is written counts"
    );
    let (vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    let there = json!({"name": "there", "vrf_context_ref": vrf, "configured_subnets": [subnet("10.9.0.0/24", "10.9.0.20", "10.9.0.29", "VIP")]});
    http.make("network", there);
    let mut moved = vsvip("v", &[asks()]);
    moved["vrf_context_ref"] = json!(vrf);
    assert_eq!(addresses(&http.put(&path, &moved).good()), ["10.9.0.20"]);
}

#[test]
fn a_vip_gets_the_families_that_it_asks_for() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    network(
        &http,
        "both",
        json!([
            subnet("fd00:9::/64", "fd00:9::", "fd00:9::ff", "VIP"),
            subnet("fd00:7::/64", "fd00:7::5", "fd00:7::5", "VIP_AND_SE"),
            subnet("10.9.1.0/24", "10.9.1.0", "10.9.1.255", "VIP_AND_SE"),
            subnet("10.9.0.0/24", "10.9.0.10", "10.9.0.20", "SE"),
        ]),
    );
    let of = |kind: &str| json!({"auto_allocate_ip": true, "auto_allocate_ip_type": kind});
    let (path, both) = made(&http, "a", &[of("V4_V6"), of("V6_ONLY"), of("V4_ONLY")]);
    assert_eq!(
        both,
        ["10.9.1.1 fd00:7::5", "fd00:9::1", "10.9.1.2"],
        "lowest first, of ranges for VIPs"
    );
    let less = http
        .put(
            &path,
            &vsvip("a", &[of("V6_ONLY"), of("V4_V6"), of("V4_ONLY")]),
        )
        .good();
    assert_eq!(
        addresses(&less),
        ["fd00:7::5", "10.9.1.1 fd00:9::1", "10.9.1.2"]
    );
    let half = json!({"auto_allocate_ip": true, "auto_allocate_ip_type": "V4_V6", "ip_address": v4("10.9.1.3")});
    assert_eq!(made(&http, "b", &[half]).1, ["10.9.1.3 fd00:9::2"]);
    assert_eq!(
        made(&http, "c", &[of("V4_ONLY")]).1,
        ["10.9.1.4"],
        "what others have written is in use"
    );
    let subnet6 = json!({"auto_allocate_ip": true, "auto_allocate_ip_type": "V6_ONLY", "ipam_network_subnet": {"subnet6": prefix("fd00:9::/64")}});
    assert_eq!(made(&http, "d", &[subnet6]).1, ["fd00:9::3"]);
}

#[test]
fn vips_of_one_write_get_addresses_of_their_own() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    front(&http);
    let written = json!({"ip_address": v4("10.9.0.10")});
    let (path, own) = made(&http, "a", &[asks(), written.clone(), asks()]);
    assert_eq!(own, ["10.9.0.11", "written 10.9.0.10", "10.9.0.12"]);
    http.delete(&path);
    // Who names his address gets it, also when he comes later in the same change.
    let writes = json!({"writes": [
        {"type": "vsvip", "object": vsvip("b", &[asks()])},
        {"type": "vsvip", "object": vsvip("c", &[asks()])},
        {"type": "vsvip", "object": vsvip("d", &[written])},
    ]});
    http.post("/api/ek/change", &writes).good();
    let of =
        |name: &str| addresses(&http.get(&format!("/api/vsvip?name={name}")).good()["results"][0]);
    assert_eq!(
        (of("b"), of("c"), of("d")),
        (
            vec!["10.9.0.11".into()],
            vec!["10.9.0.12".into()],
            vec!["written 10.9.0.10".into()]
        )
    );
    let more = json!({"writes": [
        {"type": "vsvip", "object": vsvip("e", &[asks()])},
        {"type": "vsvip", "object": vsvip("f", &[asks()])},
    ]});
    let text = http.post("/api/ek/change", &more).refused(400);
    assert!(
        text.starts_with("VsVip e: vip[0].ip_address: No available free IPs"),
        "{text}"
    );
    assert_eq!(http.count("/api/vsvip"), 3);
}

#[test]
fn a_network_may_come_in_the_same_change_as_its_vips() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let new = json!({"name": "new", "configured_subnets": [subnet("10.7.0.0/24", "10.7.0.7", "10.7.0.8", "VIP")]});
    let vs = json!({"name": "vs", "services": [{"port": 80}], "vip": [asks_of("/api/network?name=new")]});
    let writes = json!({"writes": [{"type": "network", "object": new}, {"type": "virtualservice", "object": vs}]});
    http.post("/api/ek/change", &writes).good();
    let page = http.get("/api/vsvip").good();
    assert_eq!(addresses(&page["results"][0]), ["10.7.0.7"]);
}

#[test]
fn a_vip_inside_a_virtual_service_gets_its_address_keeps_it_and_frees_it() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let network = front(&http);
    let body = json!({"name": "vs", "services": [{"port": 80}], "vip": [asks_of(&network)]});
    let mine = || {
        let page = http.get("/api/vsvip?name=vsvip-vs").good();
        addresses(&page["results"][0])
    };
    let (path, _) = http.make("virtualservice", body.clone());
    assert_eq!(mine(), ["10.9.0.10"]);
    made(&http, "other", &[asks()]);
    http.put(&path, &body).good();
    http.patch(&path, &json!({"replace": {"enabled": false}}))
        .good();
    assert_eq!(mine(), ["10.9.0.10"]);
    http.delete(&path);
    assert_eq!(made(&http, "next", &[asks()]).1, ["10.9.0.10"]);
    let mut lost = body;
    lost["vip"][0]["ipam_network_subnet"] = json!({"subnet": prefix("10.1.0.0/24")});
    let text = http.post("/api/virtualservice", &lost).refused(400);
    assert!(
        text.starts_with("vip[0].ipam_network_subnet: no network"),
        "{text}"
    );
    assert_eq!(http.count("/api/virtualservice"), 0);
}

#[test]
fn a_plan_shows_the_address_and_holds_none() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    front(&http);
    for _ in 0..4 {
        let plan = http
            .post("/api/vsvip?dry_run=true", &vsvip("v", &[asks()]))
            .good();
        assert_eq!(
            addresses(&plan["objects"]["results"][0]["after"]),
            ["10.9.0.10"]
        );
    }
    assert_eq!(made(&http, "v", &[asks()]).1, ["10.9.0.10"]);
}

#[test]
fn what_stands_in_the_way_of_an_address_is_said_by_its_field() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    let refused = |vip: Value| http.post("/api/vsvip", &vsvip("v", &[vip])).refused(400);
    let expect = |vip: Value, expected: &str| {
        let text = refused(vip);
        assert!(text.starts_with(expected), "{text}");
    };
    expect(
        asks(),
        "vip[0].ipam_network_subnet: no network that the tenant sees in VRF context global has a V4 range for VIPs; add static_ip_ranges",
    );
    let bare = network(
        &http,
        "bare",
        json!([
            subnet("10.9.0.0/24", "", "", "VIP"),
            subnet("10.9.1.0/24", "10.9.1.1", "10.9.1.9", "SE"),
        ]),
    );
    expect(
        asks_of(&bare),
        "vip[0].ipam_network_subnet.network_ref: network bare has no V4 range for VIPs; add static_ip_ranges",
    );
    let elsewhere = json!({"name": "elsewhere", "vrf_context_ref": vrf, "configured_subnets": [subnet("10.9.2.0/24", "10.9.2.1", "10.9.2.9", "VIP")]});
    let (elsewhere, _) = http.make("network", elsewhere);
    expect(
        asks_of(&elsewhere),
        "vip[0].ipam_network_subnet.network_ref: network elsewhere is in another VRF context; name a network",
    );
    let good = front(&http);
    let mut wrong = asks_of(&good);
    wrong["ipam_network_subnet"]["subnet"] = prefix("10.1.0.0/24");
    expect(
        wrong,
        "vip[0].ipam_network_subnet.subnet: 10.1.0.0/24 is no subnet of network front; name one that its configured_subnets have (10.9.0.0/24)",
    );
    let mut six = asks_of(&good);
    six["auto_allocate_ip_type"] = json!("V6_ONLY");
    expect(
        six,
        "vip[0].ipam_network_subnet.network_ref: network front has no V6 range for VIPs",
    );
    expect(
        asks_of("/api/network?name=none"),
        "vip[0].ipam_network_subnet.network_ref: Network object not found!",
    );
    network(
        &http,
        "second",
        json!([subnet("10.6.0.0/24", "10.6.0.1", "10.6.0.1", "VIP")]),
    );
    expect(
        asks(),
        "vip[0].ipam_network_subnet: 2 networks of VRF context global have V4 ranges for VIPs: ",
    );
    assert!(refused(asks()).ends_with("name one of them in ipam_network_subnet.network_ref"));
    let one =
        json!({"auto_allocate_ip": true, "ipam_network_subnet": {"subnet": prefix("10.6.0.0/24")}});
    assert_eq!(
        made(&http, "w", std::slice::from_ref(&one)).1,
        ["10.6.0.1"],
        "a subnet is enough"
    );
    expect(
        one,
        "vip[0].ip_address: No available free IPs: network second has 1 address for VIPs (10.6.0.1 to 10.6.0.1), and it is in use",
    );
    let at_last = refused(json!({"auto_allocate_ip": true, "auto_allocate_ip_type": "V5"}));
    assert!(
        at_last.starts_with("vip[0].auto_allocate_ip_type: \"V5\" is not a known value"),
        "{at_last}"
    );
}

#[test]
fn ranges_of_a_network_are_checked_and_may_be_narrowed_below_what_is_given() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body = |begin: &str, end: &str| json!({"name": "n", "configured_subnets": [subnet("10.9.0.0/24", begin, end, "VIP")]});
    let text = http
        .post("/api/network", &body("10.9.0.9", "10.9.0.8"))
        .refused(400);
    assert!(
        text.starts_with(
            "configured_subnets[0].static_ip_ranges[0].range.end: 10.9.0.8 is below begin"
        ),
        "{text}"
    );
    let (path, _) = http.make("network", body("10.9.0.1", "10.9.0.9"));
    let (vip, _) = made(&http, "v", &[asks_of(&path)]);
    http.put(&path, &body("10.9.0.5", "10.9.0.6")).good();
    let again = http.put(&vip, &vsvip("v", &[asks_of(&path)])).good();
    assert_eq!(addresses(&again), ["10.9.0.1"]);
    assert_eq!(made(&http, "w", &[asks_of(&path)]).1, ["10.9.0.5"]);
    let text = http.delete(&path).refused(409);
    assert!(text.contains("referred by"), "{text}");
}

#[test]
fn an_address_is_in_use_in_its_vrf_whatever_the_tenant() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    front(&http);
    http.make("tenant", json!({"name": "blue"}));
    http.make("tenant", json!({"name": "red"}));
    let (vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    let (blue, red) = (
        http.with("X-Avi-Tenant", "blue"),
        http.with("X-Avi-Tenant", "red"),
    );
    assert_eq!(
        made(&blue, "v", &[asks()]).1,
        ["10.9.0.10"],
        "admin's network is shared"
    );
    assert_eq!(made(&red, "v", &[asks()]).1, ["10.9.0.11"]);
    let there = json!({"name": "there", "vrf_context_ref": vrf, "configured_subnets": [subnet("10.9.0.0/24", "10.9.0.10", "10.9.0.12", "VIP")]});
    http.make("network", there);
    let mut elsewhere = vsvip("w", &[asks()]);
    elsewhere["vrf_context_ref"] = json!(vrf);
    assert_eq!(
        addresses(&http.post("/api/vsvip", &elsewhere).good()),
        ["10.9.0.10"]
    );
    // A network of his own makes two for him, and for nobody else.
    network(
        &blue,
        "own",
        json!([subnet("10.5.0.0/24", "10.5.0.1", "10.5.0.9", "VIP")]),
    );
    let text = blue.post("/api/vsvip", &vsvip("x", &[asks()])).refused(400);
    assert!(text.contains("2 networks of VRF context global"), "{text}");
    assert_eq!(made(&red, "x", &[asks()]).1, ["10.9.0.12"]);
    let text = red
        .post(
            "/api/vsvip",
            &vsvip("y", &[asks_of("/api/network?name=own")]),
        )
        .refused(400);
    assert!(text.contains("Network object not found!"), "{text}");
}

#[test]
fn an_address_that_an_engine_has_on_its_interface_is_no_vip() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    front(&http);
    let vnic = json!({"if_name": "eth0", "vnic_networks": [{"ip": prefix("10.9.0.10/24"), "mode": "STATIC"}]});
    http.make("serviceengine", json!({"name": "se", "data_vnics": [vnic]}));
    assert_eq!(made(&http, "v", &[asks()]).1, ["10.9.0.11"]);
}

#[test]
fn an_export_brings_the_addresses_along() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let (source, target) = (Server::start(one.path()), Server::start(two.path()));
    let http = source.logged_in();
    front(&http);
    let (gone, _) = made(&http, "gone", &[asks()]);
    made(&http, "v", &[asks()]);
    http.delete(&gone);
    let file = http.get("/api/ek/export").good();
    let there = target.logged_in();
    there.post("/api/ek/import", &file).good();
    let page = there.get("/api/vsvip").good();
    assert_eq!(page["results"][0]["vip"][0]["ip_address"], v4("10.9.0.11"));
    there.post("/api/ek/import", &file).good();
    assert_eq!(made(&there, "w", &[asks()]).1, ["10.9.0.10"]);
}

#[test]
fn what_comes_back_by_a_revert_has_its_address_or_stays_away() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    front(&http);
    let (path, _) = made(&http, "v", &[asks()]);
    http.delete(&path);
    let log = http.get("/api/ek/audit?type=vsvip").good();
    let revert = json!({"revision": log["results"][0]["revision"]});
    let (other, given) = made(&http, "w", &[asks()]);
    assert_eq!(given, ["10.9.0.10"]);
    let text = http.post("/api/ek/revert", &revert).refused(400);
    assert!(text.contains("10.9.0.10 is used by VsVip w"), "{text}");
    http.delete(&other);
    http.post("/api/ek/revert", &revert).good();
    assert_eq!(addresses(&http.get(&path).good()), ["10.9.0.10"]);
}

#[test]
fn clients_that_write_at_the_same_time_get_different_addresses() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    network(
        &http,
        "wide",
        json!([subnet("10.9.0.0/24", "10.9.0.1", "10.9.0.24", "VIP")]),
    );
    let write = |n: usize| {
        let http = http.clone();
        std::thread::spawn(move || {
            let four = (0..4).map(|i| made(&http, &format!("v{n}-{i}"), &[asks()]).1);
            four.flatten().collect::<Vec<_>>()
        })
    };
    let threads: Vec<_> = (0..6).map(write).collect();
    let given: Vec<_> = threads
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .collect();
    let all: BTreeSet<_> = given.iter().cloned().collect();
    assert_eq!((given.len(), all.len()), (24, 24), "{given:?}");
    let text = http
        .post("/api/vsvip", &vsvip("late", &[asks()]))
        .refused(400);
    assert!(
        text.contains("has 24 addresses for VIPs (10.9.0.1 to 10.9.0.24), and all are in use"),
        "{text}"
    );
}
