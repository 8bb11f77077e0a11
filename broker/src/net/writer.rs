//! Answers into the socket: gathering writes for memory, sendfile for segments.
//!
//! A client that does not read holds up only its own connection, and that for a limited time. Bytes that are
//! followed by a file slice go out with MSG_MORE, so that an answer does not begin with a packet of its own.

use std::fs::File;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use highwater_model::limits::{
    HELD_MEMORY_BYTES_PER_SECOND_MIN, HELD_MEMORY_STALL_MS_MAX, SENDFILE_BYTES_MAX, WRITE_SLICES_MAX,
};
use highwater_wire::fetch_response::Chunk;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::reply::Reply;

/// How long a client may take over one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteLimits {
    /// Without taking anything.
    pub stall: Duration,
    /// Over the whole of it.
    pub whole: Option<Duration>,
}

impl WriteLimits {
    /// `idle` for an answer that costs only its connection; less for one that holds memory which every read
    /// from the tier needs.
    pub fn of(reply: &Reply, idle: Duration) -> WriteLimits {
        if reply.memory.is_none() {
            return WriteLimits { stall: idle, whole: None };
        }
        let stall = idle.min(Duration::from_millis(HELD_MEMORY_STALL_MS_MAX));
        let moving = Duration::from_secs(reply.bytes() / HELD_MEMORY_BYTES_PER_SECOND_MIN);
        WriteLimits { stall, whole: Some(stall + moving) }
    }
}

/// Writes one answer whole and returns its length in bytes.
///
/// # Errors
/// Any socket error; `TimedOut` when the client has been slower than `limits`; `UnexpectedEof` when a segment
/// is shorter than the slice promised. After an error the connection must be closed: part of the answer may
/// be out.
pub async fn write_reply(stream: &TcpStream, reply: &Reply, limits: WriteLimits) -> io::Result<u64> {
    let Some(whole) = limits.whole else {
        return write_chunks(stream, reply, limits.stall).await;
    };
    match tokio::time::timeout(whole, write_chunks(stream, reply, limits.stall)).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads its answers too slowly")),
    }
}

async fn write_chunks(stream: &TcpStream, reply: &Reply, stall: Duration) -> io::Result<u64> {
    let mut sent = 0;
    let mut rest = reply.chunks.as_slice();
    while let Some(first) = rest.first() {
        match first {
            Chunk::Bytes(_) => {
                let run = rest.iter().take_while(|c| matches!(c, Chunk::Bytes(_))).count();
                let (memory, after) = rest.split_at(run);
                sent += write_memory(stream, memory, !after.is_empty(), stall).await?;
                rest = after;
            }
            Chunk::File { file, position, length } => {
                send_file(stream, file, *position, *length, stall).await?;
                sent += *length as u64;
                rest = &rest[1..];
            }
        }
    }
    Ok(sent)
}

fn bytes_of(chunk: &Chunk) -> &Bytes {
    match chunk {
        Chunk::Bytes(bytes) => bytes,
        Chunk::File { .. } => unreachable!("the run was cut before the first file"),
    }
}

async fn write_memory(stream: &TcpStream, chunks: &[Chunk], more: bool, stall: Duration) -> io::Result<u64> {
    let mut total = 0;
    let (mut at, mut skip) = (0, 0);
    while at < chunks.len() {
        let written = ready_io(stream, stall, || {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let count = (chunks.len() - at).min(WRITE_SLICES_MAX);
            for (i, (slice, chunk)) in slices.iter_mut().zip(&chunks[at..]).enumerate() {
                let bytes = bytes_of(chunk);
                *slice = IoSlice::new(if i == 0 { &bytes[skip..] } else { bytes });
            }
            let is_last = at + count == chunks.len();
            let flags =
                SendFlags::NOSIGNAL | if more || !is_last { SendFlags::MORE } else { SendFlags::empty() };
            Ok(sendmsg(stream, &slices[..count], &mut SendAncillaryBuffer::default(), flags)?)
        })
        .await?;
        total += written as u64;
        skip += written;
        while at < chunks.len() && skip >= bytes_of(&chunks[at]).len() {
            skip -= bytes_of(&chunks[at]).len();
            at += 1;
        }
    }
    Ok(total)
}

async fn send_file(
    stream: &TcpStream,
    file: &File,
    position: u64,
    length: usize,
    stall: Duration,
) -> io::Result<()> {
    let mut offset = position;
    let end = position + length as u64;
    while offset < end {
        let count = usize::try_from(end - offset).unwrap_or(usize::MAX).min(SENDFILE_BYTES_MAX);
        let sent =
            ready_io(stream, stall, || Ok(rustix::fs::sendfile(stream, file, Some(&mut offset), count)?))
                .await?;
        if sent == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "segment ends before the slice"));
        }
    }
    Ok(())
}

/// Runs `io` when the socket takes bytes; at most `stall` for one turn.
async fn ready_io(
    stream: &TcpStream,
    stall: Duration,
    io: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    match tokio::time::timeout(stall, stream.async_io(Interest::WRITABLE, io)).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn an_answer_that_holds_shared_memory_has_less_time() {
        let idle = Duration::from_secs(600);
        let mut reply = Reply::from(Bytes::from(vec![0; 10 * HELD_MEMORY_BYTES_PER_SECOND_MIN as usize]));
        assert_eq!(WriteLimits::of(&reply, idle), WriteLimits { stall: idle, whole: None });
        reply.memory = Arc::new(Semaphore::new(1)).try_acquire_owned().ok();
        let stall = Duration::from_millis(HELD_MEMORY_STALL_MS_MAX);
        let whole = Some(stall + Duration::from_secs(10));
        assert_eq!(WriteLimits::of(&reply, idle), WriteLimits { stall, whole });
        let short = Duration::from_secs(1);
        assert_eq!(WriteLimits::of(&reply, short).stall, short);
    }

    #[tokio::test]
    async fn a_client_that_trickles_is_too_slow_over_the_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).await.expect("connected");
        let (server, _) = listener.accept().await.expect("accepted");
        let trickle = tokio::spawn(async move {
            let mut some = vec![0; 256 * 1024];
            while client.read(&mut some).await.is_ok_and(|n| n > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let reply = Reply::from(Bytes::from(vec![0; 256 << 20]));
        let limits = WriteLimits { stall: Duration::from_secs(10), whole: Some(Duration::from_millis(300)) };
        let error = write_reply(&server, &reply, limits).await.expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(server);
        trickle.await.expect("ended");
    }
}
