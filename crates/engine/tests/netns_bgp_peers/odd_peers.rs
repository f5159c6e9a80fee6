//! Peers that cut, close and stall their connections as no router does on purpose; judged by what they receive.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use evenkeel_engine::bgp::{Announcement, BgpDesired, Speaker, SpeakerHandle};
use proto::v1;

use crate::lab::{Lab, can_run, in_namespace, run, wait_for};
use crate::raw::{
    self, CONNECTION_COLLISION, CONNECTION_NOT_SYNCHRONIZED, KEEPALIVE, NOTIFICATION, RawPeer,
    UPDATE, Wire, message,
};
use crate::{PATIENCE, VIP, desired, peer, until_session};

const ENGINE: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 1);

fn quick(router: usize) -> v1::BgpPeer {
    v1::BgpPeer {
        connect_timer_s: 1,
        advertisement_interval_s: 0,
        ..peer(router)
    }
}

fn vip() -> Ipv4Addr {
    VIP.parse().unwrap()
}

/// A speaker that wants a session with the raw peer, and that peer.
fn story(tell: impl AsyncFnOnce(RawPeer, SpeakerHandle) + Send) {
    if !can_run() {
        return;
    }
    let lab = Lab::bare();
    in_namespace(&lab.engine_namespace(), async || {
        let raw = RawPeer::listen(&lab.link_namespace(1), ROUTER, None);
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![quick(1)], &[VIP]));
        tell(raw, speaker).await;
    });
}

#[test]
fn messages_are_understood_however_the_segments_cut_them() {
    story(async |raw: RawPeer, speaker: SpeakerHandle| {
        let mut wire = raw.accept().await;
        wire.send_bytewise(&raw::open(ROUTER)).await;
        wire.send_bytewise(&message(KEEPALIVE, &[])).await;
        wire.until_announced(vip()).await;
        let keepalive = message(KEEPALIVE, &[]);
        let (refresh, update) = (raw::route_refresh(), raw::empty_update());
        let half = refresh.len() / 2;
        let many = [&keepalive, &update, &refresh, &keepalive, &refresh[..half]].concat();
        wire.send(&many).await;
        wire.until_announced(vip()).await;
        wire.send(&refresh[half..]).await;
        wire.until_announced(vip()).await;
        let all = "OPEN, three KEEPALIVEs, an UPDATE and two ROUTE-REFRESHes";
        let session = until_session(&speaker, all, |s| s.messages_in == 7).await;
        assert_eq!(session.times_established, 1, "{session:?}");
    });
}

/// None of it is answered with a NOTIFICATION: RFC 4271 section 8.2.2, TcpConnectionFails and NotifMsg.
#[test]
fn a_peer_that_closes_half_or_resets_or_says_goodbye_gets_another_session() {
    story(async |raw: RawPeer, speaker: SpeakerHandle| {
        let up = async || {
            let mut wire = raw.session().await;
            wire.until_announced(vip()).await;
            wire
        };
        let mut wire = up().await;
        wire.close_half().await;
        assert_nothing_but_routes(&mut wire).await;
        up().await.reset();
        let mut wire = up().await;
        wire.send(&raw::cease(4)).await;
        assert_nothing_but_routes(&mut wire).await;
        let _open = up().await;
        let session = until_session(&speaker, "the fourth session", |s| s.times_established == 4);
        assert_eq!(session.await.last_error_code, "6/4");
    });
}

async fn assert_nothing_but_routes(wire: &mut Wire) {
    while let Some(message) = wire.receive().await {
        assert_eq!(message.kind, UPDATE, "{message:?}");
    }
}

#[test]
fn what_a_peer_sends_after_our_notification_is_not_answered_and_keeps_no_connection_open() {
    story(async |raw: RawPeer, speaker: SpeakerHandle| {
        let mut wire = raw.session().await;
        wire.until_announced(vip()).await;
        let mut unmarked = message(KEEPALIVE, &[]);
        unmarked[0] = 0;
        let refresh = raw::route_refresh();
        wire.send(&[&unmarked[..], &refresh].concat()).await;
        let end = loop {
            match wire.next().await {
                message if message.kind == UPDATE => {}
                message => break message,
            }
        };
        assert_eq!(
            (end.kind, &end.body[..2]),
            (NOTIFICATION, &CONNECTION_NOT_SYNCHRONIZED[..])
        );
        assert!(wire.try_send(&refresh).await, "it waits for our end");
        assert_eq!(wire.receive().await, None, "nothing after a NOTIFICATION");
        // We never close; the engine does after a moment.
        let mut refused = async || match wire.try_send(&refresh).await {
            true => Err("still taken".to_owned()),
            false => Ok(()),
        };
        wait_for("the connection to be gone", PATIENCE, async || {
            refused().await
        })
        .await;
        let mut second = raw.session().await;
        second.until_announced(vip()).await;
        let session = until_session(&speaker, "the second session", |s| s.times_established == 2);
        assert_eq!(session.await.last_error_code, "1/1");
    });
}

