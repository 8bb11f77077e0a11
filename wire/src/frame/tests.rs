use super::*;
use crate::kafka::messages::RequestHeader;
use crate::kafka::protocol::{Encodable, StrBytes};
use crate::test_support::{Dice, fuzz_inputs};

fn encoded(key: i16, version: i16, client_id: Option<&'static str>, header_version: i16) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(0x0102_0304)
        .with_client_id(client_id.map(StrBytes::from_static_str));
    let mut bytes = Vec::new();
    header.encode(&mut bytes, header_version).expect("a known header version");
    Bytes::from(bytes)
}

#[test]
fn heads_of_every_served_request_are_read() {
    for range in api::SERVED {
        for version in range.min..=range.max {
            let header_version = api::request_header_version(range.key, version).expect("served");
            for client_id in [None, Some(""), Some("a client")] {
                let head = encoded(range.key, version, client_id, header_version);
                let frame = Bytes::from([&head[..], b"body"].concat());
                let read = RequestHead::parse(&frame).expect("a good head");
                assert_eq!((read.api_key, read.api_version), (range.key, version));
                assert_eq!(read.correlation_id, 0x0102_0304);
                assert_eq!(read.client_id.as_deref(), client_id.map(str::as_bytes));
                assert_eq!(&frame[read.body_offset..], b"body");
            }
        }
    }
}

#[test]
fn what_is_not_served_is_read_as_far_as_it_is_known() {
    for (key, version) in [(api::API_VERSIONS, 5), (api::PRODUCE, 2), (999, 0), (-1, -1)] {
        let mut frame = Vec::new();
        frame.extend_from_slice(&key.to_be_bytes());
        frame.extend_from_slice(&i16::to_be_bytes(version));
        frame.extend_from_slice(&[0, 0, 0, 9, 0xff, 0xff, 0xff]);
        let head = RequestHead::parse(&Bytes::from(frame)).expect("readable");
        assert_eq!((head.api_key, head.api_version, head.correlation_id), (key, version, 9));
        assert_eq!((head.client_id, head.body_offset), (None, 11));
    }
}

#[test]
fn bad_heads_are_refused() {
    let good = encoded(api::METADATA, 9, Some("client"), 2);
    for cut in 0..good.len() {
        assert!(RequestHead::parse(&good.slice(..cut)).is_err(), "{cut}");
    }
    let with = |tail: &[u8]| RequestHead::parse(&Bytes::from([&good[..8], tail].concat()));
    assert!(with(&[0xff, 0xfe, 0]).is_err(), "client id of -2 bytes");
    assert!(with(&[0x7f, 0xff, 0]).is_err(), "client id longer than the frame");
    assert!(with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err(), "2^32 - 1 tagged fields");
    assert!(with(&[0xff, 0xff, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err(), "a tagged field of 4 GiB");
    assert!(with(&[0xff, 0xff, 2, 1, 0, 1, 0]).is_err(), "the same tag twice");
    assert!(with(&[0xff, 0xff, 2, 0, 1, 7, 3, 0]).is_ok(), "unknown tagged fields are skipped");
    let long = [&[0x20, 0x00][..], &vec![b'x'; 0x2000], &[0]].concat();
    assert_eq!(with(&long), Err(FrameError::ClientId(0x2000)));
    let odd = [&[0, 2, 0xff, 0xfe][..], &[0]].concat();
    assert_eq!(with(&odd).expect("kept as bytes").client_name(), "\u{fffd}\u{fffd}");
}

#[test]
fn damaged_heads_never_panic() {
    let mut dice = Dice::new(11);
    for _ in 0..fuzz_inputs(5) {
        let range = &api::SERVED[dice.below(api::SERVED.len())];
        let version = range.min + dice.below((range.max - range.min + 1) as usize) as i16;
        let header_version = api::request_header_version(range.key, version).expect("served");
        let mut bytes = encoded(range.key, version, Some("client"), header_version).to_vec();
        dice.mutate(&mut bytes);
        if let Ok(head) = RequestHead::parse(&Bytes::from(bytes.clone())) {
            assert!(head.body_offset <= bytes.len());
        }
    }
}

#[test]
fn responses_begin_with_their_length() {
    for (key, version, header) in [(api::METADATA, 8, 8), (api::METADATA, 9, 9), (api::API_VERSIONS, 4, 8)] {
        let mut frame = Vec::new();
        begin_response(&mut frame, key, version, 77);
        assert_eq!(frame.len(), header);
        frame.extend_from_slice(b"body");
        let bytes = frame.len();
        finish_response(&mut frame, bytes).expect("small");
        assert_eq!(&frame[..8], [[0, 0, 0, bytes as u8 - 4], [0, 0, 0, 77]].concat());
    }
    assert_eq!(finish_response(&mut [0; 4], 1 << 31).map_err(|e| e.bytes), Ok(()));
    assert!(finish_response(&mut [0; 4], (1 << 31) + 4).is_err());
}
