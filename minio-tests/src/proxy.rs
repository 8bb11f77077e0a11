//! The fault proxy: HTTP/1.1 between the broker and its bucket, with the bucket's bad days on demand.
//!
//! Owns a listener and one task per connection; requests pass through byte for byte (signatures stay valid).
//! Faults are switched while traffic flows: latency, bandwidth, a share of 503 answers, answers lost after
//! the store has acted, and a store that is away (every connection is cut). Counts what it saw by method.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const HEAD_BYTES_MAX: usize = 64 * 1024;
const CHUNK_BYTES: usize = 16 * 1024;
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code>\
    <Message>Please reduce your request rate.</Message><RequestId>0</RequestId></Error>";

/// What is wrong with the store; all zero: nothing.
#[derive(Debug, Default)]
struct Faults {
    /// Before each answer.
    latency_ms: AtomicU64,
    /// Of each connection, each way; 0: no limit.
    bytes_per_second: AtomicU64,
    /// Of 1,000 requests, how many get 503 and never reach the store.
    refused_per_mille: AtomicU64,
    /// Of 1,000 PUTs, how many the store carries out and the broker never hears of.
    lost_answers_per_mille: AtomicU64,
    away: AtomicBool,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Faults,
    /// "PUT", "GET", "LIST" (a GET that lists), ...; and "503", "lost", "cut" for what was done to them.
    seen: Mutex<BTreeMap<String, u64>>,
    /// Deterministic choice of victims.
    turn: AtomicU64,
}

impl Shared {
    fn count(&self, what: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *seen.entry(what.to_owned()).or_default() += 1;
    }

    /// Spreads `per_mille` victims evenly over the requests.
    fn strikes(&self, per_mille: u64) -> bool {
        let n = self.turn.fetch_add(1, Ordering::Relaxed);
        (n * 619) % 1000 < per_mille
    }
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    _runtime: Runtime,
}

impl Proxy {
    /// Listens on a free loopback port and passes everything on to `upstream` (HOST:PORT).
    pub fn start(upstream: String) -> Proxy {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("the loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared::default());
        runtime.spawn(accept(listener, upstream, shared.clone()));
        Proxy { shared, port, _runtime: runtime }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.slow(0, 0);
        self.refuse(0);
        self.lose_answers(0);
        self.away(false);
    }

    pub fn slow(&self, latency_ms: u64, bytes_per_second: u64) {
        self.shared.faults.latency_ms.store(latency_ms, Ordering::Relaxed);
        self.shared.faults.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    pub fn refuse(&self, per_mille: u64) {
        self.shared.faults.refused_per_mille.store(per_mille, Ordering::Relaxed);
    }

    pub fn lose_answers(&self, per_mille: u64) {
        self.shared.faults.lost_answers_per_mille.store(per_mille, Ordering::Relaxed);
    }

    pub fn away(&self, away: bool) {
        self.shared.faults.away.store(away, Ordering::Relaxed);
    }

    /// How often something was seen or done: a method, "503", "lost" or "cut".
    pub fn count(&self, what: &str) -> u64 {
        let seen = self.shared.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.get(what).copied().unwrap_or(0)
    }
}

async fn accept(listener: TcpListener, upstream: String, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.faults.away.load(Ordering::Relaxed) {
            shared.count("cut");
            continue; // dropping it closes it
        }
        let (upstream, shared) = (upstream.clone(), shared.clone());
        tokio::spawn(async move {
            let watch = shared.clone();
            let gone = async {
                while !watch.faults.away.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                _ = serve(client, &upstream, &shared) => {}
                () = gone => shared.count("cut"),
            }
        });
    }
}

/// Every request of one connection, until either side ends it.
async fn serve(client: TcpStream, upstream: &str, shared: &Shared) -> io::Result<()> {
    let store = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    store.set_nodelay(true)?;
    let (client_in, mut client_out) = client.into_split();
    let (store_in, mut store_out) = store.into_split();
    let (mut client_in, mut store_in) = (BufReader::new(client_in), BufReader::new(store_in));
    loop {
        let Some(head) = read_head(&mut client_in).await? else { return Ok(()) };
        let method = head.split(|b| *b == b' ').next().map(|m| String::from_utf8_lossy(m).into_owned());
        let method = method.unwrap_or_default();
        let lists = method == "GET" && head.windows(9).any(|bytes| bytes == b"list-type");
        shared.count(if lists { "LIST" } else { &method });
        let body = body_of(&head, false, &method);
        let faults = &shared.faults;
        if shared.strikes(faults.refused_per_mille.load(Ordering::Relaxed)) {
            shared.count("503");
            pass(&mut client_in, &mut tokio::io::sink(), body, faults).await?;
            let length = SLOW_DOWN.len();
            let answer = format!(
                "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n\
                 Content-Length: {length}\r\n\r\n{SLOW_DOWN}"
            );
            let end = if method == "HEAD" { answer.len() - length } else { answer.len() };
            client_out.write_all(&answer.as_bytes()[..end]).await?;
            continue;
        }
        store_out.write_all(&head).await?;
        pass(&mut client_in, &mut store_out, body, faults).await?;
        let Some(mut answer) = read_head(&mut store_in).await? else { return Ok(()) };
        while answer.starts_with(b"HTTP/1.1 100") {
            client_out.write_all(&answer).await?;
            let Some(next) = read_head(&mut store_in).await? else { return Ok(()) };
            answer = next;
        }
        if method == "PUT" && shared.strikes(faults.lost_answers_per_mille.load(Ordering::Relaxed)) {
            shared.count("lost");
            return Ok(());
        }
        let latency = faults.latency_ms.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        let body = body_of(&answer, true, &method);
        client_out.write_all(&answer).await?;
        pass(&mut store_in, &mut client_out, body, faults).await?;
    }
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Sized(u64),
    Chunked,
}

async fn read_head(source: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match source.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && head.is_empty() => return Ok(None),
            Err(e) => return Err(e),
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("the head is too long"));
        }
    }
    Ok(Some(head))
}

