//! SIGTERM amid writes and reads over kept connections loses no request: what was accepted is answered to its end, what was
//! acknowledged is there after the restart, what was not answered did not happen, and clients are told that the connection ends.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Controller, free_address, wait_for};

const PASSWORD: &str = "for this test only";
/// Kept connections; half of them write.
const CLIENTS: usize = 6;
/// Writes that are acknowledged before the signal.
const WRITES_BEFORE: usize = 100;
/// Idle connections are kept for longer, when the listener has closed.
const PROMPT: Duration = Duration::from_millis(150);

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A client who believes in the controller's self-made certificate and has logged in.
fn client_of(data: &Path, address: SocketAddr) -> Client {
    let pem = CertificateDer::from_pem_file(data.join("api-cert.pem"));
    let mut roots = RootCertStore::empty();
    roots.add(pem.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = Client {
        address,
        config: Arc::new(config),
        session: String::new(),
    };
    client.log_in();
    client
}

struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    /// Headers of a session.
    session: String,
}

struct Connection(StreamOwned<ClientConnection, TcpStream>);

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// A request without a whole answer.
#[derive(Debug)]
struct Cut {
    /// Of its answer.
    received: Vec<u8>,
    cause: io::Error,
}

impl Client {
    /// Nothing has been asked when this fails.
    fn connect(&self) -> io::Result<Connection> {
        let mut tcp = TcpStream::connect(self.address)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(self.config.clone(), name).unwrap();
        while tls.is_handshaking() {
            let (read, written) = tls.complete_io(&mut tcp)?;
            if read + written == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Connection(StreamOwned::new(tls, tcp)))
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let (address, session, len) = (self.address, &self.session, body.len());
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nReferer: https://{address}\r\n{session}\
             Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
        )
    }

    /// A call on a connection of its own, which must be answered.
    fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut connection = self.connect().unwrap();
        connection.ask(&self.request(method, path, body)).unwrap()
    }

    fn log_in(&mut self) {
        let body = format!("{{\"username\": \"admin\", \"password\": \"{PASSWORD}\"}}");
        let answer = self.call("POST", "/login", &body);
        assert_eq!(answer.status, 200, "{}", answer.head);
        let (id, csrf) = (answer.cookie("avi-sessionid"), answer.cookie("csrftoken"));
        self.session =
            format!("Cookie: avi-sessionid={id}; csrftoken={csrf}\r\nX-CSRFToken: {csrf}\r\n");
    }
}

impl Connection {
    fn ask(&mut self, request: &str) -> Result<Answer, Cut> {
        let mut received = Vec::new();
        match self.exchange(request, &mut received) {
            Ok(answer) => Ok(answer),
            Err(cause) => Err(Cut { received, cause }),
        }
    }

    fn exchange(&mut self, request: &str, received: &mut Vec<u8>) -> io::Result<Answer> {
        self.0.write_all(request.as_bytes())?;
        self.0.flush()?;
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(answer) = Answer::of(received) {
                return Ok(answer);
            }
            let len = self.0.read(&mut chunk)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&chunk[..len]);
        }
    }
}

