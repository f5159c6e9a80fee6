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
        let args = Args {
            target,
            connections: 3,
            interval_ms: 1,
            short_per_s: 0,
        };
        let books = Books::new(args);
        open_missing(&books).await;
        let until = Instant::now() + Duration::from_secs(20);
        while !enough(&books.borrow().report) {
            assert!(Instant::now() < until, "{:?}", books.borrow().now());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        books.borrow().now()
    })
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
    let args = Args {
        target: "127.0.0.1:1".parse().unwrap(),
        connections: 0,
        interval_ms: 1,
        short_per_s: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let books = Books::new(args);
    books.borrow_mut().next_port = PORTS.end - 1;
    let (_first, port) = books.borrow_mut().socket().unwrap();
    // Another program on this host may hold one or the other.
    assert!(port == PORTS.end - 1 || port < PORTS.start + 10, "{port}");
    assert!(books.borrow().next_port < PORTS.start + 20);
}