fn body_of(head: &[u8], is_answer: bool, method: &str) -> Body {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = text.split(' ').nth(1).unwrap_or_default();
    if is_answer && (method == "HEAD" || status == "204" || status == "304") {
        return Body::Sized(0);
    }
    if text.contains("\r\ntransfer-encoding: chunked") {
        return Body::Chunked;
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Body::Sized(length.and_then(|n| n.trim().parse().ok()).unwrap_or(0))
}

/// Passes a body on, at the speed that the faults allow.
async fn pass(
    source: &mut (impl AsyncReadExt + Unpin),
    sink: &mut (impl AsyncWriteExt + Unpin),
    body: Body,
    faults: &Faults,
) -> io::Result<()> {
    match body {
        Body::Sized(length) => pass_sized(source, sink, length, faults).await,
        Body::Chunked => loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") && line.len() < 1024 {
                line.push(source.read_u8().await?);
            }
            sink.write_all(&line).await?;
            let size = String::from_utf8_lossy(&line);
            let size = size.trim().split(';').next().unwrap_or_default().to_owned();
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            pass_sized(source, sink, size + 2, faults).await?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}

async fn pass_sized(
    source: &mut (impl AsyncReadExt + Unpin),
    sink: &mut (impl AsyncWriteExt + Unpin),
    mut left: u64,
    faults: &Faults,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = source.read(&mut buffer[..want]).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sink.write_all(&buffer[..got]).await?;
        left -= got as u64;
        let speed = faults.bytes_per_second.load(Ordering::Relaxed);
        if let Some(micros) = (got as u64 * 1_000_000).checked_div(speed) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
    sink.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_measured_as_http_says() {
        let head = |text: &str| text.replace('\n', "\r\n").into_bytes();
        let put = head("PUT /a HTTP/1.1\nContent-Length: 17\n\n");
        assert_eq!(body_of(&put, false, "PUT"), Body::Sized(17));
        let get = head("GET /a HTTP/1.1\nHost: x\n\n");
        assert_eq!(body_of(&get, false, "GET"), Body::Sized(0));
        let answer = head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n");
        assert_eq!(body_of(&answer, true, "GET"), Body::Chunked);
        let sized = head("HTTP/1.1 200 OK\ncontent-length: 5\n\n");
        assert_eq!(body_of(&sized, true, "HEAD"), Body::Sized(0));
    }

    #[test]
    fn victims_are_spread_evenly() {
        let shared = Shared::default();
        let struck = (0..10_000).filter(|_| shared.strikes(300)).count();
        assert_eq!(struck, 3_000);
        assert!(!(0..1_000).any(|_| shared.strikes(0)));
    }
}
