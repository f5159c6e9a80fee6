//! HTTP over loopback, with real sockets. Nothing here waits for a fixed time.

use crate::tests::{DEADLINE, Fixture, listen, pool, read_all, server, wait_until};
use crate::{CookieSpec, FrontSpec, HttpSpec, PortSpec};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A server that says what it was asked.
struct Origin {
    addr: SocketAddr,
    /// Connections that it has taken.
    taken: Arc<AtomicUsize>,
}

impl Origin {
    async fn start(name: &'static str) -> Self {
        let (listener, addr) = listen().await;
        let taken = Arc::<AtomicUsize>::default();
        let count = taken.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Relaxed);
                let answer = hyper::service::service_fn(move |r| repeat(name, number, r));
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { addr, taken }
    }
}

/// Asked for this, it wants to know who asks, and once it does it knows the connection.
const LOGIN: &str = "/login";

/// Who it is, the request line, its header, and its body; in the header, which connection it is.
async fn repeat(
    name: &str,
    connection: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut text = format!("{name}\n{} {}\n", head.method, head.uri);
    for (name, value) in &head.headers {
        text += &format!("{name}: {}\n", value.to_str().expect("text"));
    }
    let body = body
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    text += &format!("\n{}", String::from_utf8_lossy(&body));
    let response = Response::builder().header("x-connection", connection);
    let response = match head.uri.path() == LOGIN {
        true => response.status(401).header("www-authenticate", "NTLM"),
        false => response,
    };
    let response = response.body(Full::new(text.into()));
    Ok(response.expect("an answer"))
}

async fn http(servers: &[&Origin], spec: HttpSpec) -> Fixture {
    let servers: Vec<_> = servers.iter().map(|o| o.addr).collect();
    fixture(&servers, spec).await
}

async fn fixture(servers: &[SocketAddr], spec: HttpSpec) -> Fixture {
    let mut fixture = Fixture::new(servers).await;
    let http = Some(Arc::new(spec));
    let port = fixture.addr.port();
    let tls = false;
    let front = FrontSpec {
        ports: [(port, PortSpec { http, tls })].into(),
        ..FrontSpec::default()
    };
    fixture.apply(|s| s.front = front).await;
    fixture
}

/// Sends it, and reads an answer with a length.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("written");
    tokio::time::timeout(DEADLINE, answer(stream))
        .await
        .expect("in time")
}

async fn header(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\n") {
        all.push(stream.read_u8().await.expect("a header"));
    }
    String::from_utf8(all).expect("text")
}

async fn answer(stream: &mut TcpStream) -> String {
    let head = header(stream).await;
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |l| l.parse().expect("a number"))];
    stream.read_exact(&mut body).await.expect("a body");
    head + &String::from_utf8(body).expect("text")
}

/// One request on a connection of its own.
async fn once(fixture: &Fixture, request: &str) -> String {
    ask(&mut fixture.connect().await, request).await
}

async fn rest(stream: &mut TcpStream) -> String {
    String::from_utf8(read_all(stream).await.expect("closed")).expect("text")
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// Who has answered.
fn who(answer: &str) -> &str {
    let body = answer.split_once("\r\n\r\n").expect("a header").1;
    body.lines().next().expect("a name")
}

#[tokio::test]
async fn a_request_reaches_a_server_and_its_answer_the_client() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let post = "POST /y?z HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    let answer = once(&fixture, post).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\nPOST /y?z\n"), "{answer}");
    assert!(answer.contains("\nx-forwarded-for: 127."), "{answer}");
    assert!(answer.ends_with("\n\nhello"), "{answer}");
    wait_until("the connection is counted as closed", || {
        fixture.vs().open == 0
    })
    .await;
    let stats = fixture.vs();
    assert_eq!((stats.total, stats.bytes_in), (1, post.len() as u64));
    assert_eq!(stats.bytes_out, answer.len() as u64);
    assert_eq!(fixture.proxy.stats().servers[0].total, 1);
}

#[tokio::test]
async fn a_body_in_chunks_is_whole_also_that_of_a_get() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = once(&fixture, get).await;
    assert!(answer.ends_with("\n\nabcde"), "{answer}");
}

