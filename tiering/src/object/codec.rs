//! Compressing and decompressing one page, with contexts and buffers that are used again.
//!
//! Owns the choice of level and of codec library. Must not trust a length: the caller has bounded what it
//! asks for, and a page that yields another number of bytes is refused.

use highwater_model::limits::OBJECT_BUFFER_KEEP_BYTES_MAX;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::ObjectError;
use crate::core::layout::Compression;

/// Zstandard level of sealed pages.
pub const ZSTD_LEVEL: i32 = 1;

/// Empties `buffer`, unless it is of usual size: then its bytes stay, so that they need not be zeroed again.
pub fn give_back_if_large(buffer: &mut Vec<u8>) {
    if buffer.capacity() > OBJECT_BUFFER_KEEP_BYTES_MAX {
        *buffer = Vec::new();
    }
}

/// Compresses pages.
pub struct PageCompressor {
    compression: Compression,
    zstd: zstd::bulk::Compressor<'static>,
    lz4: CompressTable,
    scratch: Vec<u8>,
}

impl PageCompressor {
    pub fn new() -> PageCompressor {
        PageCompressor {
            compression: Compression::None,
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)
                .expect("level 1 is valid and a context is a few hundred KiB"),
            lz4: CompressTable::large(),
            scratch: Vec::new(),
        }
    }

    pub fn set(&mut self, compression: Compression) {
        self.compression = compression;
        give_back_if_large(&mut self.scratch);
    }

    /// The page's compressed bytes; `page` itself when the object is not compressed.
    pub fn compress<'a>(&'a mut self, page: &'a [u8]) -> &'a [u8] {
        let bound = match self.compression {
            Compression::None => return page,
            Compression::Zstd => zstd::zstd_safe::compress_bound(page.len()),
            Compression::Lz4 => get_maximum_output_size(page.len()),
        };
        if self.scratch.len() < bound {
            self.scratch.resize(bound, 0);
        }
        let length = match self.compression {
            Compression::Zstd => {
                self.zstd.compress_to_buffer(page, &mut self.scratch[..]).expect("the bound was allocated")
            }
            _ => compress_into_with_table(page, &mut self.scratch, &mut self.lz4)
                .expect("the bound was allocated"),
        };
        &self.scratch[..length]
    }
}

/// Decompresses pages.
pub struct PageDecompressor {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl PageDecompressor {
    pub fn new() -> PageDecompressor {
        PageDecompressor { zstd: zstd::bulk::Decompressor::new().expect("a context is a few hundred KiB") }
    }

    /// The page's `length` bytes: in `buffer`, which grows as needed and is not zeroed again, or `page`
    /// itself.
    ///
    /// # Errors
    /// `Malformed` when the page does not hold exactly `length` bytes.
    pub fn decompress<'a>(
        &mut self,
        compression: Compression,
        page: &'a [u8],
        length: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ObjectError> {
        const BROKEN: ObjectError = ObjectError::Malformed("page does not decompress");
        if compression == Compression::None {
            return if page.len() == length { Ok(page) } else { Err(BROKEN) };
        }
        if length <= OBJECT_BUFFER_KEEP_BYTES_MAX {
            give_back_if_large(buffer);
        }
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let out = &mut buffer[..length];
        let written = match compression {
            Compression::Zstd => self.zstd.decompress_to_buffer(page, out).map_err(|_| BROKEN)?,
            _ => lz4_flex::block::decompress_into(page, out).map_err(|_| BROKEN)?,
        };
        if written == length { Ok(&buffer[..length]) } else { Err(BROKEN) }
    }
}
