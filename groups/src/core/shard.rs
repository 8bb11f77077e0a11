//! Which partition of an internal topic coordinates what, as Kafka's brokers and tools have it.

/// The partition of `__consumer_offsets` for a group, or of `__transaction_state` for a transactional id:
/// Java's hash of the text, without its sign.
pub fn partition_of(id: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "an internal topic without partitions");
    let hash = id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Java has no absolute value of its smallest number; Kafka takes 0.
    let partition = hash.checked_abs().unwrap_or(0) % partitions;
    debug_assert!((0..partitions).contains(&partition), "partition {partition}");
    partition
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    #[test]
    fn hashes_are_javas() {
        // "test".hashCode() is 3556498; the third one's is Integer.MIN_VALUE.
        assert_eq!(partition_of("test", 50), 48);
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert_eq!(partition_of("grüße-\u{1f600}", 1), 0);
        // "AaAa" and "BBBB" are the textbook's collision: both 2031744.
        assert_eq!((partition_of("AaAa", 1_000), partition_of("BBBB", 1_000)), (744, 744));
        // "console-consumer".hashCode() is negative.
        assert!((0..50).contains(&partition_of("console-consumer", 50)));
    }
}
