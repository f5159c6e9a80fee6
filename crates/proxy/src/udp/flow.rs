//! One flow: a client, a server, and what passes between them.

use super::{Flows, Refusal, read, ready};
use crate::OpenFlow;
use crate::connection::Open;
use crate::shared::{Counted, Meter, Service};
use crate::source;
use crate::tunnel::{Activity, Count, idle};
use socket2::{SockRef, Socket};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// Distinct servers tried before a datagram is dropped.
const SERVERS_TRIED_MAX: usize = 3;

/// See the module's documentation.
pub(super) struct Flow {
    vip: SocketAddr,
    client: SocketAddr,
    /// Bound to the VIP and connected to the client.
    socket: UdpSocket,
    server: RefCell<Rc<Server>>,
    /// `server` is another one, or there is none any more.
    changed: Notify,
    ended: Cell<bool>,
    /// State of the pool that the choice of the server rests on.
    pool_seen: Cell<u64>,
    activity: Activity,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    began: Instant,
    open: Open,
    _place: Place,
    flows: Rc<Flows>,
}

/// The server of a flow, counted as used.
struct Server {
    socket: UdpSocket,
    addr: SocketAddr,
    counted: Counted,
    meter: Meter,
}

/// One of the flows that a virtual service may have.
struct Place(Arc<Service>);

