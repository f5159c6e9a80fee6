//! Every resource type, by the same tables (avi-api section 16, items 3 to 5, and section 13).

use crate::http::{Http, Server, own_path, v4};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tempfile::tempdir;

/// The least that makes an object of each type, in an order in which each refers only to those before it. The name is
/// put in.
fn minimal() -> Vec<(&'static str, Value)> {
    let group = "/api/serviceenginegroup?name=Default-Group";
    let vrf = "/api/vrfcontext?name=global";
    vec![
        ("tenant", json!({})),
        ("cloud", json!({"vtype": "CLOUD_NONE"})),
        ("vrfcontext", json!({})),
        ("serviceenginegroup", json!({})),
        ("serviceengine", json!({})),
        ("network", json!({})),
        ("healthmonitor", json!({"type": "HEALTH_MONITOR_TCP"})),
        (
            "networkprofile",
            json!({"profile": {"type": "PROTOCOL_TYPE_TCP_PROXY"}}),
        ),
        (
            "applicationprofile",
            json!({"type": "APPLICATION_PROFILE_TYPE_L4"}),
        ),
        (
            "applicationpersistenceprofile",
            json!({"persistence_type": "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS", "ip_persistence_profile": {}}),
        ),
        (
            "analyticsprofile",
            json!({"exclude_http_error_codes": [503, 404]}),
        ),
        (
            "sslkeyandcertificate",
            json!({"certificate": {"self_signed": true, "subject": {"common_name": "c"}, "subject_alt_names": ["b.example", "a.example"]}}),
        ),
        (
            "sslprofile",
            json!({"accepted_versions": [{"type": "SSL_VERSION_TLS1_3"}, {"type": "SSL_VERSION_TLS1_2"}]}),
        ),
        (
            "ipamdnsproviderprofile",
            json!({"type": "IPAMDNS_TYPE_INTERNAL", "internal_profile": {"usable_networks": []}}),
        ),
        (
            "networkservice",
            json!({"service_type": "ROUTING_SERVICE", "se_group_ref": group, "vrf_ref": vrf, "routing_service": {}}),
        ),
        (
            "actiongroupconfig",
            json!({"level": "ALERT_LOW", "external_only": false}),
        ),
        (
            "alertconfig",
            json!({"source": "EVENT_LOGS", "alert_rule": {"sys_event_rule": [{"event_id": "VS_UP"}, {"event_id": "VS_DOWN"}]}}),
        ),
        ("useraccountprofile", json!({})),
        (
            "pool",
            json!({"servers": [{"ip": v4("10.0.0.2")}, {"ip": v4("10.0.0.1")}]}),
        ),
        (
            "poolgroup",
            json!({"members": [{"pool_ref": "/api/pool?name=conf pool", "ratio": 7}]}),
        ),
        (
            "vsvip",
            json!({"vip": [{"ip_address": v4("10.9.9.2")}, {"ip_address": v4("10.9.9.1")}]}),
        ),
        (
            "virtualservice",
            json!({"services": [{"port": 443}, {"port": 80}]}),
        ),
    ]
}

