//! The compression codecs of a batch: decoding within a cap, and encoding for our own client and for tests.
//!
//! Owns what each codec's bytes look like inside a batch: gzip members, snappy raw or in the Java client's
//! framing, lz4 frames, zstd frames. Must not trust any length that the bytes claim: output grows only as it
//! is produced and never over the cap, so a decompression bomb costs at most the cap (invariant 16). Never
//! panics on bad input.

mod lz4;
mod zstandard;

use std::io::{Read, Write};

use highwater_model::limits::DECOMPRESS_STEP_BYTES;

/// How a batch's records are compressed; the id is in the batch's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    #[inline]
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.get(usize::from(id)).copied()
    }

    #[inline]
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of the codec (`compression.type`).
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    pub fn from_name(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// Why compressed bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The output would pass the cap.
    #[error("more than {cap_bytes} bytes when decompressed")]
    TooLarge { cap_bytes: usize },
    #[error("not valid {}: {what}", codec.name())]
    Malformed { codec: Codec, what: &'static str },
}

impl Codec {
    fn malformed(self, what: &'static str) -> CodecError {
        CodecError::Malformed { codec: self, what }
    }
}

/// Decodes `input` into `out`, whose former content is lost: afterwards it holds exactly the decoded bytes.
///
/// # Errors
/// `TooLarge` past `cap_bytes`; `Malformed`. `out` then holds nothing of use.
pub fn decompress_into(
    codec: Codec,
    input: &[u8],
    cap_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let length = decompress_reusing(codec, input, cap_bytes, out)?;
    out.truncate(length);
    Ok(())
}

/// As `decompress_into`, but `out` may stay longer than what was decoded, whose length is returned: a buffer
/// used again and again this way is zeroed only once.
///
/// # Errors
/// As `decompress_into`.
pub fn decompress_reusing(
    codec: Codec,
    input: &[u8],
    cap_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<usize, CodecError> {
    let length = match codec {
        Codec::None => stored(input, cap_bytes, out)?,
        Codec::Gzip => gunzip(input, cap_bytes, out)?,
        Codec::Snappy => snappy(input, cap_bytes, out)?,
        Codec::Lz4 => lz4::decompress(input, cap_bytes, out)?,
        Codec::Zstd => zstandard::decompress(input, cap_bytes, out)?,
    };
    assert!(length <= cap_bytes && length <= out.len(), "decoded bytes lie within the cap and the buffer");
    Ok(length)
}

/// Encodes `input`, appending to `out`: at each codec's default level, snappy in the Java client's framing.
pub fn compress(codec: Codec, input: &[u8], out: &mut Vec<u8>) {
    const NO_IO: &str = "writing into memory cannot fail";
    match codec {
        Codec::None => out.extend_from_slice(input),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(&mut *out, flate2::Compression::default());
            encoder.write_all(input).expect(NO_IO);
            encoder.finish().expect(NO_IO);
        }
        Codec::Snappy => compress_snappy(input, out),
        Codec::Lz4 => lz4::compress(input, out),
        Codec::Zstd => zstandard::compress(input, out),
    }
}

/// Room for `more` bytes after `used`, zeroing only what was never part of the buffer.
fn grow(out: &mut Vec<u8>, used: usize, more: usize) -> &mut [u8] {
    let needed = used + more;
    if out.len() < needed {
        out.resize(needed, 0);
    }
    &mut out[used..needed]
}

fn stored(input: &[u8], cap_bytes: usize, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    if input.len() > cap_bytes {
        return Err(CodecError::TooLarge { cap_bytes });
    }
    grow(out, 0, input.len()).copy_from_slice(input);
    Ok(input.len())
}

fn gunzip(input: &[u8], cap_bytes: usize, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    let mut decoder = flate2::bufread::MultiGzDecoder::new(input);
    let mut used = 0;
    loop {
        let step = DECOMPRESS_STEP_BYTES.max(used / 2).min(cap_bytes - used);
        if step == 0 {
            // At the cap: one more byte is one too many.
            return match decoder.read(&mut [0u8; 1]) {
                Ok(0) => Ok(used),
                Ok(_) => Err(CodecError::TooLarge { cap_bytes }),
                Err(_) => Err(Codec::Gzip.malformed("broken stream")),
            };
        }
        match decoder.read(grow(out, used, step)) {
            Ok(0) => return Ok(used),
            Ok(read) => used += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Codec::Gzip.malformed("broken stream")),
        }
    }
}

/// What the Java client (and those that copy it) puts before snappy blocks, each of which has a length of its
/// own.
const SNAPPY_FRAMING: &[u8; 8] = b"\x82SNAPPY\0";
/// The framing with its version and lowest compatible version.
const SNAPPY_FRAMING_BYTES: usize = 16;
/// Size of the blocks that the Java client cuts.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;

fn snappy(input: &[u8], cap_bytes: usize, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    if !input.starts_with(SNAPPY_FRAMING) {
        return snappy_block(input, cap_bytes, out, 0);
    }
    let Some(mut rest) = input.get(SNAPPY_FRAMING_BYTES..) else {
        return Err(Codec::Snappy.malformed("framing cut short"));
    };
    let mut used = 0;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((block, after)) = after.split_at_checked(length) else {
            return Err(Codec::Snappy.malformed("block cut short"));
        };
        used = snappy_block(block, cap_bytes, out, used)?;
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Codec::Snappy.malformed("bytes after the last block"));
    }
    Ok(used)
}

/// Decodes one raw block to `out[used..]`; returns the new end.
fn snappy_block(block: &[u8], cap_bytes: usize, out: &mut Vec<u8>, used: usize) -> Result<usize, CodecError> {
    let Ok(length) = snap::raw::decompress_len(block) else {
        return Err(Codec::Snappy.malformed("no length"));
    };
    if length > cap_bytes - used {
        return Err(CodecError::TooLarge { cap_bytes });
    }
    // A claimed length is believed only as far as the block could expand: 64 bytes out of 3 in, at the most.
    if length > block.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
        return Err(Codec::Snappy.malformed("length that the block cannot fill"));
    }
    match snap::raw::Decoder::new().decompress(block, grow(out, used, length)) {
        Ok(written) if written == length => Ok(used + length),
        _ => Err(Codec::Snappy.malformed("broken block")),
    }
}

/// A copy element of 2 bytes or more yields at most 64.
const SNAPPY_EXPANSION_MAX: usize = 64;

fn compress_snappy(input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(SNAPPY_FRAMING);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(SNAPPY_BLOCK_BYTES) {
        let bytes = encoder.compress_vec(block).expect("a block is far below snappy's limit");
        let length = u32::try_from(bytes.len()).expect("a block is far below 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&bytes);
    }
}

#[cfg(test)]
mod tests;
