//! Both ends of a connection as HTTP and TLS read and write them: what passes is counted and noticed.

use crate::client::Client;
use crate::http::Clock;
use crate::shared::Meter;
use crate::tunnel::{Activity, Count};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Whose connection it is; its bytes are counted.
pub(crate) enum End {
    /// A client's.
    Client(Rc<Client>),
    /// To a server.
    Server(Rc<TcpStream>, Meter),
}

impl End {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Client(client) => &client.stream,
            Self::Server(stream, _) => stream,
        }
    }

    fn has_read(&self, bytes: usize) {
        match self {
            Self::Client(client) => {
                let counters = &client.service.counters;
                let count = Count(&counters.bytes_in, &client.traffic.bytes_in, None);
                count.add(bytes as u64);
            }
            Self::Server(_, meter) => {
                meter.received().fetch_add(bytes as u64, Relaxed);
            }
        }
    }

    fn has_written(&self, bytes: usize) {
        match self {
            Self::Client(client) => {
                let counters = &client.service.counters;
                let count = Count(&counters.bytes_out, &client.traffic.bytes_out, None);
                count.add(bytes as u64);
            }
            Self::Server(_, meter) => {
                meter.sent().fetch_add(bytes as u64, Relaxed);
            }
        }
    }
}

/// A TCP connection that says when something passes, and whether its other end takes what there is for it.
pub(crate) struct Wire {
    end: End,
    activity: Rc<Activity>,
    is_stuck: bool,
}

impl Wire {
    pub(crate) fn new(end: End, activity: Rc<Activity>) -> Self {
        Self {
            end,
            activity,
            is_stuck: false,
        }
    }

    fn set_stuck(&mut self, stuck: bool) {
        if std::mem::replace(&mut self.is_stuck, stuck) != stuck {
            self.activity.set_stuck(stuck);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.set_stuck(false);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.end.tcp().poll_read_ready(context))?;
            match this.end.tcp().try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    this.activity.touch();
                    this.end.has_read(bytes);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let Poll::Ready(writable) = this.end.tcp().poll_write_ready(context) else {
                this.set_stuck(true);
                return Poll::Pending;
            };
            writable?;
            match this.end.tcp().try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(written) => {
                    this.set_stuck(false);
                    this.activity.touch();
                    this.end.has_written(written);
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = socket2::SockRef::from(self.end.tcp());
        let done = socket.shutdown(std::net::Shutdown::Write);
        Poll::Ready(done.or_else(crate::tunnel::already_closed))
    }
}

/// A connection, with or without TLS.
pub(crate) struct Stream {
    layer: Layer,
    /// Is told when something of a request has come.
    clock: Option<Rc<Clock>>,
}

enum Layer {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

impl Layer {
    fn inner(&mut self) -> Pin<&mut dyn Duplex> {
        match self {
            Self::Plain(wire) => Pin::new(wire),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Stream {
    pub(crate) fn plain(wire: Wire) -> Self {
        Self {
            layer: Layer::Plain(wire),
            clock: None,
        }
    }

    pub(crate) fn tls(stream: impl Into<TlsStream<Wire>>) -> Self {
        Self {
            layer: Layer::Tls(Box::new(stream.into())),
            clock: None,
        }
    }

    /// The client's word for whom it wants to meet.
    pub(crate) fn server_name(&self) -> Option<&str> {
        match &self.layer {
            Layer::Tls(stream) => match stream.as_ref() {
                TlsStream::Server(stream) => stream.get_ref().1.server_name(),
                TlsStream::Client(_) => None,
            },
            Layer::Plain(_) => None,
        }
    }

    /// From now on the clock is told of what comes.
    pub(crate) fn tell(&mut self, clock: Rc<Clock>) {
        self.clock = Some(clock);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.layer.inner().poll_read(context, buffer))?;
        if let Some(clock) = self.clock.as_ref()
            && buffer.filled().len() > before
        {
            clock.hear();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.layer.inner().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.layer.inner().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layer {
            Layer::Plain(wire) => wire.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.layer.inner().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.layer.inner().poll_shutdown(context)
    }
}
