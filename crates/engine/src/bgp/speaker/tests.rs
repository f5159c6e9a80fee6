//! The manager without a router: nobody answers on the loopback addresses used here.

use super::*;
use crate::bgp::Announcement;

/// A peer in 127/8: connecting to it is refused or hangs, never leaves the machine.
fn desired() -> BgpDesired {
    let peer = v1::BgpPeer {
        address: "127.77.0.1".to_owned(),
        subnet: "127.77.0.0/24".to_owned(),
        remote_as: 65_000,
        hold_time_s: 180,
        connect_timer_s: 10,
        advertise_vip: true,
        ..v1::BgpPeer::default()
    };
    let interface = v1::Interface {
        name: "lo".to_owned(),
        up: true,
        addresses: vec!["127.77.0.2/24".to_owned(), "10.1.1.1/32".to_owned()],
        ..v1::Interface::default()
    };
    BgpDesired {
        profile: Some(v1::BgpProfile {
            local_as: 65_000,
            peers: vec![peer],
            ..v1::BgpProfile::default()
        }),
        sessions_wanted: true,
        interfaces: vec![interface],
        routes: [("10.10.200.1".parse().unwrap(), Announcement::default())].into(),
        ..BgpDesired::default()
    }
}

/// Waits for a status.
async fn until(handle: &SpeakerHandle, probe: impl Fn(&[v1::BgpSession]) -> bool) {
    let mut status = handle.status();
    let wait = status.wait_for(|sessions| probe(sessions));
    let seen = tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .is_ok();
    assert!(seen, "seen last: {:?}", handle.status().borrow());
}

fn is_trying(sessions: &[v1::BgpSession]) -> bool {
    sessions.len() == 1
        && matches!(
            sessions[0].state(),
            v1::BgpState::Active | v1::BgpState::Connect
        )
}

fn is_unneeded(sessions: &[v1::BgpSession]) -> bool {
    sessions.len() == 1 && sessions[0].last_error.contains("no virtual service")
}

#[tokio::test]
async fn a_profile_alone_opens_no_session() {
    let handle = Speaker::spawn();
    handle.apply(BgpDesired {
        sessions_wanted: false,
        ..desired()
    });
    until(&handle, is_unneeded).await;
    handle.shutdown("", Duration::from_secs(5)).await;
}

#[tokio::test]
async fn sessions_outlive_the_last_virtual_service_and_withdraw_at_once() {
    let handle = Speaker::spawn_with_linger(Duration::from_secs(1));
    handle.apply(desired());
    until(&handle, |sessions| {
        is_trying(sessions) && sessions[0].routes.len() == 1
    })
    .await;
    handle.apply(BgpDesired {
        sessions_wanted: false,
        ..desired()
    });
    until(&handle, |sessions| {
        is_trying(sessions) && sessions[0].routes.is_empty()
    })
    .await;
    until(&handle, is_unneeded).await;
}

#[tokio::test]
async fn a_virtual_service_that_comes_back_in_time_keeps_the_session() {
    let linger = Duration::from_millis(300);
    let handle = Speaker::spawn_with_linger(linger);
    handle.apply(desired());
    until(&handle, is_trying).await;
    handle.apply(BgpDesired {
        sessions_wanted: false,
        ..desired()
    });
    handle.apply(desired());
    until(&handle, |sessions| {
        is_trying(sessions) && sessions[0].routes.len() == 1
    })
    .await;
    let mut status = handle.status();
    let closed = tokio::time::timeout(3 * linger, status.wait_for(|s| is_unneeded(s))).await;
    assert!(
        closed.is_err(),
        "the session was closed although it is wanted"
    );
}

#[tokio::test]
async fn a_failed_connect_is_explained_and_the_route_is_withheld_with_a_reason() {
    let handle = Speaker::spawn();
    handle.apply(desired());
    until(&handle, |sessions| {
        !sessions.is_empty() && !sessions[0].last_error.is_empty()
    })
    .await;
    let sessions = handle.status().borrow().clone();
    assert!(
        sessions[0].last_error.contains("127.77.0.1"),
        "{}",
        sessions[0].last_error
    );
    assert_eq!(sessions[0].routes[0].reason, "session_not_established");
    assert!(!sessions[0].routes[0].sent);
}

#[tokio::test]
async fn a_removed_peer_disappears_and_a_peer_without_interface_says_so() {
    let handle = Speaker::spawn();
    handle.apply(desired());
    until(&handle, is_trying).await;
    handle.apply(BgpDesired {
        interfaces: vec![],
        ..desired()
    });
    until(&handle, |s| {
        s.len() == 1 && s[0].last_error == "no interface in 127.77.0.0/24"
    })
    .await;
    handle.apply(BgpDesired::default());
    until(&handle, <[v1::BgpSession]>::is_empty).await;
    handle.shutdown("", Duration::from_secs(5)).await;
}

#[test]
fn routes_are_marked_for_the_advertisement_interval_and_a_while_then_withdrawn() {
    let now = Instant::now();
    let mut draining = desired();
    draining.draining = true;
    draining.profile.as_mut().unwrap().peers[0].advertisement_interval_s = 7;
    let marked = Drain::No.next(&draining, true, now);
    let until = now + Duration::from_secs(7) + DRAIN_SETTLE;
    assert_eq!(marked, Drain::Marked(until));
    // Whatever else changes meanwhile does not start it anew.
    let later = now + Duration::from_secs(3);
    assert_eq!(marked.next(&draining, true, later), marked);
    assert_eq!(Drain::Over.next(&draining, true, later), Drain::Over);
    for state in [marked, Drain::Over] {
        assert_eq!(state.next(&desired(), true, later), Drain::No);
    }
    assert_eq!(Drain::No.next(&draining, false, now), Drain::Over);
}

#[tokio::test]
async fn an_engine_that_starts_disabled_announces_nothing_and_says_why() {
    let handle = Speaker::spawn();
    let draining = BgpDesired {
        draining: true,
        ..desired()
    };
    handle.apply(draining);
    let withheld = |reason: &'static str| {
        move |s: &[v1::BgpSession]| is_trying(s) && s[0].routes.iter().all(|r| r.reason == reason)
    };
    until(&handle, withheld("draining")).await;
    handle.apply(desired());
    until(&handle, withheld("session_not_established")).await;
}
