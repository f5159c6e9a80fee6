//! Each rule with an object that breaks it and one that does not.

use crate::object::validate;
use crate::schema::object_type;
use serde_json::{Value, json};

fn first_error(path: &str, value: Value) -> String {
    match validate(
        object_type(path).expect("known"),
        value.as_object().expect("object"),
    ) {
        Ok(()) => String::new(),
        Err(list) => list[0].to_string(),
    }
}

fn v4(addr: &str) -> Value {
    json!({"addr": addr, "type": "V4"})
}

fn vrf(ibgp: bool, peer: Value) -> Value {
    let mut peer = peer;
    let defaults =
        json!({"peer_ip": v4("10.115.0.1"), "subnet": {"ip_addr": v4("10.115.0.0"), "mask": 16}});
    for (k, v) in defaults.as_object().expect("object") {
        peer.as_object_mut()
            .expect("object")
            .entry(k.clone())
            .or_insert(v.clone());
    }
    json!({"name": "global", "bgp_profile": {"local_as": 100, "ibgp": ibgp, "peers": [peer]}})
}

#[test]
fn the_documents_ibgp_profile_is_valid() {
    assert_eq!(
        first_error("vrfcontext", vrf(true, json!({"md5_secret": "abcd"}))),
        ""
    );
}

#[test]
fn an_ebgp_peer_needs_a_remote_as() {
    let error = first_error("vrfcontext", vrf(false, json!({})));
    assert!(
        error.starts_with("bgp_profile.peers[0].remote_as: is required for an eBGP peer"),
        "{error}"
    );
    assert_eq!(
        first_error("vrfcontext", vrf(false, json!({"remote_as": 200}))),
        ""
    );
}

#[test]
fn an_ebgp_peer_outside_its_subnet_needs_multihop() {
    let far = |hops: i64| {
        vrf(
            false,
            json!({"remote_as": 200, "peer_ip": v4("192.0.2.1"), "ebgp_multihop": hops}),
        )
    };
    let error = first_error("vrfcontext", far(0));
    assert!(
        error.starts_with(
            "bgp_profile.peers[0].subnet: the peer 192.0.2.1 is outside 10.115.0.0/16"
        ),
        "{error}"
    );
    assert_eq!(first_error("vrfcontext", far(64)), "");
}

#[test]
fn an_ibgp_peer_may_be_a_loopback_outside_the_subnet() {
    assert_eq!(
        first_error("vrfcontext", vrf(true, json!({"peer_ip": v4("192.0.2.1")}))),
        ""
    );
}

#[test]
fn an_ibgp_profile_refuses_a_foreign_as() {
    let error = first_error("vrfcontext", vrf(true, json!({"remote_as": 7})));
    assert!(
        error.contains("remote_as: 7 differs from local_as 100"),
        "{error}"
    );
}

#[test]
fn a_peer_listed_twice_is_refused() {
    let mut object = vrf(true, json!({}));
    let peer = object["bgp_profile"]["peers"][0].clone();
    object["bgp_profile"]["peers"]
        .as_array_mut()
        .expect("list")
        .push(peer);
    let error = first_error("vrfcontext", object);
    assert!(
        error.starts_with("bgp_profile.peers[1]: is the same peer as bgp_profile.peers[0]"),
        "{error}"
    );
}

#[test]
fn an_md5_secret_is_at_most_80_bytes() {
    assert_eq!(
        first_error(
            "vrfcontext",
            vrf(true, json!({"md5_secret": "x".repeat(80)}))
        ),
        ""
    );
    assert!(
        first_error(
            "vrfcontext",
            vrf(true, json!({"md5_secret": "x".repeat(81)}))
        )
        .contains("md5_secret")
    );
}

#[test]
fn timers_out_of_range_are_refused() {
    let error = first_error("vrfcontext", vrf(true, json!({"connect_timer": 121})));
    assert_eq!(
        error,
        "bgp_profile.peers[0].connect_timer: 121 is out of range; use 1 to 120"
    );
}

