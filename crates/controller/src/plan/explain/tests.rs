//! Each finding that needs no network, with the session as an engine would report it.

use super::super::fixture::{Fixture, PEER, VIP, established};
use super::*;
use proto::v1::{BgpRoute, Nack};

impl Fixture {
    fn explained(&self) -> Value {
        let answer = self.observe(|o| o.explain_vip(VIP, None, &|_, _| true));
        answer.expect("the VIP is configured")
    }

    /// The only path.
    fn path(&self) -> Value {
        let answer = self.explained();
        assert_eq!(
            answer["paths"].as_array().map(Vec::len),
            Some(1),
            "{answer}"
        );
        answer["paths"][0].clone()
    }

    fn refuse(&self, field: &str, reason: &str) {
        let nack = Nack {
            generation: self.told().generation,
            field: field.into(),
            reason: reason.into(),
        };
        self.registry.nacked(&self.engine, self.session, nack);
    }
}

fn first(path: &Value) -> (&str, &str) {
    let failed = &path["first_failed"];
    let text = |field: &str| failed[field].as_str().unwrap_or_default();
    (text("condition"), text("text"))
}

fn state_of(path: &Value, condition: Condition) -> String {
    let rows = path["conditions"].as_array().expect("a list");
    let row = rows.iter().find(|r| r["condition"] == condition.code());
    row.expect("every condition")["state"]
        .as_str()
        .expect("text")
        .to_owned()
}

/// A session that is not established because of this condition.
fn closed(condition: Condition, text: &str) -> BgpSession {
    let mut session = established();
    session.state = BgpState::Active.into();
    session.condition = condition.code().into();
    session.condition_text = text.into();
    session.routes[0].sent = false;
    session
}

fn withheld(reason: &str) -> BgpSession {
    let mut session = established();
    session.routes[0].sent = false;
    session.routes[0].reason = reason.into();
    session
}

#[tokio::test]
async fn an_announced_vip_meets_every_condition_in_order() {
    let fixture = Fixture::new().await;
    let mut session = established();
    session.bfd_state = "up".into();
    fixture.report(vec![session]);
    let path = fixture.path();
    assert_eq!(
        (&path["announced"], first(&path)),
        (&json!(true), ("", "")),
        "{path}"
    );
    let rows = path["conditions"].as_array().expect("a list");
    let codes: Vec<_> = rows
        .iter()
        .map(|r| r["condition"].as_str().expect("text"))
        .collect();
    assert_eq!(codes, Condition::ALL.map(Condition::code));
    assert!(rows.iter().all(|r| r["state"] == "met"), "{path}");
}

#[tokio::test]
async fn every_condition_of_a_session_is_named_with_its_text_and_what_to_do() {
    let fixture = Fixture::new().await;
    for condition in Condition::ALL
        .into_iter()
        .skip_while(|c| *c < Condition::PeerConfigurationValid)
    {
        if condition == Condition::PolicyAllows {
            break;
        }
        fixture.report(vec![closed(condition, "as the engine says")]);
        let path = fixture.path();
        assert_eq!(first(&path), (condition.code(), "as the engine says"));
        assert_eq!(path["first_failed"]["next_step"], condition.next_step());
        assert_eq!(path["announced"], false);
        for other in Condition::ALL {
            let expected = match other.cmp(&condition) {
                // Silence where keys differ says nothing of TCP.
                std::cmp::Ordering::Less
                    if (condition, other) == (Condition::Md5Accepted, Condition::TcpConnected) =>
                {
                    "not_asked"
                }
                std::cmp::Ordering::Less => "met",
                std::cmp::Ordering::Equal => "failed",
                std::cmp::Ordering::Greater => "not_reached",
            };
            assert_eq!(
                state_of(&path, other),
                expected,
                "{other} when {condition} fails"
            );
        }
    }
}

