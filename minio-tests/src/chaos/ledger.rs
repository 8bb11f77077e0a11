//! What clients noted (clients/chaos.py has the format), and the silences in it.

use std::collections::BTreeMap;
use std::path::Path;

const ENTRY_BYTES: usize = 32;

/// Acknowledgements: when, in milliseconds of the machine's clock, in order, by (topic's number, partition).
#[derive(Debug, Default)]
pub struct Acks(BTreeMap<(u16, u32), Vec<u64>>);

impl Acks {
    /// Of every ledger `acked-*` in the directory.
    pub fn read(directory: &Path) -> Acks {
        let mut acks = Acks::default();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("acked-") {
                acks.add(&std::fs::read(entry.path()).unwrap_or_default());
            }
        }
        acks.0.values_mut().for_each(|times| times.sort_unstable());
        acks
    }

    fn add(&mut self, ledger: &[u8]) {
        for entry in ledger.chunks_exact(ENTRY_BYTES) {
            let topic = u16::from_le_bytes(entry[..2].try_into().expect("2 bytes"));
            let partition = u32::from_le_bytes(entry[4..8].try_into().expect("4 bytes"));
            let time = u64::from_le_bytes(entry[24..].try_into().expect("8 bytes"));
            self.0.entry((topic, partition)).or_default().push(time);
        }
    }

    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The longest time in which some partition of the topics had no acknowledgement, in milliseconds, for
    /// each span that begins at one of `begins` (in order) and ends at the next. A silence belongs to the
    /// span that most of it is in.
    pub fn longest_silences(&self, topics: &[u16], begins: &[u64]) -> Vec<u64> {
        let mut longest = vec![0; begins.len()];
        for times in self.0.iter().filter(|((topic, _), _)| topics.contains(topic)).map(|(_, times)| times) {
            for pair in times.windows(2) {
                if let Some(span) = span_of(pair[0], pair[1], begins) {
                    longest[span] = (pair[1] - pair[0]).max(longest[span]);
                }
            }
        }
        longest
    }
}

/// The span that most of a time is in; none if that lies before the first.
fn span_of(from: u64, to: u64, begins: &[u64]) -> Option<usize> {
    let first = begins.partition_point(|begin| *begin <= from);
    let last = begins.partition_point(|begin| *begin <= to);
    // Number 0 is the time before the first span.
    let begin = |number: usize| if number == 0 { 0 } else { begins[number - 1] };
    let end = |number: usize| begins.get(number).copied().unwrap_or(u64::MAX);
    let most = (first..=last).max_by_key(|number| end(*number).min(to) - begin(*number).max(from))?;
    most.checked_sub(1)
}

/// Records acknowledged so far in a ledger.
pub fn entries(ledger: &Path) -> u64 {
    std::fs::metadata(ledger).map_or(0, |meta| meta.len()) / ENTRY_BYTES as u64
}

/// The machine's clock, as the clients note it.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(topic: u16, partition: u32, time: u64) -> Vec<u8> {
        let mut entry = vec![0; ENTRY_BYTES];
        entry[..2].copy_from_slice(&topic.to_le_bytes());
        entry[4..8].copy_from_slice(&partition.to_le_bytes());
        entry[24..].copy_from_slice(&time.to_le_bytes());
        entry
    }

    #[test]
    fn a_silence_of_one_partition_is_found_though_others_go_on() {
        let directory = tempfile::tempdir().expect("scratch");
        let mut ledger: Vec<u8> = (0..100).flat_map(|n| entry(0, 0, 1_000 + n * 10)).collect();
        for time in [1_000, 1_010, 1_700, 1_710] {
            ledger.extend(entry(0, 1, time));
        }
        ledger.extend(entry(1, 0, 1_000));
        std::fs::write(directory.path().join("acked-1"), &ledger).expect("written");
        std::fs::write(directory.path().join("acked-2"), entry(1, 0, 1_900)).expect("written");
        std::fs::write(directory.path().join("read-1"), entry(1, 0, 1_500)).expect("written");
        let acks = Acks::read(directory.path());
        assert_eq!(acks.count(), 106);
        assert_eq!(acks.longest_silences(&[0], &[900, 1_200, 1_705]), [10, 690, 10]);
        assert_eq!(acks.longest_silences(&[1], &[900, 1_200, 1_705]), [0, 900, 0]);
        assert_eq!(acks.longest_silences(&[1], &[1_300]), [900], "most of it");
        assert_eq!(acks.longest_silences(&[1], &[1_600]), [0], "most of it is before");
        assert_eq!(acks.longest_silences(&[0], &[5_000]), [0], "before the first span");
    }
}
