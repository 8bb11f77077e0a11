//! The core of delayed delivery: headers and batches, the bytes of the journal, a transcript of one shard
//! (`tests/shard.txt`), and random histories with crashes and late leaders (`properties.rs`).

use bytes::Bytes;
use highwater_model::{TopicId, TopicPartition};
use highwater_wire::{BatchBuilder, BatchHeader, Batches, Codec, HEADER_BYTES, Records, TimestampType};
use uuid::Uuid;

use super::*;

mod properties;

pub fn target(number: u8) -> TopicPartition {
    TopicPartition::new(TopicId(Uuid::from_bytes([number; 16])), i32::from(number))
}

/// A record as it is kept, with a value of its own.
pub fn kept(value: u64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(1_000, Some(b"k"), Some(&value.to_be_bytes()), &[("h".as_bytes(), None)]);
    let batch = builder.build();
    let mut records = Records::new(&batch[HEADER_BYTES..], 1);
    write_record(1_000, &records.next().expect("reads").expect("one"))
}

pub fn value_of(record: &[u8]) -> u64 {
    let value = read_record(record).expect("a record").value.expect("a value");
    u64::from_be_bytes(value.try_into().expect("8 bytes"))
}

type Headers<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

fn batch_with(each: &[Headers<'_>]) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(Codec::None).producer(7, 1, 40);
    for (n, headers) in each.iter().enumerate() {
        builder.push(5_000 + n as i64, Some(b"key"), Some(format!("v{n}").as_bytes()), headers);
    }
    let bytes = builder.build();
    (BatchHeader::parse(&bytes).expect("a batch"), bytes)
}

fn judged(headers: Headers<'_>) -> Result<Vec<AskRecord>, HeaderRefusal> {
    let (header, bytes) = batch_with(&[&[], headers]);
    marked(&header, &bytes[HEADER_BYTES..], 10_000, 1_000)
}

#[test]
fn headers_say_when_a_record_is_due() {
    let at = DELIVER_AT_HEADER.as_bytes();
    let delay = DELAY_HEADER.as_bytes();
    let due = |headers: Headers<'_>| {
        let found = judged(headers).expect("sound headers");
        found.first().map(|one| (one.delta, one.due_ms, one.is_due))
    };
    assert_eq!(due(&[]), None);
    assert_eq!(due(&[(b"other", Some(b"5"))]), None);
    assert_eq!(due(&[(b"other", None), (at, Some(b"10500"))]), Some((1, 10_500, false)));
    assert_eq!(due(&[(delay, Some(b"1000"))]), Some((1, 11_000, false)));
    // The past, and no delay at all.
    assert_eq!(due(&[(at, Some(b"9999"))]), Some((1, 9_999, true)));
    assert_eq!(due(&[(delay, Some(b"0"))]), Some((1, 10_000, true)));
    let fault = |headers: Headers<'_>| match judged(headers) {
        Err(HeaderRefusal::Record { index: 1, fault }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&[(at, Some(b"10500")), (delay, Some(b"1"))]), HeaderFault::Both);
    assert_eq!(fault(&[(at, Some(b"10500")), (at, Some(b"10500"))]), HeaderFault::Both);
    for text in
        [&b""[..], b"-1", b"+1", b"1.5", b" 1", b"soon", b"99999999999999999999", b"9300000000000000000"]
    {
        assert_eq!(fault(&[(delay, Some(text))]), HeaderFault::Unreadable(DELAY_HEADER), "{text:?}");
    }
    assert_eq!(fault(&[(at, None)]), HeaderFault::Unreadable(DELIVER_AT_HEADER));
    assert_eq!(fault(&[(delay, Some(b"1001"))]), HeaderFault::TooLong { delay_ms: 1_001, max_ms: 1_000 });
    assert!(matches!(fault(&[(at, Some(b"9223372036854775807"))]), HeaderFault::TooLong { .. }));
    assert!(matches!(fault(&[(delay, Some(b"9223372036854775807"))]), HeaderFault::TooLong { .. }));
}