#[test]
fn an_address_must_agree_with_its_type() {
    let error = first_error(
        "vrfcontext",
        vrf(
            true,
            json!({"peer_ip": {"addr": "10.115.0.1", "type": "V6"}}),
        ),
    );
    assert!(
        error.starts_with(
            "bgp_profile.peers[0].peer_ip.addr: \"10.115.0.1\" is not an address of type V6"
        ),
        "{error}"
    );
}

#[test]
fn min_scaleout_is_not_above_max_scaleout_and_max_not_above_64() {
    let group = |min: i64, max: i64| json!({"name": "g", "min_scaleout_per_vs": min, "max_scaleout_per_vs": max});
    assert_eq!(first_error("serviceenginegroup", group(1, 64)), "");
    assert!(
        first_error("serviceenginegroup", group(5, 4))
            .starts_with("min_scaleout_per_vs: 5 is above")
    );
    assert!(
        first_error("serviceenginegroup", group(1, 65))
            .starts_with("max_scaleout_per_vs: 65 is out of range")
    );
}

#[test]
fn the_port_between_engines_is_one_that_nobody_else_has() {
    let group = |port: i64| json!({"name": "g", "se_tunnel_udp_port": port});
    for good in [1, 1550, 65535] {
        assert_eq!(first_error("serviceenginegroup", group(good)), "");
    }
    for (bad, problem) in [
        (0, "0 is no port"),
        (-1, "-1 is no port"),
        (65536, "65536 is no port"),
        (3784, "3784 is the port of BGP or BFD"),
    ] {
        let error = first_error("serviceenginegroup", group(bad));
        let begins = format!("se_tunnel_udp_port: {problem}; ");
        assert!(error.starts_with(&begins), "{error}");
    }
}

#[test]
fn criteria_and_capacities_of_auto_rebalance_match_and_bad_ones_are_named() {
    let group = |fields: Value| {
        let mut group = json!({"name": "g"});
        let fields = fields.as_object().unwrap().clone();
        group.as_object_mut().unwrap().extend(fields);
        first_error("serviceenginegroup", group)
    };
    let two = json!(["SE_AUTO_REBALANCE_CPU", "SE_AUTO_REBALANCE_PPS"]);
    let with = |capacities: Value| {
        group(json!({"auto_rebalance_criteria": two, "auto_rebalance_capacity_per_se": capacities}))
    };
    assert_eq!(with(json!([90, 100_000])), "");
    assert_eq!(with(json!([])), "");
    for (error, begins) in [
        (
            with(json!([90])),
            "auto_rebalance_capacity_per_se: has 1 capacities for 2 criteria",
        ),
        (
            with(json!([101, 5])),
            "auto_rebalance_capacity_per_se[0]: 101 is more than all processors",
        ),
        (
            group(json!({"auto_rebalance_capacity_per_se": [5]})),
            "auto_rebalance_capacity_per_se: has 1 capacities for 0 criteria",
        ),
        (
            group(
                json!({"auto_rebalance_criteria": ["SE_AUTO_REBALANCE_CPU", "SE_AUTO_REBALANCE_CPU"]}),
            ),
            "auto_rebalance_criteria[1]: ",
        ),
        (
            group(json!({"min_cpu_usage": 60, "max_cpu_usage": 60})),
            "min_cpu_usage: 60 % is not below max_cpu_usage 60 %",
        ),
    ] {
        assert!(error.starts_with(begins), "{error}");
    }
}

/// What a range refuses, the schema's check names.
#[test]
fn an_interval_or_capacity_of_0_and_an_unknown_criterion_are_refused_by_name() {
    let ty = object_type("serviceenginegroup").unwrap();
    for (field, value) in [
        ("auto_rebalance_interval", json!(0)),
        ("auto_rebalance_capacity_per_se", json!([0])),
        ("auto_rebalance_criteria", json!(["SE_AUTO_REBALANCE_RAM"])),
    ] {
        let group = json!({"name": "g", field: value});
        let errors = crate::object::validate(ty, group.as_object().unwrap()).unwrap_err();
        let text = errors[0].to_string();
        assert!(text.starts_with(field), "{text}");
    }
}

