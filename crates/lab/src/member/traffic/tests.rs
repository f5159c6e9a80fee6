use super::*;
use tokio::net::TcpListener;

/// What a server on loopback does with the frames of a connection.
#[derive(Clone, Copy)]
enum Server {
    Echoes,
    Closes,
    Damages,
    SaysAnotherFlow,
}

async fn serve(listener: TcpListener, kind: Server) {
    while let Ok((mut stream, _)) = listener.accept().await {
        spawn_local(async move {
            stream.write_all(b"server-1 10.20.20.11\n").await.unwrap();
            while let Ok(Some(frame)) = Frame::read(&mut stream).await {
                let mut bytes = frame.bytes().to_vec();
                match kind {
                    Server::Echoes => (),
                    Server::Closes => return,
                    Server::Damages => bytes[40] ^= 1,
                    Server::SaysAnotherFlow => bytes = Frame::new(9999, 0).bytes().to_vec(),
                }
                stream.write_all(&bytes).await.unwrap();
            }
        });
    }
}

fn args_for(target: SocketAddr, connections: usize) -> Args {
    Args {
        target,
        connections,
        interval_ms: 1,
        answer_timeout_ms: ANSWER_TIMEOUT_MS,
        keep_exchanges: false,
        short_per_s: 0,
        first_port: PORTS.start,
        end_port: PORTS.end,
        download_from: None,
        downloads: 0,
        download_bytes: 300_000,
        download_bytes_per_s: u64::MAX,
        upload_to: None,
        uploads: 0,
        upload_bytes: 300_000,
        upload_bytes_per_s: u64::MAX,
        datagrams_to: None,
        datagram_flows: 0,
    }
}

/// Three long-lived connections to such a server, until `enough`; the report then.
fn report_of(kind: Server, enough: fn(&Report) -> bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        spawn_local(serve(listener, kind));
        let books = Books::new(args_for(target, 3));
        open_missing(&books).await;
        report_once(&books, enough).await
    })
}

/// What is reported as soon as it is enough.
async fn report_once(books: &Shared, enough: impl Fn(&Report) -> bool) -> Report {
    let until = Instant::now() + Duration::from_secs(20);
    while !enough(&books.borrow().report) {
        assert!(Instant::now() < until, "{:?}", books.borrow().now());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    books.borrow().now()
}

fn reasons(report: &Report) -> Vec<&str> {
    report.broken.iter().map(|f| f.reason.as_str()).collect()
}

#[test]
fn intact_answers_count_and_nothing_breaks() {
    let report = report_of(Server::Echoes, |r| r.exchanges >= 30);
    assert_eq!((report.alive, reasons(&report)), (3, vec![]));
    assert!(report.engines[&"10.20.20.11".parse().unwrap()].first_us > 0);
}

#[test]
fn exchanges_are_kept_with_their_flow_until_the_next_mark() {
    let mut args = args_for("127.0.0.1:1".parse().unwrap(), 0);
    args.keep_exchanges = true;
    let books = Books::new(args);
    let (before, took) = (now_us(), Duration::from_micros(700));
    books.borrow_mut().count_exchange(40_000, took);
    let kept = books.borrow().exchanges[0];
    assert_eq!((kept.port, kept.took_us), (40_000, 700));
    assert!((before..=now_us()).contains(&(kept.sent_us + 700)));
    books.borrow_mut().mark();
    assert!(books.borrow().exchanges.is_empty());
}

#[test]
fn a_closed_connection_is_broken_with_its_port_and_engine() {
    let report = report_of(Server::Closes, |r| r.broken.len() == 3);
    assert_eq!((report.alive, reasons(&report)), (0, vec!["closed"; 3]));
    assert!(PORTS.contains(&report.broken[0].port));
    assert_eq!(
        report.broken[0].engine,
        Some("10.20.20.11".parse().unwrap())
    );
}

#[test]
fn a_damaged_answer_breaks_the_flow() {
    let report = report_of(Server::Damages, |r| r.broken.len() == 3);
    assert_eq!(reasons(&report), ["corrupt"; 3]);
}

#[test]
fn an_intact_answer_to_another_flow_breaks_the_flow() {
    let report = report_of(Server::SaysAnotherFlow, |r| r.broken.len() == 3);
    assert_eq!(reasons(&report), ["corrupt"; 3]);
}

#[test]
fn source_ports_are_handed_out_in_sequence_and_wrap() {
    let target: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let books = Books::new(args_for(target, 0));
    books.borrow_mut().next_port = PORTS.end - 1;
    let (_first, port) = books.borrow_mut().socket(target).unwrap();
    // Another program on this host may hold one or the other.
    assert!(port == PORTS.end - 1 || port < PORTS.start + 10, "{port}");
    assert!(books.borrow().next_port < PORTS.start + 20);
}

/// One download at a time from a server that damages byte `damaged` of what it sends, until `enough`; the report then.
fn downloads_of(damaged: Option<usize>, enough: fn(&Report) -> bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        spawn_local(super::super::http::serve(listener));
        let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = between.local_addr().unwrap();
        spawn_local(relay(between, server, damaged));
        let args = Args {
            download_from: Some(target),
            downloads: 1,
            ..args_for(target, 0)
        };
        let books = Books::new(args);
        download::start(&books);
        report_once(&books, enough).await
    })
}