/// RFC 4271 section 6.8: the established one stays.
#[test]
fn a_second_connection_to_an_established_session_is_refused_with_6_7_and_disturbs_nothing() {
    story(async |raw: RawPeer, speaker: SpeakerHandle| {
        let mut first = raw.session().await;
        first.until_announced(vip()).await;
        for says_open in [false, true] {
            let mut second = raw.connect(ENGINE);
            if says_open {
                second.send(&raw::open(ROUTER)).await;
            }
            let answer = second.next().await;
            assert_eq!(
                (answer.kind, &answer.body[..]),
                (NOTIFICATION, &CONNECTION_COLLISION[..])
            );
            assert_eq!(second.receive().await, None);
        }
        first.send(&raw::route_refresh()).await;
        first.until_announced(vip()).await;
        let session = until_session(&speaker, "the refresh", |s| s.messages_in == 3).await;
        let seen = (session.times_established, session.last_error_code.as_str());
        assert_eq!(seen, (1, ""), "{session:?}");
    });
}

/// Each route has an UPDATE of its own, and another one in each round.
fn bulky(count: u32, round: u32) -> BgpDesired {
    let mut wanted = desired(vec![quick(1), quick(2)], &[VIP]);
    let communities = (0..100).map(|n| format!("65000:{n}"));
    wanted.profile.as_mut().unwrap().communities = communities.collect();
    let route = |n: u32| {
        let announcement = Announcement {
            local_preference: Some(1 + round * count + n),
            ..Announcement::default()
        };
        (IpAddr::from((0x0A0B_0000 + n).to_be_bytes()), announcement)
    };
    wanted.routes.extend((0..count).map(route));
    wanted
}

/// What a peer holds after reading on until it is this, and how many UPDATEs it took.
async fn read_until(wire: &mut Wire, held: &mut BTreeSet<Ipv4Addr>, count: usize) -> usize {
    let mut updates = 0;
    while held.len() != count || updates == 0 {
        let message = wire.next().await;
        let (withdrawn, announced) = match message.kind {
            UPDATE => message.routes(),
            _ => continue,
        };
        let changes = !(withdrawn.is_empty() && announced.is_empty());
        updates += usize::from(changes);
        held.retain(|route| !withdrawn.contains(route));
        held.extend(announced);
    }
    updates
}

/// So many of them; in how many UPDATEs.
async fn read_announcements(wire: &mut Wire, count: usize) -> usize {
    let (mut updates, mut seen) = (0, 0);
    while seen < count {
        let message = wire.next().await;
        if message.kind == UPDATE {
            updates += 1;
            seen += message.routes().1.len();
        }
    }
    updates
}

/// One table may be on its way to it; what changes meanwhile waits, and is told as it is in the end.
#[test]
fn a_peer_that_does_not_read_holds_up_no_other_and_gets_only_the_net_result_later() {
    if !can_run() {
        return;
    }
    const COUNT: u32 = 1500;
    const ROUNDS: u32 = 5;
    let lab = Lab::bare_links(2);
    // Else the kernel keeps megabytes for a peer.
    let sysctl = "net.ipv4.tcp_wmem=4096 16384 65536";
    let engine = lab.engine_namespace();
    run(&["ip", "netns", "exec", &engine, "sysctl", "-qw", sysctl]);
    in_namespace(&engine, async || {
        let sleepy = RawPeer::listen(&lab.link_namespace(1), ROUTER, Some(4096));
        let second = Ipv4Addr::new(10, 10, 2, 1);
        let awake = RawPeer::listen(&lab.link_namespace(2), second, None);
        let speaker = Speaker::spawn();
        speaker.apply(bulky(0, 0));
        let mut sleeps = sleepy.session().await;
        let mut reads = awake.session().await;
        sleeps.until_announced(vip()).await;
        reads.until_announced(vip()).await;

        let mut all = 0;
        for round in 0..ROUNDS {
            speaker.apply(bulky(COUNT, round));
            all += read_announcements(&mut reads, COUNT as usize).await;
        }
        speaker.apply(bulky(0, 0));
        let mut held = BTreeSet::from([vip()]);
        held.extend((0..COUNT).map(|n| Ipv4Addr::from(0x0A0B_0000 + n)));
        all += read_until(&mut reads, &mut held, 1).await;
        let up = |s: &v1::BgpSession| s.state() == v1::BgpState::Established;
        let both = speaker.status().borrow().iter().filter(|s| up(s)).count();
        assert_eq!(both, 2, "neither session has ended");

        let mut late = BTreeSet::from([vip()]);
        let updates = read_until(&mut sleeps, &mut late, 1).await;
        assert_eq!(late, held);
        assert!(updates < all / 2, "{updates} UPDATEs of {all}");
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}

/// One router that sends without pause, whatever it is, holds up neither another router's session nor our timers.
#[test]
fn a_router_that_never_stops_sending_holds_up_no_other() {
    if !can_run() {
        return;
    }
    let lab = Lab::bare_links(2);
    in_namespace(&lab.engine_namespace(), async || {
        let second_router = Ipv4Addr::new(10, 10, 2, 1);
        let loud = RawPeer::listen(&lab.link_namespace(1), ROUTER, None);
        let calm = RawPeer::listen(&lab.link_namespace(2), second_router, None);
        let speaker = Speaker::spawn();
        speaker.apply(desired(vec![quick(1), quick(2)], &[VIP]));
        let mut calm = calm.session().await;
        calm.until_announced(vip()).await;
        for nuisance in [
            message(KEEPALIVE, &[]),
            raw::route_refresh(),
            raw::empty_update(),
        ] {
            let flood = loud.session().await.flood(&nuisance);
            calm.send(&raw::route_refresh()).await;
            calm.until_announced(vip()).await;
            flood.stop();
        }
        assert_eq!(speaker.status().borrow()[1].times_established, 1);
        speaker.shutdown("", Duration::from_secs(5)).await;
    });
}
