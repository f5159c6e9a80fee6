//! The byte pump of connections that are more than two sockets: TLS at an end, or bytes that HTTP has read already. What
//! is only passed on between sockets goes through `tunnel`, which keeps no buffer for an idle connection.

use crate::shared::{Retired, Service};
use crate::stream::Stream;
use crate::tunnel::{self, Activity};
use bytes::Bytes;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

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
        let (client, server) = (&mut client.stream, &mut server.stream);
        copy_bidirectional_with_sizes(client, server, BUFFER_LEN, BUFFER_LEN).await
    };
    let ended = tokio::select! {
        result = pumps => result.map(drop),
        () = tunnel::idle_for_good(service, &activity, ends) => Err(io::ErrorKind::TimedOut.into()),
        () = service.cut.given() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = retired.given() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if ended.is_err() {
        ends.into_iter().for_each(tunnel::reset);
    }
}
