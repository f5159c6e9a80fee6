//! Fields that are the server's (class R, avi-api section 12): filled on read, ignored in a write, and stored by nobody's GET and
//! PUT.

use crate::certificates;
use crate::engine::Engine;
use crate::http::{Http, Server, own_path, v4, wait_until};
use proto::v1::{Hello, HostResources, Interface, LinkDetail, Management};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::tempdir;

const MAC: &str = "02:00:00:00:00:01";

/// What an engine says of its host.
fn hello() -> Hello {
    let interface = |name: &str, address: &str| Interface {
        name: name.into(),
        mac: MAC.into(),
        up: true,
        mtu: 1500,
        addresses: vec![address.into()],
        link: Some(LinkDetail {
            carrier: true,
            adapter: "virtio_net".into(),
            ..LinkDetail::default()
        }),
    };
    Hello {
        host: "rack 1".into(),
        interfaces: vec![interface("eth0", "10.10.10.11/24")],
        resources: Some(HostResources {
            processors: 2,
            memory_bytes: 4 << 30,
            ..HostResources::default()
        }),
        management: Some(Management {
            controller_address: "192.0.2.1".into(),
            interface: Some(interface("mgmt0", "192.0.2.11/24")),
        }),
        ..Hello::default()
    }
}

/// Its object as the store has it.
fn stored(folder: &Path) -> Value {
    let text = certificates::stored(folder, "serviceengine");
    without_stamp(serde_json::from_str(&text).unwrap())
}

fn without_stamp(mut object: Value) -> Value {
    object.as_object_mut().unwrap().remove("_last_modified");
    object
}

/// An engine that has said so, and its object's path, once its interfaces are there.
fn engine(server: &Server, http: &Http) -> (Engine, String) {
    let mut engine = Engine::join(server, http, "se-1");
    engine.connect_saying(hello());
    let page = http.get("/api/serviceengine?name=se-1").good();
    let path = own_path(&page["results"][0]);
    // The session before had other words.
    wait_until("its interfaces", || {
        http.get(&path).good()["data_vnics"][0]["mac_address"] == MAC
    });
    (engine, path)
}

fn the_inventory_shows_the_same(http: &Http, read: &Value) {
    let uuid = read["uuid"].as_str().unwrap();
    let item = http.get(&format!(
        "/api/serviceengine-inventory/{uuid}?include=config"
    ));
    let config = item.good()["config"].clone();
    for field in ["resources", "controller_ip", "host_ref"] {
        assert_eq!(config[field], read[field], "{field} of the inventory");
    }
    assert_eq!(config["data_vnics"][0]["is_mgmt"], false);
    assert_eq!(config["mgmt_ip_address"], v4("192.0.2.11"));
}

#[test]
fn a_service_engine_shows_what_its_engine_says_and_a_put_of_it_stores_nothing_new() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let prefix = json!({"ip_addr": v4("10.10.10.0"), "mask": 24});
    let network = json!({"name": "front", "configured_subnets": [{"prefix": prefix}]});
    let (network, _) = http.make("network", network);
    let (engine, path) = engine(&server, &http);
    let read = http.get(&path).good();
    assert_eq!(read["resources"], json!({"num_vcpus": 2, "memory": 4096}));
    assert_eq!(
        (&read["controller_ip"], &read["host_ref"]),
        (&json!("192.0.2.1"), &json!("rack 1"))
    );
    let (vnic, mgmt) = (&read["data_vnics"][0], &read["mgmt_vnic"]);
    assert_eq!(
        (
            &vnic["if_name"],
            &vnic["connected"],
            &vnic["adapter"],
            &vnic["is_mgmt"]
        ),
        (
            &json!("eth0"),
            &json!(true),
            &json!("virtio_net"),
            &json!(false)
        )
    );
    assert_eq!(own_path(&json!({"url": vnic["network_ref"]})), network);
    assert_eq!(vnic["network_name"], "front");
    assert_eq!(mgmt["vnic_networks"][0]["ip"]["ip_addr"], v4("192.0.2.11"));
    the_inventory_shows_the_same(&http, &read);
    let before = stored(folder.path());
    let sparse = http.get(&format!("{path}?skip_default=true")).good();
    assert_eq!(sparse["resources"], read["resources"]);
    assert_eq!(sparse["mgmt_vnic"].get("mtu"), None, "it is the default");
    http.put(&path, &sparse).good();
    assert_eq!(stored(folder.path()), before);
    http.put(&path, &http.get(&path).good()).good();
    assert_eq!(
        without_stamp(http.get(&path).good()),
        without_stamp(read.clone())
    );
    let after = stored(folder.path());
    for field in ["resources", "mgmt_vnic", "controller_ip", "host_ref"] {
        assert_eq!(after.get(field), None, "{field} is stored");
    }
    for field in [
        "network_ref",
        "network_name",
        "connected",
        "adapter",
        "is_mgmt",
    ] {
        assert_eq!(after["data_vnics"][0].get(field), None, "{field} is stored");
    }
    let wrong =
        json!({"resources": {"num_vcpus": 64}, "host_ref": "another", "controller_ip": "10.0.0.1"});
    let patched = http.patch(&path, &json!({"replace": wrong})).good();
    assert_eq!(
        (
            &patched["resources"],
            &patched["host_ref"],
            &patched["controller_ip"]
        ),
        (
            &read["resources"],
            &read["host_ref"],
            &read["controller_ip"]
        )
    );
    drop(engine);
}

