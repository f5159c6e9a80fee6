//! Validation, defaults and references on real object types.

use super::*;
use crate::schema::object_type;
use proptest::prelude::*;
use serde_json::json;

fn object(value: Value) -> Object {
    value.as_object().expect("an object").clone()
}

fn errors(path: &str, value: Value) -> Vec<String> {
    match validate(object_type(path).expect("known"), &object(value)) {
        Ok(()) => Vec::new(),
        Err(list) => list.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_fitted_object_is_the_same_and_has_no_room_for_more() {
    let mut text = String::with_capacity(100);
    text.push('p');
    let mut servers = Vec::with_capacity(100);
    servers.push(json!({"port": 80, "ip": {"addr": "1.2.3.4", "type": "V4"}}));
    let mut written = Object::new();
    written.insert("name".into(), Value::String(text));
    written.insert("servers".into(), Value::Array(servers));
    let before = Value::Object(written.clone()).to_string();
    let fitted = fitted(written);
    assert_eq!(
        Value::Object(fitted.clone()).to_string(),
        before,
        "in its order"
    );
    let Some((Value::String(name), Value::Array(servers))) =
        fitted.get("name").zip(fitted.get("servers"))
    else {
        panic!("{fitted:?}");
    };
    assert_eq!((name.capacity(), servers.capacity()), (1, 1));
}

#[test]
fn a_wrong_type_names_the_field_and_what_it_should_be() {
    let found = errors(
        "pool",
        json!({"name": "p", "servers": [{"ip": {"addr": "1.2.3.4", "type": "V4"}, "port": "80"}]}),
    );
    assert_eq!(
        found,
        ["servers[0].port: must be a whole number, not text; correct the value's type"]
    );
}

#[test]
fn a_number_out_of_range_names_the_range() {
    let found = errors("pool", json!({"name": "p", "default_server_port": 0}));
    assert_eq!(
        found,
        ["default_server_port: 0 is out of range; use 1 to 65535"]
    );
}

#[test]
fn a_special_value_outside_the_range_is_allowed() {
    assert_eq!(
        errors("pool", json!({"name": "p", "graceful_disable_timeout": -1})),
        Vec::<String>::new()
    );
}

#[test]
fn an_unknown_word_names_the_known_ones() {
    let found = errors("pool", json!({"name": "p", "lb_algorithm": "FASTEST"}));
    assert!(
        found[0].contains("lb_algorithm") && found[0].contains("LB_ALGORITHM_ROUND_ROBIN"),
        "{found:?}"
    );
}

#[test]
fn a_missing_required_field_is_named_with_its_path() {
    assert_eq!(
        errors("virtualservice", json!({})),
        ["name: is required; set it"]
    );
}

#[test]
fn unknown_fields_are_left_alone() {
    assert!(errors("pool", json!({"name": "p", "x_team": {"a": [1]}})).is_empty());
}

#[test]
fn defaults_are_filled_at_every_depth_and_can_be_taken_out_again() {
    let ty = object_type("virtualservice").expect("known");
    let given = object(json!({"name": "v", "services": [{"port": 80}], "x": 1}));
    let full = with_defaults(ty, &given);
    assert_eq!(full["enabled"], json!(true));
    assert_eq!(full["scaleout_ecmp"], json!(false));
    assert_eq!(full["services"][0]["enable_ssl"], json!(false));
    assert!(!full.contains_key("enable_rhi"), "it has no default");
    assert_eq!(without_defaults(ty, &full), given);
}

#[test]
fn references_are_found_with_path_and_target() {
    let ty = object_type("vrfcontext").expect("known");
    let given = object(json!({"name": "g", "cloud_ref": "/api/cloud/c",
        "bgp_profile": {"peers": [{"network_ref": "/api/network/n"}]}}));
    let found = references(ty, &given);
    let pairs: Vec<_> = found.iter().map(|r| (r.path.as_str(), r.target)).collect();
    assert_eq!(
        pairs,
        [
            ("bgp_profile.peers[0].network_ref", "network"),
            ("cloud_ref", "cloud")
        ]
    );
}

/// Any JSON, not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z./:0-9]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(
                (
                    "(name|bgp_profile|peers|subnet|ip_addr|addr|vip|services|port|servers|ip)",
                    inner
                ),
                0..5
            )
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_validation_or_defaults_panic(value in any_json(), which in 0..4usize) {
        let ty = object_type(["vrfcontext", "virtualservice", "vsvip", "pool"][which]).expect("known");
        let object = value.as_object().cloned().unwrap_or_default();
        let full = with_defaults(ty, &object);
        let _ = validate(ty, &full);
        prop_assert_eq!(with_defaults(ty, &full), full);
    }
}

#[test]
fn a_secret_is_not_shown_and_stays_with_the_item_it_belongs_to() {
    let ty = object_type("vrfcontext").expect("known");
    let peer = |addr: &str, secret: Value| json!({"peer_ip": {"addr": addr, "type": "V4"}, "md5_secret": secret});
    let vrf = |peers: Value| object(json!({"name": "v", "bgp_profile": {"peers": peers}}));
    let secrets = |o: &Object| -> Vec<Value> {
        let peers = o["bgp_profile"]["peers"].as_array().expect("a list");
        peers.iter().map(|p| p["md5_secret"].clone()).collect()
    };
    let stored = vrf(json!([
        peer("10.0.0.1", json!("one")),
        peer("10.0.0.2", json!("two")),
        peer("10.0.0.3", json!("three"))
    ]));
    let mut shown = stored.clone();
    hide_secrets(ty, &mut shown);
    assert_eq!(secrets(&shown), [MASK, MASK, MASK]);
    let mut written = vrf(json!([
        peer("10.0.0.2", json!(MASK)),
        {"peer_ip": {"addr": "10.0.0.1", "type": "V4"}},
        peer("10.0.0.3", json!("")),
        peer("10.0.0.4", json!(MASK)),
    ]));
    keep_secrets(ty, &stored, &mut written);
    assert_eq!(
        secrets(&written),
        [json!("two"), json!("one"), Value::Null, Value::Null]
    );
}

#[test]
fn a_hidden_secret_is_left_out_and_a_write_without_it_keeps_it() {
    let ty = object_type("sslkeyandcertificate").expect("known");
    let stored = object(json!({"name": "c", "key": "private"}));
    let mut shown = stored.clone();
    hide_secrets(ty, &mut shown);
    assert_eq!(shown, object(json!({"name": "c"})));
    keep_secrets(ty, &stored, &mut shown);
    assert_eq!(shown, stored);
}

#[test]
fn every_secret_is_found_with_its_path_and_types_without_any_are_known() {
    let ty = object_type("vrfcontext").expect("known");
    let peers = json!([{"md5_secret": "one"}, {}, {"md5_secret": "three"}]);
    let mut vrf = object(json!({"name": "v", "bgp_profile": {"peers": peers}}));
    let mut found = Vec::new();
    map_secrets(ty, &mut vrf, &mut |path, value| {
        found.push((path.to_owned(), value.take()));
    });
    let at = |i: usize| format!("bgp_profile.peers[{i}].md5_secret");
    assert_eq!(found, [(at(0), json!("one")), (at(2), json!("three"))]);
    assert_eq!(vrf["bgp_profile"]["peers"][2]["md5_secret"], Value::Null);
    let can = |path: &str| can_have_secrets(object_type(path).expect("known"));
    assert!(can("vrfcontext") && can("user") && can("applicationpersistenceprofile"));
    assert!(!can("tenant") && !can("pool"));
}
