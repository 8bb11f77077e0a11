//! Random answers of every API and version that the command line's client reads, made from the table and held
//! against the generated decoders; lies and damage.

use super::*;
use crate::kafka::messages::{
    MetadataResponse, ResponseKind, metadata_response as metadata, produce_response as produce, *,
};
use crate::shape::answers::answer;
use crate::shape::table::{Field, Kind};

/// Bytes of an answer as the table describes it.
struct Writer<'a> {
    dice: &'a mut Dice,
    version: i16,
    is_flexible: bool,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A length or count, in four bytes where versions are plain; none is null.
    fn length(&mut self, length: Option<usize>) {
        match (self.is_flexible, length) {
            (true, length) => self.uvarint(length.map_or(0, |n| n as u32 + 1)),
            (false, Some(length)) => self.out.extend((length as i32).to_be_bytes()),
            (false, None) => self.out.extend((-1i32).to_be_bytes()),
        }
    }

    fn text(&mut self, length: Option<usize>) {
        match self.is_flexible {
            true => self.length(length),
            false => self.out.extend(length.map_or(-1, |n| n as i16).to_be_bytes()),
        }
        self.out.extend(std::iter::repeat_n(b'x', length.unwrap_or(0)));
    }

    fn fixed(&mut self, bytes: usize) {
        // No byte over 1, so that booleans are ones.
        self.out.extend((0..bytes).map(|_| self.dice.below(2) as u8));
    }

    fn value(&mut self, field: &'static Field) {
        let count = if self.dice.one_in(30) { 130 } else { self.dice.below(4) };
        let count = match self.version >= field.nullable_since && self.dice.one_in(3) {
            true => None,
            false => Some(count),
        };
        match field.kind {
            Kind::Fixed(bytes) => self.fixed(bytes),
            Kind::Text => self.text(count),
            Kind::Blob => {
                self.length(count);
                self.fixed(count.unwrap_or(0));
            }
            Kind::FixedArray(bytes) => {
                self.length(count);
                self.fixed(bytes * count.unwrap_or(0));
            }
            Kind::Array(fields) => {
                self.length(count);
                (0..count.unwrap_or(0)).for_each(|_| self.structure(fields));
            }
            Kind::Struct(fields) => self.structure(fields),
            Kind::TextArray => {
                self.length(count);
                (0..count.unwrap_or(0)).for_each(|n| self.text(Some(n)));
            }
            Kind::OptionalStruct(_) => panic!("no answer has {field:?}"),
        }
    }

    fn structure(&mut self, fields: &'static [Field]) {
        let version = self.version;
        let here = || fields.iter().filter(|field| field.exists_in(version));
        here().filter(|field| field.tag.is_none()).for_each(|field| self.value(field));
        if self.is_flexible {
            let mut tagged: Vec<_> = here().filter(|f| f.tag.is_some() && self.dice.one_in(2)).collect();
            tagged.sort_by_key(|field| field.tag);
            self.tagged(&tagged);
        }
    }

    /// Known tagged fields and perhaps an unknown one.
    fn tagged(&mut self, fields: &[&'static Field]) {
        let unknown = self.dice.one_in(6);
        self.uvarint(fields.len() as u32 + u32::from(unknown));
        for field in fields {
            let outer = std::mem::take(&mut self.out);
            self.value(field);
            let value = std::mem::replace(&mut self.out, outer);
            self.uvarint(field.tag.expect("tagged"));
            self.uvarint(value.len() as u32);
            self.out.extend(value);
        }
        if unknown {
            self.out.extend([99, 3, 1, 2, 3]);
        }
    }
}

/// Every key and version that the client reads.
fn read() -> Vec<(i16, i16)> {
    served().filter(|(key, _)| answer(*key).is_some()).collect()
}

/// An answer's body, behind the header.
fn any_body(dice: &mut Dice, key: i16, version: i16) -> Vec<u8> {
    let is_flexible = api::find(key).expect("served").is_flexible(version);
    let mut writer = Writer { dice, version, is_flexible, out: Vec::new() };
    writer.structure(answer(key).expect("read"));
    writer.out
}

fn decode_answer(key: i16, version: i16, mut body: Bytes) -> Result<usize, String> {
    let key = ApiKey::try_from(key).expect("a served key");
    ResponseKind::decode(key, &mut body, version).map_err(|error| error.to_string())?;
    Ok(body.len())
}

