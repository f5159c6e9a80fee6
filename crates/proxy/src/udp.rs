//! UDP: flows instead of connections.
//!
//! A flow is a client's address and port at a port of a VIP. It has a socket of its own that is bound to the VIP and connected
//! to the client, so that the kernel's socket table says whose it is (steering asks it, DESIGN 6.8), one server, and a
//! socket towards that ([`flow`]). It ends when nothing has passed for the idle timeout, when the client's port is gone, when no server is
//! left for it, or when it is cut.
//!
//! ```text
//!   first datagrams ──▶ listener of some worker ──▶ home worker of the client ──▶ flow ──▶ server
//!   all others ───────▶ socket of the flow ───────────────────────────────────────┘
//! ```
//!
//! Between `bind` and `connect` a flow's socket takes datagrams of other clients. Every datagram is therefore looked at for its
//! sender, and another client's is dispatched again. A client has one home worker, by a keyed hash of its address, so that
//! what arrives at several listeners makes one flow, and one server.
//!
//! Tasks: one per listener, aborted when it closes; one per flow; none per datagram. A flow is in its worker's [`Flows`]
//! for as long as its task lives. Dropping either task at an await is safe: datagrams are handled between two of them.

mod flow;

use self::flow::Flow;
use crate::shared::Service;
use crate::{OpenFlows, WantedFlow};
use dataplane::datagram::{BATCH_LEN, Batch};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// First datagrams that wait for the client's home worker. It takes them in the order of microseconds; what finds no room is
/// dropped and counted, as a full socket buffer would do.
const STRAYS_MAX: usize = 1024;
/// How often the log says that there are too many flows, per worker.
const WARN_EVERY: Duration = Duration::from_secs(60);

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::default();
}

/// A datagram on its way to the client's home worker.
pub(crate) struct Stray {
    service: Arc<Service>,
    vip: SocketAddr,
    client: SocketAddr,
    bytes: Box<[u8]>,
}

/// Which worker a client belongs to, and the way there.
#[derive(Clone)]
pub(crate) struct Homes {
    hasher: RandomState,
    inboxes: Arc<[mpsc::Sender<Stray>]>,
}

impl Homes {
    /// For so many workers, with what arrives at each.
    pub(crate) fn new(workers: usize) -> (Self, Vec<mpsc::Receiver<Stray>>) {
        let (inboxes, arriving): (Vec<_>, _) =
            (0..workers).map(|_| mpsc::channel(STRAYS_MAX)).unzip();
        let homes = Self {
            hasher: RandomState::new(),
            inboxes: inboxes.into(),
        };
        (homes, arriving)
    }

    fn of(&self, client: SocketAddr) -> usize {
        let hash = self.hasher.hash_one(client);
        (hash % self.inboxes.len() as u64) as usize
    }
}

/// The flows of a worker.
pub(crate) struct Flows {
    own: usize,
    homes: Homes,
    /// By VIP and client.
    live: RefCell<HashMap<(SocketAddr, SocketAddr), Weak<Flow>>>,
    warned: Cell<Option<Instant>>,
}

impl Flows {
    /// Of the worker with this number.
    pub(crate) fn new(own: usize, homes: Homes) -> Self {
        Self {
            own,
            homes,
            live: RefCell::default(),
            warned: Cell::default(),
        }
    }

