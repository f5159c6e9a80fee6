use super::*;
use crate::plan::fixture::{Fixture, PEER, VIP, established};
use proto::v1::{OperState, Report, VirtualServiceStatus};

#[tokio::test]
async fn a_vip_has_its_engine_its_state_and_its_next_hop() {
    let fixture = Fixture::new().await;
    let pool = json!({"name": "web", "servers": [{"ip": {"addr": "10.20.20.11", "type": "V4"}}], "default_server_port": 8080});
    let pool = fixture.create("pool", pool).await;
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update("virtualservice", &vs, |o| {
            o.insert("pool_ref".into(), Ref::to("pool", &pool).0.into());
        })
        .await;
    let report = Report {
        interfaces: fixture.registry.get(&fixture.engine).interfaces,
        bgp_sessions: vec![established()],
        vips: vec![VipStatus {
            address: VIP.into(),
            announced: true,
            ..VipStatus::default()
        }],
        virtual_services: vec![VirtualServiceStatus {
            uuid: vs,
            state: OperState::Up.into(),
            reason_code: "up".into(),
            ..VirtualServiceStatus::default()
        }],
        pools: vec![PoolStatus {
            uuid: pool,
            state: OperState::Up.into(),
            servers: vec![ServerStatus {
                address: "10.20.20.11".into(),
                port: 8080,
                state: OperState::Up.into(),
                open_connections: 3,
                ..ServerStatus::default()
            }],
        }],
        ..Report::default()
    };
    fixture
        .registry
        .reported(&fixture.engine, fixture.session, report);
    let snapshot = fixture.snapshot();
    let observer = fixture.observer(&snapshot);
    let topology = whole(&observer);
    let vip = topology.vip(&fixture.vsvip).expect("there");
    assert_eq!(vip["addresses"], json!([VIP]));
    let hop = &vip["next_hops"][0];
    assert_eq!(
        (&hop["peer"], &hop["next_hop"], &hop["se_name"]),
        (&json!(PEER), &json!("10.10.10.11"), &json!("se-1"))
    );
    let seat = &vip["engines"][0];
    assert_eq!(seat["vips"][0]["announced"], true);
    assert_eq!(
        seat["virtual_services"][0]["oper_status"]["state"],
        "OPER_UP"
    );
    let page = [fixture.vsvip.clone()];
    let fabric = topology.fabric(&page);
    assert_eq!(
        (
            &fabric["routers"][0]["peer"],
            &fabric["routers"][0]["sessions_established"]
        ),
        (&json!(PEER), &json!(1))
    );
    assert_eq!(fabric["sessions"][0]["state"], "ESTABLISHED");
    let link = &fabric["engines"][0]["links"][0];
    assert_eq!(
        (&link["interface"], &link["addresses"]),
        (&json!("eth0"), &json!(["10.10.10.11/24"]))
    );
    let server = &fabric["pools"][0]["servers"][0];
    assert_eq!(
        server["seen_by"],
        json!([{"se_name": "se-1", "state": "OPER_UP", "reason": "", "open_connections": 3}])
    );
}

#[tokio::test]
async fn what_an_engine_without_a_session_last_said_is_not_shown_as_fact() {
    let fixture = Fixture::new().await;
    fixture.report(vec![established()]);
    fixture
        .registry
        .close(&fixture.engine, fixture.session, "gone");
    let snapshot = fixture.snapshot();
    let observer = fixture.observer(&snapshot);
    let topology = whole(&observer);
    let vip = topology.vip(&fixture.vsvip).expect("there");
    assert_eq!(vip["next_hops"], json!([]));
    let seat = &vip["engines"][0];
    assert_eq!(seat["vips"][0]["announced"], Value::Null);
    assert_eq!(
        seat["virtual_services"][0]["oper_status"]["reason_code_string"],
        "se_disconnected"
    );
    let fabric = topology.fabric(&[]);
    assert_eq!(
        (&fabric["sessions"], &fabric["routers"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(fabric["engines"][0]["connected"], false);
}

/// All that there is.
fn whole<'a>(observer: &'a Observer<'a>) -> Topology<'a> {
    let wanted = Wanted {
        vs: None,
        se: None,
        vrf: None,
    };
    let engines = engines(observer, &wanted);
    let all = observer.snapshot.all("vsvip");
    let vsvips = all.map(|(uuid, _)| uuid.to_owned()).collect();
    Topology {
        tells: Box::new(|_, _| true),
        observer,
        engines,
        vsvips,
    }
}
