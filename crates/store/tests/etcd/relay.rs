//! Stands between a store and etcd, and fails as networks do.

use super::server::Server;
use evenkeel_store::etcd::Config;
use std::net::SocketAddr;
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
    /// It does not arrive, and nothing does after it.
    LastOfAll,
}

#[derive(Default)]
struct Trap {
    armed: Mutex<Option<(Vec<u8>, Fate)>>,
    caught: Notify,
    let_go: Notify,
    delivered: Notify,
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

    /// The next request that contains this has this fate.
    pub fn catch(&self, needle: impl Into<Vec<u8>>, fate: Fate) {
        *self.trap.armed.lock().unwrap() = Some((needle.into(), fate));
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
        () = back(from_server, to_client) => return,
        _ = closed.wait_for(|open| !open) => return,
    };
    // From here on the client is cut off: both halves of its connection are gone.
    drop(from_client);
    let Some((bytes, fate)) = held else { return };
    if fate == Fate::LastOfAll {
        is_open.send_replace(false);
    }
    trap.caught.notify_one();
    if fate == Fate::Late {
        trap.let_go.notified().await;
        to_server.write_all(&bytes).await.ok();
        trap.delivered.notify_one();
    }
    if matches!(fate, Fate::Late | Fate::AnswerLost) {
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
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = from.read(&mut buffer).await.ok().filter(|len| *len > 0)?;
        let bytes = &buffer[..len];
        if let Some(fate) = trap.take(bytes) {
            if fate == Fate::AnswerLost {
                to.write_all(bytes).await.ok()?;
            }
            return Some((bytes.to_vec(), fate));
        }
        to.write_all(bytes).await.ok()?;
    }
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    tokio::io::copy(&mut from, &mut to).await.ok();
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
