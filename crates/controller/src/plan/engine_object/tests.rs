//! What an engine's object holds and shows of what the engine says.

use super::super::EngineView;
use super::super::fixture::{Fixture, v4};
use super::*;
use crate::engines::outbox::Outbox;
use proto::v1::{Hello, Management, Report};

const MAC: &str = "02:00:00:00:00:01";

/// A card with this address.
fn interface(name: &str, address: &str) -> Interface {
    let link = LinkDetail {
        carrier: true,
        adapter: "virtio_net".into(),
        pci_id: "0000:00:03.0".into(),
        ..LinkDetail::default()
    };
    Interface {
        name: name.into(),
        mac: MAC.into(),
        up: true,
        mtu: 9000,
        addresses: vec![address.into()],
        link: Some(link),
    }
}

/// A session of the fixture's engine begins with these words.
fn says(fixture: &Fixture, hello: Hello) -> u64 {
    let (outbox, receiver) = Outbox::new();
    std::mem::forget(receiver);
    fixture.registry.open(&fixture.engine, hello, outbox)
}

fn hello(interfaces: Vec<Interface>, management: Option<Interface>) -> Hello {
    Hello {
        protocol_version: proto::PROTOCOL_VERSION,
        interfaces,
        management: Some(Management {
            controller_address: "192.0.2.1".into(),
            interface: management,
        }),
        ..Hello::default()
    }
}

/// The engine's object, stored and shown.
fn objects(fixture: &Fixture) -> (Object, Object) {
    fixture.observe(|observer| {
        let stored = observer.snapshot.get("serviceengine", &fixture.engine);
        let stored = stored.expect("there");
        let mut shown = stored.object.clone();
        observer.fill_engine(&fixture.engine, stored, &mut shown);
        (stored.object.clone(), shown)
    })
}

/// A network with this subnet; the VRF context by name.
async fn network(fixture: &Fixture, name: &str, vrf: &str, (subnet, mask): (&str, u8)) -> String {
    let vrf = Ref::to("vrfcontext", &fixture.uuid("vrfcontext", vrf)).0;
    let prefix = json!({"ip_addr": v4(subnet), "mask": mask});
    let body =
        json!({"name": name, "vrf_context_ref": vrf, "configured_subnets": [{"prefix": prefix}]});
    Ref::to("network", &fixture.create("network", body).await).0
}

#[tokio::test]
async fn what_a_client_has_written_of_an_interface_stays_whatever_the_engine_reports() {
    let fixture = Fixture::new().await;
    fixture.round().await;
    let vrf = Ref::to("vrfcontext", &fixture.uuid("vrfcontext", "global")).0;
    let written = json!([{"if_name": "eth0", "vrf_ref": vrf, "enabled": false}]);
    let write = |object: &mut Object| drop(object.insert("data_vnics".into(), written));
    fixture
        .update("serviceengine", &fixture.engine, write)
        .await;
    let address =
        |object: &Object| object["data_vnics"][0]["vnic_networks"][0]["ip"]["ip_addr"].clone();
    let (stored, _) = objects(&fixture);
    assert_eq!(
        address(&stored),
        v4("10.10.10.11"),
        "it is not the client's"
    );
    let revision = fixture.snapshot().revision;
    fixture.round().await;
    assert_eq!(fixture.snapshot().revision, revision, "nothing is new");
    let report = Report {
        interfaces: vec![interface("eth0", "10.10.10.99/24")],
        ..Report::default()
    };
    fixture
        .registry
        .reported(&fixture.engine, fixture.session, report);
    fixture.round().await;
    let (stored, _) = objects(&fixture);
    let vnic = &stored["data_vnics"][0];
    assert_eq!(address(&stored), v4("10.10.10.99"));
    assert_eq!(
        (&vnic["vrf_ref"], &vnic["enabled"], &vnic["mac_address"]),
        (&json!(vrf), &json!(false), &json!(MAC))
    );
}

#[tokio::test]
async fn what_a_client_has_written_of_an_interface_is_there_again_when_the_interface_is() {
    let fixture = Fixture::new().await;
    let (first, second) = (
        interface("eth0", "10.10.10.11/24"),
        interface("eth1", "10.10.20.11/24"),
    );
    let both = vec![first.clone(), second.clone()];
    says(&fixture, hello(both.clone(), None));
    fixture.round().await;
    let vrf = Ref::to("vrfcontext", &fixture.uuid("vrfcontext", "global")).0;
    let written = json!([{"if_name": "eth0"}, {"if_name": "eth1", "vrf_ref": vrf}]);
    let write = |object: &mut Object| drop(object.insert("data_vnics".into(), written));
    fixture
        .update("serviceengine", &fixture.engine, write)
        .await;
    says(&fixture, hello(vec![first.clone()], None));
    fixture.round().await;
    let gone = json!({"vrf_ref": vrf, "if_name": "eth1", "link_up": false, "vnic_networks": []});
    assert_eq!(objects(&fixture).0["data_vnics"][1], gone);
    let revision = fixture.snapshot().revision;
    fixture.round().await;
    assert_eq!(fixture.snapshot().revision, revision, "nothing is new");
    says(&fixture, hello(both, None));
    fixture.round().await;
    let (stored, _) = objects(&fixture);
    let back = &stored["data_vnics"][1];
    assert_eq!(
        (&back["vrf_ref"], &back["link_up"], &back["mac_address"]),
        (&json!(vrf), &json!(true), &json!(MAC))
    );
    // One of which nothing was written is not remembered, and of another one a write says that it is not coming back.
    says(&fixture, hello(vec![second], None));
    fixture.round().await;
    assert_eq!(objects(&fixture).0["data_vnics"][1], Value::Null);
    says(&fixture, hello(vec![first], None));
    fixture.round().await;
    let write = |object: &mut Object| {
        drop(object.insert("data_vnics".into(), json!([{"if_name": "eth0"}])));
    };
    fixture
        .update("serviceengine", &fixture.engine, write)
        .await;
    fixture.round().await;
    assert_eq!(objects(&fixture).0["data_vnics"][1], Value::Null);
}