/// An object of each type that can be referred to, and a body that refers to it where it says `REF`.
fn referring() -> Vec<(&'static str, &'static str, Value)> {
    let group = "/api/serviceenginegroup?name=Default-Group";
    vec![
        ("tenant", "pool", json!({"tenant_ref": "REF"})),
        ("cloud", "pool", json!({"cloud_ref": "REF"})),
        ("vrfcontext", "pool", json!({"vrf_ref": "REF"})),
        (
            "serviceenginegroup",
            "virtualservice",
            json!({"se_group_ref": "REF"}),
        ),
        (
            "network",
            "pool",
            json!({"placement_networks": [{"network_ref": "REF", "subnet": {"ip_addr": v4("10.0.0.0"), "mask": 8}}]}),
        ),
        (
            "healthmonitor",
            "pool",
            json!({"health_monitor_refs": ["REF"]}),
        ),
        (
            "networkprofile",
            "virtualservice",
            json!({"network_profile_ref": "REF"}),
        ),
        (
            "applicationprofile",
            "virtualservice",
            json!({"application_profile_ref": "REF"}),
        ),
        (
            "applicationpersistenceprofile",
            "pool",
            json!({"application_persistence_profile_ref": "REF"}),
        ),
        (
            "analyticsprofile",
            "pool",
            json!({"analytics_profile_ref": "REF"}),
        ),
        (
            "sslkeyandcertificate",
            "virtualservice",
            json!({"ssl_key_and_certificate_refs": ["REF"]}),
        ),
        ("sslprofile", "pool", json!({"ssl_profile_ref": "REF"})),
        (
            "ipamdnsproviderprofile",
            "cloud",
            json!({"vtype": "CLOUD_NONE", "ipam_provider_ref": "REF"}),
        ),
        (
            "actiongroupconfig",
            "alertconfig",
            json!({"source": "EVENT_LOGS", "alert_rule": {}, "action_group_ref": "REF"}),
        ),
        ("pool", "virtualservice", json!({"pool_ref": "REF"})),
        (
            "poolgroup",
            "virtualservice",
            json!({"service_pool_select": [{"service_port": 80, "service_pool_group_ref": "REF"}]}),
        ),
        ("vsvip", "virtualservice", json!({"vsvip_ref": "REF"})),
        (
            "virtualservice",
            "virtualservice",
            json!({"vh_parent_vs_ref": "REF"}),
        ),
        (
            "vrfcontext",
            "networkservice",
            json!({"service_type": "ROUTING_SERVICE", "vrf_ref": "REF", "se_group_ref": group}),
        ),
    ]
}

pub fn name(ty: &str) -> String {
    format!("conf {ty}")
}

/// Makes an object of each type; gives their paths by type.
pub fn make_all(http: &Http) -> Vec<(&'static str, String)> {
    let make = |(ty, mut body): (&'static str, Value)| {
        body["name"] = json!(name(ty));
        body["x_unknown"] = json!({"kept": [3, 1, {"b": null, "a": 2}]});
        (ty, http.make(ty, body).0)
    };
    minimal().into_iter().map(make).collect()
}

/// Without what tells one write from the next.
fn without_stamp(mut object: Value) -> Value {
    let fields = object.as_object_mut().unwrap();
    fields.remove("_last_modified");
    object
}

#[test]
fn every_resource_is_in_the_table() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let known = model::schema::object_types().map(|ty| ty.path.as_str());
    let resources = known.filter(|ty| {
        let reply = http.get(&format!("/api/{ty}"));
        reply.status == 200 && reply.json().get("results").is_some()
    });
    // Users, roles and alerts have tests of their own.
    let resources: BTreeSet<&str> = resources
        .filter(|ty| !["user", "role", "alert"].contains(ty))
        .collect();
    let table: BTreeSet<&str> = minimal().into_iter().map(|(ty, _)| ty).collect();
    assert_eq!(resources, table);
}

#[test]
fn what_was_read_can_be_written_back_and_changes_nothing() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for ((ty, path), (_, body)) in make_all(&http).into_iter().zip(minimal()) {
        let read = http.get(&path).good();
        assert_eq!(
            read["x_unknown"],
            json!({"kept": [3, 1, {"b": null, "a": 2}]}),
            "{ty}"
        );
        for (field, value) in body.as_object().unwrap() {
            let written = value.as_array().map(Vec::len);
            assert_eq!(
                read[field].as_array().map(Vec::len),
                written,
                "{ty}.{field}"
            );
            assert_order(value, &read[field], &format!("{ty}.{field}"));
        }
        http.put(&path, &read).good();
        let again = http.get(&path).good();
        assert!(
            again["_last_modified"].as_str() > read["_last_modified"].as_str(),
            "{ty}"
        );
        assert_eq!(
            without_stamp(again.clone()),
            without_stamp(read.clone()),
            "{ty}"
        );
        let text = http.put(&path, &read).refused(412);
        assert!(text.starts_with("Need to reload object data "), "{text}");

        let sparse = http.get(&format!("{path}?skip_default=true")).good();
        http.put(&path, &sparse).good();
        assert_eq!(
            without_stamp(http.get(&path).good()),
            without_stamp(again),
            "{ty}"
        );

        let twice = http.post(&format!("/api/{ty}"), &with_name(body, &name(ty)));
        assert!(twice.refused(409).contains("exists already"), "{ty}");
        let doubled = format!("//api//{ty}//?name={}", name(ty).replace(' ', "%20"));
        assert_eq!(http.count(&doubled), 1, "{doubled}");
        assert_eq!(
            http.get(&format!("/{}/", path.replace('/', "//"))).good()["uuid"],
            read["uuid"]
        );
    }
}

