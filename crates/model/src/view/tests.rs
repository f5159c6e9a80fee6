//! Views of objects with defaults.

use super::*;
use crate::object::{Object, with_defaults};
use crate::schema::object_type;
use serde_json::json;

fn full(path: &str, value: Value) -> Object {
    with_defaults(
        object_type(path).expect("known"),
        value.as_object().expect("object"),
    )
}

#[test]
fn views_take_their_defaults_from_the_schema() {
    let group: ServiceEngineGroup = parse(&full(
        "serviceenginegroup",
        json!({"name": "g", "uuid": "u"}),
    ))
    .expect("parses");
    assert_eq!(
        (
            group.min_scaleout_per_vs,
            group.max_scaleout_per_vs,
            group.max_vs_per_se
        ),
        (1, 4, 10)
    );
    let pool: Pool = parse(&full("pool", json!({"name": "p", "uuid": "u"}))).expect("parses");
    assert_eq!(
        (pool.default_server_port, pool.lb_algorithm.as_str()),
        (80, "LB_ALGORITHM_LEAST_CONNECTIONS")
    );
}

#[test]
fn the_fallback_defaults_of_views_agree_with_the_schema() {
    let sparse: BgpProfile = parse(
        json!({"local_as": 1, "peers": [{}]})
            .as_object()
            .expect("o"),
    )
    .expect("parses");
    let vrf: VrfContext = parse(&full(
        "vrfcontext",
        json!({"name": "g", "uuid": "u", "bgp_profile": {"local_as": 1, "peers": [{}]}}),
    ))
    .expect("parses");
    assert_eq!(
        format!("{sparse:?}"),
        format!("{:?}", vrf.bgp_profile.expect("set"))
    );
}

#[test]
fn a_cloud_leaves_the_placement_of_vips_to_subnets_unless_it_says_otherwise() {
    let cloud = |more: Value| {
        let mut object = json!({"name": "c", "uuid": "u", "vtype": "CLOUD_NONE"});
        let fields = more.as_object().expect("object").clone();
        object.as_object_mut().expect("object").extend(fields);
        let cloud: Cloud = parse(&full("cloud", object)).expect("parses");
        [
            cloud.enable_vip_on_all_interfaces,
            cloud.enable_vip_static_routes,
            cloud.prefer_static_routes,
        ]
    };
    assert_eq!(cloud(json!({})), [false; 3]);
    let all = json!({
        "enable_vip_on_all_interfaces": true, "enable_vip_static_routes": true, "prefer_static_routes": true,
    });
    assert_eq!(cloud(all), [true; 3]);
}

/// What the schema lets through must fit the view, or the object would be lost on the way to the engines.
#[test]
fn every_whole_number_that_the_schema_allows_fits_its_view() {
    for (path, object, list) in [
        (
            "virtualservice",
            json!({"name": "v", "uuid": "u", "services": [{"port": 1}]}),
            "services",
        ),
        (
            "vsvip",
            json!({"name": "v", "uuid": "u", "vip": [{"vip_id": "0"}]}),
            "vip",
        ),
        (
            "pool",
            json!({"name": "v", "uuid": "u", "servers": [{"ip": {"addr": "10.0.0.1", "type": "V4"}}]}),
            "servers",
        ),
        (
            "healthmonitor",
            json!({"name": "v", "uuid": "u", "type": "HEALTH_MONITOR_TCP"}),
            "",
        ),
        (
            "vrfcontext",
            json!({"name": "v", "uuid": "u", "bfd_profile": {}, "bgp_profile": {"local_as": 1, "peers": [{}], "routing_options": [{"label": "l"}]}}),
            "bfd_profile bgp_profile bgp_profile/peers/0 bgp_profile/routing_options/0",
        ),
        ("serviceenginegroup", json!({"name": "v", "uuid": "u"}), ""),
    ] {
        let ty = object_type(path).expect("known");
        let places = list.split(' ').map(|place| match place {
            "" => String::new(),
            "services" | "vip" | "servers" => format!("/{place}/0"),
            place => format!("/{place}"),
        });
        for place in places.chain([String::new()]) {
            try_every_number(ty, &full(path, object.clone()), &place);
        }
    }
}

fn try_every_number(ty: &crate::schema::ObjectType, object: &Object, place: &str) {
    use crate::schema::{Kind, Range, message};
    let mut inner = ty;
    for step in place
        .split('/')
        .filter(|s| s.parse::<u8>().is_err() && !s.is_empty())
    {
        let Some(Kind::Message(name)) = inner.field(step).map(|f| &f.kind) else {
            panic!("{step} is no structure");
        };
        inner = message(name).expect("known");
    }
    for field in inner
        .fields
        .iter()
        .filter(|f| f.kind == Kind::Int && !f.list)
    {
        let mut tried = match &field.range {
            Some(Range::Span(low, high)) => vec![*low, *high],
            Some(Range::Set(set)) => set.clone(),
            None => vec![-1, i64::MAX],
        };
        tried.extend(&field.special);
        for number in tried {
            let mut changed = Value::Object(object.clone());
            changed.pointer_mut(place).expect("there")[&field.name] = number.into();
            let result = check(ty, changed.as_object().expect("object"));
            assert!(
                result.is_ok(),
                "{}{place}.{} = {number}: {result:?}",
                ty.name,
                field.name
            );
        }
    }
}

