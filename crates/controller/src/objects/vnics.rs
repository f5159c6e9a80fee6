//! `data_vnics` of a service engine: its engine reports the interfaces, and a client writes some of their fields (avi-api section
//! 12). A write changes nothing that is reported, and takes no interface away but one that its engine does not have any more.

use model::object::Object;
use model::schema::{Field, ObjectType, message};
use serde_json::Value;

const FIELD: &str = "data_vnics";
/// What is reported of an interface beside what the schema says is the server's.
const ADDRESSES: &str = "vnic_networks";

/// The interface that each item of a body is, as it is stored; nothing for one that no engine has reported. To be asked before
/// the server's fields are taken out of the body, for interfaces are known by them.
pub(super) fn known(ty: &ObjectType, stored: &Object, body: &Object) -> Vec<Option<Object>> {
    if ty.name != "ServiceEngine" {
        return Vec::new();
    }
    let same = |item: &Value| reported(stored).find(|known| is_same(known, item)).cloned();
    items(body).iter().map(same).collect()
}

/// Puts into these items what is reported of them, and interfaces that the body leaves out behind them.
pub(super) fn keep(
    ty: &ObjectType,
    stored: &Object,
    known: &[Option<Object>],
    object: &mut Object,
) {
    if ty.name != "ServiceEngine" {
        return;
    }
    let Some(written) = object.get_mut(FIELD) else {
        object.extend(stored.get(FIELD).map(|v| (FIELD.to_owned(), v.clone())));
        return;
    };
    // What is no list is refused by the check that follows.
    let Some(list) = written.as_array_mut() else {
        return;
    };
    for (item, known) in list.iter_mut().zip(known) {
        if let (Some(item), Some(known)) = (item.as_object_mut(), known) {
            keep_reported(known, item);
        }
    }
    let is_there = |vnic: &Object| known.iter().flatten().any(|k| k == vnic);
    let left_out = reported(stored).filter(|vnic| !is_gone(vnic) && !is_there(vnic));
    list.extend(left_out.cloned().map(Value::Object));
}

fn keep_reported(known: &Object, item: &mut Object) {
    let ty = message("vNIC").expect("in the schema");
    let is_reported = |f: &&Field| f.is_server_owned() || f.name == ADDRESSES;
    for field in ty.fields.iter().filter(is_reported) {
        match known.get(&field.name) {
            Some(value) => drop(item.insert(field.name.clone(), value.clone())),
            None => drop(item.shift_remove(&field.name)),
        }
    }
}

fn items(object: &Object) -> &[Value] {
    let list = object.get(FIELD).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// Interfaces that an engine has reported.
fn reported(stored: &Object) -> impl Iterator<Item = &Object> {
    let all = items(stored).iter().filter_map(Value::as_object);
    all.filter(|vnic| vnic.contains_key("if_name"))
}

/// Its engine does not have it any more: only what a client has written of it is left.
fn is_gone(vnic: &Object) -> bool {
    !vnic.contains_key("mac_address")
}

/// By its name, or by its MAC address where a body leaves the name out.
fn is_same(known: &Object, item: &Value) -> bool {
    let field = match item.get("if_name") {
        Some(_) => "if_name",
        None => "mac_address",
    };
    let value = item.get(field).filter(|v| **v != "");
    value.is_some() && value == known.get(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::object;
    use model::schema::object_type;
    use serde_json::json;

    fn stored() -> Object {
        let address = json!([{"mode": "STATIC", "ip": {"ip_addr": {"addr": "10.0.0.1", "type": "V4"}, "mask": 24}}]);
        let vnics = json!([
            {"if_name": "eth0", "mac_address": "02:00:00:00:00:01", "mtu": 1500, "vnic_networks": address},
            {"if_name": "eth1", "mac_address": "02:00:00:00:00:02", "mtu": 9000, "vnic_networks": []},
        ]);
        object(json!({"name": "se", "data_vnics": vnics}))
    }

    fn object(value: Value) -> Object {
        value.as_object().expect("an object").clone()
    }

    /// What becomes of these interfaces in a body.
    fn put(vnics: &Value) -> Value {
        let (ty, stored) = (object_type("serviceengine").expect("known"), stored());
        let mut body = object(json!({"name": "se", "data_vnics": vnics}));
        let known = known(ty, &stored, &body);
        object::strip_server_owned(ty, &mut body);
        keep(ty, &stored, &known, &mut body);
        body.get("data_vnics").cloned().unwrap_or_default()
    }

    #[test]
    fn a_body_of_what_is_stored_or_without_interfaces_changes_none() {
        let vnics = stored()["data_vnics"].clone();
        for body in [&vnics, &Value::Null, &json!([])] {
            assert_eq!(put(body), vnics, "{body}");
        }
    }

    #[test]
    fn a_field_of_an_interface_is_written_and_what_is_reported_stays() {
        let vrf = "/api/vrfcontext/vrf-1";
        for named in [
            json!({"if_name": "eth1", "mtu": 1, "vrf_ref": vrf}),
            json!({"mac_address": "02:00:00:00:00:02", "vrf_ref": vrf, "vnic_networks": [{}]}),
        ] {
            let seen = put(&json!([named]));
            let mut expected = stored()["data_vnics"].clone();
            expected[1]["vrf_ref"] = vrf.into();
            let expected = json!([expected[1], expected[0]]);
            assert_eq!(seen, expected, "{named}");
        }
    }

    #[test]
    fn an_interface_that_is_gone_stays_until_a_write_leaves_it_out() {
        let ty = object_type("serviceengine").expect("known");
        let gone = json!({"if_name": "eth2", "link_up": false, "enabled": false});
        let stored = object(json!({"name": "se", "data_vnics": [gone]}));
        let put = |body: Value| {
            let mut body = object(body);
            let known = known(ty, &stored, &body);
            object::strip_server_owned(ty, &mut body);
            keep(ty, &stored, &known, &mut body);
            body.get("data_vnics").cloned().unwrap_or_default()
        };
        assert_eq!(put(json!({"name": "se"})), json!([gone]));
        assert_eq!(put(json!({"data_vnics": [gone]})), json!([gone]));
        assert_eq!(put(json!({"data_vnics": []})), json!([]));
    }

    #[test]
    fn an_interface_that_no_engine_has_reported_is_as_it_was_written() {
        let seen = put(&json!([{"if_name": "eth9", "enabled": false}, {"mac_address": ""}, 7]));
        let items = seen.as_array().expect("a list");
        assert_eq!(items[..3], [json!({"enabled": false}), json!({}), json!(7)]);
        assert_eq!(items.len(), 5);
        assert_eq!(put(&json!("no list")), "no list");
    }
}