impl Place {
    fn take(service: &Arc<Service>) -> Result<Self, Refusal> {
        let most = service.udp_flows_max();
        let one_more = |flows| (flows < most).then_some(flows + 1);
        let flows = &service.counters.udp.flows;
        match flows.fetch_update(Relaxed, Relaxed, one_more) {
            Ok(_) => Ok(Self(service.clone())),
            Err(_) => Err(Refusal::Full(most)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counters.udp.flows.fetch_sub(1, Relaxed);
    }
}

impl Flow {
    /// A flow with a server. `socket` is bound to the VIP; it is the client's when this returns.
    pub(super) fn begin(
        flows: &Rc<Flows>,
        service: &Arc<Service>,
        (vip, client): (SocketAddr, SocketAddr),
        socket: impl FnOnce() -> io::Result<Socket>,
    ) -> Result<Self, Refusal> {
        let place = Place::take(service)?;
        let pool_seen = Cell::new(service.pool_state());
        let server = connect(service, [client, vip], &mut Vec::new()).ok_or(Refusal::NoServer)?;
        Ok(Self {
            vip,
            client,
            socket: to_client(socket()?, client)?,
            server: RefCell::new(Rc::new(server)),
            changed: Notify::new(),
            ended: Cell::new(false),
            pool_seen,
            activity: Activity::begin(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            began: Instant::now(),
            open: Open::new(service.clone()),
            _place: place,
            flows: flows.clone(),
        })
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.open.service
    }

    /// The client and the VIP.
    fn ends(&self) -> [SocketAddr; 2] {
        [self.client, self.vip]
    }

    /// As of now.
    pub(super) fn seen(&self) -> OpenFlow {
        OpenFlow {
            vs_uuid: self.service().uuid.clone(),
            protocol: crate::Protocol::Udp,
            client: self.client,
            vip: self.vip,
            server: Some(self.server.borrow().addr),
            age: self.began.elapsed(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            hinted: false,
        }
    }

    /// Passes datagrams on until the flow ends.
    pub(super) async fn run(self: Rc<Self>) {
        let service = self.service();
        tokio::select! {
            () = self.pass_up() => {}
            () = self.pass_down() => {}
            () = idle(service.udp_idle_timeout(), &self.activity) => {}
            () = service.cut.given() => {}
        }
    }

    /// Ends when the client's port is gone.
    async fn pass_up(&self) {
        while let Ok(ready) = ready(&self.socket).await {
            let result = read(&self.socket, ready, |sender, bytes| {
                self.from(sender, bytes)
            });
            if result.is_err_and(|error| is_gone(&error)) {
                return;
            }
        }
    }

    /// Ends when there is no server any more, it is out of use, or an answer has found the client's port gone.
    async fn pass_down(&self) {
        while !self.ended.get() {
            let server = self.server.borrow().clone();
            tokio::select! {
                () = self.pass_down_from(&server) => {}
                () = self.changed.notified() => {}
                () = server.counted.retired() => self.ended.set(true),
            }
        }
    }

    /// Ends when the server is left for having refused something.
    async fn pass_down_from(&self, server: &Server) {
        loop {
            let waited = ready(&server.socket).await;
            let take = |_, bytes: &[u8]| {
                let received = server.meter.received();
                received.fetch_add(bytes.len() as u64, Relaxed);
                self.to_client(bytes);
            };
            let result = waited.and_then(|ready| read(&server.socket, ready, take));
            if result.is_err_and(|error| is_gone(&error)) {
                return self.leave(server.addr);
            }
        }
    }

    /// A datagram that this flow's socket has taken; before it was connected, perhaps another client's.
    fn from(&self, sender: SocketAddr, bytes: &[u8]) {
        if sender == self.client {
            return self.to_server(bytes);
        }
        let service = self.service();
        service.counters.udp.dispatched_again.fetch_add(1, Relaxed);
        self.flows.dispatch(service, self.vip, sender, bytes);
    }

    /// To the server; to another one, if that has gone.
    pub(super) fn to_server(&self, bytes: &[u8]) {
        self.activity.touch();
        self.look_at_pool();
        let mut tried = Vec::new();
        loop {
            let server = self.server.borrow().clone();
            match send(&server.socket, bytes) {
                Ok(()) => {
                    let all = &self.service().counters.bytes_in;
                    let count = Count(all, &self.bytes_in, Some(server.meter.sent()));
                    return count.add(bytes.len() as u64);
                }
                Err(error) if is_gone(&error) => {
                    tried.push(server.addr);
                    if !self.change_server(&mut tried) {
                        return self.drop_datagram();
                    }
                }
                Err(_) => return self.drop_datagram(),
            }
        }
    }

    /// The client hears from the VIP, because the socket is bound to it.
    fn to_client(&self, bytes: &[u8]) {
        self.activity.touch();
        match send(&self.socket, bytes) {
            Ok(()) => {
                let all = &self.service().counters.bytes_out;
                Count(all, &self.bytes_out, None).add(bytes.len() as u64);
            }
            Err(error) => {
                self.drop_datagram();
                if is_gone(&error) {
                    self.end();
                }
            }
        }
    }

    fn drop_datagram(&self) {
        let counters = &self.service().counters;
        counters.udp.dropped.fetch_add(1, Relaxed);
    }

    /// A server that is down or not in the pool any more is left, if there is another one.
    fn look_at_pool(&self) {
        let state = self.service().pool_state();
        if self.pool_seen.replace(state) == state {
            return;
        }
        let addr = self.server.borrow().addr;
        if !self.service().is_up(addr, self.vip)
            && let Some(server) = connect(self.service(), self.ends(), &mut vec![addr])
        {
            self.replace(server);
        }
    }

    /// The server has refused a datagram.
    fn leave(&self, addr: SocketAddr) {
        self.change_server(&mut vec![addr]);
    }

    /// A server that has not been tried, or the end of the flow.
    fn change_server(&self, tried: &mut Vec<SocketAddr>) -> bool {
        let next = connect(self.service(), self.ends(), tried);
        let found = next.is_some();
        match next {
            Some(server) => self.replace(server),
            None => self.end(),
        }
        found
    }

    fn end(&self) {
        self.ended.set(true);
        self.changed.notify_one();
    }

    fn replace(&self, server: Server) {
        let counters = &self.service().counters;
        counters.udp.moved.fetch_add(1, Relaxed);
        *self.server.borrow_mut() = Rc::new(server);
        self.changed.notify_one();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let key = (self.vip, self.client);
        self.flows.live.borrow_mut().remove(&key);
    }
}

fn to_client(socket: Socket, client: SocketAddr) -> io::Result<UdpSocket> {
    socket.connect(&client.into())?;
    UdpSocket::from_std(socket.into())
}

/// The first server that there is a way to.
fn connect(
    service: &Service,
    ends: [SocketAddr; 2],
    tried: &mut Vec<SocketAddr>,
) -> Option<Server> {
    while tried.len() < SERVERS_TRIED_MAX {
        let (addr, counted) = service.next_server(ends, tried)?;
        match source::udp_socket(service.source(addr, ends[1]), addr) {
            Ok(socket) => {
                let meter = counted.meter();
                return Some(Server {
                    socket,
                    addr,
                    counted,
                    meter,
                });
            }
            Err(error) => tracing::debug!(server = %addr, %error, "no socket to a server"),
        }
        tried.push(addr);
    }
    None
}

/// Past the runtime, which does not know yet that a new socket can be written to.
fn send(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    SockRef::from(socket).send(bytes).map(drop)
}

/// An ICMP error has come back for what was sent.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}