#[test]
fn what_is_left_of_a_batch_keeps_its_offsets_and_sequences() {
    for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
        let mut builder = BatchBuilder::new(Codec::None).producer(7, 1, 40);
        for n in 0..4_u8 {
            builder.push(5_000 - i64::from(n), Some(&[n]), None, &[(b"h", Some(&[n]))]);
        }
        let plain = builder.build();
        let mut header = BatchHeader::parse(&plain).expect("a batch");
        header.attributes |= i16::from(codec.id());
        let left = |deltas: &[u32]| {
            let bytes = without(&header, &plain[HEADER_BYTES..], deltas).expect("reads");
            let (header, batch) = Batches::new(&bytes).next().expect("one").expect("whole");
            assert!(highwater_wire::batch::crc_matches(batch));
            assert_eq!((header.last_offset_delta, header.base_sequence, header.last_sequence()), (3, 40, 43));
            assert_eq!((header.producer_id, header.producer_epoch), (7, 1));
            (header, bytes)
        };
        let (mixed, bytes) = left(&[0, 2]);
        assert_eq!((mixed.record_count, mixed.max_timestamp, mixed.codec()), (2, 4_999, Ok(codec)));
        if codec == Codec::None {
            let mut records = Records::new(&bytes[HEADER_BYTES..], 2);
            let mut deltas = Vec::new();
            while let Some(record) = records.next().expect("reads") {
                assert_eq!(record.key, Some(&[record.offset_delta as u8][..]));
                assert_eq!(
                    mixed.record_timestamp(record.timestamp_delta),
                    5_000 - i64::from(record.offset_delta)
                );
                assert_eq!(record.headers.len(), 1);
                deltas.push(record.offset_delta);
            }
            assert_eq!(deltas, [1, 3]);
        }
        let (empty, bytes) = left(&[0, 1, 2, 3]);
        assert_eq!((empty.record_count, empty.max_timestamp, bytes.len()), (0, -1, HEADER_BYTES));
    }
}

#[test]
fn the_brokers_time_stays_on_what_is_left() {
    let builder = BatchBuilder::new(Codec::None).producer(7, 1, 0);
    let mut builder = builder.attributes(TimestampType::LogAppendTime, false, false);
    builder.push(5_000, None, Some(b"a"), &[]);
    builder.push(5_001, None, Some(b"b"), &[]);
    let bytes = builder.build();
    let mut header = BatchHeader::parse(&bytes).expect("a batch");
    header.max_timestamp = 77_000;
    let left = without(&header, &bytes[HEADER_BYTES..], &[0]).expect("reads");
    let left_header = BatchHeader::parse(&left).expect("a batch");
    assert_eq!(
        (left_header.record_timestamp(3), left_header.timestamp_type()),
        (77_000, TimestampType::LogAppendTime)
    );
    assert!(highwater_wire::batch::crc_matches(&left));
}

fn one_of_each() -> Vec<Entry> {
    let known = Known {
        producer_id: 7,
        epoch: 2,
        seen_ms: 6_000,
        batches: vec![KnownBatch { first: i32::MAX, last: 1, deltas: vec![0, 2] }],
    };
    let source = Some(Source { producer_id: 7, epoch: 2, first: 5, last: 9 });
    let record = TakenRecord { delta: 3, due_ms: 9_000, record: kept(1) };
    let identity = Identity { producer_id: 900, sequence: 17 };
    vec![
        Entry::Taken {
            target: target(1),
            source,
            now_ms: 6_000,
            first_id: 40,
            records: vec![record.clone()],
        },
        Entry::Taken { target: target(1), source: None, now_ms: 6_000, first_id: 41, records: vec![record] },
        Entry::Planned { target: target(1), identity, ids: vec![40, 41] },
        Entry::Released { target: target(1) },
        Entry::Gone { target: target(2) },
        Entry::Begun { next_id: 42 },
        Entry::State { target: target(3), identity: Some(identity), planned: vec![41], known: vec![known] },
        Entry::State { target: target(3), identity: None, planned: vec![], known: vec![] },
        Entry::Kept { target: target(3), id: 41, due_ms: 9_000, record: kept(2) },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `entries-v1.txt` was written by the first release that had entries: it reads for ever.
#[test]
fn entries_of_version_1_are_read_and_written() {
    let entries = one_of_each();
    let lines: Vec<&str> = include_str!("tests/entries-v1.txt").lines().collect();
    let written: Vec<String> = entries.iter().map(|entry| hex(&encode(entry))).collect();
    assert_eq!(written, lines, "what is written now, if it is right:\n{}", written.join("\n"));
    for (entry, line) in entries.iter().zip(lines) {
        let bytes: Vec<u8> = (0..line.len() / 2)
            .map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("hex"))
            .collect();
        assert_eq!(decode(&bytes).as_ref(), Ok(entry));
    }
}

#[test]
fn damaged_entries_are_refused() {
    for entry in one_of_each() {
        let bytes = encode(&entry);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{entry:?} cut at {end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(CodecError::Wrong("end")));
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert_eq!(decode(&newer), Err(CodecError::Newer(2)));
        // Whatever else is wrong, it is an answer and no panic.
        for at in 1..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            if let Ok(read) = decode(&flipped) {
                assert_ne!(read, entry, "every byte counts");
            }
        }
    }
}

