//! When a record has expired: `highwater.ttl.ms` of its topic, or a header of its own (docs/adr/0021).
//!
//! Pure: the time is an argument, so reads, sealing and rewrites of the tier decide alike. Who reads a log to
//! replicate it, or to coordinate by it, must not ask: only clients and objects lack expired records.

/// Header by which a record sets its own time to live: milliseconds in decimal digits, -1 for without end.
pub const TTL_HEADER: &[u8] = b"highwater-ttl-ms";
/// The timestamp that means "none".
const NO_TIMESTAMP: i64 = -1;

/// How long the records of a topic live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTtl {
    /// Of records without the header, in milliseconds; `None`: those live on.
    pub default_ms: Option<i64>,
}

impl RecordTtl {
    /// From the setting: below 0 records are not looked at, at 0 only those with the header can expire.
    pub fn from_setting(ttl_ms: i64) -> Option<RecordTtl> {
        (ttl_ms >= 0).then_some(RecordTtl { default_ms: Some(ttl_ms).filter(|ms| *ms > 0) })
    }

    /// The same at a moment, in Unix milliseconds.
    pub fn at(self, now_ms: i64) -> Expiry {
        Expiry { ttl: self, now_ms }
    }
}

/// What has expired at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub ttl: RecordTtl,
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl Expiry {
    /// Whether a record has expired: its time to live, counted from its timestamp as the topic has it, is
    /// over. `header` is the value of its last [`TTL_HEADER`], if it has one; one that cannot be read counts
    /// as absent. A record without a timestamp lives on.
    pub fn is_expired(&self, timestamp: i64, header: Option<&[u8]>) -> bool {
        let ttl_ms = match header.and_then(read_header) {
            Some(HeaderTtl::Endless) => None,
            Some(HeaderTtl::Ms(ms)) => Some(ms),
            None => self.ttl.default_ms,
        };
        match ttl_ms {
            None => false,
            Some(_) if timestamp == NO_TIMESTAMP => false,
            Some(ttl_ms) => timestamp.checked_add(ttl_ms).is_some_and(|end| end <= self.now_ms),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderTtl {
    Endless,
    Ms(i64),
}

/// Digits alone, or -1; `None` for whatever else, also for what does not fit 63 bits.
fn read_header(value: &[u8]) -> Option<HeaderTtl> {
    if value == b"-1" {
        return Some(HeaderTtl::Endless);
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok().map(HeaderTtl::Ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(setting: i64, timestamp: i64, header: Option<&str>, now_ms: i64) -> bool {
        let ttl = RecordTtl::from_setting(setting).expect("on");
        ttl.at(now_ms).is_expired(timestamp, header.map(str::as_bytes))
    }

    #[test]
    fn the_end_is_the_timestamp_and_the_time_to_live() {
        assert!(!expired(100, 1_000, None, 1_099) && expired(100, 1_000, None, 1_100));
        assert_eq!(RecordTtl::from_setting(-1), None);
        assert!(!expired(0, 1_000, None, i64::MAX), "0 is for headers alone");
        assert!(expired(0, 1_000, Some("5"), 1_005) && !expired(0, 1_000, Some("5"), 1_004));
    }

    #[test]
    fn the_header_is_over_the_setting() {
        assert!(expired(1_000_000, 1_000, Some("7"), 1_007));
        assert!(expired(1_000_000, 1_000, Some("0"), 1_000), "expired as soon as it is there");
        assert!(!expired(10, 1_000, Some("1000"), 1_999));
        assert!(!expired(10, 1_000, Some("-1"), i64::MAX), "this one lives on");
    }

    #[test]
    fn what_cannot_be_read_counts_as_absent() {
        for header in ["", " 5", "5 ", "+5", "-2", "5.0", "0x5", "five", "99999999999999999999", "٥"] {
            assert!(!expired(0, 1_000, Some(header), i64::MAX), "{header:?}");
            assert!(expired(10, 1_000, Some(header), 1_010), "{header:?}");
        }
    }

    #[test]
    fn numbers_at_their_ends() {
        assert!(!expired(10, -1, None, i64::MAX), "no timestamp, no end");
        assert!(expired(10, i64::MIN, None, 0));
        assert!(!expired(10, i64::MAX, None, i64::MAX), "an end past the end of time is never reached");
        assert!(!expired(0, 1, Some("9223372036854775807"), i64::MAX));
        assert!(expired(0, 0, Some("9223372036854775807"), i64::MAX));
    }
}
