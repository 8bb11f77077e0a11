use bytes::Bytes;

use super::*;
use crate::kafka::messages::{ApiKey, RequestKind};
use crate::test_support::{Dice, fuzz_inputs};

mod answers;
mod requests;
use requests::{any_request, encode};

fn decode(key: i16, version: i16, mut body: Bytes) -> Result<(RequestKind, usize), String> {
    let key = ApiKey::try_from(key).expect("a served key");
    let request = RequestKind::decode(key, &mut body, version).map_err(|error| error.to_string())?;
    Ok((request, body.len()))
}

/// Every served key and version.
fn served() -> impl Iterator<Item = (i16, i16)> {
    api::SERVED.iter().flat_map(|range| (range.min..=range.max).map(|version| (range.key, version)))
}

fn refused(key: i16, version: i16, body: &[u8]) -> &'static str {
    check(key, version, body).expect_err("must be refused").what
}

#[test]
fn requests_of_every_version_are_accepted_and_decoded_whole() {
    let mut dice = Dice::new(1);
    for (key, version) in served() {
        for _ in 0..60 {
            let request = any_request(&mut dice, key, version);
            let body = encode(&request, version);
            assert_eq!(check(key, version, &body), Ok(()), "key {key} version {version}: {request:?}");
            assert_eq!(decode(key, version, body), Ok((request, 0)), "key {key} version {version}");
        }
    }
}

/// What librdkafka 2.16 sends to list all topics: a null array in four bytes instead of one.
#[test]
fn the_metadata_request_of_librdkafka_is_accepted() {
    assert_eq!(check(api::METADATA, 13, &[0, 0, 0, 0, 1, 0, 0]), Ok(()));
}

#[test]
fn cut_bodies_are_refused_and_longer_ones_are_not() {
    let mut dice = Dice::new(2);
    for (key, version) in served() {
        for _ in 0..6 {
            let body = encode(&any_request(&mut dice, key, version), version);
            if body.len() > 4_000 {
                continue;
            }
            for cut in 0..body.len() {
                assert!(
                    check(key, version, &body[..cut]).is_err(),
                    "key {key} version {version} cut at {cut}"
                );
            }
            let longer = [&body[..], &[0]].concat();
            assert_eq!(check(key, version, &longer), Ok(()), "key {key} version {version} with a byte more");
            let (_, left) = decode(key, version, Bytes::from(longer)).expect("the same request");
            assert_eq!(left, 1, "key {key} version {version}");
        }
    }
}

#[test]
fn counts_that_lie_are_refused_before_they_are_believed() {
    // The generated decoder aborts the process on each of these.
    assert_eq!(refused(api::METADATA, 1, &[0x7f, 0xff, 0xff, 0xff]), "more elements than bytes");
    assert_eq!(refused(api::METADATA, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]), "more elements than bytes");
    assert_eq!(refused(api::METADATA, 9, &[0xff, 0xff, 0xff, 0xff, 0x7f]), "varint over 32 bits");
    assert_eq!(refused(api::METADATA, 1, &[0xff, 0xff, 0xff, 0xfe]), "negative length");
    assert_eq!(refused(api::METADATA, 0, &[0xff, 0xff, 0xff, 0xff]), "null", "nullable from version 1 on");
    assert_eq!(check(api::METADATA, 1, &[0xff, 0xff, 0xff, 0xff]), Ok(()));
    let broker_ids = [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 3, 0, 0, 0, 1, 0x3f, 0xff, 0xff, 0xff];
    assert_eq!(refused(api::CREATE_PARTITIONS, 0, &broker_ids[4..]), "more elements than bytes");
}

#[test]
fn strings_that_lie_are_refused() {
    let named = |length: &[u8]| [&[0, 0, 0, 1][..], length, b"topic"].concat();
    assert_eq!(check(api::METADATA, 1, &named(&[0, 5])), Ok(()));
    assert_eq!(refused(api::METADATA, 1, &named(&[0, 6])), "cut short");
    assert_eq!(check(api::METADATA, 1, &named(&[0, 4])), Ok(()), "a byte after the last field");
    assert_eq!(refused(api::METADATA, 1, &named(&[0xff, 0xff])), "null");
    assert_eq!(refused(api::METADATA, 1, &named(&[0x80, 0])), "negative length");
    let long = [&[2, 0x81, 0x80, 2][..], &vec![b'x'; 32_768], &[0, 1, 0, 0, 0]].concat();
    assert_eq!(refused(api::METADATA, 9, &long), "string too long");
    // Not UTF-8: the right shape, and the decoder's business to refuse without panicking.
    let odd = [0, 0, 0, 1, 0, 2, 0xff, 0xfe];
    assert_eq!(check(api::METADATA, 1, &odd), Ok(()));
    assert!(decode(api::METADATA, 1, Bytes::copy_from_slice(&odd)).is_err());
}

