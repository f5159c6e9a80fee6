//! What sockets have that listen, and connections that come to them.

use super::*;
use std::io::Read as _;
use std::time::Duration;

fn loopback(v6: bool) -> SocketAddr {
    let ip = if v6 { "::1" } else { "127.0.0.1" };
    SocketAddr::new(ip.parse().expect("an address"), 0)
}

/// All that can be set.
fn all() -> TcpSpec {
    TcpSpec {
        nagle: true,
        receive_window: Some(128 * 1024),
        segment_max: Some(900),
        congestion: Some(Congestion::NewReno),
        dscp: 46,
        half_open_max: Some(7),
    }
}

/// A connection that has come to a socket that listens, and whose client is gone.
fn accepted(listening: &Socket) -> Socket {
    listening.set_nonblocking(false).expect("blocking");
    let addr = listening.local_addr().expect("an address");
    let addr = addr.as_socket().expect("of IP");
    let client = std::net::TcpStream::connect(addr).expect("connects");
    let (accepted, _) = listening.accept().expect("accepted");
    drop(client);
    accepted
}

/// DSCP, bytes of the receive buffer and name of the congestion control.
fn options(socket: &Socket, v6: bool) -> (u32, usize, String) {
    let tos = match v6 {
        true => socket.tclass_v6(),
        false => socket.tos_v4(),
    };
    let name = socket.tcp_congestion().expect("told");
    let name = String::from_utf8(name).expect("text");
    (
        tos.expect("told") >> 2,
        socket.recv_buffer_size().expect("told"),
        name.trim_end_matches('\0').to_owned(),
    )
}

#[test]
fn a_connection_has_what_its_listener_was_told() {
    for v6 in [false, true] {
        let listening = all().listen(loopback(v6)).expect("listens");
        let expected = (46, 256 * 1024, "reno".to_owned());
        let mut accepted = accepted(&listening);
        assert_eq!(options(&accepted, v6), expected);
        assert!(!accepted.tcp_nodelay().expect("told"));
        assert!(accepted.tcp_mss().expect("told") <= 900);
        let patience = Some(Duration::from_secs(20));
        accepted.set_read_timeout(patience).expect("set");
        assert_eq!(accepted.read(&mut [0]).expect("the end"), 0);
    }
}

#[test]
fn a_change_is_for_the_connections_that_come_after_it_and_can_be_taken_back() {
    for v6 in [false, true] {
        let addr = loopback(v6);
        let listening = TcpSpec::default().listen(addr).expect("listens");
        let usual = options(&accepted(&listening), v6);
        all().change(&listening, addr).expect("changed");
        let changed = options(&accepted(&listening), v6);
        assert_eq!(changed, (46, 256 * 1024, "reno".to_owned()));
        TcpSpec::default().change(&listening, addr).expect("back");
        let back = accepted(&listening);
        assert_eq!(options(&back, v6), usual);
        assert!(back.tcp_nodelay().expect("told"), "nothing waits");
    }
}

#[test]
fn segments_fit_into_a_tunnel_whatever_is_wanted() {
    let segment = |segment_max, v6| {
        let spec = TcpSpec {
            segment_max,
            ..TcpSpec::default()
        };
        spec.segment(loopback(v6))
    };
    assert_eq!((segment(None, false), segment(None, true)), (1440, 1400));
    let large = Some(9000);
    assert_eq!((segment(large, false), segment(large, true)), (1440, 1400));
    assert_eq!(segment(Some(512), true), 512);
}

#[test]
fn listeners_of_a_port_share_what_may_be_half_open() {
    let backlog = |half_open_max, listeners| {
        let spec = TcpSpec {
            half_open_max,
            ..TcpSpec::default()
        };
        spec.share(listeners).backlog()
    };
    assert_eq!(backlog(None, 4), BACKLOG);
    assert_eq!(backlog(Some(1000), 4), 250);
    assert_eq!(backlog(Some(1001), 4), 251);
    assert_eq!(backlog(Some(1), 8), 1);
    assert_eq!(backlog(Some(u32::MAX), 1), BACKLOG);
}

#[test]
fn what_the_kernel_has_is_possible_and_the_rest_is_its_own_choice() {
    let with = |congestion| TcpSpec {
        congestion,
        ..TcpSpec::default()
    };
    let addr = loopback(false);
    let reno = with(Some(Congestion::NewReno));
    assert_eq!(reno.possible(addr), reno);
    assert_eq!(with(None).possible(addr), with(None));
    let htcp = Congestion::Htcp;
    let has = htcp.set(&socket(addr).expect("a socket")).is_ok();
    assert_eq!(with(Some(htcp)).possible(addr), with(has.then_some(htcp)));
}