fn with_name(mut body: Value, name: &str) -> Value {
    body["name"] = json!(name);
    body
}

/// What was written is in what is read, lists item by item.
fn assert_order(written: &Value, read: &Value, path: &str) {
    match (written, read) {
        (Value::Array(a), Value::Array(b)) => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.for_each(|(i, (a, b))| assert_order(a, b, &format!("{path}[{i}]")));
        }
        (Value::Object(a), Value::Object(b)) => {
            for (field, value) in a {
                assert_order(value, &b[field], &format!("{path}.{field}"));
            }
        }
        (Value::String(a), Value::String(b)) if a.starts_with("/api/") => {
            assert!(b.starts_with("https://"), "{path}: {b}");
        }
        (a, b) => assert_eq!(a, b, "{path}"),
    }
}

fn put_in(body: &Value, reference: &str) -> Value {
    let text = body
        .to_string()
        .replace("\"REF\"", &json!(reference).to_string());
    serde_json::from_str(&text).unwrap()
}

/// The reference that stands where the body says `REF`.
fn found<'a>(body: &Value, shown: &'a Value) -> Option<&'a str> {
    match (body, shown) {
        (Value::String(text), Value::String(found)) if text == "REF" => Some(found),
        (Value::Object(a), b) => a.iter().find_map(|(field, value)| found(value, &b[field])),
        (Value::Array(a), b) => found(&a[0], &b[0]),
        _ => None,
    }
}

#[test]
fn a_reference_means_the_same_in_every_form_and_holds_its_target() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let paths = make_all(&http);
    for (target, referrer, body) in referring() {
        let (_, path) = paths.iter().find(|(ty, _)| *ty == target).unwrap();
        let (name, uuid) = (name(target), path.rsplit('/').next().unwrap());
        let escaped = name.replace(' ', "%20");
        let forms = [
            format!("https://elsewhere:8443{path}"),
            format!("https://elsewhere{path}#{name}"),
            path.clone(),
            format!("/api//{target}/{uuid}"),
            format!("/api/{target}?name={name}"),
            format!("/api/{target}/?name={escaped}"),
            format!(
                "/api/{target}/?tenant=admin&name={}&cloud=Default-Cloud",
                name.replace(' ', "+")
            ),
            uuid.to_owned(),
        ];
        for form in forms {
            let body_of_form = with_name(put_in(&body, &form), "referrer");
            let (own, made) = http.make(referrer, body_of_form);
            let expected = format!("{}{path}", http.url);
            assert_eq!(
                found(&body, &made),
                Some(format!("{expected}#{name}").as_str()),
                "{form}"
            );
            let plain = http.get(&own).good();
            assert_eq!(found(&body, &plain), Some(expected.as_str()), "{form}");
            let named = http.get(&format!("{own}?include_name=")).good();
            assert_eq!(found(&body, &named), found(&body, &made), "{form}");
            held(&http, (target, path), (referrer, &own));
            assert_eq!(http.delete(&own).status, 204, "{own}");
        }
        let unknown = with_name(
            put_in(&body, &format!("/api/{target}?name=none")),
            "referrer",
        );
        let text = http
            .post(&format!("/api/{referrer}"), &unknown)
            .refused(400);
        assert!(text.contains(" object not found! ("), "{text}");
    }
}