impl Answer {
    /// None while it is not whole.
    fn of(received: &[u8]) -> Option<Self> {
        let end = received.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(received[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self {
            status,
            head,
            body: Vec::new(),
        };
        let len: usize = answer.header("content-length").unwrap().parse().unwrap();
        answer.body = received.get(end..end + len)?.to_vec();
        Some(answer)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|l| l.split_once(": "));
        let mut found = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }

    fn cookie(&self, name: &str) -> String {
        let cookies = self.head.lines().filter_map(|l| l.split_once(": "));
        let mut cookies = cookies.filter(|(key, _)| key.eq_ignore_ascii_case("set-cookie"));
        let value = cookies.find_map(|(_, v)| v.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().split(';').next().unwrap().to_owned()
    }

    fn ends_the_connection(&self) -> bool {
        let value = self.header("connection");
        value.is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

static SIGNALLED: AtomicBool = AtomicBool::new(false);
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

fn signalled() -> bool {
    SIGNALLED.load(Ordering::SeqCst)
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    /// Paths of the objects whose creation was answered with 201.
    acknowledged: Vec<String>,
    /// Names of objects whose creation was not answered.
    unanswered: Vec<String>,
    /// Answers that said that they are the connection's last.
    told: usize,
}

/// Asks until nobody listens any more, over one connection for as long as it is kept.
fn drive(client: &Client, number: usize) -> Seen {
    let mut seen = Seen::default();
    let mut kept: Option<Connection> = None;
    for i in 0.. {
        let mut connection = match kept.take().map_or_else(|| client.connect(), Ok) {
            Ok(connection) => connection,
            Err(error) => {
                assert!(signalled(), "no connection before the signal: {error}");
                return seen;
            }
        };
        let name = format!("p-{number}-{i}");
        let request = match number % 2 {
            0 => client.request("POST", "/api/pool", &format!("{{\"name\": \"{name}\"}}")),
            _ => client.request("GET", "/api/pool?page_size=10&search=p-", ""),
        };
        match connection.ask(&request) {
            Ok(answer) => kept = seen.answered(number, &answer).then_some(connection),
            Err(cut) => {
                let Cut { received, cause } = cut;
                assert!(signalled(), "no answer before the signal: {cause}");
                let text = String::from_utf8_lossy(&received);
                assert!(received.is_empty(), "cut amid its answer: {cause}: {text}");
                seen.unanswered.push(name);
            }
        }
    }
    seen
}

impl Seen {
    /// True when the connection goes on.
    fn answered(&mut self, number: usize, answer: &Answer) -> bool {
        let text = || String::from_utf8_lossy(&answer.body).into_owned();
        let writes = number.is_multiple_of(2);
        // Who asks too often is told so, which is an answer.
        let good = if writes { [201, 201] } else { [200, 429] };
        assert!(good.contains(&answer.status), "{}{}", answer.head, text());
        if writes {
            let uuid = answer.json()["uuid"].as_str().unwrap().to_owned();
            self.acknowledged.push(format!("/api/pool/{uuid}"));
            WRITTEN.fetch_add(1, Ordering::SeqCst);
        }
        let last = answer.ends_the_connection();
        assert!(signalled() || !last, "a connection ends before the signal");
        self.told += usize::from(last);
        !last
    }
}

/// A connection that is idle when the listener closes: the request that comes next is answered, and is told to be the last.
fn is_answered_once_more(client: &Client, kept: &mut Connection) {
    let mut open = Instant::now();
    wait_for("the listener closes", || {
        let now = Instant::now();
        let connected = TcpStream::connect(client.address).is_ok();
        open = if connected { now } else { open };
        !connected
    });
    let asked = kept.ask(&client.request("GET", "/api/cluster", ""));
    match asked {
        Ok(answer) => assert!(answer.ends_the_connection(), "{}", answer.head),
        // A machine on which this takes so long is too busy to tell.
        Err(cut) => assert!(open.elapsed() > PROMPT, "{}", cut.cause),
    }
}

#[test]
fn a_stop_amid_writes_and_reads_loses_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let address = free_address();
    let mut controller = Controller::start(&data, address, PASSWORD, |_| {});
    // Each with a session: the calls of one are limited.
    let clients = (0..CLIENTS).map(|number| {
        let client = client_of(&data, address);
        std::thread::spawn(move || drive(&client, number))
    });
    let clients: Vec<_> = clients.collect();
    wait_for("writes are acknowledged", || {
        WRITTEN.load(Ordering::SeqCst) >= WRITES_BEFORE || clients.iter().any(|c| c.is_finished())
    });
    SIGNALLED.store(true, Ordering::SeqCst);
    let calm = client_of(&data, address);
    let mut kept = calm.connect().unwrap();
    kept.ask(&calm.request("GET", "/api/cluster", "")).unwrap();
    let process = Pid::from_raw(controller.child.id().try_into().unwrap());
    kill(process, Signal::SIGTERM).unwrap();
    is_answered_once_more(&calm, &mut kept);
    let seen: Vec<Seen> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    let ended = controller.child.wait().unwrap();
    assert!(ended.success(), "{ended}");
    let refused = TcpStream::connect(address).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let told: usize = seen.iter().map(|s| s.told).sum();
    assert!(told > 0, "no client was told that his connection ends");

    drop(controller);
    let _again = Controller::start(&data, address, PASSWORD, |_| {});
    let client = client_of(&data, address);
    let acknowledged: Vec<&String> = seen.iter().flat_map(|s| &s.acknowledged).collect();
    assert!(acknowledged.len() >= WRITES_BEFORE);
    let mut connection = client.connect().unwrap();
    for path in acknowledged {
        let answer = connection.ask(&client.request("GET", path, "")).unwrap();
        assert_eq!(answer.status, 200, "{path} was acknowledged");
    }
    for name in seen.iter().flat_map(|s| &s.unanswered) {
        let path = format!("/api/pool?name={name}");
        let answer = connection.ask(&client.request("GET", &path, "")).unwrap();
        assert_eq!(
            answer.json()["count"],
            0,
            "{name} was done without an answer"
        );
    }
}
