//! How much of the machine sealing and uploading may take now. Pure: the worker of the same name brings the
//! facts and carries out what is decided (docs/adr/0010).
//!
//! Produce and reads come first: while they keep the cores busy, tier work waits, and what they leave it
//! takes at the lowest priority. That debt is bounded. Once sealed segments have piled up to a limit or
//! waited for long, the disk runs short or a person waits, tier work takes its full share until that is over,
//! whatever it costs produce: a load that never pauses must not fill the disk. Invariants: 16, 17 (the time
//! decides when, never whether).

use highwater_model::limits::{PACE_BUSY_PERMILLE, PACE_CALM_LOOKS};

/// How tier work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Nothing is begun.
    Wait,
    /// At the lowest priority.
    Background,
    /// As everything else.
    Full,
}

impl Pace {
    pub const ALL: [Pace; 3] = [Pace::Wait, Pace::Background, Pace::Full];

    pub fn name(self) -> &'static str {
        match self {
            Pace::Wait => "wait",
            Pace::Background => "background",
            Pace::Full => "full",
        }
    }
}

/// How far tier work may fall behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Bytes sealed and not in the tier, at which it makes way no longer. 0: it never does.
    pub backlog_bytes_max: u64,
    /// Age of the oldest such segment, likewise, in milliseconds.
    pub backlog_ms_max: u64,
}

/// What waits for the tier, and who for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub bytes: u64,
    /// When the oldest of it was sealed (Unix milliseconds).
    pub oldest_ms: Option<i64>,
    /// The disk nears the point where produce is refused.
    pub is_disk_short: bool,
    /// `tier offload` returns when it is done.
    pub someone_waits: bool,
}

/// The decision.
pub fn pace(now_ms: i64, rules: Rules, backlog: Backlog, is_machine_busy: bool) -> Pace {
    // A clock that was set back makes nothing old.
    let age_ms = backlog.oldest_ms.map_or(0, |sealed| now_ms.saturating_sub(sealed).max(0)).unsigned_abs();
    let is_late = backlog.bytes >= rules.backlog_bytes_max || age_ms >= rules.backlog_ms_max;
    let pace = match is_machine_busy {
        _ if is_late || backlog.is_disk_short || backlog.someone_waits => Pace::Full,
        true => Pace::Wait,
        false => Pace::Background,
    };
    assert!(pace == Pace::Full || backlog.bytes < rules.backlog_bytes_max, "the backlog is bounded");
    assert!(pace != Pace::Wait || age_ms < rules.backlog_ms_max, "nothing waits for ever");
    pace
}

/// What all cores have done since the machine started, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    pub busy: u64,
    pub all: u64,
}

impl CpuTimes {
    /// From the text of `/proc/stat`. Work of low priority (`nice`), such as sealing in the background,
    /// counts as idle: who needs the core gets it. What the hypervisor took counts as busy.
    pub fn parse(stat: &str) -> Option<CpuTimes> {
        let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let mut next = || fields.next()?.parse::<u64>().ok();
        let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
        // Kernels have added fields at the end over time: iowait, irq, softirq, steal.
        let (iowait, irq, softirq, steal) =
            (next().unwrap_or(0), next().unwrap_or(0), next().unwrap_or(0), next().unwrap_or(0));
        let parts = [user, system, irq, softirq, steal];
        let busy = parts.iter().fold(0u64, |sum, part| sum.saturating_add(*part));
        let all = busy.saturating_add(nice).saturating_add(idle).saturating_add(iowait);
        debug_assert!(busy <= all);
        Some(CpuTimes { busy, all })
    }
}

/// Whether clients need the cores, look after look.
#[derive(Clone, Debug, Default)]
pub struct CpuMeter {
    last: Option<CpuTimes>,
    calm_looks: u32,
}

