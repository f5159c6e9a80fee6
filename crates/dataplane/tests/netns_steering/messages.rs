//! Messages between engines on real links: hellos, and that a flow has ended.

use super::net::{ENGINES, Net, VIPS, addresses, can_run, inside};
use super::{PORT, config_in, connect, count, exchange, nonzero, start};
use evenkeel_dataplane::sockopt::set_no_checksum;
use evenkeel_dataplane::steering::{Counters, Steering};
use flow::Flow;
use flow::config::MessageKey;
use flow::key::Protocol;
use flow::wire::{Envelope, MESSAGE_PORT, Message, MessageKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Until the counters say so.
#[expect(
    clippy::disallowed_methods,
    reason = "between two looks of a wait with a deadline"
)]
fn wait_for(steering: &Steering, what: &str, is_so: impl Fn(&Counters) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let counters = steering.counters().unwrap();
        if is_so(&counters) {
            return;
        }
        assert!(Instant::now() < until, "{what}: {:?}", nonzero(&counters));
        std::thread::sleep(Duration::from_millis(5));
    }
}

const KEY: MessageKey = MessageKey {
    id: 7,
    secret: [1, 2],
};

/// What engine `b` says to `a`, about the service of this family.
fn hello(vip: IpAddr, number: u16) -> Message {
    let any: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Message {
        kind: MessageKind::Hello,
        sender: 1,
        number,
        generation: 1,
        flow: Flow {
            protocol: Protocol::Tcp,
            client: SocketAddr::new(any, 0),
            service: SocketAddr::new(vip, PORT),
        },
        load: 0,
    }
}

fn post(local: IpAddr, remote: IpAddr) -> UdpSocket {
    let post = UdpSocket::bind((local, MESSAGE_PORT)).unwrap();
    post.connect((remote, MESSAGE_PORT)).unwrap();
    post.set_read_timeout(Some(PATIENCE)).unwrap();
    set_no_checksum(&post, local).unwrap();
    post
}

#[test]
fn hellos_are_answered_by_the_program_also_when_its_process_is_gone() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b"];
    let [a, b] = members.map(|engine| start(&net, engine, &members));
    drop(a);
    inside(&net.ns("b"), || {
        for ((local, remote), vip) in addresses("b").into_iter().zip(addresses("a")).zip(VIPS) {
            let post = post(local, remote);
            for number in 1..=3 {
                let hello = hello(vip, number);
                post.send(&hello.sign(&KEY)).unwrap();
                let mut datagram = [0; 100];
                let len = post.recv(&mut datagram).expect("an answer");
                let answer = Envelope::read(&datagram[..len]).unwrap();
                answer.check().expect("of the right length");
                let heard = Message {
                    kind: MessageKind::Heard,
                    sender: 0,
                    ..hello
                };
                assert_eq!(answer.open(&[KEY]), Ok(heard));
            }
        }
    });
    assert_eq!(count(&b.counters().unwrap(), "hello_heard"), 6);
    let config = config_in(&net, "a", &members);
    let a = inside(&net.ns("a"), || {
        let mut next = Steering::open(&net.pins("a")).unwrap();
        next.apply(&config).unwrap();
        next
    });
    assert_eq!(a.counters().unwrap().hellos["serviceengine-b"], 6);
}

#[test]
fn an_owner_says_that_a_flow_has_ended_and_who_has_sent_it_there_forgets() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ENGINES;
    let [a, mut b, _c] = members.map(|engine| start(&net, engine, &members));
    net.route_to("a");
    inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        streams.iter_mut().for_each(|s| exchange(s, 100).unwrap());
        net.route_to("b");
        streams.iter_mut().for_each(|s| exchange(s, 100).unwrap());
    });
    wait_for(&b, "both flows have ended", |c| {
        count(c, "release_taken") >= 2
    });
    let (at_a, at_b) = (a.counters().unwrap(), b.counters().unwrap());
    assert!(count(&at_a, "release") >= 2, "{:?}", nonzero(&at_a));
    assert_eq!(at_b.tunnelled["serviceengine-a"].flows, 2, "{at_b:?}");
    let flows =
        |now: u64| [("serviceengine-a", now), ("serviceengine-c", 0)].map(|(se, n)| (se.into(), n));
    assert_eq!(b.take_flows().unwrap(), flows(2).into());
    assert_eq!(b.take_flows().unwrap(), flows(0).into());
}
