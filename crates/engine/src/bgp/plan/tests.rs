use super::*;

fn peer(address: &str, subnet: &str) -> v1::BgpPeer {
    v1::BgpPeer {
        address: address.to_owned(),
        subnet: subnet.to_owned(),
        remote_as: 65_001,
        local_as: 65_000,
        keepalive_s: 60,
        hold_time_s: 180,
        connect_timer_s: 10,
        advertisement_interval_s: 5,
        advertise_vip: true,
        ..v1::BgpPeer::default()
    }
}

fn interface(name: &str, addresses: &[&str]) -> v1::Interface {
    v1::Interface {
        name: name.to_owned(),
        up: true,
        addresses: addresses.iter().map(|&a| a.to_owned()).collect(),
        ..v1::Interface::default()
    }
}

fn desired(peers: Vec<v1::BgpPeer>) -> BgpDesired {
    BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: 65_000,
            peers,
            ..v1::BgpProfile::default()
        }),
        sessions_wanted: true,
        interfaces: vec![
            interface("eth0", &["10.10.10.11/24", "fe80::1/64", "2001:db8::11/64"]),
            interface("eth1", &["10.20.0.1/31"]),
        ],
        routes: [("10.10.200.1".parse().unwrap(), Announcement::default())].into(),
        ..BgpDesired::default()
    }
}

fn plan(desired: &BgpDesired) -> Plan {
    plan_after(desired, &Sessions::new())
}

fn plan_after(desired: &BgpDesired, before: &Sessions) -> Plan {
    let router_id = Ipv4Addr::new(10, 20, 0, 1);
    Plan::new(desired, &BestRoutes::new(), router_id, before, false)
}

/// Seed, "SE-Router Link Types": the same subnet and VLAN is not supported.
#[test]
fn a_second_interface_in_the_subnet_is_refused_and_takes_nothing_away() {
    let mut desired = desired(vec![peer("10.10.10.1", "10.10.10.0/24")]);
    desired
        .interfaces
        .push(interface("eth2", &["10.10.10.12/24"]));
    let first = plan(&desired);
    assert_eq!(only(&first).0.interface, "eth0");
    assert_eq!(first.absent[0].code, "two_interfaces_in_one_subnet");
    // The session stays where it is, also when the other comes to stand before it.
    desired.interfaces.rotate_right(1);
    assert_eq!(only(&plan(&desired)).0.interface, "eth2");
    let later = plan_after(&desired, &first.sessions);
    assert_eq!(only(&later).0.interface, "eth0");
}

/// Adding the router's address to a wrong interface does it, as does a `peer_ip` that is the engine's own.
#[test]
fn a_peer_with_an_address_of_this_host_has_no_session_and_is_named() {
    let mut desired = desired(vec![peer("10.10.10.1", "10.10.10.0/24")]);
    let before = plan(&desired).sessions;
    desired.interfaces[1].addresses.push("10.10.10.1/32".into());
    let later = plan_after(&desired, &before);
    assert_eq!(later.sessions, Sessions::new());
    let [absent] = &later.absent[..] else {
        panic!("one: {later:?}")
    };
    let text = "10.10.10.1 is the address of our interface eth1; a peer is another host";
    assert_eq!(
        (absent.code, absent.text.as_str()),
        ("invalid_configuration", text)
    );
    desired.interfaces[1].addresses.pop();
    assert_eq!(plan_after(&desired, &later.sessions).sessions, before);
}

fn only(plan: &Plan) -> (&SessionKey, &SessionPlan) {
    assert_eq!(plan.sessions.len(), 1, "{plan:?}");
    plan.sessions.iter().next().unwrap()
}

#[test]
fn a_peer_gets_the_interface_in_its_subnet_and_that_address_as_next_hop() {
    let plan = plan(&desired(vec![peer("10.20.0.0", "10.20.0.0/31")]));
    let (key, session) = only(&plan);
    assert_eq!(
        (key.interface.as_str(), key.local),
        ("eth1", "10.20.0.1".parse().unwrap())
    );
    assert_eq!(session.core.next_hop_v4, Some(Ipv4Addr::new(10, 20, 0, 1)));
    assert_eq!(session.core.next_hop_v6, None);
}

#[test]
fn the_global_ipv6_address_of_the_link_is_the_next_hop_of_ipv6_routes() {
    let plan = plan(&desired(vec![peer("10.10.10.1", "10.10.10.0/24")]));
    assert_eq!(
        only(&plan).1.core.next_hop_v6,
        Some("2001:db8::11".parse().unwrap())
    );
}

