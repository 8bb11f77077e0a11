//! One TCP connection to one broker: a request out, its answer in, one at a time.
//!
//! Must not trust the peer's length prefix (the buffer grows as bytes arrive) nor its counts (an answer's
//! shape is checked before it is decoded), wait without a deadline, or be used again after an error in the
//! middle of an exchange ([`Connection::is_broken`]). Whoever answers, an error is one line.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_model::limits;
use highwater_wire::kafka::messages::{ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader};
use highwater_wire::kafka::protocol::{Decodable, Encodable, Request, StrBytes};
use highwater_wire::shape;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ClientError;

const CLIENT_ID: &str = "highwater-cli";
const READ_STEP_BYTES: usize = 256 * 1024;

/// A connection that knows which versions its broker serves.
pub struct Connection {
    address: String,
    stream: TcpStream,
    timeout: Duration,
    correlation_id: i32,
    versions: BTreeMap<i16, (i16, i16)>,
    is_broken: bool,
}

impl Connection {
    /// Connects and asks which versions are served.
    pub async fn open(address: &str, wait: Duration) -> Result<Connection, ClientError> {
        let refused = |reason: String| ClientError::Connect { address: address.to_owned(), reason };
        let stream = match timeout(wait, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused(format!("no answer within {} ms", wait.as_millis()))),
        };
        stream.set_nodelay(true).map_err(|e| refused(e.to_string()))?;
        let mut connection = Connection {
            address: address.to_owned(),
            stream,
            timeout: wait,
            correlation_id: 0,
            versions: BTreeMap::new(),
            is_broken: false,
        };
        let answer = connection.exchange(0, &ApiVersionsRequest::default(), Duration::ZERO).await?;
        connection.versions =
            answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        if connection.versions.is_empty() {
            return Err(connection.nonsense("it lists no versions"));
        }
        Ok(connection)
    }

    /// True after an error that left the stream in the middle of an exchange.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Sends `request` in the newest version that both sides know within `min..=max`, and waits for its
    /// answer.
    pub async fn call<R: Request>(
        &mut self,
        min: i16,
        max: i16,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        self.call_waiting(min, max, request, Duration::ZERO).await
    }

    /// As [`Connection::call`], for a request that the broker may hold back for `hold` before it answers.
    pub async fn call_waiting<R: Request>(
        &mut self,
        min: i16,
        max: i16,
        request: &R,
        hold: Duration,
    ) -> Result<R::Response, ClientError> {
        let version = self.version::<R>(min, max)?;
        self.exchange(version, request, hold).await
    }

    /// The version that [`Connection::call`] would use.
    pub fn version<R: Request>(&self, min: i16, max: i16) -> Result<i16, ClientError> {
        let (served_min, served_max) = self.versions.get(&R::KEY).copied().unwrap_or((0, -1));
        let version = max.min(served_max).min(R::VERSIONS.max);
        if version < min.max(served_min).max(R::VERSIONS.min) {
            let api = ApiKey::try_from(R::KEY).map_or_else(|_| R::KEY.to_string(), |k| format!("{k:?}"));
            return Err(ClientError::Version { address: self.address.clone(), api });
        }
        Ok(version)
    }

    /// Sends a request that has no answer (produce with acks 0).
    pub async fn send_only<R: Request>(&mut self, version: i16, request: &R) -> Result<(), ClientError> {
        let frame = self.encode(version, request)?;
        self.is_broken = true;
        self.write(&frame).await?;
        self.is_broken = false;
        Ok(())
    }

    async fn exchange<R: Request>(
        &mut self,
        version: i16,
        request: &R,
        hold: Duration,
    ) -> Result<R::Response, ClientError> {
        let frame = self.encode(version, request)?;
        // Until the answer has been read whole, the stream is of no use to the next caller.
        self.is_broken = true;
        self.write(&frame).await?;
        let wait = self.timeout + hold;
        let mut answer = match timeout(wait, self.read_frame()).await {
            Ok(answer) => answer?,
            Err(_) => {
                let what = format!("an answer of {} within {} ms", self.address, wait.as_millis());
                return Err(ClientError::Timeout { what });
            }
        };
        if answer.len() < 4 || (&answer[..4]).get_i32() != self.correlation_id {
            return Err(self.nonsense("the answer is not for this request"));
        }
        shape::check_answer(R::KEY, version, &answer[4..]).map_err(|e| self.nonsense(&e.to_string()))?;
        let api = ApiKey::try_from(R::KEY).map_err(|_| self.nonsense("unknown API"))?;
        ResponseHeader::decode(&mut answer, api.response_header_version(version))
            .map_err(|e| self.nonsense(&e.to_string()))?;
        let response =
            R::Response::decode(&mut answer, version).map_err(|e| self.nonsense(&e.to_string()))?;
        self.is_broken = false;
        Ok(response)
    }

    fn encode<R: Request>(&mut self, version: i16, request: &R) -> Result<Bytes, ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::with_capacity(256);
        frame.put_i32(0);
        let unfit = |e: &dyn std::fmt::Display| ClientError::Protocol {
            address: self.address.clone(),
            reason: format!("the request cannot be written: {e}"),
        };
        header.encode(&mut frame, R::header_version(version)).map_err(|e| unfit(&e))?;
        request.encode(&mut frame, version).map_err(|e| unfit(&e))?;
        let length = frame.len() - 4;
        if length > limits::REQUEST_BYTES_MAX {
            return Err(unfit(&"it is too large"));
        }
        let length = i32::try_from(length).map_err(|e| unfit(&e))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        match timeout(self.timeout, self.stream.write_all(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.closed(&error)),
            Err(_) => Err(ClientError::Timeout { what: format!("{} to take a request", self.address) }),
        }
    }

    async fn read_frame(&mut self) -> Result<Bytes, ClientError> {
        let length = match self.stream.read_i32().await {
            Ok(length) => length,
            Err(error) => return Err(self.closed(&error)),
        };
        let length = usize::try_from(length)
            .ok()
            .filter(|n| *n <= limits::CLIENT_RESPONSE_BYTES_MAX)
            .ok_or_else(|| self.nonsense(&not_a_length(length)))?;
        let mut frame = BytesMut::with_capacity(length.min(READ_STEP_BYTES));
        while frame.len() < length {
            let step = (length - frame.len()).min(READ_STEP_BYTES.max(frame.len()));
            frame.reserve(step);
            let read = (&mut self.stream).take(step as u64).read_buf(&mut frame).await;
            match read {
                Ok(0) => return Err(self.closed(&std::io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(self.closed(&error)),
            }
        }
        Ok(frame.freeze())
    }

    fn closed(&self, error: &std::io::Error) -> ClientError {
        ClientError::Closed { address: self.address.clone(), reason: error.to_string() }
    }

    fn nonsense(&self, reason: &str) -> ClientError {
        ClientError::Protocol { address: self.address.clone(), reason: reason.to_owned() }
    }
}

/// What the first four bytes of an answer are, if not its length.
fn not_a_length(prefix: i32) -> String {
    match prefix.to_be_bytes() {
        [b'H', b'T', b'T', b'P'] => "it speaks HTTP".to_owned(),
        [0x15 | 0x16, 3, ..] => "it speaks TLS".to_owned(),
        [b'S', b'S', b'H', b'-'] => "it speaks SSH".to_owned(),
        _ => format!("an answer of {prefix} bytes"),
    }
}
