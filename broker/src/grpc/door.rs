//! Who may enter the gRPC door: connections are bounded in number, and one that does not begin to speak
//! HTTP/2 is closed (invariant 16).
//!
//! A client over the bound is not just cut off: it is told in HTTP/2 that there are too many, by a task whose
//! time and number are bounded themselves. Must not decide anything about calls.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use highwater_model::limits::{GRPC_GREETING_MAX, GRPC_REFUSAL_MAX, GRPC_REFUSALS_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tonic::transport::server::Connected;

use crate::metrics::RefusedKind;
use crate::net::refusal_log::RefusalLog;
use crate::slot::Slot;

/// Pause after accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What every HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// An empty SETTINGS frame, as a server must begin, then GOAWAY (RFC 9113, 6.5 and 6.8): no stream was begun,
/// ENHANCE_YOUR_CALM, a text. gRPC clients show it as RESOURCE_EXHAUSTED.
const TOO_MANY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections";

/// The listener with its seats.
struct Door {
    node: Slot,
    log: RefusalLog,
    listener: TcpListener,
    seats: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// Connections that have found one of so many seats, without end.
pub fn incoming(
    node: Slot,
    listener: TcpListener,
    seats: usize,
) -> impl Stream<Item = io::Result<Seated>> + Send {
    let seats = Arc::new(Semaphore::new(seats));
    let refusals = Arc::new(Semaphore::new(GRPC_REFUSALS_MAX));
    let door = Door { node, log: RefusalLog::default(), listener, seats, refusals };
    futures::stream::unfold(door, |door| async move {
        let seated = door.admit().await;
        Some((Ok(seated), door))
    })
}

impl Door {
    async fn admit(&self) -> Seated {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!("cannot accept a connection to the gRPC door: {e}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without it small answers wait for the client's delayed acknowledgement; a failure costs only
            // that.
            let _ = stream.set_nodelay(true);
            match self.seats.clone().try_acquire_owned() {
                Ok(seat) => return Seated::new(stream, seat, GRPC_GREETING_MAX),
                Err(_) => self.refuse(stream, peer),
            }
        }
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr) {
        if let Some(node) = self.node.get() {
            node.metrics.refused(RefusedKind::Connection);
        }
        self.log.closed(peer.ip(), &"too many connections to the gRPC door");
        // In a flood most are closed without a word.
        if let Ok(turn) = self.refusals.clone().try_acquire_owned() {
            tokio::spawn(async move {
                let _ = timeout(GRPC_REFUSAL_MAX, farewell(stream)).await;
                drop(turn);
            });
        }
    }
}

/// Says why, and reads what the client has sent until it goes: closing before that would reset the
/// connection, and the client might never read the reason.
async fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(TOO_MANY).await?;
    stream.shutdown().await?;
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// A connection with a seat, which is free again when it is dropped.
pub struct Seated {
    stream: TcpStream,
    /// Until when how many bytes must have come; none once they have.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
    _seat: OwnedSemaphorePermit,
}

impl Seated {
    fn new(stream: TcpStream, seat: OwnedSemaphorePermit, wait: Duration) -> Seated {
        let greeting = Some((Box::pin(sleep(wait)), PREFACE_BYTES));
        Seated { stream, greeting, _seat: seat }
    }
}

impl Connected for Seated {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some((until, missing)) = &mut self.greeting {
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                self.greeting = None;
            } else if polled.is_pending() && until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Seated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::service::Routes;
    use tonic::transport::{Channel, Server};

    use super::*;
    use crate::grpc::proto::TierStatusRequest;
    use crate::grpc::proto::admin_client::AdminClient;

    /// However slow the machine is.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_says_nothing_loses_the_seat_and_who_greets_keeps_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("bound");
        let seats = Arc::new(Semaphore::new(2));
        let wait = Duration::from_secs(1);
        let seated = async || {
            let client = TcpStream::connect(address).await.expect("connected");
            let (stream, _) = listener.accept().await.expect("accepted");
            (client, Seated::new(stream, seats.clone().try_acquire_owned().expect("a seat"), wait))
        };
        let (mut talker, mut heard) = seated().await;
        let (_mute, mut silent) = seated().await;
        talker.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        let mut greeting = [0; PREFACE_BYTES];
        heard.read_exact(&mut greeting).await.expect("in time");
        let late = silent.read(&mut greeting).await.expect_err("nothing comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(silent);
        assert_eq!(seats.available_permits(), 1);
        // Later silence is the business of HTTP/2's own pings.
        let quiet = timeout(2 * wait, heard.read(&mut greeting)).await;
        assert!(quiet.is_err(), "still open: {quiet:?}");
    }

    /// A door of three seats, on which there is no service: who is let in is told that.
    #[tokio::test]
    async fn who_finds_no_seat_is_told_so_until_one_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("bound");
        let server = Server::builder().add_routes(Routes::default());
        let serving = tokio::spawn(server.serve_with_incoming(incoming(Slot::default(), listener, 3)));
        let ask = async |admin: &mut AdminClient<Channel>| {
            admin.tier_status(TierStatusRequest {}).await.expect_err("no service").code()
        };
        let admin = || AdminClient::connect(format!("http://{address}"));
        let mut early = admin().await.expect("connected");
        assert_eq!(ask(&mut early).await, Code::Unimplemented);
        // The others greet and then say nothing.
        let mut others = Vec::new();
        for _ in 0..2 {
            let mut other = TcpStream::connect(address).await.expect("connected");
            other.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
            other.read_exact(&mut [0; 9]).await.expect("a seat");
            others.push(other);
        }
        let mut late = TcpStream::connect(address).await.expect("connected");
        late.write_all(b"PRI * HTTP/2.0\r\n").await.expect("sent");
        let mut told = Vec::new();
        let read = timeout(PATIENCE, late.read_to_end(&mut told)).await.expect("in time");
        assert_eq!((read.expect("not reset"), told.as_slice()), (TOO_MANY.len(), TOO_MANY));
        let mut refused = admin().await.expect("the reason comes with the call");
        assert_eq!(ask(&mut refused).await, Code::ResourceExhausted);
        assert_eq!(ask(&mut early).await, Code::Unimplemented, "who is in stays in");
        drop(others.pop());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while ask(&mut admin().await.expect("connected")).await != Code::Unimplemented {
            assert!(tokio::time::Instant::now() < deadline, "a seat is free");
        }
        serving.abort();
    }

    #[test]
    fn the_refusal_is_as_long_as_its_frames_say() {
        let goaway = &TOO_MANY[9..];
        assert_eq!(usize::from(goaway[2]), goaway.len() - 9);
        assert_eq!(goaway[17..], *b"too many connections");
    }
}
