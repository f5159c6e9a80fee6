//! Messages by a port that is not the usual one.

use super::*;
use flow::wire::{MESSAGE_PORT, Message, MessageKind};

/// Of engine 2, with these ports as source and destination.
fn hello(family: &Family, ports: (u16, u16)) -> Ip {
    let about = segment(family, 0);
    let message = Message {
        kind: MessageKind::Hello,
        sender: 2,
        number: 9,
        generation: 1,
        flow: Flow {
            protocol: Protocol::Tcp,
            client: about.client,
            service: about.vip,
        },
        load: 0,
    };
    let key = MessageKey {
        id: 7,
        secret: [1, 2],
    };
    let [_, us, c] = family.engines;
    let datagram = differential::datagram(ports, &message.sign(&key));
    Ip::new(c, us, 17, datagram)
}

/// Source and destination port of a message.
fn ports(frame: &[u8]) -> (u16, u16) {
    let (.., udp) = outer(frame);
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    (port(0), port(2))
}

fn with(port: u16, former: Option<u16>) -> Config {
    config(|c| (c.settings.port, c.settings.former_port) = (port, former))
}

#[test]
fn hellos_are_answered_by_the_port_in_force_and_by_the_former_one_and_by_no_other() {
    on_ground(|ground, family| {
        ground.steering.apply(&with(4790, Some(4791))).unwrap();
        for (source, port) in [(4790, 4790), (4791, 4791), (5000, 4790)] {
            let hello = hello(family, (source, port));
            let heard = ground.expect(&hello, "hello_answered", REDIRECT);
            assert_eq!(ports(&heard.frame), (port, source));
        }
        ground.steering.apply(&with(4790, None)).unwrap();
        let before = ground.steering.counters().unwrap();
        for port in [4791, MESSAGE_PORT] {
            let frame = hello(family, (port, port)).frame();
            let tried = ground.steering.try_out(&frame, 1).unwrap();
            assert_eq!((tried.action, tried.frame), (NEXT, frame), "{port}");
        }
        assert_eq!(ground.steering.counters().unwrap(), before);
    });
}

#[test]
fn what_is_asked_through_a_tunnel_is_answered_from_and_to_the_port_in_force() {
    on_ground(|ground, family| {
        let [a, us, _] = family.engines;
        ground.steering.apply(&with(4790, Some(4791))).unwrap();
        let probe = segment(family, 1).ip().within(a, us, PROBE | 9);
        let denied = ground.expect(&probe, "deny", REDIRECT);
        assert_eq!(ports(&denied.frame), (4790, 4790));
    });
}
