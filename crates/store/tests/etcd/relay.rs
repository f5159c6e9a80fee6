//! Stands between a store and etcd, and fails as networks do.

use super::server::Server;
use evenkeel_store::etcd::Config;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// What becomes of the request that is waited for. The connection of its sender is cut in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and its answer does not.
    AnswerLost,
    /// It does not arrive.
    Lost,
    /// It arrives once the relay is told to let it go.
    Late,
    /// It does not arrive, and nothing does after it until the relay is opened.
    LastOfAll,
    /// It arrives once the relay is told to let it go, and nothing else does after it until the relay is opened.
    LateAndLast,
}

#[derive(Default)]
struct Trap {
    armed: Mutex<Option<(Vec<u8>, Fate)>>,
    caught: Notify,
    let_go: Notify,
    delivered: Notify,
    largest: AtomicUsize,
}

/// See the module's documentation.
pub struct Relay {
    address: SocketAddr,
    trap: Arc<Trap>,
    is_open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// In front of a server, with settings of a fresh prefix: those that lead past it, and those that lead through it.
    pub async fn before(server: &Server) -> (Self, Config, Config) {
        let (relay, direct) = (Self::start(server.url()).await, server.fresh());
        let mut through = direct.clone();
        through.endpoints = vec![relay.url()];
        (relay, direct, through)
    }

    /// In front of a server.
    pub async fn start(url: &str) -> Self {
        let server: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trap, is_open) = (Arc::new(Trap::default()), watch::Sender::new(true));
        let task = tokio::spawn(serve(listener, server, trap.clone(), is_open.clone()));
        Self {
            address,
            trap,
            is_open,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request that contains this has this fate, as a whole.
    pub fn catch(&self, needle: impl Into<Vec<u8>>, fate: Fate) {
        *self.trap.armed.lock().unwrap() = Some((needle.into(), fate));
    }

    /// Bytes of the largest answer until now.
    pub fn largest_answer(&self) -> usize {
        self.trap.largest.load(Ordering::Relaxed)
    }

    /// Waits until the request was caught.
    pub async fn caught(&self) {
        self.trap.caught.notified().await;
    }

    /// Lets a late request go, and waits until it is sent.
    pub async fn let_go(&self) {
        self.trap.let_go.notify_one();
        self.trap.delivered.notified().await;
    }

    /// Cuts all connections, and makes no more until it is opened.
    pub fn close(&self) {
        self.is_open.send_replace(false);
    }

    pub fn open(&self) {
        self.is_open.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    server: SocketAddr,
    trap: Arc<Trap>,
    is_open: watch::Sender<bool>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if !*is_open.borrow() {
            continue;
        }
        let (trap, is_open) = (trap.clone(), is_open.clone());
        connections.spawn(async move {
            if let Ok(server) = TcpStream::connect(server).await {
                pass(client, server, trap, is_open).await;
            }
        });
    }
}

async fn pass(client: TcpStream, server: TcpStream, trap: Arc<Trap>, is_open: watch::Sender<bool>) {
    let ((mut from_client, to_client), (from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let mut closed = is_open.subscribe();
    let held = tokio::select! {
        held = forward(&mut from_client, &mut to_server, &trap) => held,
        () = back(from_server, to_client, &trap) => return,
        _ = closed.wait_for(|open| !open) => return,
    };
    let Some((bytes, fate)) = held else { return };
    let is_late = matches!(fate, Fate::Late | Fate::LateAndLast);
    if matches!(fate, Fate::LastOfAll | Fate::LateAndLast) {
        is_open.send_replace(false);
    }
    // From here on the client is cut off: both halves of its connection are gone.
    drop(from_client);
    trap.caught.notify_one();
    if is_late {
        trap.let_go.notified().await;
        to_server.write_all(&bytes).await.ok();
        trap.delivered.notify_one();
    }
    if is_late || fate == Fate::AnswerLost {
        // etcd does not do what it reads once the connection is closed.
        drain(to_server).await;
    }
}

/// Keeps the connection open for as long as the test runs.
async fn drain(_open: OwnedWriteHalf) {
    std::future::pending().await
}

async fn forward(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    trap: &Trap,
) -> Option<(Vec<u8>, Fate)> {
    let mut requests = Messages::new(from);
    to.write_all(&requests.take(PREFACE_LEN).await?)
        .await
        .ok()?;
    loop {
        let frame = requests.frame().await?;
        let whole = requests.ending_in(&frame);
        if let Some(fate) = whole.iter().find_map(|message| trap.take(message)) {
            let end = requests.end_with(frame).await;
            if fate == Fate::AnswerLost {
                to.write_all(&end).await.ok()?;
            }
            return Some((end, fate));
        }
        to.write_all(&frame.bytes).await.ok()?;
    }
}

/// What a client says first on a connection (HTTP/2).
const PREFACE_LEN: usize = 24;
/// What a frame begins with.
const HEADER_LEN: usize = 9;
/// What a message begins with: a flag and its length (gRPC).
const MESSAGE_HEADER_LEN: usize = 5;

/// What one side sends, frame by frame.
struct Messages<'a> {
    from: &'a mut OwnedReadHalf,
    buffer: Vec<u8>,
    /// The beginning of the message of each stream.
    begun: BTreeMap<u32, Vec<u8>>,
}

struct Frame {
    bytes: Vec<u8>,
    stream: u32,
    is_data: bool,
    ends_stream: bool,
}

impl<'a> Messages<'a> {
    fn new(from: &'a mut OwnedReadHalf) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            begun: BTreeMap::new(),
        }
    }

    async fn fill(&mut self, len: usize) -> Option<()> {
        while self.buffer.len() < len {
            let read = self.from.read_buf(&mut self.buffer).await.ok()?;
            (read > 0).then_some(())?;
        }
        Some(())
    }

    async fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        self.fill(len).await?;
        Some(self.buffer.drain(..len).collect())
    }