/// As long as somebody refers to an object it is not deleted, and says by whom.
fn held(http: &Http, (target, path): (&str, &str), (referrer, own): (&str, &str)) {
    let text = http.delete(path).refused(409);
    // The referrer may be of another tenant.
    let http = http.with("X-Avi-Tenant", "*");
    assert!(
        text.starts_with("Cannot delete, object is referred by: ["),
        "{text}"
    );
    assert!(text.contains(" referrer'"), "{text}");
    let field = match (target, referrer) {
        ("vsvip", _) => "vs_refs".to_owned(),
        _ => format!("{referrer}_refs"),
    };
    let shown = http
        .get(&format!("{path}?include_refs=&include_name="))
        .good();
    let url = json!(format!("{}{own}#referrer", http.url));
    assert!(
        shown[&field].as_array().unwrap().contains(&url),
        "{field}: {shown}"
    );
    let uuid = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    for query in [
        format!(
            "/api/{referrer}?name=referrer&refers_to={target}:{}",
            uuid(path)
        ),
        format!(
            "/api/{target}?uuid={}&referred_by={referrer}:{}",
            uuid(path),
            uuid(own)
        ),
    ] {
        assert_eq!(http.count(&query), 1, "{query}");
    }
}

#[test]
fn reverse_references_that_come_back_are_not_stored() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (pool, _) = http.make("pool", json!({"name": "p"}));
    let (vs, _) = http.make("virtualservice", json!({"name": "v", "pool_ref": pool}));
    let read = http
        .get(&format!("{pool}?include_refs=&join_subresources=runtime"))
        .good();
    assert!(
        read["virtualservice_refs"].is_array() && read["runtime"].is_object(),
        "{read}"
    );
    http.put(&pool, &read).good();
    let stored = http.get(&pool).good();
    assert!(
        stored.get("virtualservice_refs").is_none() && stored.get("runtime").is_none(),
        "{stored}"
    );
    assert_eq!(http.delete(&vs).status, 204);
    assert_eq!(http.delete(&pool).status, 204);
}

/// avi-api section 13.
const AT_START: [(&str, &[&str]); 16] = [
    ("tenant", &["admin"]),
    ("cloud", &["Default-Cloud"]),
    ("vrfcontext", &["global", "management"]),
    ("serviceenginegroup", &["Default-Group"]),
    (
        "useraccountprofile",
        &[
            "Default-User-Account-Profile",
            "No-Lockout-User-Account-Profile",
        ],
    ),
    (
        "healthmonitor",
        &[
            "System-HTTP",
            "System-HTTPS",
            "System-Ping",
            "System-TCP",
            "System-UDP",
            "System-DNS",
            "System-Xternal-Perl",
            "System-Xternal-Shell",
            "System-Xternal-Python",
            "System-PingAccessAgent",
        ],
    ),
    (
        "networkprofile",
        &[
            "System-TCP-Proxy",
            "System-TCP-Fast-Path",
            "System-UDP-Fast-Path",
            "System-UDP-Fast-Path-VDI",
            "System-UDP-Per-Pkt",
            "System-UDP-No-SNAT",
        ],
    ),
    (
        "applicationprofile",
        &[
            "System-HTTP",
            "System-Secure-HTTP",
            "System-Secure-HTTP-VDI",
            "System-SSL-Application",
            "System-L4-Application",
            "System-Syslog",
            "System-DNS",
        ],
    ),
    (
        "applicationpersistenceprofile",
        &[
            "System-Persistence-Client-IP",
            "System-Persistence-Http-Cookie",
            "System-Persistence-Custom-Http-Header",
            "System-Persistence-App-Cookie",
            "System-Persistence-TLS",
        ],
    ),
    (
        "sslprofile",
        &[
            "System-Standard",
            "System-Standard-PFS",
            "System-Standard-Portal",
        ],
    ),
    (
        "sslkeyandcertificate",
        &[
            "System-Default-Cert",
            "System-Default-Cert-EC",
            "System-Default-Portal-Cert",
            "System-Default-Portal-Cert-EC256",
            "System-Default-Root-CA",
            "System-Default-Secure-Channel-Cert",
        ],
    ),
    ("analyticsprofile", &["System-Analytics-Profile"]),
    (
        "alertconfig",
        &[
            "System-VS-Alert",
            "System-SE-Alert",
            "System-SE-BGP-Peer-Down",
        ],
    ),
    (
        "actiongroupconfig",
        &[
            "System-Alert-Level-Low",
            "System-Alert-Level-Medium",
            "System-Alert-Level-High",
        ],
    ),
    ("systemconfiguration", &[]),
    ("seproperties", &[]),
];

