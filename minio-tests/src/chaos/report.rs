//! The table of what each kind of fault has cost.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::ledger::Acks;
use super::schedule::{KINDS, Kind};

/// A fault that was done.
pub struct Done {
    pub kind: Kind,
    /// The machine's clock when it began.
    pub began_ms: u64,
    /// From its end until all was well again; none where the next came before that.
    pub healing: Option<Duration>,
}

/// For each kind how often, and by group of topics the longest and the middle one of the longest silences of
/// some partition; and how long it took until all was well again.
pub fn table(done: &[Done], acks: &Acks, groups: &[(&str, Vec<u16>)]) -> String {
    let begins: Vec<u64> = done.iter().map(|fault| fault.began_ms).collect();
    let mut text = format!("{:33}{:>6}{:>18}", "fault", "times", "well again, s");
    for (name, _) in groups {
        let _ = write!(text, "{:>26}", format!("{name}: silence, s"));
    }
    text.push('\n');
    let silences: Vec<Vec<u64>> =
        groups.iter().map(|(_, topics)| acks.longest_silences(topics, &begins)).collect();
    let mut of_kind: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for (index, fault) in done.iter().enumerate() {
        of_kind.entry(fault.kind).or_default().push(index);
    }
    for kind in KINDS {
        let Some(faults) = of_kind.get(&kind) else { continue };
        let healing = faults.iter().filter_map(|index| done[*index].healing);
        let healing = healing.max().map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
        let _ = write!(text, "{:33}{:>6}{healing:>18}", kind.name(), faults.len());
        for silences in &silences {
            let mut of_these: Vec<u64> = faults.iter().map(|index| silences[*index]).collect();
            of_these.sort_unstable();
            let (middle, most) = (of_these[of_these.len() / 2], of_these[of_these.len() - 1]);
            let seconds = |ms: u64| ms as f64 / 1e3;
            let cell = format!("{:.1} (middle {:.1})", seconds(most), seconds(middle));
            let _ = write!(text, "{cell:>26}");
        }
        text.push('\n');
    }
    text
}

/// The longest silence of all, in milliseconds.
pub fn longest(done: &[Done], acks: &Acks, topics: &[u16]) -> u64 {
    let begins: Vec<u64> = done.iter().map(|fault| fault.began_ms).collect();
    acks.longest_silences(topics, &begins).into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_kind_that_was_done() {
        let fault = |kind, began_ms, healing| Done { kind, began_ms, healing };
        let done = [
            fault(Kind::Kill, 10, Some(Duration::from_millis(1_500))),
            fault(Kind::Pause, 20, None),
            fault(Kind::Kill, 30, Some(Duration::from_millis(2_500))),
        ];
        let text = table(&done, &Acks::default(), &[("fetch", vec![0, 1])]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("kill -9") && lines[1].contains("2.5"), "{text}");
        assert!(lines[2].starts_with("SIGSTOP") && lines[2].contains('-'), "{text}");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
        assert_eq!(longest(&done, &Acks::default(), &[0]), 0);
    }
}