#[test]
fn a_network_profile_says_how_a_service_is_carried() {
    let profile = |kind: &str, part: Value| {
        let mut profile = json!({"type": format!("PROTOCOL_TYPE_{kind}")});
        profile
            .as_object_mut()
            .expect("o")
            .extend(part.as_object().expect("o").clone());
        let object = json!({"name": "n", "uuid": "u", "profile": profile});
        let full = full("networkprofile", object);
        parse::<NetworkProfile>(&full).expect("parses").profile
    };
    let none = json!({});
    for (kind, expected) in [
        ("TCP_PROXY", Some(Transport::Tcp)),
        ("TCP_FAST_PATH", Some(Transport::Tcp)),
        ("UDP_FAST_PATH", Some(Transport::Udp)),
        ("UDP_PROXY", Some(Transport::Udp)),
        ("SCTP_PROXY", None),
    ] {
        assert_eq!(profile(kind, none.clone()).transport(), expected, "{kind}");
    }
    let idle = |kind: &str, part: Value| profile(kind, part).udp().session_idle_timeout;
    assert_eq!(idle("UDP_PROXY", none.clone()), 10);
    assert_eq!(
        idle("UDP_FAST_PATH", json!({"udp_fast_path_profile": {}})),
        10
    );
    let both = json!({"udp_proxy_profile": {"session_idle_timeout": 60}, "udp_fast_path_profile": {"session_idle_timeout": 5}});
    assert_eq!(
        (idle("UDP_PROXY", both.clone()), idle("UDP_FAST_PATH", both)),
        (60, 5)
    );
    let fast = json!({"udp_fast_path_profile": {"per_pkt_loadbalance": true, "snat": false}});
    let fast = profile("UDP_FAST_PATH", fast).udp();
    assert!(fast.per_pkt_loadbalance && !fast.snat);
}

#[test]
fn the_settings_of_tcp_hold_where_a_proxy_profile_is_not_automatic() {
    let profile = |kind: &str, tcp: Value| {
        let kind = format!("PROTOCOL_TYPE_{kind}");
        let profile = json!({"type": kind, "tcp_proxy_profile": tcp});
        let object = json!({"name": "n", "uuid": "u", "profile": profile});
        let full = full("networkprofile", object);
        parse::<NetworkProfile>(&full).expect("parses").profile
    };
    let own = json!({"automatic": false, "receive_window": 128, "max_segment_size": 900});
    assert!(profile("TCP_PROXY", json!({})).tcp_own().is_none());
    assert!(profile("TCP_FAST_PATH", own.clone()).tcp_own().is_none());
    let bare = profile("TCP_PROXY", own.clone());
    let bare = bare.tcp_own().expect("its own");
    assert_eq!((bare.window(), bare.segment()), (None, None));
    assert_eq!((bare.ip_dscp, bare.nagles_algorithm), (0, false));
    let mut all = own;
    all["auto_window_growth"] = false.into();
    all["use_interface_mtu"] = false.into();
    let all = profile("TCP_PROXY", all);
    let all = all.tcp_own().expect("its own");
    assert_eq!((all.window(), all.segment()), (Some(128), Some(900)));
}

#[test]
fn the_proxy_protocol_is_for_ports_whose_bytes_are_passed_on() {
    let profile = |kind: &str, tcp: Value| {
        let kind = format!("APPLICATION_PROFILE_TYPE_{kind}");
        let object = json!({"name": "n", "uuid": "u", "type": kind, "tcp_app_profile": tcp});
        let full = full("applicationprofile", object);
        parse::<ApplicationProfile>(&full).expect("parses").tcp()
    };
    let on = json!({"proxy_protocol_enabled": true});
    assert_eq!(profile("HTTP", on.clone()), None);
    for kind in ["L4", "SSL"] {
        let off = profile(kind, json!({})).expect("of bytes");
        assert!(!off.proxy_protocol_enabled);
        let on = profile(kind, on.clone()).expect("of bytes");
        assert!(on.proxy_protocol_enabled);
        assert_eq!(on.proxy_protocol_version, "PROXY_PROTOCOL_VERSION_1");
    }
}

#[test]
fn a_secret_does_not_show_in_debug() {
    let peer: BgpPeer =
        parse(json!({"md5_secret": "abcd"}).as_object().expect("o")).expect("parses");
    assert!(!format!("{peer:?}").contains("abcd"));
}

#[test]
fn a_reference_gives_its_uuid_in_every_returned_form() {
    for text in [
        "/api/pool/pool-1",
        "https://h:1/api/pool/pool-1#web",
        "pool-1",
    ] {
        assert_eq!(Ref(text.into()).uuid(), "pool-1", "{text}");
    }
}

#[test]
fn a_prefix_needs_address_type_and_length_to_agree() {
    let prefix = |addr: &str, kind: &str, mask| Prefix {
        ip_addr: Address {
            addr: addr.into(),
            kind: kind.into(),
        },
        mask,
    };
    assert_eq!(
        prefix("10.10.10.7", "V4", 24).net(),
        "10.10.10.0/24".parse().ok()
    );
    assert_eq!(prefix("10.10.10.7", "V6", 24).net(), None);
    assert_eq!(prefix("10.10.10.7", "V4", 33).net(), None);
}
