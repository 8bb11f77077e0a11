//! Answers into the socket: gathering writes for memory, sendfile for segments.
//!
//! A client that does not read holds up only its own connection, and that for a limited time. Bytes that are
//! followed by a file slice go out with MSG_MORE, so that an answer does not begin with a packet of its own.

use std::fs::File;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use highwater_model::limits::{SENDFILE_BYTES_MAX, WRITE_SLICES_MAX};
use highwater_wire::fetch_response::Chunk;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::reply::Reply;

/// Writes one answer whole and returns its length in bytes.
///
/// # Errors
/// Any socket error; `TimedOut` when the client has taken nothing for `stall`; `UnexpectedEof` when a segment
/// is shorter than the slice promised. After an error the connection must be closed: part of the answer may
/// be out.
pub async fn write_reply(stream: &TcpStream, reply: &Reply, stall: Duration) -> io::Result<u64> {
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