#[tokio::test]
async fn every_reason_to_withhold_a_route_is_named_in_words() {
    let fixture = Fixture::new().await;
    for (reason, condition, text) in [
        (
            "peer_label_mismatch",
            "policy_allows",
            "the peer has no label",
        ),
        (
            "advertise_vip_off",
            "policy_allows",
            "advertise_vip of the peer is false",
        ),
        (
            "advertise_snat_ip_off",
            "policy_allows",
            "advertise_snat_ip of the peer is false",
        ),
        (
            "family_not_negotiated",
            "family_negotiated",
            "did not offer",
        ),
        ("no_next_hop", "next_hop_present", "eth0 has no address"),
        (
            "advertisement_interval",
            "update_sent",
            "within the advertisement interval",
        ),
        ("peer_not_reading", "update_sent", "reads too slowly"),
        ("draining", "engine_enabled", "SE_STATE_DISABLED"),
        (
            "from the future",
            "update_sent",
            "withheld: from the future",
        ),
    ] {
        fixture.report(vec![withheld(reason)]);
        let path = fixture.path();
        let (named, seen) = first(&path);
        assert_eq!(named, condition, "{reason}");
        assert!(seen.contains(text), "{reason}: {seen}");
    }
}

#[tokio::test]
async fn bfd_that_is_down_is_named_beside_an_announced_route() {
    let fixture = Fixture::new().await;
    for (word, text) in [
        ("waiting_for_peer", "waiting for the peer"),
        ("down", "BFD is down"),
    ] {
        let mut session = established();
        session.bfd_state = word.into();
        fixture.report(vec![session]);
        let path = fixture.path();
        assert_eq!(path["announced"], true);
        let (condition, seen) = first(&path);
        assert!(condition == "bfd_up" && seen.contains(text), "{path}");
    }
    let mut session = established();
    session.bfd_state = "off".into();
    fixture.report(vec![session]);
    assert_eq!(state_of(&fixture.path(), Condition::BfdUp), "not_asked");
}