#[test]
fn tagged_fields_are_held_to_their_rules() {
    // DescribeCluster 0: a boolean, then tags.
    let tagged =
        |tags: &[u8]| check(api::DESCRIBE_CLUSTER, 0, &[&[1][..], tags].concat()).map_err(|e| e.what);
    assert_eq!(tagged(&[0]), Ok(()));
    assert_eq!(tagged(&[2, 0, 1, 9, 5, 0]), Ok(()), "unknown tags are skipped");
    assert_eq!(tagged(&[2, 5, 0, 5, 0]), Err("tags out of order"));
    assert_eq!(tagged(&[2, 5, 0, 4, 0]), Err("tags out of order"));
    assert_eq!(tagged(&[1, 0, 2, 9]), Err("cut short"));
    assert_eq!(tagged(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Err("too many"));
    assert_eq!(tagged(&[1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]), Ok(()), "the largest tag");
    let large = [&[1, 0, 0x81, 0x80, 4][..], &vec![0; TAGGED_FIELD_BYTES_MAX + 1]].concat();
    assert_eq!(tagged(&large), Err("unknown field too large"));
}

#[test]
fn known_tags_are_as_long_as_they_say() {
    // Fetch 12 without topics: replica, wait, min, max, isolation, session, epoch, topics, forgotten, rack,
    // tags.
    let fetch = |tags: &[u8]| {
        let mut body = vec![0; 4 * 4 + 1 + 4 + 4];
        body.extend_from_slice(&[1, 1, 1]);
        body.extend_from_slice(tags);
        check(api::FETCH, 12, &body).map_err(|e| e.what)
    };
    assert_eq!(fetch(&[0]), Ok(()));
    assert_eq!(fetch(&[1, 0, 3, 3, b'i', b'd']), Ok(()), "the cluster id");
    assert_eq!(fetch(&[1, 0, 1, 0]), Ok(()), "no cluster id");
    assert_eq!(fetch(&[1, 0, 4, 3, b'i', b'd', 0]), Err("not as long as its tag says"));
    assert_eq!(fetch(&[1, 0, 2, 3, b'i', b'd']), Err("not as long as its tag says"));
    assert_eq!(fetch(&[1, 0, 9, 3, b'i', b'd']), Err("cut short"));
    assert_eq!(fetch(&[1, 1, 2, 0, 0]), Ok(()), "tag 1 has no meaning before version 15");
}

#[test]
fn optional_structures_are_there_or_not() {
    let describe = |cursor: &[u8]| {
        let body = [&[1, 0, 0, 0, 9][..], cursor, &[0]].concat();
        check(api::DESCRIBE_TOPIC_PARTITIONS, 0, &body).map_err(|e| e.what)
    };
    assert_eq!(describe(&[0xff]), Ok(()));
    assert_eq!(describe(&[1, 2, b't', 0, 0, 0, 0, 0]), Ok(()));
    assert_eq!(describe(&[0]), Err("neither present nor absent"));
    assert_eq!(describe(&[1, 0, 0, 0, 0, 0, 0]), Err("null"));
}

#[test]
fn elements_of_a_request_are_bounded_in_all() {
    let count = REQUEST_ELEMENTS_MAX as u32;
    let names = |count: u32| [&count.to_be_bytes()[..], &vec![0; 2 * count as usize]].concat();
    assert_eq!(check(api::METADATA, 0, &names(count)), Ok(()));
    assert_eq!(refused(api::METADATA, 0, &names(count + 1)), "too many elements");
}

#[test]
fn unknown_tags_are_bounded_in_all() {
    // Metadata 9: topics with an empty name and one empty unknown tag each, then three booleans and no tags.
    let request = |topics: u32| {
        let mut body = Vec::new();
        let mut count = topics + 1;
        while count >= 0x80 {
            body.push(count as u8 | 0x80);
            count >>= 7;
        }
        body.push(count as u8);
        body.extend([1, 1, 9, 0].repeat(topics as usize));
        body.extend([0, 0, 0, 0]);
        body
    };
    let fits = (REQUEST_ELEMENTS_MAX / (1 + UNKNOWN_TAG_ELEMENTS)) as u32;
    assert_eq!(check(api::METADATA, 9, &request(fits)), Ok(()));
    assert_eq!(refused(api::METADATA, 9, &request(fits + 1)), "too many elements");
}

#[test]
fn what_is_not_served_is_refused() {
    for (key, version) in [(api::PRODUCE, 2), (api::PRODUCE, 14), (api::FETCH, 3), (999, 0), (-1, 0)] {
        assert_eq!(refused(key, version, &[]), "not served");
    }
    for range in api::SERVED {
        assert!(table::request(range.key).is_some(), "{range:?}");
    }
}

/// What is accepted is decoded without a panic; the count of what was accepted.
fn accepted_then_decoded(key: i16, version: i16, body: Vec<u8>) -> u64 {
    let body = Bytes::from(body);
    let Ok(taken) = request_bytes(key, version, &body) else {
        return 0;
    };
    let total = body.len();
    if let Ok((_, left)) = decode(key, version, body) {
        assert_eq!(
            left,
            total - taken,
            "key {key} version {version}: check and decoder disagree about the length"
        );
    }
    1
}

#[test]
fn damaged_requests_never_reach_a_panic() {
    let mut dice = Dice::new(5);
    let all: Vec<_> = served().collect();
    let samples: Vec<Vec<Bytes>> = all
        .iter()
        .map(|&(key, version)| {
            let mut sample = || encode(&any_request(&mut dice, key, version), version);
            (0..40).map(|_| sample()).filter(|body| body.len() < 4_000).collect()
        })
        .collect();
    let mut accepted = 0;
    for _ in 0..fuzz_inputs(45) {
        let at = dice.below(all.len());
        let mut body = samples[at][dice.below(samples[at].len())].to_vec();
        dice.mutate(&mut body);
        accepted += accepted_then_decoded(all[at].0, all[at].1, body);
    }
    assert!(accepted > fuzz_inputs(45) / 50, "most damage must not be to the first length: {accepted}");
}

#[test]
fn random_bytes_never_reach_a_panic() {
    let mut dice = Dice::new(6);
    let all: Vec<_> = served().collect();
    for _ in 0..fuzz_inputs(15) {
        let (key, version) = all[dice.below(all.len())];
        let length = dice.below(60);
        let mut body = dice.bytes(length);
        // Small numbers are lengths that can be true.
        for byte in &mut body {
            if dice.one_in(2) {
                *byte = dice.below(4) as u8;
            }
        }
        accepted_then_decoded(key, version, body);
    }
}