#[test]
fn two_interfaces_of_an_engine_in_one_subnet_are_refused_with_the_documents_reason() {
    let vnic = |addr: &str| json!({"mac_address": "02:00:00:00:00:01", "vnic_networks": [{"mode": "STATIC", "ip": {"ip_addr": v4(addr), "mask": 24}}]});
    let engine = |b: &str| json!({"name": "se", "data_vnics": [vnic("10.10.10.11"), vnic(b)]});
    let error = first_error("serviceengine", engine("10.10.10.12"));
    assert!(
        error.starts_with("data_vnics[1]: ")
            && error.contains("same subnet and VLAN are not supported"),
        "{error}"
    );
    assert_eq!(first_error("serviceengine", engine("10.10.11.12")), "");
}

#[test]
fn a_vip_used_twice_in_one_object_is_refused() {
    let vip = |id: &str| json!({"vip_id": id, "ip_address": v4("10.100.0.1")});
    let error = first_error("vsvip", json!({"name": "v", "vip": [vip("1"), vip("2")]}));
    assert!(
        error.starts_with("vip[1].ip_address: 10.100.0.1 is used twice"),
        "{error}"
    );
}

#[test]
fn a_vip_is_a_unicast_address_of_its_family() {
    let error = first_error(
        "vsvip",
        json!({"name": "v", "vip": [{"vip_id": "1", "ip_address": v4("224.0.0.1")}]}),
    );
    assert!(error.contains("cannot be a VIP"), "{error}");
    let error = first_error(
        "vsvip",
        json!({"name": "v", "vip": [{"vip_id": "1", "ip6_address": v4("10.0.0.1")}]}),
    );
    assert!(error.contains("other address family"), "{error}");
}

#[test]
fn ports_of_a_virtual_service_do_not_overlap() {
    let error = first_error(
        "virtualservice",
        json!({"name": "v", "services": [{"port": 80, "port_range_end": 90}, {"port": 85}]}),
    );
    assert!(
        error.starts_with("services[1].port: port 85 is used twice"),
        "{error}"
    );
    let error = first_error(
        "virtualservice",
        json!({"name": "v", "services": [{"port": 80, "port_range_end": 79}]}),
    );
    assert!(error.starts_with("services[0].port_range_end"), "{error}");
    // TCP and UDP, perhaps: whoever knows the profiles decides.
    let both = json!([{"port": 53}, {"port": 53, "override_network_profile_ref": "/api/networkprofile/u"}]);
    let vs = json!({"name": "v", "services": both});
    assert_eq!(first_error("virtualservice", vs), "");
}

#[test]
fn a_health_monitors_timeout_is_below_its_interval() {
    let error = first_error(
        "healthmonitor",
        json!({"name": "m", "type": "HEALTH_MONITOR_TCP", "send_interval": 4, "receive_timeout": 4}),
    );
    assert!(
        error.starts_with("receive_timeout: 4 s is not below send_interval 4 s"),
        "{error}"
    );
}

#[test]
fn the_members_of_a_pool_group_are_pools_with_ratios_and_numbers_as_labels() {
    let group = |members: Value| json!({"name": "g", "members": members});
    let pool = |n: u8| format!("/api/pool/{n}");
    for (members, expected) in [
        (
            json!([{"priority_label": "1"}]),
            "members[0].pool_ref: is required",
        ),
        (
            json!([{"pool_ref": pool(1), "ratio": 1001}]),
            "members[0].ratio: 1001 is out of range",
        ),
        (
            json!([{"pool_ref": pool(1), "priority_label": "high"}]),
            "members[0].priority_label: \"high\" is not a number",
        ),
        (
            json!([{"pool_ref": pool(1)}, {"pool_ref": pool(1)}]),
            "members[1].pool_ref: is the same pool as members[0]",
        ),
        (
            json!([{"pool_ref": pool(1), "ratio": 0, "priority_label": "10"}, {"pool_ref": pool(2), "ratio": 1000}]),
            "",
        ),
    ] {
        let error = first_error("poolgroup", group(members));
        assert!(
            error.starts_with(expected) && error.is_empty() == expected.is_empty(),
            "{error}"
        );
    }
    let mut ordered = group(json!([{"pool_ref": pool(1), "priority_label": "high"}]));
    ordered["priority_labels_ref"] = json!("/api/prioritylabels/1");
    assert_eq!(first_error("poolgroup", ordered), "");
}