/// More headers than records that may wait: only their bytes count.
#[test]
fn a_record_of_a_million_headers_is_kept_and_read() {
    let count = highwater_model::limits::DELAYED_RECORDS_PER_SHARD_MAX + 1;
    let mut headers = vec![(&b""[..], None); count];
    headers[0] = (DELAY_HEADER.as_bytes(), Some(&b"500"[..]));
    let (header, bytes) = batch_with(&[&headers]);
    let found = marked(&header, &bytes[HEADER_BYTES..], 10_000, 1_000).expect("within its bytes");
    let ask = Ask { target: target(1), source: None, records: found };
    let limits = Limits { records_max: 6, bytes_max: 100_000_000 };
    let Ok(Take::New(entry)) = Shard::default().decide_take(10_000, &ask, limits) else { panic!("kept") };
    let read = decode(&encode(&entry)).expect("the journal reads");
    let Entry::Taken { records, .. } = read else { panic!("another entry") };
    assert_eq!(read_record(&records[0].record).expect("reads").headers.len(), count);
    // Not as many as the count says.
    let mut short = records[0].record.to_vec();
    short.truncate(short.len() - 32);
    assert_eq!(read_record(&short), Err(CodecError::Wrong("count")));
}

#[test]
fn what_could_not_be_read_again_is_not_kept() {
    let record = Bytes::from_static(b"no record");
    let ask = Ask {
        target: target(1),
        source: None,
        records: vec![AskRecord { delta: 0, due_ms: 9_000, is_due: false, record }],
    };
    let refused = Shard::default().decide_take(1_000, &ask, Limits::of_bytes(1 << 20));
    assert!(matches!(refused, Err(TakeRefusal::Record(_))), "{refused:?}");
}