/// Passes connections on, and changes a byte of what comes back, or ends there: `usize::MAX` bytes never come.
async fn relay(listener: TcpListener, server: SocketAddr, damaged: Option<usize>) {
    use tokio::io::AsyncReadExt;
    while let Ok((mut client, _)) = listener.accept().await {
        spawn_local(async move {
            let mut upstream = TcpStream::connect(server).await.unwrap();
            let head = super::super::http::read_head(&mut client).await.unwrap();
            upstream.write_all(head.as_bytes()).await.unwrap();
            let mut body = Vec::new();
            upstream.read_to_end(&mut body).await.unwrap();
            match damaged {
                Some(at) if at < body.len() => body[at] ^= 1,
                Some(_) => body.truncate(body.len() / 2),
                None => (),
            }
            client.write_all(&body).await.ok();
        });
    }
}

#[test]
fn a_download_that_is_whole_and_right_counts_with_its_port() {
    let report = downloads_of(None, |r| r.downloads_ok >= 2);
    assert_eq!(report.downloads_failed, vec![]);
    assert!(report.download_ports.len() >= 2, "{report:?}");
}

#[test]
fn a_damaged_byte_or_an_early_end_fails_a_download_and_names_the_engine() {
    for (damaged, reason) in [(200_000, "corrupt"), (usize::MAX, "closed")] {
        let report = downloads_of(Some(damaged), |r| !r.downloads_failed.is_empty());
        let failure = &report.downloads_failed[0];
        assert_eq!((failure.reason.as_str(), report.downloads_ok), (reason, 0));
        assert_eq!(failure.engine, Some("127.0.0.1".parse().unwrap()));
        assert!(report.download_ports.contains(&failure.port));
    }
}

/// One upload at a time over a relay that changes a byte of each body if `damage` says so, until `enough`; the report then.
fn uploads_of(damage: bool, enough: fn(&Report) -> bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        spawn_local(super::super::http::serve(listener));
        let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = between.local_addr().unwrap();
        spawn_local(relay_upload(between, server, damage));
        let args = Args {
            upload_to: Some(target),
            uploads: 1,
            ..args_for(target, 0)
        };
        let books = Books::new(args);
        upload::start(&books);
        report_once(&books, enough).await
    })
}

/// Passes uploads on, byte by byte or with one that is another.
async fn relay_upload(listener: TcpListener, server: SocketAddr, damage: bool) {
    use super::super::http::read_head;
    use tokio::io::AsyncReadExt;
    while let Ok((mut client, _)) = listener.accept().await {
        spawn_local(async move {
            let mut upstream = TcpStream::connect(server).await.unwrap();
            let offer = read_head(&mut client).await.unwrap();
            upstream.write_all(offer.as_bytes()).await.unwrap();
            let invitation = read_head(&mut upstream).await.unwrap();
            client.write_all(invitation.as_bytes()).await.unwrap();
            let mut body = vec![0; 300_000];
            client.read_exact(&mut body).await.unwrap();
            body[200_000] ^= u8::from(damage);
            upstream.write_all(&body).await.unwrap();
            let end = read_head(&mut upstream).await.unwrap();
            client.write_all(end.as_bytes()).await.ok();
        });
    }
}

#[test]
fn an_upload_that_came_whole_and_right_counts_with_its_port() {
    let report = uploads_of(false, |r| r.uploads_ok >= 2);
    assert_eq!(report.uploads_failed, vec![]);
    assert!(report.upload_ports.len() >= 2, "{report:?}");
}

#[test]
fn a_damaged_byte_fails_an_upload_and_names_the_engine() {
    let report = uploads_of(true, |r| !r.uploads_failed.is_empty());
    let failure = &report.uploads_failed[0];
    assert_eq!((failure.reason.as_str(), report.uploads_ok), ("corrupt", 0));
    assert_eq!(failure.engine, Some("127.0.0.1".parse().unwrap()));
}

/// Three UDP flows to an echo server that says it is on another socket from message `moves_at` on, until `enough`.
fn datagrams_of(moves_at: u64, enough: fn(&Report) -> bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = socket.local_addr().unwrap();
        spawn_local(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let sequence = u64::from_be_bytes(buffer[4..12].try_into().unwrap());
                let seen = match sequence < moves_at {
                    true => "server-1 10.20.20.11:5000\n",
                    false => "server-1 10.20.20.12:5000\n",
                };
                let answer = [seen.as_bytes(), &buffer[..length]].concat();
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
        let args = Args {
            datagrams_to: Some(target),
            datagram_flows: 3,
            ..args_for(target, 0)
        };
        let books = Books::new(args);
        datagram::open_missing(&books).await;
        report_once(&books, enough).await
    })
}

#[test]
fn answered_datagrams_count() {
    let report = datagrams_of(u64::MAX, |r| r.datagrams >= 30);
    assert_eq!(
        (report.datagram_flows, report.datagrams_broken),
        (3, vec![])
    );
}

#[test]
fn a_udp_flow_that_another_engine_serves_is_broken_although_it_is_answered() {
    let report = datagrams_of(5, |r| r.datagrams_broken.len() == 3);
    let failure = &report.datagrams_broken[0];
    assert_eq!(failure.engine, Some("10.20.20.11".parse().unwrap()));
    assert_eq!(failure.reason, "now server-1 10.20.20.12:5000");
}