#[test]
fn communities_are_pairs_or_the_four_words() {
    let profile = |c: &str| json!({"name": "g", "bgp_profile": {"local_as": 1, "ibgp": true, "community": [c]}});
    assert_eq!(first_error("vrfcontext", profile("65000:100")), "");
    assert_eq!(first_error("vrfcontext", profile("no-export")), "");
    assert!(first_error("vrfcontext", profile("65536:1")).contains("community[0]"));
}

fn profile(ibgp: bool, fields: Value) -> Value {
    let mut object = vrf(
        ibgp,
        if ibgp {
            json!({})
        } else {
            json!({"remote_as": 200})
        },
    );
    let profile = object["bgp_profile"].as_object_mut().expect("object");
    profile.extend(fields.as_object().expect("object").clone());
    object
}

#[test]
fn every_rule_of_the_routing_profile_names_its_field() {
    let range = |first: &str, last: &str| json!({"ip_communities": [{"ip_begin": v4(first), "ip_end": v4(last), "community": ["1:2"]}]});
    let options =
        |o: Value| json!({"routing_options": [{"label": "core", "learn_routes": true}, o]});
    let cases = [
        (profile(true, json!({"community": ["65000:1:2"]})), ""),
        (
            profile(true, json!({"community": ["1:2:3:4"]})),
            "bgp_profile.community[0]",
        ),
        (profile(true, range("10.0.0.1", "10.0.0.9")), ""),
        (
            profile(true, range("10.0.0.9", "10.0.0.1")),
            "bgp_profile.ip_communities[0].ip_end",
        ),
        (
            profile(true, options(json!({"label": "core"}))),
            "bgp_profile.routing_options[1].label",
        ),
        (
            profile(
                true,
                options(
                    json!({"label": "b", "learn_routes": true, "learn_only_default_route": true}),
                ),
            ),
            "bgp_profile.routing_options[1].learn_only_default_route",
        ),
        (
            profile(true, json!({"keepalive_interval": 0})),
            "bgp_profile.keepalive_interval",
        ),
        (
            profile(true, json!({"keepalive_interval": 0, "hold_time": 0})),
            "",
        ),
        (
            profile(true, json!({"hold_time": 2})),
            "bgp_profile.hold_time",
        ),
    ];
    for (object, field) in cases {
        let error = first_error("vrfcontext", object.clone());
        let named = error.split(':').next().unwrap_or_default();
        assert_eq!(named, field, "{error} {object}");
    }
}

#[test]
fn every_rule_of_a_peers_own_settings_names_its_field() {
    let cases = [
        (
            vrf(false, json!({"remote_as": 7, "ttl_security": true})),
            "",
        ),
        (
            vrf(true, json!({"ttl_security": true})),
            "bgp_profile.peers[0].ttl_security",
        ),
        (
            vrf(true, json!({"graceful_restart": true})),
            "bgp_profile.peers[0].graceful_restart",
        ),
        (
            vrf(true, json!({"graceful_restart": true, "bfd": false})),
            "",
        ),
        (
            vrf(true, json!({"bfd_strict": true, "bfd": false})),
            "bgp_profile.peers[0].bfd_strict",
        ),
        (
            vrf(true, json!({"remote_as": 200})),
            "bgp_profile.peers[0].remote_as",
        ),
        (
            vrf(
                true,
                json!({"remote_as": 200, "ibgp_local_as_override": true}),
            ),
            "",
        ),
        (
            vrf(
                false,
                json!({"remote_as": 200, "ibgp_local_as_override": true}),
            ),
            "bgp_profile.peers[0].ibgp_local_as_override",
        ),
    ];
    for (object, field) in cases {
        let error = first_error("vrfcontext", object.clone());
        let named = error.split(':').next().unwrap_or_default();
        assert_eq!(named, field, "{error} {object}");
    }
}

