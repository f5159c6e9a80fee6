//! Connections that are idle and are not ended: the kernel asks both ends whether they are there (TCP keepalive, RFC 9293
//! section 3.8.4), and ends the connection when one is not. Nothing is set while a connection is in use.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// Between two questions that are not answered.
const INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer until the end is taken for gone: a minute, which networks take to heal.
const QUESTIONS: u32 = 4;
/// The kernel counts in seconds.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// From now on, when nothing has passed for `idle`: at once, where that is so already.
pub(crate) fn begin(ends: [&TcpStream; 2], idle: Duration) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(idle.max(IDLE_MIN))
        .with_interval(INTERVAL)
        .with_retries(QUESTIONS);
    ends.into_iter()
        .try_for_each(|end| SockRef::from(end).set_tcp_keepalive(&keepalive))
}