#[test]
fn what_exists_at_start_is_seen_by_every_tenant_and_stays() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("tenant", json!({"name": "t1"}));
    let http = http.with("X-Avi-Tenant", "t1");
    for (ty, names) in AT_START {
        for name in names {
            let page = http.get(&format!("/api/{ty}?name={name}")).good();
            assert_eq!(page["count"], 1, "{ty} {name}");
            let object = &page["results"][0];
            if let Some(tenant) = object.get("tenant_ref") {
                assert_eq!(
                    tenant,
                    &json!(format!("{}/api/tenant/admin", http.url)),
                    "{ty}"
                );
            }
            let text = http.delete(&own_path(object)).refused(403);
            assert_eq!(text, format!("Cannot delete system default object {name}"));
        }
    }
}

#[test]
fn a_namesake_of_another_tenant_is_not_taken_for_the_systems_own() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("tenant", json!({"name": "t1"}));
    let theirs = http.with("X-Avi-Tenant", "t1");
    // One of them comes first in any order.
    let of = |http: &Http, profile: &str| {
        let (path, pool) = http.make("pool", json!({"name": "p"}));
        assert_eq!(http.delete(&path).status, 204);
        let found = pool["analytics_profile_ref"]
            .as_str()
            .unwrap()
            .contains(profile);
        assert!(found, "{profile}: {pool}");
    };
    let system = http.get("/api/analyticsprofile").good()["results"][0].clone();
    let system = system["uuid"].as_str().unwrap();
    for slug in ["analyticsprofile-0", "analyticsprofile-z"] {
        let body = json!({"name": "System-Analytics-Profile"});
        let made = theirs
            .with("Slug", slug)
            .post("/api/analyticsprofile", &body)
            .good();
        of(&http, system);
        of(&theirs, slug);
        assert_eq!(http.delete(&own_path(&made)).status, 204);
    }
}

#[test]
fn names_of_older_clients_stand_for_references_of_five_kinds() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("pool", json!({"name": "web"}));
    for (ty, field, value, shown) in [
        (
            "virtualservice",
            "application_profile_name",
            "System-L4-Application",
            "application_profile_ref",
        ),
        (
            "virtualservice",
            "network_profile_name",
            "System-TCP-Fast-Path",
            "network_profile_ref",
        ),
        ("virtualservice", "pool_name", "web", "pool_ref"),
        (
            "virtualservice",
            "se_group_name",
            "Default-Group",
            "se_group_ref",
        ),
        (
            "pool",
            "health_monitor_name",
            "System-TCP",
            "health_monitor_refs",
        ),
    ] {
        let (path, made) = http.make(ty, json!({"name": "older", field: value}));
        assert!(
            made[shown].to_string().contains(&format!("#{value}\"")),
            "{made}"
        );
        assert!(made.get(field).is_none(), "{made}");
        assert_eq!(http.delete(&path).status, 204);
        let text = http
            .post(
                &format!("/api/{ty}"),
                &json!({"name": "older", field: "none"}),
            )
            .refused(400);
        assert!(text.contains("object not found!"), "{text}");
    }
}

/// A pool group of these pools.
fn group_of(pools: &[&str]) -> Value {
    let member = |pool: &&str| json!({"pool_ref": pool});
    json!({"name": "g", "members": pools.iter().map(member).collect::<Vec<_>>()})
}

