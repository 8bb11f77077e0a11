//! The head of a request frame and of a response frame.
//!
//! Owns the fields before the body. Reads them within bounds and without copying: the client id is a slice of
//! the frame. Must not look into the body; that is `shape`.

use bytes::{BufMut, Bytes};
use highwater_model::limits::CLIENT_ID_BYTES_MAX;

use crate::api;
use crate::shape::{ShapeError, Walk};

/// Bytes of key, version and correlation id, which every request has.
pub const FIXED_BYTES: usize = 8;

/// Why a frame cannot be a request; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{0} bytes are too few for a request")]
    TooShort(usize),
    #[error("request header: {0}")]
    Header(#[from] ShapeError),
    #[error("client id of {0} bytes")]
    ClientId(usize),
}

/// What stands before a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    /// As sent; Kafka takes it for UTF-8 without checking. `None` when null, or when the request is not
    /// served.
    pub client_id: Option<Bytes>,
    /// Where the body begins in the frame.
    pub body_offset: usize,
}

impl RequestHead {
    /// Reads the head of `frame`, which is without its length prefix. Of a request that is not served, whose
    /// header may have another form, only the first 8 bytes are read: enough to answer ApiVersions of a
    /// future version.
    ///
    /// # Errors
    /// `FrameError`: close the connection.
    pub fn parse(frame: &Bytes) -> Result<RequestHead, FrameError> {
        let Some(fixed) = frame.first_chunk::<FIXED_BYTES>() else {
            return Err(FrameError::TooShort(frame.len()));
        };
        let [k0, k1, v0, v1, correlation @ ..] = *fixed;
        let api_key = i16::from_be_bytes([k0, k1]);
        let api_version = i16::from_be_bytes([v0, v1]);
        let mut head = RequestHead {
            api_key,
            api_version,
            correlation_id: i32::from_be_bytes(correlation),
            client_id: None,
            body_offset: frame.len(),
        };
        let Some(header_version) = api::request_header_version(api_key, api_version) else {
            return Ok(head);
        };
        // The client id keeps its 16-bit length in every version, or brokers could not read it (KIP-511).
        let mut walk = Walk::new(&frame[FIXED_BYTES..], api_version, false);
        if let Some(id) = walk.text("client_id")? {
            if id.len() > CLIENT_ID_BYTES_MAX {
                return Err(FrameError::ClientId(id.len()));
            }
            head.client_id = Some(frame.slice_ref(id));
        }
        if header_version >= 2 {
            walk.tagged_fields(&[])?;
        }
        head.body_offset = FIXED_BYTES + walk.position();
        debug_assert!(head.body_offset <= frame.len(), "the walk stays within the frame");
        Ok(head)
    }

    /// The client id for people: what is not UTF-8 replaced, empty if there is none.
    pub fn client_name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.client_id.as_deref().unwrap_or_default())
    }
}

/// Writes length prefix (to be filled in by `finish_response`) and response header.
pub fn begin_response(out: &mut impl BufMut, api_key: i16, api_version: i16, correlation_id: i32) {
    out.put_i32(0);
    out.put_i32(correlation_id);
    if api::response_header_version(api_key, api_version) >= 1 {
        out.put_u8(0); // no tagged fields
    }
}

/// A response passes what its length prefix can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("response of {bytes} bytes")]
pub struct ResponseTooLarge {
    pub bytes: usize,
}

/// Fills in the length prefix at the start of `frame` for `bytes` bytes in all, the prefix included.
///
/// # Errors
/// When that is 2 GiB or more.
pub fn finish_response(frame: &mut [u8], bytes: usize) -> Result<(), ResponseTooLarge> {
    let prefix: &mut [u8; 4] = frame.first_chunk_mut().expect("begin_response wrote the prefix");
    let length = i32::try_from(bytes - prefix.len()).map_err(|_| ResponseTooLarge { bytes })?;
    *prefix = length.to_be_bytes();
    Ok(())
}

#[cfg(test)]
mod tests;
