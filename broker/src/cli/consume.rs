//! `highwater consume`: the records of a topic, one line each.

use std::io::{BufWriter, Stdout, Write};
use std::time::Duration;

use clap::Args;

use super::CommandError;
use super::connect::{KafkaArgs, Output};
use super::output;
use crate::client::consume::{Consumer, Flow, Record, StartAt};

const WAIT: Duration = Duration::from_millis(500);
const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;
const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// Topic to read.
    topic: String,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Read only this partition.
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Start with the oldest record; by default only what comes from now on is read.
    #[arg(long, group = "start")]
    from_beginning: bool,
    /// Start with this offset.
    #[arg(long, group = "start", value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// Start with the first record of this time or later: Unix milliseconds, 2013-07-01, or
    /// 2013-07-01T12:00:00Z.
    #[arg(long, group = "start", value_name = "T", value_parser = parse_timestamp)]
    timestamp: Option<i64>,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Stop when everything that is there now has been read.
    #[arg(long)]
    until_end: bool,
    /// Write the key and SEP before each value.
    #[arg(long, value_name = "SEP")]
    key_separator: Option<String>,
    /// table writes the values alone; json one object per line with partition, offset, timestamp, key, value,
    /// headers.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub async fn run(args: ConsumeArgs) -> Result<(), CommandError> {
    let start = match (args.offset, args.timestamp) {
        (Some(offset), _) => StartAt::Offset(offset),
        (_, Some(ms)) => StartAt::Timestamp(ms),
        _ if args.from_beginning => StartAt::Earliest,
        _ => StartAt::Latest,
    };
    if args.max == Some(0) {
        return Ok(());
    }
    let client = args.kafka.client()?;
    let mut consumer = Consumer::new(client, &args.topic, args.partition, start, args.until_end).await?;
    let mut out = BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, std::io::stdout());
    let mut count = 0u64;
    while !consumer.is_done() {
        let mut sink = |record: &Record<'_>| -> Result<Flow, CommandError> {
            write_record(&mut out, &args, record).map_err(CommandError::output)?;
            count += 1;
            Ok(if args.max == Some(count) { Flow::Enough } else { Flow::More })
        };
        let flow = consumer.poll(WAIT, &mut sink).await?;
        out.flush().map_err(CommandError::output)?;
        if flow == Flow::Enough {
            break;
        }
    }
    Ok(())
}

fn write_record(out: &mut BufWriter<Stdout>, args: &ConsumeArgs, record: &Record<'_>) -> std::io::Result<()> {
    if args.output == Output::Json {
        return writeln!(out, "{}", as_json(record));
    }
    if let Some(separator) = &args.key_separator {
        out.write_all(record.key.unwrap_or_default())?;
        out.write_all(separator.as_bytes())?;
    }
    out.write_all(record.value.unwrap_or_default())?;
    out.write_all(b"\n")
}

fn as_json(record: &Record<'_>) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    object.insert("partition".into(), record.partition.into());
    object.insert("offset".into(), record.offset.into());
    object.insert("timestamp".into(), record.timestamp.into());
    output::put_bytes(&mut object, "key", record.key);
    output::put_bytes(&mut object, "value", record.value);
    let headers = record.headers.iter().map(|header| {
        let mut object = serde_json::Map::new();
        output::put_bytes(&mut object, "key", Some(header.key));
        output::put_bytes(&mut object, "value", header.value);
        serde_json::Value::Object(object)
    });
    object.insert("headers".into(), headers.collect());
    serde_json::Value::Object(object)
}

/// Unix milliseconds, `YYYY-MM-DD`, or `YYYY-MM-DDTHH:MM:SS[Z]`, in UTC.
fn parse_timestamp(text: &str) -> Result<i64, String> {
    let wrong = || "Unix milliseconds, YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ is needed".to_owned();
    if let Ok(ms) = text.parse::<i64>() {
        return if ms >= 0 { Ok(ms) } else { Err(wrong()) };
    }
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let is_plain = text.chars().all(|c| c.is_ascii_digit() || c == separator);
        let parts: Option<Vec<i64>> = text.split(separator).map(|part| part.parse().ok()).collect();
        parts.filter(|_| is_plain)?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-').ok_or_else(wrong)?;
    let [hour, minute, second] = numbers(time.trim_end_matches('Z'), ':').ok_or_else(wrong)?;
    let is_time = hour < 24 && minute < 60 && second < 60;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !is_time {
        return Err(wrong());
    }
    if day < 1 || day > days_in_month(year, month) {
        return Err(wrong());
    }
    let seconds = (hour * 60 + minute) * 60 + second;
    Ok(days_since_1970(year, month, day) * DAY_MS + seconds * 1_000)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let months: i64 = (1..month).map(|m| days_in_month(year, m)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_utc() {
        for (text, ms) in [
            ("0", 0),
            ("1372636800000", 1_372_636_800_000),
            ("1970-01-01", 0),
            ("2013-07-01", 1_372_636_800_000),
            ("2000-02-29T23:59:59Z", 951_868_799_000),
            ("2024-03-01T00:00:00", 1_709_251_200_000),
        ] {
            assert_eq!(parse_timestamp(text), Ok(ms), "{text}");
        }
        for bad in
            ["", "-1", "2013", "2013-02-29", "2013-13-01", "2013-07-01T24:00:00Z", "x", "2013-07-01 12:00"]
        {
            // A bare number is milliseconds, whatever it looks like.
            assert_eq!(parse_timestamp(bad).is_ok(), bad == "2013", "{bad}");
        }
    }
}
