use super::*;
use proto::v1::{Group, Http, PortRange, Tls};

fn service() -> VirtualService {
    let range = |first, last, protocol: v1::Protocol, http| PortRange {
        first,
        last,
        protocol: protocol.into(),
        http,
    };
    let http = Some(Http {
        client_header_timeout_ms: 1,
        keepalive_timeout_ms: 3,
        post_accept_timeout_ms: 4,
        redirect_port: 443,
        forwarded_for: "X-Client".into(),
        ..Http::default()
    });
    VirtualService {
        vsvip_uuid: "v".into(),
        enabled: true,
        ports: vec![
            range(80, 81, v1::Protocol::Tcp, http),
            range(443, 443, v1::Protocol::Tls, None),
            range(22, 22, v1::Protocol::Tcp, None),
        ],
        tls: Some(Tls::default()),
        ..VirtualService::default()
    }
}

#[test]
fn ports_are_served_as_their_ranges_say() {
    let front = front(&DesiredState::default(), &service(), &Certificates::new());
    let ports: Vec<_> = front.ports.keys().copied().collect();
    assert_eq!(ports, [80, 81, 443], "22 is bytes");
    assert!(front.ports[&443].tls && front.ports[&443].http.is_none());
    let http = front.ports[&81].http.as_deref().expect("HTTP");
    assert_eq!(http.header_timeout, Duration::from_millis(1));
    assert_eq!(http.body_timeout, None);
    assert_eq!(http.redirect_port, Some(443));
    let forwarded = http.forwarded_for.as_ref().expect("named");
    assert_eq!(forwarded.update, ForwardedForUpdate::Replace);
    assert_eq!(front.tls, Some(TlsSpec::default()));
}

#[test]
fn clients_of_tls_begin_anew_with_the_number_of_their_own_service() {
    let rotation = |vs_uuid: &str, number| v1::TlsRotation {
        vs_uuid: vs_uuid.into(),
        number,
    };
    let desired = DesiredState {
        tls_rotations: vec![rotation("other", 3), rotation("vs", 7)],
        ..DesiredState::default()
    };
    let named = |uuid: &str| VirtualService {
        uuid: uuid.into(),
        ..service()
    };
    let number = |uuid: &str| {
        let front = front(&desired, &named(uuid), &Certificates::new());
        front.tls.expect("a port has TLS").rotation
    };
    assert_eq!([number("vs"), number("none")], [7, 0]);
}

#[test]
fn a_virtual_service_has_the_certificates_that_it_names_in_its_order() {
    let certificate = |uuid: &str| v1::KeyAndCertificate {
        uuid: uuid.into(),
        name: format!("name of {uuid}"),
        ..v1::KeyAndCertificate::default()
    };
    let desired = DesiredState {
        certificates: ["a", "b", "c"].map(certificate).into(),
        ..DesiredState::default()
    };
    let mut vs = service();
    vs.tls = Some(Tls {
        certificate_uuids: vec!["c".into(), "a".into()],
        versions: None,
    });
    let tls = front(&desired, &vs, &certificates(&desired))
        .tls
        .expect("TLS");
    let names: Vec<&str> = tls.certificates.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["name of c", "name of a"]);
}

#[test]
fn clients_are_asked_to_go_where_the_engine_is_to_be_free() {
    let none = Certificates::new();
    let closing = |desired: &DesiredState, vs: &VirtualService| front(desired, vs, &none).closing;
    let (mut desired, mut vs) = (DesiredState::default(), service());
    assert!(!closing(&desired, &vs));
    desired.groups = vec![Group {
        vsvip_uuid: "v".into(),
        lingers: true,
        ..Group::default()
    }];
    assert!(closing(&desired, &vs), "it lingers");
    desired.groups[0].lingers = false;
    vs.enabled = false;
    assert!(closing(&desired, &vs), "disabled");
    vs.enabled = true;
    desired.draining = true;
    assert!(closing(&desired, &vs), "it drains");
}
