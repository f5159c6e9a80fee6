//! `lab member echo`: one task per connection, each ended by its client, and one for all datagrams.

use super::frame::Frame;
use anyhow::{Context, Result};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Pause after a failed accept (no file descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted (the kernel caps it at net.core.somaxconn): more than a client opens at once.
/// Where they found no room, the kernel would answer with SYN cookies and drop what completes the handshake, and a proxy
/// would wait for the banner of a connection that the server has never heard of.
const BACKLOG: u32 = 4096;

/// Longest datagram that is answered; the clients' have 84 bytes.
const DATAGRAM_LEN_MAX: usize = 2048;

/// Arguments of `lab member echo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name that it introduces itself with.
    #[arg(long)]
    name: String,
    /// Address and port to listen on, for TCP and UDP.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is killed.
pub(super) fn run(args: Args) -> Result<()> {
    super::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let listener = listen(args.listen).with_context(|| format!("listen on {}", args.listen))?;
    let datagrams = UdpSocket::bind(args.listen)
        .await
        .with_context(|| format!("bind UDP {}", args.listen))?;
    // Ends with the process.
    tokio::spawn(answer(datagrams, args.name.clone()));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let banner = format!("{} {}\n", args.name, peer.ip());
                // Nobody waits for it: it ends with its connection, and all end with the process.
                tokio::spawn(async move { converse(stream, &banner).await.ok() });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A datagram comes back behind a line that says who answers, and which socket it sees: it tells who serves the flow.
async fn answer(socket: UdpSocket, name: String) {
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    loop {
        // An error is about an earlier answer that nobody took.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let line = format!("{name} {peer}\n");
            let answer = [line.as_bytes(), &buffer[..length]].concat();
            socket.send_to(&answer, peer).await.ok();
        }
    }
}

/// A frame that arrives damaged ends the connection; the client counts it.
async fn converse(mut stream: TcpStream, banner: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(banner.as_bytes()).await?;
    while let Some(frame) = Frame::read(&mut stream).await? {
        stream.write_all(frame.bytes()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundreds_of_connections_wait_for_a_busy_server() {
        super::super::raise_descriptors();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_secs(20);
        // Nobody accepts: the last ones would be dropped, again and again.
        let connect = |_| std::net::TcpStream::connect_timeout(&address, patience).unwrap();
        let waiting: Vec<_> = (0..500).map(connect).collect();
        assert_eq!(waiting.len(), 500);
    }
}