#[tokio::test]
async fn of_an_engine_without_a_session_only_the_last_word_is_known() {
    let fixture = Fixture::new().await;
    fixture.report(vec![established()]);
    fixture
        .registry
        .close(&fixture.engine, fixture.session, "the link is cut");
    let answer = fixture.explained();
    assert_eq!(
        (&answer["paths_announced"], &answer["paths_unknown"]),
        (&json!(0), &json!(1))
    );
    let path = &answer["paths"][0];
    assert_eq!(
        (&path["announced"], &path["last_reported_announced"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(
        (path["peer"].as_str(), path["next_hop"].as_str()),
        (Some(PEER), Some("10.10.10.11"))
    );
    let (condition, text) = first(path);
    assert!(
        condition == "engine_connected" && text.contains("the link is cut"),
        "{path}"
    );
}

#[tokio::test]
async fn of_an_engine_that_has_never_reported_nothing_is_known() {
    let fixture = Fixture::new().await;
    fixture
        .registry
        .close(&fixture.engine, fixture.session, "gone");
    let path = fixture.path();
    assert_eq!(
        (&path["announced"], &path["last_reported_announced"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(first(&path).0, "engine_connected");
}

#[tokio::test]
async fn a_refused_state_is_named_and_what_the_engine_reports_still_counts() {
    let fixture = Fixture::new().await;
    fixture.report(vec![established()]);
    fixture.refuse("virtual_services[0].ports[0]", "port 80 is taken");
    let path = fixture.path();
    assert_eq!(path["announced"], true);
    let (condition, text) = first(&path);
    assert_eq!(condition, "engine_connected");
    assert!(
        text.ends_with("virtualservice vs-1: services[0]: port 80 is taken"),
        "{text}"
    );

    fixture.refuse(
        "vrf.bgp.peers[0].subnet",
        "interfaces eth0 and eth2 are both in 10.10.10.0/24",
    );
    let path = fixture.path();
    assert_eq!(
        (first(&path).0, &path["announced"]),
        ("interface_in_subnet", &json!(true))
    );
    fixture.refuse("vrf.bgp.peers[0].md5_secret", "81 bytes");
    let path = fixture.path();
    let (condition, text) = first(&path);
    assert_eq!(condition, "peer_configuration_valid");
    assert!(
        text.contains("bgp_profile.peers[10.10.10.1].md5_secret: 81 bytes"),
        "{text}"
    );
}

#[tokio::test]
async fn interfaces_in_the_subnet_are_named_when_there_is_none_and_when_there_are_two() {
    let fixture = Fixture::new().await;
    let none = closed(
        Condition::InterfaceInSubnet,
        "no interface in 10.10.10.0/24",
    );
    fixture.report(vec![none]);
    assert_eq!(
        first(&fixture.path()),
        ("interface_in_subnet", "no interface in 10.10.10.0/24")
    );
    let two = closed(
        Condition::InterfaceInSubnet,
        "interfaces eth0 and eth2 are both in 10.10.10.0/24",
    );
    fixture.report(vec![established(), two]);
    let answer = fixture.explained();
    assert_eq!(answer["paths"][0]["announced"], true);
    let (condition, text) = first(&answer["paths"][1]);
    assert!(
        condition == "interface_in_subnet" && text.contains("eth0 and eth2"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_route_that_is_still_out_is_shown_although_the_configuration_has_no_reason_for_it() {
    let fixture = Fixture::new().await;
    fixture.report(vec![established()]);
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update("virtualservice", &vs, |o| {
            drop(o.insert("enable_rhi".into(), false.into()))
        })
        .await;
    let path = fixture.path();
    assert_eq!(
        (first(&path).0, &path["announced"]),
        ("rhi_on", &json!(true))
    );
    fixture.report(vec![withheld("session_not_established")]);
    assert_eq!(fixture.path()["announced"], false);
}

#[tokio::test]
async fn a_disabled_engine_is_named_while_its_routes_are_marked_and_when_they_are_gone() {
    let fixture = Fixture::new().await;
    let disabled = |o: &mut model::object::Object| {
        o.insert("enable_state".into(), "SE_STATE_DISABLED".into());
    };
    fixture
        .update("serviceengine", &fixture.engine, disabled)
        .await;
    assert!(fixture.told().draining);
    for (session, announced) in [(established(), true), (withheld("draining"), false)] {
        fixture.report(vec![session]);
        let path = fixture.path();
        assert_eq!(
            (first(&path).0, &path["announced"]),
            ("engine_enabled", &json!(announced))
        );
    }
}

#[tokio::test]
async fn placement_and_configuration_are_named_before_the_engine() {
    let fixture = Fixture::new().await;
    fixture.report(vec![established()]);
    fixture
        .create("serviceengine", json!({"name": "se-2"}))
        .await;
    let answer = fixture
        .observe(|o| o.explain_vip(VIP, Some("se-2"), &|_, _| true))
        .expect("known");
    assert_eq!(
        first(&answer["paths"][0]),
        ("placed", "the VIP is placed on se-1")
    );
    assert_eq!(
        fixture
            .observe(|o| o.explain_vip(VIP, Some("se-9"), &|_, _| true))
            .expect_err("404")
            .status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        fixture
            .observe(|o| o.explain_vip("x", None, &|_, _| true))
            .expect_err("400")
            .status,
        StatusCode::BAD_REQUEST
    );
    let vrf = fixture.uuid("vrfcontext", "global");
    fixture.report(vec![]);
    fixture
        .change("vrfcontext", &vrf, |o| drop(o.shift_remove("bgp_profile")))
        .await;
    assert_eq!(first(&fixture.path()).0, "bgp_profile_present");
}

#[tokio::test]
async fn a_family_that_another_session_of_the_link_carries_is_not_needed() {
    let fixture = Fixture::new().await;
    let mut other = withheld("family_not_negotiated");
    other.peer = "fd00::1".into();
    fixture.report(vec![established(), other]);
    let answer = fixture.explained();
    assert_eq!(
        (&answer["paths"][0]["needed"], &answer["paths"][1]["needed"]),
        (&json!(true), &json!(false))
    );
}

#[test]
fn the_route_of_another_vip_says_nothing_of_this_one() {
    let mut session = established();
    session.routes = vec![BgpRoute {
        prefix: "10.100.0.10/32".into(),
        sent: true,
        ..BgpRoute::default()
    }];
    let mut path = Path::default();
    judge_session(&mut path, &session, "10.100.0.1/32");
    assert_eq!(path.failed().map(|f| f.0), Some(Condition::UpdateSent));
}

/// The engine's word on the VIP, as far as virtual services decide it.
fn not_up(fixture: &Fixture, reason_code: &str) {
    let report = proto::v1::Report {
        vips: vec![proto::v1::VipStatus {
            address: VIP.into(),
            reason_code: reason_code.into(),
            reason: "because of that".into(),
            ..proto::v1::VipStatus::default()
        }],
        ..proto::v1::Report::default()
    };
    fixture
        .registry
        .reported(&fixture.engine, fixture.session, report);
}

#[tokio::test]
async fn a_service_that_is_not_up_is_named_with_its_reason() {
    let fixture = Fixture::new().await;
    for code in [
        "pool_down",
        "vs_disabled",
        "listener_failed",
        "a code of a newer engine",
    ] {
        not_up(&fixture, code);
        let path = fixture.path();
        let (condition, text) = first(&path);
        assert!(
            condition == "vs_up" && text.contains("because of that"),
            "{path}"
        );
    }
    not_up(&fixture, "no_bgp_profile");
    assert_eq!(
        first(&fixture.path()).0,
        "bgp_profile_present",
        "the engine knows better"
    );
}

/// No condition is in the list that nothing can bring up.
#[tokio::test]
async fn every_condition_can_be_the_one_that_is_named() {
    let fixture = Fixture::new().await;
    let mut named: Vec<String> = Vec::new();
    let mut note = |fixture: &Fixture| {
        let path = fixture.explained()["paths"][0].clone();
        named.push(first(&path).0.to_owned());
    };
    let of_sessions = Condition::ALL
        .into_iter()
        .skip_while(|c| *c < Condition::PeerConfigurationValid)
        .take_while(|c| *c < Condition::PolicyAllows);
    let mut sessions: Vec<_> = of_sessions.map(|c| closed(c, "")).collect();
    let reasons = [
        "advertise_vip_off",
        "family_not_negotiated",
        "no_next_hop",
        "peer_not_reading",
    ];
    sessions.extend(reasons.map(withheld));
    sessions.push(BgpSession {
        bfd_state: "down".into(),
        ..established()
    });
    for session in sessions {
        fixture.report(vec![session]);
        note(&fixture);
    }
    for reason in ["pool_down", "joining"] {
        not_up(&fixture, reason);
        note(&fixture);
    }
    fixture.report(vec![withheld("draining")]);
    note(&fixture);
    fixture.refuse("vips[0].address", "taken");
    note(&fixture);
    fixture.place(&fixture.vsvip, &[]).await;
    note(&fixture);
    let vrf = fixture.uuid("vrfcontext", "global");
    fixture
        .change("vrfcontext", &vrf, |o| drop(o.shift_remove("bgp_profile")))
        .await;
    note(&fixture);
    let vs = fixture.uuid("virtualservice", "vs-1");
    fixture
        .update("virtualservice", &vs, |o| {
            drop(o.insert("enable_rhi".into(), false.into()))
        })
        .await;
    note(&fixture);
    let missing: Vec<_> = Condition::ALL
        .into_iter()
        .filter(|c| !named.iter().any(|n| n == c.code()))
        .collect();
    assert!(
        missing.is_empty(),
        "never named: {missing:?}, named: {named:?}"
    );
}
