//! Uploads: so many are under way at any time, each at an even pace, so that it lasts longer than a change of routes.
//!
//! Here it is the client that has data under way: what a change of routes loses the client has to send again.

use super::super::http::{Checksum, Content, confirmed, invited, offer, read_head};
use super::transfer::{CHUNK_LEN, keep_under_way};
use super::{Books, Failure, Shared, failure_of, within};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Send buffer: with a large one the client would be done with the body before the network is.
const SEND_BUFFER_LEN: u32 = 128 << 10;

/// Starts them; each follows the one before it until the process ends.
pub(super) fn start(books: &Shared) {
    let Some(target) = books.borrow().args.upload_to else {
        return;
    };
    let count = books.borrow().args.uploads;
    keep_under_way(books, count, async move |books, seed| {
        let result = one(books, target, seed).await;
        let succeeded = result.is_ok();
        books.borrow_mut().count_upload(result);
        succeeded
    });
}

/// One upload from connect to the server's checksum.
async fn one(books: &Shared, target: SocketAddr, seed: u64) -> Result<(), Failure> {
    let socket = books.borrow_mut().socket(target);
    let (socket, port) = socket.map_err(|e| failure_of(0, None, &e))?;
    books.borrow_mut().begin_upload(port);
    let patience = books.borrow().patience();
    let outcome = async {
        socket.set_send_buffer_size(SEND_BUFFER_LEN)?;
        let mut stream = within(patience, socket.connect(target)).await?;
        let length = books.borrow().args.upload_bytes;
        let engine = invitation(patience, &mut stream, length).await?;
        books.borrow_mut().uploading.insert(port, engine);
        let checksum = body(books, &mut stream, seed, length).await?;
        confirmation(patience, &mut stream, checksum).await
    };
    let result = outcome.await;
    let engine = books.borrow_mut().uploading.remove(&port).flatten();
    result.map_err(|e| failure_of(port, engine, &e))
}

/// Offers the body; the SE that the server sees.
async fn invitation(
    patience: Duration,
    stream: &mut TcpStream,
    length: u64,
) -> io::Result<Option<IpAddr>> {
    let offer = offer(length);
    within(patience, stream.write_all(offer.as_bytes())).await?;
    let head = within(patience, read_head(stream)).await?;
    let seen = invited(&head).ok_or(io::ErrorKind::InvalidData)?;
    Ok(seen.parse().ok())
}

/// Waits for the server's checksum, which must be ours.
async fn confirmation(patience: Duration, stream: &mut TcpStream, ours: u64) -> io::Result<()> {
    let head = within(patience, read_head(stream)).await?;
    match confirmed(&head) {
        Some(theirs) if theirs == ours => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Writes the body at its pace; its checksum.
async fn body(books: &Shared, stream: &mut TcpStream, seed: u64, length: u64) -> io::Result<u64> {
    let (per_s, patience) = {
        let books = books.borrow();
        (books.args.upload_bytes_per_s, books.patience())
    };
    let began = Instant::now();
    let (mut content, mut checksum) = (Content::new(seed), Checksum::new());
    let mut chunk = vec![0; CHUNK_LEN];
    let mut done = 0;
    while done < length {
        sleep_until(began + Duration::from_secs_f64(done as f64 / per_s as f64)).await;
        let most = usize::try_from(length - done).unwrap_or(CHUNK_LEN);
        let part = &mut chunk[..most.min(CHUNK_LEN)];
        content.fill(part);
        checksum.add(part);
        let asked = Instant::now();
        within(patience, stream.write_all(part)).await?;
        books.borrow_mut().count_gap(asked.elapsed());
        done += part.len() as u64;
    }
    Ok(checksum.value())
}

impl Books {
    fn begin_upload(&mut self, port: u16) {
        self.uploading.insert(port, None);
        self.report.upload_ports.insert(port);
    }

    fn count_upload(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.report.uploads_ok += 1,
            Err(failure) => self.report.uploads_failed.push(failure),
        }
    }
}
