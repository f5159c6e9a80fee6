//! The byte pump of connections that are more than two sockets: TLS at an end, or bytes that HTTP has read already. What
//! is only passed on between sockets goes through `tunnel`, which keeps no buffer for an idle connection.

use crate::shared::{Retired, Service};
use crate::stream::Stream;
use crate::tunnel::{self, Activity};
use crate::weight::Turn;
use bytes::Bytes;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;

/// What is read at once: a TLS record.
const BUFFER_LEN: usize = 16 * 1024;

/// An end, and what has been read of it already.
pub(crate) struct Side<'a> {
    pub stream: Stream,
    pub read: Bytes,
    pub tcp: &'a TcpStream,
}

/// Pumps until both directions have ended, one has failed, nothing passed for the idle timeout, or the connections of the
/// virtual service or of the server are cut. Both ends share the activity.
pub(crate) async fn run(
    mut client: Side<'_>,
    mut server: Side<'_>,
    activity: Rc<Activity>,
    service: &Service,
    retired: &Retired,
) {
    let ends = [client.tcp, server.tcp];
    let pumps = async {
        server.stream.write_all(&client.read).await?;
        client.stream.write_all(&server.read).await?;
        let (from_client, to_client) = split(client.stream);
        let (from_server, to_server) = split(server.stream);
        let up = pump(from_client, to_server, service);
        let down = pump(from_server, to_client, service);
        tokio::try_join!(up, down).map(drop)
    };
    // Turns say how long it may go on, and tokio's budget would cut the longer ones short.
    let pumps = unconstrained(pumps);
    let ended = tokio::select! {
        result = pumps => result,
        () = tunnel::idle_for_good(service, &activity, ends) => Err(io::ErrorKind::TimedOut.into()),
        () = service.cut.given() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = retired.given() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if ended.is_err() {
        ends.into_iter().for_each(tunnel::reset);
    }
}

/// One direction, until its end. Many do not say by TLS that they end (RFC 8446 section 6.1), and close; whether all has come they
/// tell each other above it.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    service: &Service,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut turn = Turn::begin(service.weight());
    loop {
        if turn.is_over() {
            tokio::task::yield_now().await;
            turn = Turn::begin(service.weight());
        }
        let bytes = match from.read(&mut buffer).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if bytes == 0 {
            return to.shutdown().await;
        }
        turn.pass(bytes as u64);
        to.write_all(&buffer[..bytes]).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Shared;
    use crate::tests::Fixture;
    use crate::{VirtualServiceSpec, Weight};
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::repeat;

    /// Takes everything at once, until so much has come to all of them.
    struct Sink<'a> {
        own: &'a Cell<u64>,
        left: &'a Cell<u64>,
    }

    impl AsyncWrite for Sink<'_> {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let len = bytes.len() as u64;
            let Some(left) = self.left.get().checked_sub(len) else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            self.left.set(left);
            self.own.set(self.own.get() + len);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn turns_above_tls_are_as_long_as_the_weights_say() {
        let spec = Fixture::new(&[]).await.spec;
        let shared = Shared::default();
        let service = |uuid: &str, weight| {
            shared.set(&VirtualServiceSpec {
                uuid: uuid.into(),
                weight: Weight::nearest(weight),
                ..spec.clone()
            });
            shared.get(uuid).expect("set")
        };
        let (light, heavy) = (service("light", 1), service("heavy", 8));
        let left = Cell::new(64 << 20);
        let (of_light, of_heavy) = (Cell::new(0), Cell::new(0));
        let sink = |own| Sink { own, left: &left };
        let pumps = async {
            tokio::join!(
                pump(repeat(0), sink(&of_light), &light),
                pump(repeat(0), sink(&of_heavy), &heavy),
            )
        };
        let ends = unconstrained(pumps).await;
        assert!(ends.0.is_err() && ends.1.is_err(), "{ends:?}");
        let (light, heavy) = (of_light.get(), of_heavy.get());
        // The last turn may be cut short.
        let turn = 8 * 64 * 1024;
        assert!(heavy.abs_diff(8 * light) <= turn, "{light} and {heavy}");
        assert!(light > turn, "{light}");
    }
}
