use super::*;
use crate::bucket::memory::{MemoryBucket, Op, Trouble};

/// A deadline that nothing which goes on reaches, however slow the machine is.
const PATIENT_MS: u64 = 60_000;

fn store(bucket: &Arc<MemoryBucket>, settings: StoreSettings) -> Store {
    Store::over(bucket.clone(), "memory:", settings)
}

fn body(text: &str) -> [Bytes; 1] {
    [Bytes::copy_from_slice(text.as_bytes())]
}

#[tokio::test]
async fn an_object_is_never_written_twice() {
    let bucket = Arc::new(MemoryBucket::default());
    let s = store(&bucket, StoreSettings::default());
    let put = |text| {
        let s = s.clone();
        async move { s.put_new(Lane::Upload, "k", &body(text), deadline_in(PATIENT_MS)).await }
    };
    put("one").await.expect("new");
    assert!(
        put("one").await.expect_err("there").is_changed(),
        "not even with the same bytes, when nothing is unknown"
    );
    // An attempt of unknown outcome met someone else's bytes.
    bucket.trouble(Op::Put, Trouble::Refused(FaultKind::Interrupted), 1);
    assert_eq!(put("two").await, Err(StoreError::Conflict { key: "k".into() }));
    bucket.trouble(Op::Put, Trouble::Refused(FaultKind::Interrupted), 1);
    assert_eq!(put("one").await, Ok(()), "and here its own");
    let (there, _) = s.get_start(Lane::Read, "k", 10, deadline_in(PATIENT_MS)).await.expect("there");
    assert_eq!(there, "one");
}

#[tokio::test]
async fn transient_faults_are_retried_until_the_deadline_and_others_never() {
    let bucket = Arc::new(MemoryBucket::default());
    let s = store(&bucket, StoreSettings::default());
    s.put_new(Lane::Upload, "k", &body("0123456789"), deadline_in(PATIENT_MS)).await.expect("new");
    bucket.trouble(Op::Get, Trouble::SlowDown, 2);
    bucket.trouble(Op::Get, Trouble::Truncated, 1);
    let got = s.get_range(Lane::Read, "k", 2..5, deadline_in(PATIENT_MS)).await;
    assert_eq!(got, Ok(Bytes::from_static(b"234")));
    bucket.trouble(Op::Get, Trouble::SlowDown, 1_000);
    let expired = s.get_range(Lane::Read, "k", 2..5, deadline_in(300)).await.expect_err("never");
    assert!(expired.is_expired() && expired.to_string().contains("SlowDown"), "{expired}");
    let before = bucket.calls(Op::Head);
    assert!(s.head(Lane::Read, "none", deadline_in(PATIENT_MS)).await.expect_err("none").is_not_found());
    assert_eq!(bucket.calls(Op::Head), before + 1);
    let read = &s.snapshot()[1];
    assert_eq!((read.lane, read.expired), ("read", 1));
    assert!(read.errors >= 5 && read.retries >= 4 && read.latency_us > 0);
    let gets = read.requests.iter().find(|(kind, _)| *kind == "get").expect("counted").1;
    assert_eq!(gets, bucket.calls(Op::Get) as u64, "every attempt is a request");
}

#[tokio::test]
async fn a_stalled_attempt_is_abandoned_and_tried_again() {
    let bucket = Arc::new(MemoryBucket::default());
    let mut settings = StoreSettings::default();
    settings.read.attempt_ms = 50;
    let s = store(&bucket, settings);
    s.put_new(Lane::Upload, "k", &body("0123456789"), deadline_in(PATIENT_MS)).await.expect("new");
    bucket.trouble(Op::Get, Trouble::Slow(Duration::from_secs(3_600)), 1);
    assert!(s.get_range(Lane::Read, "k", 0..10, deadline_in(PATIENT_MS)).await.is_ok());
}

#[tokio::test]
async fn a_full_lane_does_not_hold_up_the_others() {
    let bucket = Arc::new(MemoryBucket::default());
    let mut settings = StoreSettings::default();
    (settings.upload.concurrency, settings.upload.attempt_ms) = (1, PATIENT_MS);
    let s = store(&bucket, settings);
    bucket.trouble(Op::Put, Trouble::Slow(Duration::from_secs(3_600)), 2);
    let uploads: Vec<_> = ["a", "b"]
        .map(|key| {
            let s = s.clone();
            tokio::spawn(
                async move { s.put_new(Lane::Upload, key, &body("x"), deadline_in(PATIENT_MS)).await },
            )
        })
        .into();
    while bucket.calls(Op::Put) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Answered while the upload hangs.
    assert!(s.head(Lane::Read, "none", deadline_in(PATIENT_MS)).await.expect_err("none").is_not_found());
    assert_eq!(bucket.calls(Op::Put), 1, "the second upload waits for its lane");
    let late = s.put_new(Lane::Upload, "c", &body("x"), deadline_in(20)).await.expect_err("no permit");
    assert!(late.is_expired(), "{late}");
    uploads.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_request_budget_spreads_requests() {
    let bucket = Arc::new(MemoryBucket::default());
    let mut settings = StoreSettings::default();
    settings.housekeeping.requests_per_s = 50;
    let s = store(&bucket, settings);
    let begun = Instant::now();
    for i in 0..60 {
        s.delete(&[format!("{i}")], deadline_in(PATIENT_MS)).await.expect("deleted");
    }
    let took = begun.elapsed().as_millis();
    assert!(took >= 150, "50 at once, then 50 a second: {took} ms");
}
