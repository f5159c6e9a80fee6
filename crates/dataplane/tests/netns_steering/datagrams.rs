//! UDP flows: the owner has a connected socket, and is asked for while flows may be on the move.

use super::net::{Net, VIPS, can_run, inside};
use super::{PORT, config, config_in, count, nonzero, start};
use evenkeel_dataplane::steering::Steering;
use flow::config::Answers;
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Longer than the test.
const ASK_FOR: Duration = Duration::from_secs(600);

/// A client repeats itself after this time, so often.
const AGAIN: Duration = Duration::from_secs(1);
const TIMES: usize = 20;

fn bound(vip: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(vip), Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&vip.into()).unwrap();
    socket.into()
}

/// A server at each VIP that answers with the engine's name, from a socket of each client's own.
fn serve(net: &Net, engine: &'static str) {
    inside(&net.ns(engine), || {
        for vip in VIPS {
            let vip = SocketAddr::new(vip, PORT);
            let listener = bound(vip);
            std::thread::spawn(move || {
                let mut bytes = [0; 2048];
                while let Ok((_, client)) = listener.recv_from(&mut bytes) {
                    let socket = bound(vip);
                    socket.connect(client).unwrap();
                    std::thread::spawn(move || answer(&socket, engine));
                }
            });
        }
    });
}

/// The first datagram was the listener's.
fn answer(socket: &UdpSocket, engine: &str) {
    let mut bytes = [0; 2048];
    loop {
        if socket.send(engine.as_bytes()).is_err() || socket.recv(&mut bytes).is_err() {
            return;
        }
    }
}

fn client(vip: IpAddr) -> UdpSocket {
    let any = if vip.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect((vip, PORT)).unwrap();
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    socket
}

/// Takes what has come late or twice, as datagrams may.
fn forget_the_past(client: &UdpSocket) {
    client.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2048];
    while client.recv(&mut bytes).is_ok() {}
    client.set_nonblocking(false).unwrap();
}

/// Who answers, and to which attempt.
fn ask(client: &UdpSocket) -> (String, usize) {
    forget_the_past(client);
    let mut bytes = [0; 2048];
    for attempt in 1..=TIMES {
        client.send(b"who are you?").unwrap();
        if let Ok(len) = client.recv(&mut bytes) {
            return (String::from_utf8_lossy(&bytes[..len]).into(), attempt);
        }
    }
    panic!("nobody answers")
}

/// A datagram that fills a packet of 1500 bytes.
fn full(socket: &UdpSocket) -> Vec<u8> {
    let header = if socket.local_addr().unwrap().is_ipv4() {
        20
    } else {
        40
    };
    vec![7; 1500 - header - 8]
}

/// A full datagram: who answers. The client cuts it smaller once it was told to.
fn ask_at_length(client: &UdpSocket) -> String {
    let question = full(client);
    let mut bytes = [0; 2048];
    for _ in 0..TIMES {
        // The kernel may say here that the last one was too big.
        let _ = client.send(&question);
        if let Ok(len) = client.recv(&mut bytes) {
            return String::from_utf8_lossy(&bytes[..len]).into();
        }
    }
    panic!("nobody answers")
}

fn open_window(steering: &mut Steering, net: &Net, engine: &str, members: &[&str]) {
    let mut config = inside(&net.ns(engine), || config(engine, members));
    let until = Some(Instant::now() + ASK_FOR);
    let services = config.services.iter_mut();
    services.for_each(|service| service.udp_ask_until = until);
    steering.apply(&config).unwrap();
}

#[test]
fn a_datagram_that_is_too_big_for_the_tunnel_comes_smaller_after_an_icmp_error() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b", "c"];
    let [_a, mut b, _c] = members.map(|engine| start(&net, engine, &members));
    members.into_iter().for_each(|engine| serve(&net, engine));
    open_window(&mut b, &net, "b", &members);
    net.route_to("a");
    let who = inside(&net.ns("client"), || {
        let clients = VIPS.map(client);
        for client in &clients {
            assert_eq!(ask(client).0, "a");
        }
        net.route_to("b");
        clients.each_ref().map(|client| {
            forget_the_past(client);
            ask_at_length(client)
        })
    });
    let counters = b.counters().unwrap();
    let shown = nonzero(&counters);
    assert_eq!(who, ["a", "a"], "{shown:?}");
    assert!(count(&counters, "drop_mtu") >= 2, "{shown:?}");
}

/// Where answers go, and none of these arrives.
const CLIENT: [&str; 2] = ["10.1.0.2", "2001:db8:1::2"];

/// What the kernel says to a server that has sent a full datagram to the client.
fn refusal(vip: IpAddr, client: &str) -> Option<i32> {
    let socket = bound((vip, PORT).into());
    let client: IpAddr = client.parse().unwrap();
    socket.connect((client, 40_000)).unwrap();
    socket.set_read_timeout(Some(AGAIN * 5)).unwrap();
    socket.send(&full(&socket)).unwrap();
    socket.recv(&mut [0]).unwrap_err().raw_os_error()
}

#[test]
fn an_answer_that_is_too_big_for_the_tunnel_to_the_primary_is_told_to_who_has_sent_it() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b"];
    let mut b = start(&net, "b", &members);
    let mut config = config_in(&net, "b", &members);
    config.groups[0].answers = Answers::ByPrimary(Some(0));
    b.apply(&config).unwrap();
    let told = inside(&net.ns("b"), || {
        let failed = b.attach_out(true);
        assert!(failed.is_empty(), "{failed:?}");
        [0, 1].map(|at| refusal(VIPS[at], CLIENT[at]))
    });
    let counters = b.counters().unwrap();
    let shown = nonzero(&counters);
    assert_eq!(told, [Some(libc::EMSGSIZE); 2], "{shown:?}");
    assert!(count(&counters, "drop_mtu") >= 2, "{shown:?}");
    assert_eq!(count(&counters, "tunnel_answer"), 0, "{shown:?}");
}

#[test]
fn a_udp_flow_that_the_router_moves_goes_on_at_its_owner_and_a_new_one_where_it_arrives() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b", "c"];
    let [_a, mut b, c] = members.map(|engine| start(&net, engine, &members));
    members.into_iter().for_each(|engine| serve(&net, engine));
    open_window(&mut b, &net, "b", &members);
    net.route_to("a");
    let (moved, new, later) = inside(&net.ns("client"), || {
        let old = VIPS.map(client);
        for client in &old {
            assert_eq!(ask(client).0, "a");
        }
        net.route_to("b");
        let moved: Vec<_> = old.iter().cycle().take(20).map(ask).collect();
        let new = VIPS.map(client).each_ref().map(ask);
        net.route_to("c");
        (moved, new, old.each_ref().map(ask))
    });
    let shown = [&b, &c].map(|s| nonzero(&s.counters().unwrap()));
    // Not one datagram is lost: the first is the question.
    assert!(
        moved.iter().all(|m| *m == ("a".into(), 1)),
        "{moved:?} {shown:?}"
    );
    // The first one asks, and all deny.
    assert!(new.iter().all(|(who, _)| who == "b"), "{new:?} {shown:?}");
    // Nothing has changed as far as this engine knows: it does not ask.
    assert!(
        later.iter().all(|l| *l == ("c".into(), 1)),
        "{later:?} {shown:?}"
    );
    let counters = b.counters().unwrap();
    assert_eq!(count(&counters, "claim_taken"), 2, "{shown:?}");
    assert!(count(&counters, "tunnel_cache") >= 18, "{shown:?}");
    assert!(count(&counters, "local_new") >= 2, "{shown:?}");
}
