//! Downloads: so many are under way at any time, each at an even pace, so that it lasts longer than a change of routes.

use super::super::http::{Answer, Content, read_head, request};
use super::transfer::{CHUNK_LEN, keep_under_way};
use super::{Books, Failure, Shared, failure_of, within};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Receive buffer: with a large one the whole body would wait at the client, and the network would be done with it.
const RECEIVE_BUFFER_LEN: u32 = 128 << 10;

/// Starts them; each follows the one before it until the process ends.
pub(super) fn start(books: &Shared) {
    let Some(target) = books.borrow().args.download_from else {
        return;
    };
    let count = books.borrow().args.downloads;
    keep_under_way(books, count, async move |books, seed| {
        let result = one(books, target, seed).await;
        let succeeded = result.is_ok();
        books.borrow_mut().count_download(result);
        succeeded
    });
}

/// One download from connect to its last byte.
async fn one(books: &Shared, target: SocketAddr, seed: u64) -> Result<u16, Failure> {
    let socket = books.borrow_mut().socket(target);
    let (socket, port) = socket.map_err(|e| failure_of(0, None, &e))?;
    books.borrow_mut().begin_download(port);
    let patience = books.borrow().patience();
    let outcome = async {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        let mut stream = within(patience, socket.connect(target)).await?;
        let length = books.borrow().args.download_bytes;
        let request = request(seed, length);
        within(patience, stream.write_all(request.as_bytes())).await?;
        let engine = head(patience, &mut stream, length).await?;
        books.borrow_mut().downloading.insert(port, engine);
        body(books, &mut stream, seed, length).await
    };
    let result = outcome.await;
    let engine = books.borrow_mut().downloading.remove(&port).flatten();
    result
        .map(|()| port)
        .map_err(|e| failure_of(port, engine, &e))
}

/// Reads the head; the SE that the server sees.
async fn head(
    patience: Duration,
    stream: &mut TcpStream,
    length: u64,
) -> io::Result<Option<IpAddr>> {
    let head = within(patience, read_head(stream)).await?;
    match Answer::parse(&head) {
        Some(answer) if answer.length == length => Ok(answer.seen.parse().ok()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads the body at its pace and compares it.
async fn body(books: &Shared, stream: &mut TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let (per_s, patience) = {
        let books = books.borrow();
        (books.args.download_bytes_per_s, books.patience())
    };
    let began = Instant::now();
    let mut content = Content::new(seed);
    let (mut read, mut expected) = (vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    let mut done = 0;
    while done < length {
        sleep_until(began + Duration::from_secs_f64(done as f64 / per_s as f64)).await;
        let asked = Instant::now();
        let count = within(patience, stream.read(&mut read)).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        books.borrow_mut().count_gap(asked.elapsed());
        content.fill(&mut expected[..count]);
        if read[..count] != expected[..count] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        done += count as u64;
    }
    Ok(())
}

impl Books {
    fn begin_download(&mut self, port: u16) {
        self.downloading.insert(port, None);
        self.report.download_ports.insert(port);
    }

    fn count_download(&mut self, result: Result<u16, Failure>) {
        match result {
            Ok(_) => self.report.downloads_ok += 1,
            Err(failure) => self.report.downloads_failed.push(failure),
        }
    }
}