    async fn frame(&mut self) -> Option<Frame> {
        self.fill(HEADER_LEN).await?;
        let [a, b, c, kind, flags, s, t, u, v, ..] = self.buffer[..] else {
            return None;
        };
        let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        Some(Frame {
            bytes: self.take(HEADER_LEN + len).await?,
            stream: u32::from_be_bytes([s, t, u, v]),
            is_data: kind == 0,
            ends_stream: kind <= 1 && flags & 1 == 1,
        })
    }

    /// The messages that end in this frame.
    fn ending_in(&mut self, frame: &Frame) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        if frame.is_data {
            let begun = self.begun.entry(frame.stream).or_default();
            begun.extend(&frame.bytes[HEADER_LEN..]);
            while let Some(len) = message_len(begun).filter(|len| *len <= begun.len()) {
                messages.push(begun.drain(..len).collect());
            }
        }
        messages
    }

    /// A frame that ends a request's message, and what comes with it to the end of the request.
    async fn end_with(&mut self, mut frame: Frame) -> Vec<u8> {
        let (stream, mut end) = (frame.stream, Vec::new());
        loop {
            let is_end = frame.stream == stream && frame.ends_stream;
            end.extend(frame.bytes);
            let next = if is_end { None } else { self.frame().await };
            match next {
                Some(next) => frame = next,
                None => return end,
            }
        }
    }
}

/// How long a message is of which this is the beginning, once that is known.
fn message_len(begun: &[u8]) -> Option<usize> {
    let [_, a, b, c, d, ..] = begun else {
        return None;
    };
    let len = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
    Some(MESSAGE_HEADER_LEN + len)
}

/// What a request has in it that writes this key with a value, and no request that reads it alone (protobuf: the key,
/// and the next field).
pub fn put_of(key: &str) -> Vec<u8> {
    let len = u8::try_from(key.len()).unwrap();
    [&[0x0a, len], key.as_bytes(), &[0x12]].concat()
}

/// What a request has in it that deletes this key, and no other (protobuf: an operation of a transaction).
pub fn delete_of(key: &str) -> Vec<u8> {
    let len = u8::try_from(key.len()).unwrap();
    [&[0x1a, len + 2, 0x0a, len], key.as_bytes()].concat()
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, trap: &Trap) {
    let mut answers = Messages::new(&mut from);
    while let Some(frame) = answers.frame().await {
        let len = answers.ending_in(&frame).iter().map(Vec::len).max();
        trap.largest.fetch_max(len.unwrap_or(0), Ordering::Relaxed);
        if to.write_all(&frame.bytes).await.is_err() {
            return;
        }
    }
}

impl Trap {
    fn take(&self, bytes: &[u8]) -> Option<Fate> {
        let mut armed = self.armed.lock().unwrap();
        let (needle, fate) = armed.as_ref()?;
        let fate = *fate;
        if !bytes.windows(needle.len()).any(|w| w == needle) {
            return None;
        }
        *armed = None;
        Some(fate)
    }
}
