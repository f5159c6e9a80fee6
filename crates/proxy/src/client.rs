//! The clients of a worker, and the sweep that renews their stamps.
//!
//! The task of a connection owns its [`Client`]; [`Clients`] knows it while it lives, so that one timer per worker
//! does for all of them and a connection between two sweeps costs nothing.

use crate::hint::{HintRenewal, Stamping, Warned};
use crate::http::Idle;
use crate::shared::Service;
use crate::{OpenFlow, OpenFlows, Protocol, WantedFlow};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;

/// Clients looked at in one go; at some microseconds for each that is stamped, others wait half a millisecond.
const SWEPT_AT_ONCE: usize = 64;

/// Where a connection goes, and what has passed.
#[derive(Default)]
pub(crate) struct Traffic {
    /// None while no server has taken it.
    pub server: Cell<Option<SocketAddr>>,
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
}

/// A client's connection.
pub(crate) struct Client {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub service: Arc<Service>,
    pub stamping: Cell<Stamping>,
    pub traffic: Traffic,
    pub vip: SocketAddr,
    began: Instant,
    key: u64,
    clients: Rc<Clients>,
}

impl Client {
    /// Just accepted: it is stamped here, before anything is written to it.
    pub(crate) fn accepted(
        stream: TcpStream,
        [peer, vip]: [SocketAddr; 2],
        service: Arc<Service>,
        clients: &Rc<Clients>,
    ) -> Rc<Self> {
        let client = Rc::new(Self {
            stream,
            peer,
            service,
            stamping: Cell::default(),
            traffic: Traffic::default(),
            vip,
            began: Instant::now(),
            key: clients.next_key(),
            clients: clients.clone(),
        });
        clients.add(&client);
        client.stamp();
        client
    }

    fn stamp(&self) {
        crate::hint::stamp(self, self.clients.renewal, &self.clients.warned);
    }

    /// Connections to servers that nobody uses now.
    pub(crate) fn idle(&self) -> &Idle {
        &self.clients.idle
    }

    fn flow(&self) -> OpenFlow {
        OpenFlow {
            vs_uuid: self.service.uuid.clone(),
            protocol: Protocol::Tcp,
            client: self.peer,
            vip: self.vip,
            server: self.traffic.server.get(),
            age: self.began.elapsed(),
            bytes_in: self.traffic.bytes_in.get(),
            bytes_out: self.traffic.bytes_out.get(),
            hinted: matches!(self.stamping.get(), Stamping::Done(_)),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.live.borrow_mut().remove(&self.key);
    }
}

/// All clients of a worker, and what they share.
pub(crate) struct Clients {
    /// In the order in which they came.
    live: RefCell<BTreeMap<u64, Weak<Client>>>,
    next_key: Cell<u64>,
    renewal: HintRenewal,
    warned: Warned,
    pub idle: Idle,
}

impl Clients {
    pub(crate) fn new(renewal: HintRenewal) -> Self {
        Self {
            live: RefCell::default(),
            next_key: Cell::default(),
            renewal,
            warned: Warned::default(),
            idle: Idle::default(),
        }
    }

    fn next_key(&self) -> u64 {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        key
    }

    fn add(&self, client: &Rc<Client>) {
        let weak = Rc::downgrade(client);
        self.live.borrow_mut().insert(client.key, weak);
    }

    /// Those that are wanted, in the order in which they came, `most` at most.
    pub(crate) fn flows(&self, wanted: &WantedFlow, most: usize) -> OpenFlows {
        let mut found = OpenFlows::default();
        let live = self.live.borrow();
        for client in live.values().filter_map(Weak::upgrade) {
            let (vs, peer, vip) = (&client.service.uuid, client.peer, client.vip);
            if wanted(vs, Protocol::Tcp, peer, vip) {
                found.add(most, || client.flow());
            }
        }
        found
    }

    /// Some of them, the first with this key or a later one.
    fn some_from(&self, key: u64) -> Vec<Rc<Client>> {
        let live = self.live.borrow();
        let clients = live.range(key..).filter_map(|(_, client)| client.upgrade());
        clients.take(SWEPT_AT_ONCE).collect()
    }

    /// Looks at all of them; connections may come and go meanwhile.
    async fn renew(&self) {
        let mut next = 0;
        loop {
            let clients = self.some_from(next);
            clients.iter().for_each(|client| client.stamp());
            let Some(last) = clients.last() else { return };
            next = last.key + 1;
            drop(clients);
            tokio::task::yield_now().await;
        }
    }
}

/// Renews stamps for as long as the worker serves. Nothing is lost when it is dropped at an await: a client is stamped
/// between two of them.
pub(crate) async fn sweep(clients: Rc<Clients>) {
    loop {
        tokio::time::sleep(clients.renewal.sweep_every).await;
        clients.renew().await;
    }
}