#[tokio::test]
async fn each_request_of_a_client_has_a_server_of_its_own() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let fixture = http(&[&a, &b], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(who(&ask(&mut client, GET).await).to_owned());
    }
    names.sort_unstable();
    assert_eq!(names, ["a", "a", "b", "b"]);
    assert_eq!(fixture.vs().total, 1);
}

#[tokio::test]
async fn without_multiplexing_a_client_keeps_its_server_and_its_connection() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let multiplexing = false;
    let spec = HttpSpec {
        multiplexing,
        ..HttpSpec::default()
    };
    let fixture = http(&[&a, &b], spec).await;
    for _ in 0..2 {
        let mut client = fixture.connect().await;
        let first = ask(&mut client, GET).await;
        for _ in 0..3 {
            assert_eq!(who(&ask(&mut client, GET).await), who(&first));
        }
        let open = fixture
            .proxy
            .stats()
            .servers
            .iter()
            .map(|s| s.open)
            .sum::<u64>();
        assert!(open > 0, "a connection that belongs to a client counts");
    }
    assert_eq!((a.taken.load(Relaxed), b.taken.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn connections_to_servers_are_used_by_other_clients() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    for _ in 0..12 {
        once(&fixture, GET).await;
    }
    // Each of the two workers has its own.
    assert!(origin.taken.load(Relaxed) <= 2);
    wait_until("none counts while nobody uses it", || {
        fixture.proxy.stats().servers[0].open == 0
    })
    .await;
}

/// A server that answers once per connection, and closes it without a word about it.
async fn closes() -> SocketAddr {
    let (listener, addr) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut got).await.is_ok_and(|n| n > 0)
            {}
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.ok();
        }
    });
    addr
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_costs_no_request() {
    let fixture = fixture(&[closes().await], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    for _ in 0..50 {
        let answer = ask(&mut client, GET).await;
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    }
}

#[tokio::test]
async fn without_a_server_clients_are_told_so_and_counted() {
    let origin = Origin::start("a").await;
    let mut fixture = http(&[&origin], HttpSpec::default()).await;
    fixture.apply(|s| pool(s).servers[0].up = false).await;
    let answer = once(&fixture, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    wait_until("it is counted", || {
        fixture.vs().responses == [0, 0, 0, 0, 1]
    })
    .await;
    assert_eq!(fixture.vs().refused, 0, "its connection is not");
}

/// Asks for the header alone.
async fn head(fixture: &Fixture) -> String {
    let mut client = fixture.connect().await;
    let request = b"HEAD /x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    client.write_all(request).await.expect("written");
    header(&mut client).await
}

#[tokio::test]
async fn responses_are_counted_by_class_when_they_have_gone_also_those_without_a_body() {
    let origin = Origin::start("a").await;
    let mut fixture = http(&[&origin], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    for _ in 0..3 {
        ask(&mut client, GET).await;
    }
    assert!(head(&fixture).await.starts_with("HTTP/1.1 200 "));
    let login = format!("GET {LOGIN} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    once(&fixture, &login).await;
    fixture.apply(|s| pool(s).servers[0].up = false).await;
    assert!(head(&fixture).await.starts_with("HTTP/1.1 503 "));
    wait_until("all are counted", || {
        fixture.vs().responses == [0, 4, 0, 1, 1]
    })
    .await;
}

#[tokio::test]
async fn bytes_to_and_from_a_server_are_counted() {
    let (listener, addr) = listen().await;
    let fixture = fixture(&[addr], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    client.write_all(GET.as_bytes()).await.expect("written");
    let (mut server, _) = listener.accept().await.expect("accepted");
    let request = header(&mut server).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(answer.as_bytes()).await.expect("written");
    ask(&mut client, "").await;
    let counted = fixture.proxy.stats().servers.remove(0);
    assert_eq!(counted.bytes_sent, request.len() as u64);
    assert_eq!(counted.bytes_received, answer.len() as u64);
}

#[tokio::test]
async fn a_server_that_left_its_pool_and_came_back_is_counted_also_where_a_connection_was_kept() {
    let origin = Origin::start("a").await;
    let mut fixture = http(&[&origin], HttpSpec::default()).await;
    // Of one client, so that there is one worker.
    let mut client = fixture.connect().await;
    ask(&mut client, GET).await;
    wait_until("the connection is kept for others", || {
        fixture.proxy.stats().servers[0].open == 0
    })
    .await;
    fixture.apply(|s| pool(s).servers.clear()).await;
    let back = server(origin.addr);
    fixture.apply(|s| pool(s).servers.push(back)).await;
    assert_eq!(fixture.proxy.stats().servers[0].bytes_sent, 0);
    ask(&mut client, GET).await;
    let counted = fixture.proxy.stats().servers.remove(0);
    assert!(counted.bytes_sent > 0 && counted.bytes_received > 0);
    assert_eq!(origin.taken.load(Relaxed), 2, "a connection of its own");
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over_and_the_last_one_is_a_fault() {
    let origin = Origin::start("a").await;
    let gone = crate::tests::free_address();
    let both = fixture(&[gone, origin.addr], HttpSpec::default()).await;
    for _ in 0..4 {
        assert_eq!(who(&once(&both, GET).await), "a");
    }
    let none = fixture(&[gone], HttpSpec::default()).await;
    let answer = once(&none, GET).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let (_listener, addr) = listen().await;
    let mut fixture = fixture(&[addr], HttpSpec::default()).await;
    let soon = Some(Duration::from_millis(50));
    fixture.apply(|s| pool(s).back.server_timeout = soon).await;
    let answer = once(&fixture, GET).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let two_lengths =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
    for request in ["hello\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", two_lengths] {
        let answer = once(&fixture, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let tunnel = once(&fixture, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").await;
    assert!(tunnel.starts_with("HTTP/1.1 405 "), "{tunnel}");
    assert_eq!(origin.taken.load(Relaxed), 0);
    wait_until("answers of the codec are counted, too", || {
        fixture.vs().responses == [0, 0, 0, 4, 0]
    })
    .await;
}

#[tokio::test]
async fn who_begins_with_http_2_hears_nothing_and_nothing_is_counted() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client.write_all(preface).await.expect("written");
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(fixture.vs().responses, [0; 5]);
}

fn quick() -> HttpSpec {
    let soon = Duration::from_millis(80);
    HttpSpec {
        header_timeout: soon,
        body_timeout: Some(soon),
        keepalive_timeout: soon,
        post_accept_timeout: soon,
        ..HttpSpec::default()
    }
}

#[tokio::test]
async fn a_client_that_begins_nothing_is_left() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], quick()).await;
    assert_eq!(rest(&mut fixture.connect().await).await, "");
    let mut client = fixture.connect().await;
    ask(&mut client, GET).await;
    assert_eq!(rest(&mut client).await, "", "after an answer");
}

#[tokio::test]
async fn a_client_that_does_not_end_its_header_is_told_so() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], quick()).await;
    let mut client = fixture.connect().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHo")
        .await
        .expect("written");
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(fixture.vs().responses, [0, 0, 0, 1, 0]);
}

#[tokio::test]
async fn a_client_that_does_not_end_its_body_is_told_so() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], quick()).await;
    let mut client = fixture.connect().await;
    let half = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel";
    let answer = ask(&mut client, half).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_slow_server_is_no_slow_client() {
    let (listener, addr) = listen().await;
    let fixture = fixture(&[addr], quick()).await;
    let mut client = fixture.connect().await;
    client.write_all(GET.as_bytes()).await.expect("written");
    let (mut server, _) = listener.accept().await.expect("accepted");
    tokio::time::timeout(Duration::from_millis(300), client.readable())
        .await
        .expect_err("nothing comes while the server thinks");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(answer).await.expect("written");
    let answer = ask(&mut client, "").await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn clients_are_sent_to_the_port_of_tls() {
    let spec = HttpSpec {
        redirect_port: Some(443),
        ..HttpSpec::default()
    };
    let origin = Origin::start("a").await;
    let answer = once(&http(&[&origin], spec).await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(
        lower.contains("\r\nlocation: https://a.example/x\r\n"),
        "{answer}"
    );
    assert_eq!(origin.taken.load(Relaxed), 0);
}

#[tokio::test]
async fn a_protocol_that_both_agree_on_is_passed_on_as_bytes() {
    let (listener, addr) = listen().await;
    let fixture = fixture(&[addr], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    // What the client sends too soon must not be lost.
    let asked =
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    client.write_all(asked.as_bytes()).await.expect("written");
    let (mut server, _) = listener.accept().await.expect("accepted");
    let got = header(&mut server).await.to_ascii_lowercase();
    assert!(got.contains("connection: upgrade\r\n") && got.contains("upgrade: websocket\r\n"));
    let agreed =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi";
    server.write_all(agreed).await.expect("written");
    let answer = ask(&mut client, "").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mut hi = [0; 2];
    client.read_exact(&mut hi).await.expect("read");
    let mut early = [0; 5];
    server.read_exact(&mut early).await.expect("read");
    assert_eq!((&hi, &early), (b"hi", b"early"));
    client.write_all(b"more").await.expect("written");
    client.shutdown().await.expect("half-closed");
    assert_eq!(read_all(&mut server).await.expect("read"), b"more");
    assert_eq!(fixture.proxy.stats().servers[0].open, 1);
    drop(server);
    assert_eq!(rest(&mut client).await, "");
    wait_until("all is over", || fixture.vs().open == 0).await;
    assert_eq!(fixture.proxy.stats().servers[0].open, 0);
    assert_eq!(fixture.vs().responses, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn an_answer_that_the_server_breaks_off_is_not_whole_for_the_client() {
    let (listener, addr) = listen().await;
    let fixture = fixture(&[addr], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    client.write_all(GET.as_bytes()).await.expect("written");
    let (mut server, _) = listener.accept().await.expect("accepted");
    header(&mut server).await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    server.write_all(half).await.expect("written");
    server.shutdown().await.expect("closed");
    read_all(&mut client).await.expect_err("reset");
    assert_eq!(fixture.vs().responses, [0; 5], "it does not count");
}

#[tokio::test]
async fn clients_are_asked_to_go_when_the_virtual_service_goes() {
    let origin = Origin::start("a").await;
    let mut fixture = http(&[&origin], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    ask(&mut client, GET).await;
    fixture.apply(|s| s.front.closing = true).await;
    let answer = ask(&mut client, GET).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn clients_of_a_virtual_service_that_was_deleted_are_asked_to_go() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    ask(&mut client, GET).await;
    fixture.proxy.apply(Vec::new()).await;
    let answer = ask(&mut client, GET).await.to_ascii_lowercase();
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn cut_connections_are_reset() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    ask(&mut client, GET).await;
    fixture.proxy.cut("vs");
    read_all(&mut client).await.expect_err("reset");
}

#[tokio::test]
async fn a_server_that_is_disabled_gets_nothing_new_and_what_it_has_is_cut_in_time() {
    let (listener, addr) = listen().await;
    let origin = Origin::start("a").await;
    let mut fixture = fixture(&[addr], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    client.write_all(GET.as_bytes()).await.expect("written");
    let (server, _) = listener.accept().await.expect("accepted");
    let other = crate::tests::server(origin.addr);
    fixture
        .apply(|s| {
            pool(s).servers[0].enabled = false;
            pool(s).servers[0].cut_after = Some(Duration::from_millis(50));
            pool(s).servers.push(other);
        })
        .await;
    let answer = ask(&mut client, "").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(who(&ask(&mut client, GET).await), "a");
    drop(server);
}

fn cookie() -> Option<CookieSpec> {
    Some(CookieSpec {
        name: "where".into(),
        max_age: Some(Duration::from_secs(60)),
        http_only: true,
    })
}

/// The cookie that an answer sets, as the client sends it back.
fn set_cookie(answer: &str) -> Option<String> {
    let mut lines = answer.lines();
    let line = lines.find(|l| l.to_ascii_lowercase().starts_with("set-cookie: "))?;
    let (_, cookie) = line.split_once(": ")?;
    assert!(
        cookie.ends_with("; Path=/; Max-Age=60; HttpOnly"),
        "{cookie}"
    );
    Some(cookie.split(';').next()?.to_owned())
}

#[tokio::test]
async fn a_client_comes_back_to_the_server_that_its_cookie_names_at_every_engine() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let mut engines = Vec::new();
    for _ in 0..2 {
        let mut engine = http(&[&a, &b], HttpSpec::default()).await;
        engine.apply(|s| pool(s).back.cookie = cookie()).await;
        engines.push(engine);
    }
    let first = once(&engines[0], GET).await;
    let told = set_cookie(&first).expect("a cookie");
    let again = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; {told}; where=z\r\n\r\n");
    for engine in engines.iter().cycle().take(6) {
        let answer = once(engine, &again).await;
        assert_eq!(who(&answer), who(&first));
        assert_eq!(set_cookie(&answer), None, "it knows");
    }
    let gone = usize::from(who(&first) == "b");
    engines[0].apply(|s| pool(s).servers[gone].up = false).await;
    let other = once(&engines[0], &again).await;
    assert_ne!(who(&other), who(&first));
    assert_ne!(set_cookie(&other).expect("another cookie"), told);
}

#[tokio::test]
async fn a_connection_by_which_a_server_knows_a_client_is_nobody_elses() {
    let origin = Origin::start("a").await;
    let fixture = http(&[&origin], HttpSpec::default()).await;
    let connection = |answer: &str| {
        let lower = answer.to_ascii_lowercase();
        let mut lines = lower.lines().map(str::to_owned);
        lines.find(|l| l.starts_with("x-connection: "))
    };
    let mut first = fixture.connect().await;
    let login = format!("GET {LOGIN} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let answer = ask(&mut first, &login).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let own = connection(&answer).expect("a connection");
    // Of either worker.
    for _ in 0..8 {
        let other = connection(&once(&fixture, GET).await).expect("a connection");
        assert_ne!(other, own);
    }
    assert_eq!(connection(&ask(&mut first, GET).await), Some(own));
}

#[tokio::test]
async fn a_server_that_falls_silent_amid_its_answer_ends_the_connection() {
    let (listener, addr) = listen().await;
    tokio::spawn(async move {
        let (mut server, _) = listener.accept().await.expect("a connection");
        header(&mut server).await;
        let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
        server.write_all(begun).await.expect("written");
        // Until it is hung up on.
        read_all(&mut server).await.ok();
    });
    let mut fixture = fixture(&[addr], HttpSpec::default()).await;
    let timeout = Some(Duration::from_millis(100));
    let pool =
        |s: &mut crate::VirtualServiceSpec| s.group.members[0].pool.back.server_timeout = timeout;
    fixture.apply(pool).await;
    let mut client = fixture.connect().await;
    client.write_all(GET.as_bytes()).await.expect("written");
    assert!(header(&mut client).await.starts_with("HTTP/1.1 200"));
    let rest = tokio::time::timeout(DEADLINE, read_all(&mut client)).await;
    rest.expect("in time")
        .expect_err("a reset: the answer is not whole");
}

/// A server that answers each connection once with so many bytes.
async fn large(bytes: usize) -> SocketAddr {
    let (listener, addr) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            header(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok();
            stream.write_all(&vec![b'x'; bytes]).await.ok();
        }
    });
    addr
}

/// HTTP/2 in the clear and a WebSocket that is not to be had: asked for in vain.
#[tokio::test]
async fn the_last_answer_is_whole_also_where_something_else_was_asked_for() {
    const LENGTH: usize = 16 << 20;
    let fixture = fixture(&[large(LENGTH).await], HttpSpec::default()).await;
    for upgrade in ["", "Upgrade: h2c\r\n"] {
        let mut client = fixture.connect().await;
        let small = socket2::SockRef::from(&client).set_recv_buffer_size(4096);
        small.expect("set");
        let request =
            format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}Connection: upgrade, close\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("written");
        header(&mut client).await;
        assert_eq!(read_all(&mut client).await.expect("whole").len(), LENGTH);
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_a_server_works_frees_the_server() {
    let (listener, addr) = listen().await;
    let fixture = fixture(&[addr], HttpSpec::default()).await;
    let mut client = fixture.connect().await;
    client.write_all(GET.as_bytes()).await.expect("written");
    let (mut server, _) = listener.accept().await.expect("accepted");
    header(&mut server).await;
    drop(client);
    let end = tokio::time::timeout(DEADLINE, server.read_u8()).await;
    end.expect("in time").expect_err("nothing more");
}

#[tokio::test]
async fn a_client_that_is_still_sending_hears_that_there_is_no_server() {
    let fixture = fixture(&[], HttpSpec::default()).await;
    let (mut read, mut write) = fixture.connect().await.into_split();
    let sending = tokio::spawn(async move {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
        write.write_all(head).await.expect("written");
        let body = vec![0; 1 << 20];
        while write.write_all(&body).await.is_ok() {}
    });
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, read.read_to_string(&mut answer));
    read.await.expect("in time").expect("ended, not reset");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    sending.abort();
}