#[test]
fn what_an_engine_said_last_is_shown_for_as_long_as_the_controller_knows_it() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (mut engine, path) = engine(&server, &http);
    let read = http.get(&path).good();
    engine.disconnect();
    wait_until("the session's end", || {
        http.get(&format!("{path}/runtime")).good()["se_connected"] == false
    });
    assert_eq!(http.get(&path).good()["resources"], read["resources"]);
    drop((engine, server));
    let server = Server::start(folder.path());
    let shown = server.logged_in().get(&path).good();
    for field in ["resources", "mgmt_vnic", "controller_ip", "host_ref"] {
        assert_eq!(shown.get(field), None, "{field}: nobody has said it");
    }
    let vnic = &shown["data_vnics"][0];
    assert_eq!(
        (&vnic["if_name"], vnic.get("connected")),
        (&json!("eth0"), None)
    );
}

#[test]
fn the_type_of_its_cloud_is_shown_of_a_virtual_service() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (cloud, _) = http.make(
        "cloud",
        json!({"name": "lin", "vtype": "CLOUD_LINUXSERVER"}),
    );
    let service = |cloud: &str, address: &str| {
        let vip = json!([{"vip_id": "1", "ip_address": v4(address)}]);
        let body =
            json!({"name": "vs", "cloud_ref": cloud, "services": [{"port": 80}], "vip": vip});
        own_path(&http.post("/api/virtualservice", &body).good())
    };
    let own = service(&cloud, "10.9.9.1");
    let plain = service("/api/cloud?name=Default-Cloud", "10.9.9.2");
    let read = |path: &str| http.get(path).good()["cloud_type"].clone();
    let sparse = |path: &str| read(&format!("{path}?skip_default=true"));
    assert_eq!(
        (read(&own), sparse(&own)),
        (json!("CLOUD_LINUXSERVER"), json!("CLOUD_LINUXSERVER"))
    );
    assert_eq!(
        (read(&plain), sparse(&plain)),
        (json!("CLOUD_NONE"), Value::Null)
    );
    // It is not stored, and nothing is found or put in order by it.
    for query in ["cloud_type=CLOUD_AWS", "sort=-cloud_type"] {
        let page = http.get(&format!("/api/virtualservice?{query}")).good();
        assert_eq!(page["count"], 2, "{query}");
    }
    let uuid = own.rsplit('/').next().unwrap();
    let item = http.get(&format!("/api/virtualservice-inventory/{uuid}"));
    assert_eq!(item.good()["config"]["cloud_type"], "CLOUD_LINUXSERVER");
    http.patch(&own, &json!({"replace": {"cloud_type": "CLOUD_AWS"}}))
        .good();
    assert_eq!(read(&own), "CLOUD_LINUXSERVER");
}

#[test]
fn networks_that_a_client_gives_a_vip_are_kept() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let (network, _) = http.make("network", json!({"name": "front"}));
    let vip = json!([{"vip_id": "1", "ip_address": v4("10.9.9.1"), "discovered_networks": [{"network_ref": network}]}]);
    let (path, _) = http.make("vsvip", json!({"name": "v", "vip": vip}));
    let read = http.get(&path).good();
    let given = &read["vip"][0]["discovered_networks"][0]["network_ref"];
    assert_eq!(own_path(&json!({"url": given})), network);
}
