//! `highwater produce`: each line of standard input becomes a record.

use std::io::{BufRead, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use highwater_model::limits;
use highwater_wire::Codec;
use highwater_wire::build::BatchBuilder;
use tokio::sync::mpsc;

use super::CommandError;
use super::connect::KafkaArgs;
use crate::client::produce::{Acks, Producer, partition_for_key};

/// Lines that arrive together are sent together, up to this many bytes at a time.
const GROUP_BYTES: usize = 256 * 1024;

#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// Topic to send to.
    topic: String,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Send to this partition; by default a key decides, or else each batch goes to the next one.
    #[arg(long, value_name = "N")]
    partition: Option<usize>,
    /// Split each line at the first SEP into key and value; a line without it has no key.
    #[arg(long, value_name = "SEP")]
    key_separator: Option<String>,
    /// Header of every record, as NAME=VALUE; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Who must have a record before it counts as sent: all in-sync replicas, the leader (1), or nobody (0).
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// Compression of the batches.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    /// Send a batch once it has this many bytes.
    #[arg(long, default_value_t = 512 * 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    batch_bytes: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AcksArg {
    All,
    #[value(name = "1")]
    Leader,
    #[value(name = "0")]
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CompressionArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionArg {
    fn codec(self) -> Codec {
        match self {
            CompressionArg::None => Codec::None,
            CompressionArg::Gzip => Codec::Gzip,
            CompressionArg::Snappy => Codec::Snappy,
            CompressionArg::Lz4 => Codec::Lz4,
            CompressionArg::Zstd => Codec::Zstd,
        }
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is needed")?;
    if name.is_empty() {
        return Err("the name must not be empty".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub async fn run(args: ProduceArgs) -> Result<(), CommandError> {
    let acks = match args.acks {
        AcksArg::All => Acks::All,
        AcksArg::Leader => Acks::Leader,
        AcksArg::None => Acks::None,
    };
    if args.key_separator.as_deref() == Some("") {
        return Err(CommandError::Failed("--key-separator must not be empty; give a text such as :".into()));
    }
    let producer = Producer::new(args.kafka.client()?, &args.topic, acks).await?;
    let partitions = producer.partitions();
    if args.partition.is_some_and(|p| p >= partitions) {
        let topic = &args.topic;
        return Err(CommandError::Failed(format!(
            "{topic} has partitions 0 to {}; give one",
            partitions - 1
        )));
    }
    let codec = args.compression.codec();
    let batches = (0..partitions).map(|_| BatchBuilder::new(codec)).collect();
    let mut sender = Sender { producer, args, batches, codec, turn: 0 };
    let mut groups = read_lines();
    let mut waiting: Option<LineGroup> = None;
    loop {
        let group = match waiting.take() {
            Some(group) => group,
            None => match groups.recv().await {
                Some(group) => group,
                None => break,
            },
        };
        for line in group.map_err(CommandError::Failed)? {
            sender.push(&line).await?;
        }
        // Nothing more to read for now: somebody may be waiting for what is here.
        match groups.try_recv() {
            Ok(group) => waiting = Some(group),
            Err(_) => sender.send_all().await?,
        }
    }
    sender.send_all().await
}

struct Sender {
    producer: Producer,
    args: ProduceArgs,
    /// One per partition.
    batches: Vec<BatchBuilder>,
    codec: Codec,
    /// Partition that records without a key go to, until its batch is sent.
    turn: usize,
}

impl Sender {
    async fn push(&mut self, line: &[u8]) -> Result<(), CommandError> {
        let (key, value) = match self.args.key_separator.as_deref().and_then(|s| split_at(line, s.as_bytes()))
        {
            Some((key, value)) => (Some(key), value),
            None => (None, line),
        };
        let partition = match (self.args.partition, key) {
            (Some(chosen), _) => chosen,
            (None, Some(key)) => partition_for_key(key, self.batches.len()),
            (None, None) => self.turn,
        };
        let batch_bytes = self.args.batch_bytes as usize;
        let length = line.len() + 32;
        let batch = &self.batches[partition];
        if !batch.is_empty() && batch.uncompressed_bytes() + length > batch_bytes {
            self.send(partition).await?;
        }
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            self.args.headers.iter().map(|(n, v)| (n.as_bytes(), Some(v.as_bytes()))).collect();
        self.batches[partition].push(now_ms(), key, Some(value), &headers);
        Ok(())
    }

    async fn send(&mut self, partition: usize) -> Result<(), CommandError> {
        let batch = std::mem::replace(&mut self.batches[partition], BatchBuilder::new(self.codec));
        if partition == self.turn {
            self.turn = (self.turn + 1) % self.batches.len();
        }
        Ok(self.producer.send(partition, batch).await?)
    }

    async fn send_all(&mut self) -> Result<(), CommandError> {
        for partition in 0..self.batches.len() {
            if !self.batches[partition].is_empty() {
                self.send(partition).await?;
            }
        }
        Ok(())
    }
}

fn split_at<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line.windows(separator.len()).position(|window| window == separator)?;
    Some((&line[..at], &line[at + separator.len()..]))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Lines that were read together, without their ends, or why reading stopped.
type LineGroup = Result<Vec<Vec<u8>>, String>;

/// Reads standard input on a thread of its own: a read of a terminal cannot be cancelled.
fn read_lines() -> mpsc::Receiver<LineGroup> {
    let (sender, receiver) = mpsc::channel(limits::CLIENT_LINE_GROUPS_MAX);
    std::thread::spawn(move || {
        let mut input = std::io::BufReader::with_capacity(GROUP_BYTES, std::io::stdin());
        loop {
            let group = read_group(&mut input);
            let is_last = !matches!(&group, Ok(lines) if !lines.is_empty());
            if matches!(&group, Ok(lines) if lines.is_empty())
                || sender.blocking_send(group).is_err()
                || is_last
            {
                return;
            }
        }
    });
    receiver
}

/// At least one line, and whatever whole lines are already in the buffer; empty at the end of the input.
fn read_group(input: &mut std::io::BufReader<impl Read>) -> LineGroup {
    let mut lines = Vec::new();
    while lines.is_empty() || input.buffer().contains(&b'\n') {
        let mut line = Vec::new();
        let read = input
            .by_ref()
            .take(limits::CLIENT_LINE_BYTES_MAX as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|e| format!("cannot read standard input: {e}"))?;
        if read == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > limits::CLIENT_LINE_BYTES_MAX {
            return Err(format!("a line is longer than {} bytes; split it", limits::CLIENT_LINE_BYTES_MAX));
        }
        lines.push(line);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_groups_and_the_last_may_lack_its_end() {
        let mut input = std::io::BufReader::new(&b"a\n\nb\r\nlast"[..]);
        let first = read_group(&mut input).expect("lines");
        assert_eq!(first, [b"a".to_vec(), b"".to_vec(), b"b\r".to_vec()]);
        assert_eq!(read_group(&mut input).expect("line"), [b"last".to_vec()]);
        assert!(read_group(&mut input).expect("end").is_empty());
    }

    #[test]
    fn a_line_splits_at_the_first_separator() {
        assert_eq!(split_at(b"k::v::w", b"::"), Some((&b"k"[..], &b"v::w"[..])));
        assert_eq!(split_at(b":v", b":"), Some((&b""[..], &b"v"[..])));
        assert_eq!(split_at(b"v", b":"), None);
    }
}