/// With the header in front.
fn whole(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let header: &[u8] = if api::response_header_version(key, version) == 1 { &[0] } else { &[] };
    [header, body].concat()
}

#[test]
fn answers_of_every_version_are_accepted_and_decoded_whole() {
    let mut dice = Dice::new(21);
    for (key, version) in read() {
        for _ in 0..60 {
            let body = any_body(&mut dice, key, version);
            let whole = whole(key, version, &body);
            assert_eq!(answer_bytes(key, version, &whole), Ok(whole.len()), "key {key} version {version}");
            assert_eq!(decode_answer(key, version, body.into()), Ok(0), "key {key} version {version}");
        }
    }
}

#[test]
fn cut_answers_are_refused() {
    let mut dice = Dice::new(22);
    for (key, version) in read() {
        for _ in 0..6 {
            let body = any_body(&mut dice, key, version);
            let whole = whole(key, version, &body);
            for cut in (0..whole.len()).take(2_000) {
                let checked = check_answer(key, version, &whole[..cut]);
                assert!(checked.is_err(), "key {key} version {version} cut at {cut}");
            }
        }
    }
}

#[test]
fn what_our_own_encoder_leaves_null_is_accepted() {
    let encoded = |key: i16, version: i16, answer: ResponseKind| {
        let mut bytes = bytes::BytesMut::new();
        answer.encode(&mut bytes, version).expect("encoded");
        check_answer(key, version, &whole(key, version, &bytes))
    };
    for version in 0..=13 {
        let topic =
            metadata::MetadataResponseTopic::default().with_name((version < 12).then(TopicName::default));
        let broker = metadata::MetadataResponseBroker::default().with_rack(None);
        let answer = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
        let answer = ResponseKind::Metadata(answer.with_cluster_id(None));
        assert_eq!(encoded(api::METADATA, version, answer), Ok(()), "{version}");
    }
    for version in 3..=13 {
        let partition = produce::PartitionProduceResponse::default().with_error_message(None);
        let topic = produce::TopicProduceResponse::default().with_partition_responses(vec![partition]);
        let answer = ProduceResponse::default().with_responses(vec![topic]);
        assert_eq!(encoded(api::PRODUCE, version, ResponseKind::Produce(answer)), Ok(()), "{version}");
    }
}

#[test]
fn counts_of_answers_that_lie_are_refused() {
    let refused = |key, version, answer: &[u8]| check_answer(key, version, answer).expect_err("refused").what;
    // Error code 0 and two thousand million versions; the generated decoder would ask for 50 GB.
    assert_eq!(refused(api::API_VERSIONS, 0, &[0, 0, 0x7f, 0xff, 0xff, 0xff]), "more elements than bytes");
    // Header tags, throttle time, brokers.
    let metadata = [0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(refused(api::METADATA, 12, &metadata), "more elements than bytes");
    assert_eq!(refused(api::METADATA, 12, &[65]), "too many");
    assert_eq!(refused(api::FETCH, 4, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]), "negative length");
    let count = CLIENT_RESPONSE_ELEMENTS_MAX as u32 + 1;
    let versions = [&[0, 0][..], &count.to_be_bytes(), &vec![0; 6 * count as usize]].concat();
    assert_eq!(refused(api::API_VERSIONS, 0, &versions), "too many elements");
    for (key, version) in [(api::DELETE_RECORDS, 0), (api::FETCH, 3), (api::METADATA, 14), (999, 0)] {
        assert_eq!(refused(key, version, &[0; 64]), "not one that is asked for");
    }
}

#[test]
fn damaged_answers_never_reach_a_panic() {
    let mut dice = Dice::new(23);
    let all = read();
    let samples: Vec<Vec<u8>> = all.iter().map(|&(key, version)| any_body(&mut dice, key, version)).collect();
    let mut accepted = 0;
    for _ in 0..fuzz_inputs(20) {
        let at = dice.below(all.len());
        let (key, version) = all[at];
        let mut body = samples[at].clone();
        dice.mutate(&mut body);
        let Ok(taken) = answer_bytes(key, version, &whole(key, version, &body)) else { continue };
        let taken = taken - (whole(key, version, &[]).len());
        let total = body.len();
        accepted += 1;
        if let Ok(left) = decode_answer(key, version, body.into()) {
            assert_eq!(left, total - taken, "key {key} version {version}: check and decoder disagree");
        }
    }
    assert!(accepted > fuzz_inputs(20) / 50, "most damage must not be to the first length: {accepted}");
}
