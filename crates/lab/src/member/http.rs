//! `lab member http`: a server of large bodies of known content, and what its clients have to know of it.
//!
//! `GET /SEED/BYTES` answers with so many bytes that follow from the seed. The client makes the same bytes and compares:
//! one that is wrong, missing or of another download is noticed where it stands. `PUT /BYTES` takes so many bytes, and
//! answers twice: with 100 before the first byte, so that the client knows which SE the server sees, and with 200 and the
//! checksum of what came after the last one. One task per connection, ended by it.

use anyhow::{Context, Result};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Pause after a failed accept (no file descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest head of a request or an answer; ours are a tenth of it.
const HEAD_LEN_MAX: usize = 2048;
/// Bytes made and written at a time.
const CHUNK_LEN: usize = 64 << 10;
/// The header in which the server says whom it sees: the SE.
const SEEN: &str = "X-Seen";
/// The header with the checksum of an upload.
const CHECKSUM: &str = "X-Checksum";

/// Arguments of `lab member http`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port to listen on.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is killed.
pub(super) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let address = args.listen;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await;
        serve(listener.with_context(|| format!("listen on {address}"))?).await
    })
}

pub(super) async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Nobody waits for it: it ends with its connection, and all end with the process.
                tokio::spawn(async move { answer(stream, peer).await.ok() });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn answer(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let seen = peer.ip().to_canonical();
    if let Some(length) = offered(&head) {
        return take(stream, seen, length).await;
    }
    let Some((seed, length)) = requested(&head) else {
        let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(refusal.as_bytes()).await;
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{SEEN}: {seen}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut content = Content::new(seed);
    let mut chunk = vec![0; CHUNK_LEN];
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        content.fill(&mut chunk[..part]);
        stream.write_all(&chunk[..part]).await?;
        left -= part as u64;
    }
    stream.shutdown().await
}

/// Takes an upload, and says what came of it.
async fn take(mut stream: TcpStream, seen: IpAddr, length: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 100 Continue\r\n{SEEN}: {seen}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut checksum = Checksum::new();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        let count = stream.read(&mut chunk[..most]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        checksum.add(&chunk[..count]);
        left -= count as u64;
    }
    let checksum = checksum.value();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{CHECKSUM}: {checksum:016x}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await
}

/// What a client writes before an upload of so many bytes.
pub(super) fn offer(length: u64) -> String {
    format!(
        "PUT /{length} HTTP/1.1\r\nHost: lab\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
}

/// Length in the first line of an upload.
fn offered(head: &str) -> Option<u64> {
    let path = head.strip_prefix("PUT /")?.split(' ').next()?;
    path.parse().ok()
}

/// What the server says before an upload: whom it sees. Nothing, unless it wants the bytes.
pub(super) fn invited(head: &str) -> Option<&str> {
    head.starts_with("HTTP/1.1 100 ")
        .then(|| header(head, SEEN))?
}

/// What the server says after an upload: the checksum of what came.
pub(super) fn confirmed(head: &str) -> Option<u64> {
    let said = head
        .starts_with("HTTP/1.1 200 ")
        .then(|| header(head, CHECKSUM))?;
    u64::from_str_radix(said?, 16).ok()
}

fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let headers = head.lines().skip(1).filter_map(|l| l.split_once(": "));
    let mut found = headers.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.next().map(|(_, value)| value)
}

/// FNV-1a, 64 bits.
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn value(&self) -> u64 {
        self.0
    }
}

/// What a client writes for so many bytes from a seed.
pub(super) fn request(seed: u64, length: u64) -> String {
    format!("GET /{seed}/{length} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
}

/// Seed and length in a request's first line.
fn requested(head: &str) -> Option<(u64, u64)> {
    let path = head.strip_prefix("GET /")?.split(' ').next()?;
    let (seed, length) = path.split_once('/')?;
    Some((seed.parse().ok()?, length.parse().ok()?))
}

/// Head of a request or an answer, byte by byte: what follows it belongs to somebody else.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Bytes of the body.
    pub(super) length: u64,
    /// Whom the server sees, as it writes it.
    pub(super) seen: String,
}

impl Answer {
    /// Nothing, unless it is one that brings a body.
    pub(super) fn parse(head: &str) -> Option<Self> {
        let ok = head.lines().next()?.split(' ').nth(1) == Some("200");
        let length = header(head, "Content-Length")?.parse().ok()?;
        let seen = header(head, SEEN)?.to_owned();
        ok.then_some(Self { length, seen })
    }
}

/// The bytes that follow from a seed: xorshift64, a word at a time, whatever the pieces they are asked for in.
pub(super) struct Content {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Content {
    pub(super) fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self {
            state,
            word: [0; 8],
            used: 8,
        }
    }

    /// The next bytes.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.word.len() {
                self.advance();
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    fn advance(&mut self) {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.word = self.state.to_be_bytes();
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(seed: u64, pieces: &[usize]) -> Vec<u8> {
        let mut content = Content::new(seed);
        let mut all = Vec::new();
        for piece in pieces {
            let mut bytes = vec![0; *piece];
            content.fill(&mut bytes);
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn content_follows_from_the_seed_and_not_from_the_pieces() {
        assert_eq!(content(7, &[100]), content(7, &[1, 9, 50, 40]));
        assert_ne!(content(7, &[100]), content(8, &[100]));
        let of_one = content(7, &[100]);
        assert_ne!(of_one[..8], of_one[8..16], "a shifted body is noticed");
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        assert_eq!(requested(&request(7, 4096)), Some((7, 4096)));
        assert_eq!(requested("GET /7 HTTP/1.1\r\n\r\n"), None);
        assert_eq!(requested("POST /7/1 HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn an_upload_is_offered_invited_and_confirmed_in_words_of_their_own() {
        assert_eq!(offered(&offer(4096)), Some(4096));
        assert_eq!(offered(&request(7, 4096)), None);
        let invitation = "HTTP/1.1 100 Continue\r\nX-Seen: 10.20.20.11\r\n\r\n";
        assert_eq!(invited(invitation), Some("10.20.20.11"));
        let end = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Checksum: 00000000000000ff\r\n\r\n";
        assert_eq!(confirmed(end), Some(255));
        let refusal = end.replace("200 OK", "400 Bad Request");
        assert_eq!((invited(end), confirmed(&refusal)), (None, None));
    }

    #[test]
    fn a_checksum_is_of_the_bytes_and_their_order_and_not_of_the_pieces() {
        let of = |pieces: &[&[u8]]| {
            let mut checksum = Checksum::new();
            pieces.iter().for_each(|p| checksum.add(p));
            checksum.value()
        };
        assert_eq!(of(&[b"abc"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"abc"]), of(&[b"acb"]));
        assert_ne!(of(&[b"abc"]), of(&[b"ab"]));
    }

    #[test]
    fn only_an_answer_with_a_body_counts() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Seen: 10.20.20.11\r\n\r\n";
        let answer = Answer::parse(ok).unwrap();
        assert_eq!((answer.length, answer.seen.as_str()), (5, "10.20.20.11"));
        assert_eq!(
            Answer::parse(&ok.replace("200 OK", "502 Bad Gateway")),
            None
        );
        assert_eq!(Answer::parse("HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