#[tokio::test]
async fn what_is_behind_an_interface_is_shown_and_not_stored() {
    let fixture = Fixture::new().await;
    says(
        &fixture,
        hello(vec![interface("eth0", "10.10.10.11/24")], None),
    );
    fixture.round().await;
    let (stored, shown) = objects(&fixture);
    let (stored, shown) = (&stored["data_vnics"][0], &shown["data_vnics"][0]);
    for (field, expected) in [
        ("connected", json!(true)),
        ("adapter", json!("virtio_net")),
        ("pci_id", json!("0000:00:03.0")),
        ("is_portchannel", json!(false)),
    ] {
        assert_eq!(
            (shown.get(field), stored.get(field)),
            (Some(&expected), None)
        );
    }
    assert_eq!(shown.get("network_ref"), None, "no network has the address");
    assert_eq!(shown.get("is_mgmt"), None, "it is not known");
}

#[tokio::test]
async fn an_older_engine_has_what_it_says_and_no_more() {
    let fixture = Fixture::new().await;
    fixture.round().await;
    let (stored, shown) = objects(&fixture);
    assert_eq!(shown, stored);
}

#[tokio::test]
async fn an_interface_is_in_the_network_of_its_vrf_with_the_smallest_subnet() {
    let fixture = Fixture::new().await;
    fixture.round().await;
    network(&fixture, "wide", "global", ("10.10.0.0", 16)).await;
    let narrow = network(&fixture, "narrow", "global", ("10.10.10.0", 24)).await;
    network(&fixture, "elsewhere", "management", ("10.10.10.8", 29)).await;
    let (_, shown) = objects(&fixture);
    let vnic = &shown["data_vnics"][0];
    assert_eq!(
        (&vnic["network_ref"], &vnic["network_name"]),
        (&json!(narrow), &json!("narrow"))
    );
}

#[tokio::test]
async fn the_session_is_on_an_interface_that_is_shown_with_its_address() {
    let fixture = Fixture::new().await;
    let front = network(&fixture, "front", "global", ("10.10.10.0", 24)).await;
    let back = network(&fixture, "back", "management", ("198.51.100.0", 24)).await;
    let data = interface("eth0", "10.10.10.11/24");
    let own = interface("mgmt0", "198.51.100.7/24");
    for (management, network, is_data) in [(&own, &back, false), (&data, &front, true)] {
        says(
            &fixture,
            hello(vec![data.clone()], Some(management.clone())),
        );
        fixture.round().await;
        let (_, shown) = objects(&fixture);
        let vnic = &shown["mgmt_vnic"];
        assert_eq!(shown["controller_ip"], "192.0.2.1");
        assert_eq!(
            (&vnic["if_name"], &vnic["network_ref"], &vnic["is_mgmt"]),
            (&json!(management.name), &json!(network), &json!(true))
        );
        assert_eq!(vnic["mac_address"], MAC);
        assert_eq!(shown["data_vnics"][0]["is_mgmt"], is_data);
    }
}

#[test]
fn resources_are_in_the_units_of_the_se_group_and_without_what_is_not_known() {
    let host = HostResources {
        processors: 4,
        memory_bytes: 2 << 30,
        disk_bytes: (15 << 30) + 1,
        sockets: 1,
        cores_per_socket: 2,
        threads_per_core: 2,
    };
    let expected = json!({
        "num_vcpus": 4, "memory": 2048, "disk": 15, "sockets": 1, "cores_per_socket": 2, "hyper_threading": true,
    });
    assert_eq!(resources(&host), expected);
    let little = HostResources {
        processors: 1,
        ..HostResources::default()
    };
    assert_eq!(resources(&little), json!({"num_vcpus": 1}));
}

#[tokio::test]
async fn the_runtime_in_detail_shows_the_host_and_its_links_as_the_object_does() {
    let fixture = Fixture::new().await;
    let host = HostResources {
        processors: 4,
        memory_bytes: 2 << 30,
        ..HostResources::default()
    };
    let hello = Hello {
        resources: Some(host),
        ..hello(vec![interface("eth0", "10.10.10.11/24")], None)
    };
    says(&fixture, hello);
    let view = EngineView::Detail;
    let shown = fixture.observe(|o| o.engine_view(&fixture.engine, view, &|_, _| true));
    assert_eq!(shown["resources"], json!({"num_vcpus": 4, "memory": 2048}));
    let vnic = &shown["vnic"][0];
    assert_eq!(
        (&vnic["mac_address"], &vnic["adapter"], &vnic["state"]),
        (&json!(MAC), &json!("virtio_net"), &json!("VNIC_STATE_UP"))
    );
}

#[test]
fn a_bundle_shows_its_members_and_a_vlan_its_number() {
    let bond = LinkDetail {
        adapter: "bond".into(),
        vlan_id: 7,
        members: vec!["eth0".into(), "eth1".into()],
        ..LinkDetail::default()
    };
    let fields = link_fields(&bond);
    assert_eq!(
        fields["members"],
        json!([{"if_name": "eth0"}, {"if_name": "eth1"}])
    );
    assert_eq!(
        (
            &fields["is_portchannel"],
            &fields["vlan_id"],
            &fields["connected"]
        ),
        (&json!(true), &json!(7), &json!(false))
    );
    assert_eq!(fields.get("pci_id"), None);
}