    /// To the client's home.
    fn dispatch(
        self: &Rc<Self>,
        service: &Arc<Service>,
        vip: SocketAddr,
        client: SocketAddr,
        bytes: &[u8],
    ) {
        let home = self.homes.of(client);
        if home == self.own {
            return self.take(service, vip, client, bytes);
        }
        let stray = Stray {
            service: service.clone(),
            vip,
            client,
            bytes: bytes.into(),
        };
        if self.homes.inboxes[home].try_send(stray).is_err() {
            service.counters.udp.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Those that are wanted, `most` at most.
    pub(crate) fn open(&self, wanted: &WantedFlow, most: usize) -> OpenFlows {
        let mut found = OpenFlows::default();
        for ((vip, client), flow) in &*self.live.borrow() {
            let Some(flow) = flow.upgrade() else { continue };
            if wanted(&flow.service().uuid, crate::Protocol::Udp, *client, *vip) {
                found.add(most, || flow.seen());
            }
        }
        found
    }

    /// A datagram of a client whose home is here.
    pub(crate) fn take_stray(self: &Rc<Self>, stray: &Stray) {
        self.take(&stray.service, stray.vip, stray.client, &stray.bytes);
    }

    /// To the client's flow; a new one if it has none.
    fn take(
        self: &Rc<Self>,
        service: &Arc<Service>,
        vip: SocketAddr,
        client: SocketAddr,
        bytes: &[u8],
    ) {
        let known = self
            .live
            .borrow()
            .get(&(vip, client))
            .and_then(Weak::upgrade);
        match known {
            Some(flow) => flow.to_server(bytes),
            None => self.begin(service, vip, client, bytes),
        }
    }

    fn begin(
        self: &Rc<Self>,
        service: &Arc<Service>,
        vip: SocketAddr,
        client: SocketAddr,
        bytes: &[u8],
    ) {
        match Flow::begin(self, service, (vip, client), || bind(vip)) {
            Ok(flow) => {
                let flow = Rc::new(flow);
                let key = (vip, client);
                self.live.borrow_mut().insert(key, Rc::downgrade(&flow));
                flow.to_server(bytes);
                drop(tokio::task::spawn_local(flow.run()));
            }
            Err(refusal) => self.refuse(service, &refusal),
        }
    }

    /// The client is not told: an answer to each datagram of a flood would double it.
    fn refuse(&self, service: &Service, refusal: &Refusal) {
        let counters = &service.counters;
        let counter = match refusal {
            Refusal::Full(_) => &counters.udp.full,
            Refusal::NoServer | Refusal::Socket(_) => &counters.refused,
        };
        counter.fetch_add(1, Relaxed);
        let now = Instant::now();
        let told = self.warned.get();
        if told.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
            self.warned.set(Some(now));
            tracing::warn!(vs = service.uuid, reason = %refusal, "a UDP flow is refused; others may follow unsaid");
        }
    }
}

/// Why a datagram makes no flow.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the virtual service has {0} UDP flows, as many as it may have")]
    Full(u64),
    #[error("no server of the pool can take it")]
    NoServer,
    #[error("no socket can be had for it: {0}")]
    Socket(#[from] io::Error),
}

/// A socket at the VIP that shares its address with the other workers' and with the flows' own.
pub(crate) fn bind(vip: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(vip), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&vip.into())?;
    Ok(socket)
}

/// Takes the first datagrams of clients until the task is aborted.
pub(crate) async fn receive(
    socket: std::net::UdpSocket,
    vip: SocketAddr,
    service: Arc<Service>,
    flows: Rc<Flows>,
) {
    let Ok(socket) = UdpSocket::from_std(socket) else {
        return;
    };
    while let Ok(ready) = ready(&socket).await {
        let take = |client, bytes: &[u8]| flows.dispatch(&service, vip, client, bytes);
        if let Err(error) = read(&socket, ready, take)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::debug!(vs = service.uuid, %error, "cannot read a datagram");
        }
    }
}

/// Waits until there is something to read, or an ICMP error has come, which makes a socket erroneous and not readable.
/// Two waits, because the runtime never wakes one that is for both. Cancel-safe: waiting takes nothing.
async fn ready(socket: &UdpSocket) -> io::Result<Interest> {
    tokio::select! {
        result = socket.readable() => result.map(|()| Interest::READABLE),
        result = socket.ready(Interest::ERROR) => result.map(|_| Interest::ERROR),
    }
}

/// Reads a batch, if something is there. Fewer than a batch were all; later ones make the socket readable again, so that no
/// second call has to find nothing.
fn read(
    socket: &UdpSocket,
    ready: Interest,
    mut each: impl FnMut(SocketAddr, &[u8]),
) -> io::Result<()> {
    BATCH.with_borrow_mut(|batch| {
        socket.try_io(ready, || {
            let count = batch.receive(socket)?;
            batch.iter().for_each(|(sender, bytes)| each(sender, bytes));
            match count < BATCH_LEN {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        })
    })
}

#[cfg(test)]
mod tests;