#[test]
fn a_wide_subnet_gives_one_session_per_interface() {
    let plan = plan(&desired(vec![peer("10.99.0.1", "10.0.0.0/8")]));
    let interfaces: Vec<_> = plan
        .sessions
        .keys()
        .map(|key| key.interface.as_str())
        .collect();
    assert_eq!(interfaces, ["eth0", "eth1"]);
}

#[test]
fn the_ttl_follows_the_kind_of_peer() {
    let ttl_of = |remote_as, ebgp_multihop| {
        let peer = v1::BgpPeer {
            remote_as,
            ebgp_multihop,
            ..peer("10.10.10.1", "10.10.10.0/24")
        };
        only(&plan(&desired(vec![peer]))).1.transport.ttl
    };
    assert_eq!(
        (ttl_of(65_001, 0), ttl_of(65_001, 64), ttl_of(65_000, 0)),
        (1, 64, 255)
    );
}

#[test]
fn a_peer_without_interface_is_absent_with_the_reason() {
    let plan = plan(&desired(vec![peer("192.0.2.1", "192.0.2.0/24")]));
    assert_eq!(plan.absent[0].text, "no interface in 192.0.2.0/24");
    assert_eq!(plan.absent[0].code, "no_interface_in_subnet");
}

#[test]
fn an_interface_that_is_down_is_named() {
    let mut desired = desired(vec![peer("10.10.10.1", "10.10.10.0/24")]);
    desired.interfaces[0].up = false;
    let plan = plan(&desired);
    assert!(plan.sessions.is_empty());
    assert_eq!(
        plan.absent[0].text,
        "interface eth0 with 10.10.10.11 is down"
    );
}

#[test]
fn each_way_to_lose_a_session_has_its_cease_subcode() {
    let wanted = desired(vec![peer("10.10.10.1", "10.10.10.0/24")]);
    let key = only(&plan(&wanted)).0.clone();
    let removed = desired(vec![]);
    let mut disabled = wanted.clone();
    disabled.profile.as_mut().unwrap().peers[0].shutdown = true;
    let mut all_disabled = wanted.clone();
    all_disabled.profile.as_mut().unwrap().shutdown = true;
    let mut interface_lost = wanted.clone();
    interface_lost.interfaces.clear();
    for (desired, subcode) in [
        (removed, 3),
        (disabled, 2),
        (all_disabled, 2),
        (interface_lost, 6),
    ] {
        let plan = plan(&desired);
        assert!(plan.sessions.is_empty());
        assert_eq!(plan.farewell(&key).subcode, subcode);
    }
}

#[test]
fn the_router_id_is_the_highest_ipv4_address_or_made_from_ipv6() {
    let both = desired(vec![]).interfaces;
    assert_eq!(router_id(&both), Some(Ipv4Addr::new(10, 20, 0, 1)));
    let v6_only = [interface("eth0", &["2001:db8::11/64"])];
    assert!(router_id(&v6_only).is_some_and(|id| !id.is_unspecified()));
    assert_eq!(router_id(&[interface("lo", &["127.0.0.1/8"])]), None);
}

#[test]
fn every_wrong_field_is_named_and_a_wrong_peer_does_not_stop_the_others() {
    let good = || peer("10.10.10.1", "10.10.10.0/24");
    let cases = [
        (
            v1::BgpPeer {
                address: "router".to_owned(),
                ..good()
            },
            "peers[0].address",
        ),
        (
            v1::BgpPeer {
                subnet: "10.10.10.0".to_owned(),
                ..good()
            },
            "peers[0].subnet",
        ),
        (
            v1::BgpPeer {
                subnet: "2001:db8::/64".to_owned(),
                ..good()
            },
            "peers[0].subnet",
        ),
        (
            v1::BgpPeer {
                remote_as: 0,
                ..good()
            },
            "peers[0].remote_as",
        ),
        (
            v1::BgpPeer {
                hold_time_s: 2,
                ..good()
            },
            "peers[0].hold_time_s",
        ),
        (
            v1::BgpPeer {
                md5_secret: "x".repeat(81),
                ..good()
            },
            "peers[0].md5_secret",
        ),
    ];
    for (bad, field) in cases {
        let desired = desired(vec![bad, peer("10.20.0.0", "10.20.0.0/31")]);
        assert_eq!(
            check_profile(desired.profile.as_ref().unwrap())
                .unwrap_err()
                .field,
            field
        );
        let plan = plan(&desired);
        assert_eq!(
            (plan.sessions.len(), plan.absent[0].code),
            (1, "invalid_configuration")
        );
    }
    let mut profile = desired(vec![]).profile.unwrap();
    profile.communities = vec!["1:1".to_owned(), "bogus".to_owned()];
    assert_eq!(check_profile(&profile).unwrap_err().field, "communities[1]");
}