#[test]
fn a_virtual_service_uses_the_pools_of_its_group() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let [a, b] = ["a", "b"].map(|name| http.make("pool", json!({"name": name})).0);
    let mut members = group_of(&[&a, &b]);
    members["members"][1]["priority_label"] = json!("10");
    let (group, made) = http.make("poolgroup", members);
    assert_eq!(
        (&made["members"][0]["ratio"], &made["min_servers"]),
        (&json!(1), &json!(0))
    );
    let (vs, _) = http.make(
        "virtualservice",
        json!({"name": "v", "pool_group_ref": group, "services": [{"port": 80}],
            "vip": [{"vip_id": "1", "ip_address": {"addr": "10.9.0.1", "type": "V4"}}]}),
    );
    let item = vs.replace("virtualservice/", "virtualservice-inventory/");
    let pools = http.get(&item).good()["pools"].clone();
    let name_of = |reference: &Value| {
        reference
            .as_str()
            .unwrap()
            .rsplit('#')
            .next()
            .unwrap()
            .to_owned()
    };
    let names: Vec<String> = pools.as_array().unwrap().iter().map(name_of).collect();
    assert_eq!(names, ["a", "b"]);
    for inventory in ["pool-inventory", "poolgroup-inventory"] {
        let items = http.get(&format!("/api/{inventory}")).good();
        let users = items["results"][0]["config"]["virtualservice_refs"].to_string();
        assert!(users.contains("#v"), "{inventory}: {users}");
    }
    let topology = http.get("/api/ek/topology").good();
    let shown = &topology["vips"]["results"][0]["virtual_services"][0]["pool_group"];
    assert_eq!(shown["members"][0]["pool"], "b", "{shown}");
    assert_eq!(shown["members"][1]["pool"], "a", "{shown}");
    let pools = topology["pools"].as_array().unwrap().iter();
    let mut pools: Vec<_> = pools.map(|p| p["pool"].as_str().unwrap()).collect();
    pools.sort_unstable();
    assert_eq!(pools, ["a", "b"]);
    assert_eq!(
        http.delete(&group).refused(409),
        "Cannot delete, object is referred by: ['VirtualService v']"
    );
    assert_eq!(
        http.delete(&a).refused(409),
        "Cannot delete, object is referred by: ['PoolGroup g']"
    );
}

#[test]
fn a_pool_group_must_fit_its_virtual_services() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (fits, _) = http.make("pool", json!({"name": "fits"}));
    let by_http =
        json!({"name": "h", "health_monitor_refs": ["/api/healthmonitor?name=System-HTTP"]});
    let (by_http, _) = http.make("pool", by_http);
    let (vrf, _) = http.make("vrfcontext", json!({"name": "other"}));
    let (elsewhere, _) = http.make("pool", json!({"name": "e", "vrf_ref": vrf}));
    let vs = |group: &str| {
        json!({"name": "v", "pool_group_ref": group, "services": [{"port": 53}],
            "network_profile_ref": "/api/networkprofile?name=System-UDP-Fast-Path"})
    };
    let unfit = [
        (
            &by_http,
            "pool h has the monitor System-HTTP of type HEALTH_MONITOR_HTTP",
        ),
        (&elsewhere, "pool e is in another VRF context (vrf_ref)"),
    ];
    let (group, _) = http.make("poolgroup", group_of(&[]));
    for (pool, problem) in unfit {
        http.put(&group, &group_of(&[&fits, pool])).good();
        let text = http.post("/api/virtualservice", &vs(&group)).refused(400);
        assert!(
            text.starts_with(&format!("pool_group_ref: {problem}")),
            "{text}"
        );
    }
    http.put(&group, &group_of(&[&fits])).good();
    http.make("virtualservice", vs(&group));
    for (pool, problem) in unfit {
        let text = http.put(&group, &group_of(&[&fits, pool])).refused(400);
        let start = format!("members: virtual service v uses this group: {problem}");
        assert!(text.starts_with(&start), "{text}");
    }
    let monitored =
        json!({"name": "fits", "health_monitor_refs": ["/api/healthmonitor?name=System-HTTP"]});
    let text = http.put(&fits, &monitored).refused(400);
    assert!(
        text.starts_with("health_monitor_refs[0]: virtual service v is UDP"),
        "{text}"
    );
}