#[test]
fn bfd_timers_go_down_to_ten_milliseconds() {
    let bfd = |minrx: i64, multi: i64| json!({"name": "g", "bfd_profile": {"minrx": minrx, "mintx": 50, "multi": multi}});
    assert_eq!(first_error("vrfcontext", bfd(10, 1)), "");
    for (object, field) in [
        (bfd(9, 3), "bfd_profile.minrx"),
        (bfd(50, 256), "bfd_profile.multi"),
    ] {
        assert!(first_error("vrfcontext", object).starts_with(field));
    }
}

#[test]
fn a_label_of_a_vip_is_a_label() {
    let labelled = |label: &str| json!({"name": "v", "bgp_peer_labels": [label], "vip": [{"vip_id": "1", "ip_address": v4("10.1.1.1")}]});
    assert_eq!(first_error("vsvip", labelled("rack-7")), "");
    assert!(first_error("vsvip", labelled("rack 7")).starts_with("bgp_peer_labels[0]"));
}

#[test]
fn local_preferences_that_bgp_cannot_carry_are_refused_by_name() {
    let profile = |n: i64| json!({"name": "global", "bgp_profile": {"local_as": 100, "ibgp": true, "local_preference": n}});
    let vsvip = |n: i64| json!({"name": "v", "bgp_local_preference": n});
    let service = |n: i64| json!({"name": "v", "bgp_local_preference": n});
    for n in [-1, 4_294_967_296] {
        for (path, object, field) in [
            ("vrfcontext", profile(n), "bgp_profile.local_preference"),
            ("vsvip", vsvip(n), "bgp_local_preference"),
            ("virtualservice", service(n), "bgp_local_preference"),
        ] {
            let expected = format!("{field}: {n} is out of range; use 0 to 4294967295");
            assert_eq!(first_error(path, object), expected);
        }
    }
    for n in [0, 4_294_967_295] {
        assert_eq!(first_error("vrfcontext", profile(n)), "");
        assert_eq!(first_error("vsvip", vsvip(n)), "");
    }
}