/// What is asked for may be due by the time that it is heard: another leader of the target has seen that.
#[test]
fn what_is_due_when_it_is_heard_is_not_kept() {
    let one = |delta, due_ms| AskRecord { delta, due_ms, is_due: false, record: kept(1) };
    let ask = Ask { target: target(1), source: None, records: vec![one(0, 5_000), one(1, 5_001)] };
    let shard = Shard::default();
    assert_eq!(shard.decide_take(5_001, &ask, Limits::of_bytes(1 << 20)), Ok(Take::Nothing));
    let taken = shard.decide_take(5_000, &ask, Limits::of_bytes(1 << 20));
    let Ok(Take::New(Entry::Taken { records, .. })) = taken else { panic!("{taken:?}") };
    assert_eq!(records.iter().map(|one| one.delta).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_batch_lies_after_another_also_where_sequences_begin_anew() {
    let after = |first, last| Source { producer_id: 1, epoch: 0, first, last: first }.is_after(last);
    assert!(after(5, 4) && after(9, 4) && after(0, i32::MAX) && after(3, i32::MAX - 3));
    assert!(!after(4, 4) && !after(3, 4) && !after(i32::MAX, 0) && !after(i32::MAX - 3, 3));
}

/// Producers with large batches: what is known of them has a bound, and with it the largest entry.
#[test]
fn what_is_known_of_producers_is_bounded_in_bytes() {
    use highwater_model::limits::{DELAYED_ENTRY_BYTES_MAX, DELAYED_KNOWN_BYTES_MAX};
    let batch = |first: i32| KnownBatch { first, last: first + 9_999, deltas: (0..10_000).collect() };
    let known = |producer_id: i64| Known {
        producer_id,
        epoch: 0,
        seen_ms: 1_000 + producer_id,
        batches: (0..5).map(|n| batch(n * 10_000)).collect(),
    };
    let state = |number, ids: std::ops::Range<i64>| Entry::State {
        target: target(number),
        identity: None,
        planned: vec![],
        known: ids.map(known).collect(),
    };
    let mut shard = Shard::default();
    shard.apply(&state(1, 0..60));
    shard.apply(&state(2, 60..90));
    assert!(shard.known_bytes() > DELAYED_KNOWN_BYTES_MAX, "as an older journal may have it");
    assert!(shard.live_bytes() > DELAYED_KNOWN_BYTES_MAX as u64, "what is written anew counts");
    let (entries, _) = shard.begin_pass(2_000);
    let bytes: usize = entries.iter().map(|entry| encode(entry).len()).sum();
    assert!(bytes <= DELAYED_ENTRY_BYTES_MAX, "{bytes}");
    let take = |shard: &Shard, producer_id, first, last| {
        let source = Some(Source { producer_id, epoch: 0, first, last });
        let records = vec![AskRecord { delta: 0, due_ms: 9_000, is_due: false, record: kept(1) }];
        let ask = Ask { target: target(1), source, records };
        shard.decide_take(1_500, &ask, Limits::of_bytes(1 << 20)).expect("taken or known")
    };
    // One more comes: those that were silent for longest are forgotten, and what was taken is known.
    let Take::New(entry) = take(&shard, 500, 0, 9) else { panic!("new") };
    shard.apply(&entry);
    assert!(shard.known_bytes() <= DELAYED_KNOWN_BYTES_MAX, "{}", shard.known_bytes());
    assert!(shard.known_bytes() > DELAYED_KNOWN_BYTES_MAX / 2, "no more than must be");
    assert_eq!(take(&shard, 500, 0, 9), Take::Known(vec![0]));
    assert!(matches!(take(&shard, 0, 40_000, 49_999), Take::New(_)), "silent for longest");
    assert!(matches!(take(&shard, 59, 40_000, 49_999), Take::Known(_)));
    let before = shard.known_bytes();
    shard.apply(&Entry::Gone { target: target(2) });
    assert!(shard.known_bytes() < before);
    shard.apply(&Entry::Gone { target: target(1) });
    assert_eq!((shard.known_bytes(), shard.live_bytes()), (0, 0));
}

/// One shard, the words of a transcript, and what is known outside of it.
struct Notebook {
    shard: Shard,
    journal: Vec<Entry>,
    now_ms: Millis,
    limits: Limits,
    fresh: i64,
}

impl Notebook {
    fn new() -> Notebook {
        let limits = Limits { records_max: 6, bytes_max: 10_000 };
        Notebook { shard: Shard::default(), journal: Vec::new(), now_ms: 1_000, limits, fresh: 900 }
    }

    fn enter(&mut self, entry: Entry) -> String {
        self.shard.apply(&entry);
        self.journal.push(entry.clone());
        format!("{}\n", told(&entry))
    }

    /// `take <target> [pid/epoch/first/last|-] delta=due..`, `plan`, `released`, `gone`, `anew`, `send`.
    fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let of = || target(u8::try_from(number(1)).expect("a target"));
        match words[0] {
            "at" => {
                self.now_ms = number(1);
                String::new()
            }
            "take" => self.take(of(), words[2], &words[3..]),
            "due" => format!(
                "{:?} next={:?}\n",
                self.shard.due(self.now_ms).iter().map(|t| t.partition).collect::<Vec<_>>(),
                self.shard.next_due()
            ),
            "plan" => {
                let fresh = self.fresh;
                match self.shard.decide_plan(self.now_ms, of(), || Some(fresh)) {
                    Some(entry) => {
                        self.fresh += 1;
                        self.enter(entry)
                    }
                    None => "nothing\n".to_owned(),
                }
            }
            "anew" => {
                let fresh = self.fresh;
                self.fresh += 1;
                match self.shard.decide_anew(of(), fresh) {
                    Some(entry) => self.enter(entry),
                    None => "nothing\n".to_owned(),
                }
            }
            "send" => match self.shard.release(of()) {
                Some(release) => {
                    let Identity { producer_id, sequence } = release.identity;
                    let values: Vec<_> = release.records.iter().map(|(_, r)| value_of(r)).collect();
                    format!("send as {producer_id} sequence {sequence}: {values:?}\n")
                }
                None => "nothing\n".to_owned(),
            },
            "released" => self.enter(Entry::Released { target: of() }),
            "gone" => self.enter(Entry::Gone { target: of() }),
            "pass" => self.pass(),
            "load" => {
                let mut loaded = Shard::default();
                self.journal.iter().for_each(|entry| loaded.apply(entry));
                assert_eq!(loaded, self.shard, "the journal says what is in memory");
                self.state()
            }
            "state" => self.state(),
            other => panic!("what is {other}?"),
        }
    }

    fn state(&self) -> String {
        let planned: Vec<i32> = self.shard.planned().map(|t| t.partition).collect();
        let (records, oldest) = (self.shard.records(), self.shard.oldest_due());
        format!("{records} wait, oldest due {oldest:?}, planned for {planned:?}\n")
    }

    fn take(&mut self, target: TopicPartition, source: &str, records: &[&str]) -> String {
        let source = (source != "-").then(|| {
            let part: Vec<i64> = source.split('/').map(|part| part.parse().expect("a number")).collect();
            Source {
                producer_id: part[0],
                epoch: part[1] as i16,
                first: part[2] as i32,
                last: part[3] as i32,
            }
        });
        let one = |word: &&str| {
            let (delta, due) = word.split_once('=').expect("delta=due");
            let due_ms: i64 = due.parse().expect("a time");
            let record = kept(due_ms as u64);
            AskRecord {
                delta: delta.parse().expect("a place"),
                due_ms,
                is_due: due_ms <= self.now_ms,
                record,
            }
        };
        let ask = Ask { target, source, records: records.iter().map(one).collect() };
        match self.shard.decide_take(self.now_ms, &ask, self.limits) {
            Ok(Take::New(entry)) => self.enter(entry),
            Ok(Take::Known(deltas)) => format!("known {deltas:?}\n"),
            Ok(Take::Nothing) => "nothing to keep\n".to_owned(),
            Err(full) => format!("refused: {full}\n").replace(&self.shard.bytes().to_string(), "N"),
        }
    }

    /// A whole pass; the journal begins with it from now on.
    fn pass(&mut self) -> String {
        let (mut entries, mut pass) = (self.shard.begin_pass(self.now_ms).0, None);
        loop {
            let at = pass.unwrap_or_else(|| self.shard.begin_pass(self.now_ms).1);
            let (more, next) = self.shard.pass_part(at, 1);
            entries.extend(more);
            pass = next;
            if pass.is_none() {
                break;
            }
        }
        entries.iter().for_each(|entry| self.shard.apply(entry));
        let text = entries.iter().map(|entry| told(entry) + "\n").collect();
        self.journal = entries;
        text
    }
}

fn told(entry: &Entry) -> String {
    let of = |target: &TopicPartition| target.partition;
    match entry {
        Entry::Taken { target, source, first_id, records, .. } => {
            let due: Vec<_> = records.iter().map(|one| one.due_ms).collect();
            let whose = source.map_or("nobody".to_owned(), |s| {
                format!("{}/{} {}..{}", s.producer_id, s.epoch, s.first, s.last)
            });
            format!("taken for {} of {whose}: from {first_id} due {due:?}", of(target))
        }
        Entry::Planned { target, identity, ids } => {
            format!(
                "planned for {} as {} sequence {}: {ids:?}",
                of(target),
                identity.producer_id,
                identity.sequence
            )
        }
        Entry::Released { target } => format!("released for {}", of(target)),
        Entry::Gone { target } => format!("gone: {}", of(target)),
        Entry::Begun { next_id } => format!("begun, next {next_id}"),
        Entry::State { target, identity, planned, known } => {
            let identity = identity.map(|i| (i.producer_id, i.sequence));
            let known: Vec<_> = known.iter().map(|k| (k.producer_id, k.batches.len())).collect();
            format!("state of {}: as {identity:?} planned {planned:?} known {known:?}", of(target))
        }
        Entry::Kept { target, id, due_ms, .. } => format!("kept for {}: {id} due {due_ms}", of(target)),
    }
}

/// Lines that begin with `>` are what is done; what follows each is what came of it.
#[test]
fn the_transcript_is_kept() {
    let text = include_str!("tests/shard.txt");
    let mut notebook = Notebook::new();
    let mut again = String::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            again += &format!("{line}\n");
        } else if let Some(done) = line.strip_prefix("> ") {
            again += &format!("{line}\n{}", notebook.line(done));
        }
    }
    assert!(again == text, "tests/shard.txt differs from what came of it:\n{again}");
}
