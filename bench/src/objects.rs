//! Objects to measure with, and their pages apart for comparing with the codec alone.

use highwater_log::EpochStart;
use highwater_model::TopicId;
use highwater_tiering::object::{Compression, ObjectIdentity, SealInput, SealedObject, Sealer};

use crate::records::Segment;

pub const COMPRESSIONS: [Compression; 3] = [Compression::Zstd, Compression::Lz4, Compression::None];

pub fn input(segment: &Segment, compression: Compression) -> SealInput {
    let identity = ObjectIdentity {
        cluster_id: "bench".into(),
        topic: "bench".into(),
        topic_id: TopicId::NONE,
        partition: 0,
        start: 0,
        end: segment.records as i64,
        leader_epoch: 0,
        upload_id: TopicId::NONE.0,
    };
    let epochs = vec![EpochStart { epoch: 0, start_offset: 0 }];
    let mut input = SealInput::new(identity, epochs, segment.bytes.clone());
    input.compression = compression;
    input
}

/// The object's pages as they are before compression: sealed without it, page headers left in (30 bytes of
/// each MiB).
pub fn plain_pages(segment: &Segment) -> Vec<Vec<u8>> {
    let sealed = Sealer::new().seal(&input(segment, Compression::None)).expect("a sound segment");
    pages(&sealed)
}

/// Every page of the object as it lies in the file.
pub fn pages(sealed: &SealedObject) -> Vec<Vec<u8>> {
    let bytes = sealed.to_bytes();
    let mut pages = Vec::new();
    for group in &sealed.index.row_groups {
        let raw = &bytes[group.position as usize..][..group.length as usize];
        for stripe in 0..group.stripes.len() {
            pages.extend((0..6).map(|column| raw[group.page_range(column, stripe)].to_vec()));
        }
    }
    pages
}
