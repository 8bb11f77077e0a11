//! A connection that sends one request and waits for its answer, and the rule of when a coordinator is asked
//! again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::{ApiKey, FindCoordinatorRequest, RequestHeader, ResponseHeader};
use highwater_wire::kafka::protocol::{Decodable, Encodable, Request, StrBytes};

/// Longest wait for one answer.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Longest time in which a coordinator may say that it is not ready.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two questions to one that is not ready.
pub const PAUSE: Duration = Duration::from_millis(2);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What FindCoordinator is asked for.
#[derive(Clone, Copy)]
pub enum KeyType {
    Group = 0,
    Transaction = 1,
}

pub struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

impl Connection {
    pub fn open(address: &str) -> Result<Connection, String> {
        let failed = |e: std::io::Error| format!("{address}: {e}");
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        Ok(Connection { stream, correlation_id: 0 })
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, String> {
        let api = ApiKey::try_from(R::KEY).map_err(|()| format!("no API {}", R::KEY))?;
        let said = |what: &dyn std::fmt::Display| format!("{api:?} v{version}: {what}");
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("bench")));
        let mut frame = BytesMut::with_capacity(1024);
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version)).map_err(|e| said(&e))?;
        request.encode(&mut frame, version).map_err(|e| said(&e))?;
        let length = i32::try_from(frame.len() - 4).map_err(|e| said(&e))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).map_err(|e| said(&e))?;

        let mut answer = self.answer().map_err(|e| said(&e))?;
        let header = ResponseHeader::decode(&mut answer, api.response_header_version(version));
        if header.map_err(|e| said(&e))?.correlation_id != self.correlation_id {
            return Err(said(&"an answer to another request"));
        }
        R::Response::decode(&mut answer, version).map_err(|e| said(&e))
    }

    fn answer(&mut self) -> Result<Bytes, String> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|e| e.to_string())?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(|e| e.to_string())?;
        if length > ANSWER_BYTES_MAX {
            return Err(format!("an answer of {length} bytes"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map_err(|e| e.to_string())?;
        Ok(body.into())
    }

    /// Asks for the coordinators of these keys until each has one: the first question makes the internal
    /// topic.
    pub fn find_coordinators(&mut self, keys: &[String], kind: KeyType) -> Result<(), String> {
        let keys = keys.iter().cloned().map(StrBytes::from_string).collect();
        let request = FindCoordinatorRequest::default().with_key_type(kind as i8).with_coordinator_keys(keys);
        let until = Instant::now() + PATIENCE;
        loop {
            let response = self.call(4, &request)?;
            let Some(found) = response.coordinators.iter().find(|found| found.error_code != 0) else {
                return Ok(());
            };
            check_ready("FindCoordinator", found.error_code, until)?;
        }
    }
}

/// Pauses before the next question, or fails as [`may_ask_again`].
pub fn check_ready(what: &str, code: i16, until: Instant) -> Result<(), String> {
    may_ask_again(what, code, until)?;
    pause(PAUSE);
    Ok(())
}

/// There is nothing to wait on but the time: whoever is asked does not say when it will be ready.
#[allow(clippy::disallowed_methods)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Fails unless `code` says that the one asked is not ready and there is time to ask again.
pub fn may_ask_again(what: &str, code: i16, until: Instant) -> Result<(), String> {
    let may_pass = [
        ResponseError::CoordinatorLoadInProgress,
        ResponseError::CoordinatorNotAvailable,
        ResponseError::NotCoordinator,
        ResponseError::ConcurrentTransactions,
        ResponseError::NotLeaderOrFollower,
        ResponseError::UnknownTopicOrPartition,
    ];
    if Instant::now() >= until || !may_pass.iter().any(|error| error.code() == code) {
        return Err(format!("{what}: {:?} ({code})", ResponseError::try_from_code(code)));
    }
    Ok(())
}