impl CpuMeter {
    /// True while the cores are busy or have not been calm for a few looks; also at the first look, which has
    /// nothing to compare with. A machine that does not tell (`None`) never counts as busy.
    pub fn look(&mut self, now: Option<CpuTimes>) -> bool {
        let Some(now) = now else { return false };
        if let Some(last) = self.last.replace(now) {
            // The counters of a virtual machine may go back a little.
            let all = now.all.saturating_sub(last.all);
            let busy = now.busy.saturating_sub(last.busy).min(all);
            let is_busy = busy.saturating_mul(1_000) >= all.saturating_mul(PACE_BUSY_PERMILLE);
            self.calm_looks = if is_busy { 0 } else { (self.calm_looks + 1).min(PACE_CALM_LOOKS) };
        }
        debug_assert!(self.calm_looks <= PACE_CALM_LOOKS);
        self.calm_looks < PACE_CALM_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { backlog_bytes_max: 1_000, backlog_ms_max: 10_000 };

    fn at(bytes: u64, oldest_ms: i64) -> Backlog {
        Backlog { bytes, oldest_ms: Some(oldest_ms), ..Backlog::default() }
    }

    /// Each row: backlog in bytes, its age in ms, the machine, and what follows.
    #[test]
    fn work_makes_way_until_it_is_late() {
        let (busy, calm) = (true, false);
        for (bytes, age_ms, machine, expected) in [
            (1, 0, calm, Pace::Background),
            (1, 0, busy, Pace::Wait),
            (999, 9_999, busy, Pace::Wait),
            (999, 9_999, calm, Pace::Background),
            (1_000, 0, busy, Pace::Full),
            (1_000, 0, calm, Pace::Full),
            (1, 10_000, busy, Pace::Full),
            (1, -60_000, busy, Pace::Wait),
        ] {
            let now_ms = 1_700_000_000_000;
            let decided = pace(now_ms, RULES, at(bytes, now_ms - age_ms), machine);
            assert_eq!(decided, expected, "{bytes} bytes, {age_ms} ms, busy {machine}");
        }
    }

    #[test]
    fn a_short_disk_and_a_person_who_waits_end_the_politeness() {
        for (is_disk_short, someone_waits) in [(true, false), (false, true)] {
            let backlog = Backlog { is_disk_short, someone_waits, ..at(1, 0) };
            assert_eq!(pace(0, RULES, backlog, true), Pace::Full);
        }
        assert_eq!(pace(0, RULES, Backlog::default(), true), Pace::Wait);
        let never_yields = Rules { backlog_bytes_max: 0, ..RULES };
        assert_eq!(pace(0, never_yields, Backlog::default(), true), Pace::Full);
    }

    /// A load that never pauses: one byte in per step, three out in a step of full share.
    #[test]
    fn a_load_that_never_pauses_cannot_outgrow_the_limit() {
        let (mut bytes, mut full, mut most) = (0u64, 0, 0);
        for now_ms in 0..100_000 {
            bytes += 1;
            if pace(now_ms, RULES, at(bytes, now_ms), true) == Pace::Full {
                bytes -= 3.min(bytes);
                full += 1;
            }
            most = most.max(bytes);
        }
        assert!(most <= 1_000, "{most}");
        assert!((32_000..34_000).contains(&full), "as often as needed and no more: {full}");
    }

    #[test]
    fn low_priority_counts_as_idle_and_steal_as_busy() {
        let text = "cpu  100 20 30 400 5 1 2 3 0 0\ncpu0 1 1 1 1 0 0 0 0 0 0\n";
        assert_eq!(CpuTimes::parse(text), Some(CpuTimes { busy: 136, all: 561 }));
        assert_eq!(CpuTimes::parse("cpu  1 2 3 4\n"), Some(CpuTimes { busy: 4, all: 10 }));
        for broken in ["", "cpu0 1 2 3 4", "cpu  1 2 x 4", "cpu  1 2 3", "cpu  1 2 3 99999999999999999999"] {
            assert_eq!(CpuTimes::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn calm_is_believed_after_a_few_looks_and_busy_at_once() {
        let mut meter = CpuMeter::default();
        let (mut busy, mut all) = (0, 0);
        let mut look = |used| {
            (busy, all) = (busy + used, all + 100);
            meter.look(Some(CpuTimes { busy, all }))
        };
        let first = [look(0), look(10), look(10), look(10)];
        assert_eq!(first, [true, true, true, false]);
        assert_eq!([look(74), look(95), look(10), look(10), look(10)], [false, true, true, true, false]);
        assert!(!CpuMeter::default().look(None), "a machine that does not tell");
    }
}