#[test]
fn a_key_does_not_show_up_in_debug_output() {
    let secret = v1::BgpPeer {
        md5_secret: "hunter2".to_owned(),
        ..peer("10.10.10.1", "10.10.10.0/24")
    };
    assert!(!format!("{:?}", plan(&desired(vec![secret]))).contains("hunter2"));
}

#[test]
fn source_addresses_go_to_the_peers_that_want_them_and_vips_to_theirs() {
    let with = |name: &str, advertise_vip, advertise_snat_ip| v1::BgpPeer {
        address: format!("10.10.10.{name}"),
        advertise_vip,
        advertise_snat_ip,
        ..peer("10.10.10.1", "10.10.10.0/24")
    };
    let peers = vec![
        with("1", true, true),
        with("2", true, false),
        with("3", false, true),
    ];
    let mut desired = desired(peers);
    let (vip, snat) = ("10.10.200.1", "10.10.201.1");
    let source = Announcement {
        snat: true,
        // Labels are the VIP's.
        ..Announcement::default()
    };
    desired.routes.insert(snat.parse().unwrap(), source);
    let plan = plan(&desired);
    let seen = plan.sessions.iter().map(|(key, session)| {
        let has = |address: &str| {
            let prefix = IpNet::from(address.parse::<IpAddr>().unwrap());
            match session.withheld.get(&prefix) {
                Some(reason) => *reason,
                None if session.routes.contains_key(&prefix) => "sent",
                None => "missing",
            }
        };
        (key.peer.to_string(), has(vip), has(snat))
    });
    let expected = [
        ("10.10.10.1".to_owned(), "sent", "sent"),
        ("10.10.10.2".to_owned(), "sent", "advertise_snat_ip_off"),
        ("10.10.10.3".to_owned(), "advertise_vip_off", "sent"),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn an_engine_that_has_drained_keeps_every_route_back_and_every_session() {
    let mut desired = desired(vec![peer("10.10.10.1", "10.10.10.0/24")]);
    desired.draining = true;
    let router_id = Ipv4Addr::new(10, 20, 0, 1);
    let drained = |drained| {
        let before = Sessions::new();
        Plan::new(&desired, &BestRoutes::new(), router_id, &before, drained)
    };
    let (marked, over) = (drained(false), drained(true));
    let vip: IpNet = "10.10.200.1/32".parse().unwrap();
    assert!(only(&marked).1.routes.contains_key(&vip));
    let session = only(&over).1;
    assert!(session.routes.is_empty());
    assert_eq!(session.withheld.get(&vip), Some(&"draining"));
    assert_eq!(session.core, only(&marked).1.core, "nothing resets it");
}

/// Running connections need the servers' answers.
#[test]
fn an_engine_that_has_drained_keeps_the_routes_of_its_source_addresses() {
    let mut desired = desired(vec![peer("10.10.10.1", "10.10.10.0/24")]);
    desired.draining = true;
    let source = Announcement {
        snat: true,
        ..Announcement::default()
    };
    let address = "10.200.0.1".parse().unwrap();
    desired.routes.insert(address, source);
    let set = |desired: &mut BgpDesired, on| {
        let profile = desired.profile.as_mut().unwrap();
        profile.peers[0].advertise_snat_ip = on;
    };
    set(&mut desired, true);
    let planned = |desired: &BgpDesired| {
        let before = Sessions::new();
        let router_id = Ipv4Addr::new(10, 20, 0, 1);
        Plan::new(desired, &BestRoutes::new(), router_id, &before, true)
    };
    let prefix = IpNet::from(address);
    let plan = planned(&desired);
    let routes: Vec<&IpNet> = only(&plan).1.routes.keys().collect();
    assert_eq!(routes, [&prefix]);
    set(&mut desired, false);
    let plan = planned(&desired);
    let session = only(&plan).1;
    assert!(session.routes.is_empty());
    assert_eq!(
        session.withheld.get(&prefix),
        Some(&"advertise_snat_ip_off")
    );
}