#[test]
fn every_bgp_number_out_of_its_range_is_refused_by_name() {
    for (field, numbers) in [
        ("ebgp_multihop", [-1_i64, 256]),
        ("hold_time", [2, 7201]),
        ("keepalive_interval", [-1, 3601]),
        ("advertisement_interval", [0, 61]),
        ("connect_timer", [0, 121]),
        ("local_as", [0, 4_294_967_296]),
        ("remote_as", [0, 4_294_967_296]),
    ] {
        for n in numbers {
            let error = first_error("vrfcontext", vrf(true, json!({field: n})));
            let expected = format!("bgp_profile.peers[0].{field}: {n} is out of range");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
    for (path, n) in [("vsvip", 0), ("vsvip", 11), ("virtualservice", 11)] {
        let error = first_error(path, json!({"name": "v", "bgp_num_as_path_prepend": n}));
        let expected = format!("bgp_num_as_path_prepend: {n} is out of range; use 1 to 10");
        assert_eq!(error, expected);
    }
    let options = json!({"name": "global", "bgp_profile": {"local_as": 100, "routing_options": [{"label": "a", "max_learn_limit": 251}]}});
    let error = first_error("vrfcontext", options);
    assert!(
        error.starts_with("bgp_profile.routing_options[0].max_learn_limit: 251"),
        "{error}"
    );
}

#[test]
fn labels_of_a_virtual_service_are_labels() {
    let error = first_error(
        "virtualservice",
        json!({"name": "v", "bgp_peer_labels": ["up link"]}),
    );
    assert!(
        error.starts_with("bgp_peer_labels[0]: is not a label"),
        "{error}"
    );
}

#[test]
fn a_tcp_ao_key_is_refused_and_the_supported_signature_named() {
    for field in ["tcp_ao", "ao_key"] {
        let error = first_error("vrfcontext", vrf(true, json!({field: "secret"})));
        let expected = format!(
            "bgp_profile.peers[0].{field}: TCP-AO (RFC 5925) is not supported; use md5_secret (RFC 2385)"
        );
        assert!(error.starts_with(&expected), "{error}");
        assert!(!error.contains("secret\""), "{error}");
    }
}

#[test]
fn static_routes_are_of_one_family_and_have_an_id_each() {
    let route = |id: &str, next_hop: Value| json!({"route_id": id, "prefix": {"ip_addr": v4("0.0.0.0"), "mask": 0}, "next_hop": next_hop});
    let with =
        |routes: Value| first_error("vrfcontext", json!({"name": "v", "static_routes": routes}));
    let good = json!([route("1", v4("10.1.0.1")), route("2", v4("10.2.0.1"))]);
    assert_eq!(with(good), "");
    let v6 = json!({"addr": "2001:db8::1", "type": "V6"});
    let error = with(json!([route("1", v6)]));
    assert!(
        error.starts_with("static_routes[0].next_hop: 2001:db8::1 is of another"),
        "{error}"
    );
    let error = with(json!([
        route("1", v4("10.1.0.1")),
        route("1", v4("10.2.0.1"))
    ]));
    assert!(
        error.starts_with("static_routes[1].route_id: \"1\" is used"),
        "{error}"
    );
}

fn range(begin: &str, end: &str) -> Value {
    json!({"range": {"begin": v4(begin), "end": v4(end)}})
}

/// A network of 10.1.0.0/24 with the first list of ranges, and of 10.2.0.0/24 with the second.
fn network(first: Value, second: Value) -> Value {
    let subnet = |addr: &str, ranges| json!({"prefix": {"ip_addr": v4(addr), "mask": 24}, "static_ip_ranges": ranges});
    json!({"name": "n", "configured_subnets": [subnet("10.1.0.0", first), subnet("10.2.0.0", second)]})
}

#[test]
fn a_vip_is_announced_as_a_host_route() {
    let vip = |length: u8| {
        let vip = json!([{"vip_id": "1", "ip_address": v4("10.1.0.1"), "prefix_length": length}]);
        first_error("vsvip", json!({"name": "v", "vip": vip}))
    };
    assert_eq!(vip(32), "");
    let error = vip(24);
    assert!(
        error.starts_with("vip[0].prefix_length: 24 is no host route"),
        "{error}"
    );
}

#[test]
fn client_addresses_cannot_be_preserved_and_it_is_said_what_servers_see() {
    let profile = |preserve: bool| {
        let body = json!({"name": "a", "type": "APPLICATION_PROFILE_TYPE_L4", "preserve_client_ip": preserve});
        first_error("applicationprofile", body)
    };
    assert_eq!(profile(false), "");
    let error = profile(true);
    assert!(
        error.starts_with("preserve_client_ip: engines do not show") && error.contains("snat_ip"),
        "{error}"
    );
}

#[test]
fn ranges_of_a_network_lie_in_their_subnet_and_go_upwards() {
    let second = |ranges| first_error("network", network(json!([]), ranges));
    assert_eq!(second(json!([range("10.2.0.7", "10.2.0.7")])), "");
    assert_eq!(second(json!([range("10.2.0.0", "10.2.0.255")])), "");
    for (wrong, expected) in [
        (
            range("10.1.0.5", "10.2.0.9"),
            "begin: 10.1.0.5 is outside the subnet 10.2.0.0/24; use an address of the subnet",
        ),
        (
            range("10.2.0.5", "10.2.1.0"),
            "end: 10.2.1.0 is outside the subnet 10.2.0.0/24",
        ),
        (
            range("10.2.0.9", "10.2.0.8"),
            "end: 10.2.0.8 is below begin, 10.2.0.9; write the lower address into begin",
        ),
        (
            json!({"range": {"begin": {"addr": "2001:db8::1", "type": "V6"}, "end": v4("10.2.0.8")}}),
            "begin: 2001:db8::1 is outside the subnet",
        ),
        (
            json!({"range": {"begin": {"addr": "a.example", "type": "DNS"}, "end": v4("10.2.0.8")}}),
            "begin: \"a.example\" is no address",
        ),
    ] {
        let error = second(json!([range("10.2.0.20", "10.2.0.30"), wrong]));
        let expected = format!("configured_subnets[1].static_ip_ranges[1].range.{expected}");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn ranges_of_a_network_do_not_overlap_whatever_their_order_and_use() {
    let mut for_engines = range("10.1.0.30", "10.1.0.40");
    for_engines["type"] = json!("STATIC_IPS_FOR_SE");
    let first = |added: Value| {
        let ranges = json!([range("10.1.0.10", "10.1.0.20"), for_engines, added]);
        first_error("network", network(ranges, json!([])))
    };
    assert_eq!(first(range("10.1.0.21", "10.1.0.29")), "");
    for (begin, end, other) in [
        ("10.1.0.15", "10.1.0.25", 0),
        ("10.1.0.12", "10.1.0.12", 0),
        ("10.1.0.20", "10.1.0.20", 0),
        ("10.1.0.35", "10.1.0.36", 1),
    ] {
        let error = first(range(begin, end));
        let at = |n: u8| format!("configured_subnets[0].static_ip_ranges[{n}].range");
        let expected = format!("{}: overlaps {} (10.1.0.", at(2), at(other));
        assert!(error.starts_with(&expected), "{error}");
    }
    let around = first(range("10.1.0.1", "10.1.0.50"));
    assert!(
        around.contains("overlaps configured_subnets[0].static_ip_ranges[2]"),
        "{around}"
    );
}

#[test]
fn a_range_of_addresses_that_cannot_be_vips_is_none_for_vips() {
    let loopback = |kind: &str| {
        let range =
            json!({"range": {"begin": v4("127.0.0.1"), "end": v4("127.0.0.9")}, "type": kind});
        let subnet =
            json!({"prefix": {"ip_addr": v4("127.0.0.0"), "mask": 8}, "static_ip_ranges": [range]});
        first_error(
            "network",
            json!({"name": "n", "configured_subnets": [subnet]}),
        )
    };
    assert_eq!(loopback("STATIC_IPS_FOR_SE"), "");
    for kind in ["STATIC_IPS_FOR_VIP", "STATIC_IPS_FOR_VIP_AND_SE"] {
        let error = loopback(kind);
        assert!(
            error.contains("range.begin: 127.0.0.1 cannot be a VIP"),
            "{error}"
        );
    }
}

#[test]
fn a_subnet_that_a_vip_asks_for_stands_in_the_field_of_its_family() {
    let wish = |name: &str, addr: Value, mask: u8| {
        let wish = json!({name: {"ip_addr": addr, "mask": mask}});
        let vip = json!({"vip_id": "1", "auto_allocate_ip": true, "ipam_network_subnet": wish});
        first_error("vsvip", json!({"name": "v", "vip": [vip]}))
    };
    let v6 = json!({"addr": "2001:db8::", "type": "V6"});
    assert_eq!(wish("subnet", v4("10.1.0.0"), 24), "");
    assert_eq!(wish("subnet6", v6.clone(), 64), "");
    assert_eq!(
        wish("subnet", v6, 64),
        "vip[0].ipam_network_subnet.subnet: 2001:db8::/64 is of the other address family; put it into subnet6"
    );
    let error = wish("subnet6", v4("10.1.0.0"), 24);
    assert!(error.ends_with("put it into subnet"), "{error}");
}
#[test]
fn a_half_open_monitor_says_nothing_over_its_connection() {
    let monitor = |half_open: bool, field: &str, text: &str| {
        let tcp = json!({"tcp_half_open": half_open, field: text});
        json!({"name": "m", "type": "HEALTH_MONITOR_TCP", "tcp_monitor": tcp})
    };
    for field in ["tcp_request", "tcp_response", "maintenance_response"] {
        let error = first_error("healthmonitor", monitor(true, field, "x"));
        let expected = format!("tcp_monitor.{field}: goes with no tcp_half_open");
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(first_error("healthmonitor", monitor(false, field, "x")), "");
        assert_eq!(first_error("healthmonitor", monitor(true, field, "")), "");
    }
}

#[test]
fn servers_see_the_vip_or_a_snat_ip_and_not_both() {
    let service =
        |snat_ip: Value| json!({"name": "v", "use_vip_as_snat": true, "snat_ip": snat_ip});
    assert_eq!(first_error("virtualservice", service(json!([]))), "");
    let error = first_error("virtualservice", service(json!([v4("10.1.1.1")])));
    assert!(
        error.starts_with("use_vip_as_snat: goes with no snat_ip"),
        "{error}"
    );
}
