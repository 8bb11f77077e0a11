use highwater_model::limits::STORE_DELETE_KEYS_MAX;

use super::*;
use crate::core::lanes::Lane;
use crate::core::names::Names;
use crate::lane::deadline_in;
use crate::probe::probe;

fn local(dir: &std::path::Path) -> Store {
    let url = format!("file://{}", dir.join("bucket").display());
    Store::open(&url, None, StoreSettings::default()).expect("opened")
}

#[tokio::test]
async fn a_local_directory_does_all_that_a_bucket_must() {
    let dir = tempfile::tempdir().expect("a directory");
    let s = local(dir.path());
    let soon = || deadline_in(5_000);
    probe(&s, &Names::new("c").expect("plain")).await.expect("usable");
    let key = "c/t/id/partition=0/00000000000000000000-00000000000000000010-0-u.parquet";
    let body = [Bytes::from_static(b"0123"), Bytes::from_static(b"456789")];
    s.put_new(Lane::Upload, key, &body, soon()).await.expect("new");
    assert!(s.put_new(Lane::Upload, key, &body, soon()).await.expect_err("there").is_changed());
    assert_eq!(s.head(Lane::Read, key, soon()).await, Ok(10));
    assert_eq!(s.get_range(Lane::Read, key, 3..7, soon()).await, Ok(Bytes::from_static(b"3456")));
    assert!(s.get_range(Lane::Read, "c/none", 0..1, soon()).await.expect_err("none").is_not_found());
    assert!(dir.path().join("bucket").join(key).is_file(), "the key is the path");
    let listed = s.list("c/t/", None, 10, soon()).await.expect("listed");
    assert_eq!(listed, [Listed { key: key.into(), bytes: 10 }]);
    assert_eq!(s.list("c/t/", Some(key), 10, soon()).await, Ok(vec![]));
    s.delete(&[key.to_string(), "c/none".to_string()], soon()).await.expect("what is gone is deleted");
    assert!(s.head(Lane::Read, key, soon()).await.expect_err("gone").is_not_found());
}

#[test]
fn leftovers_of_interrupted_puts_go_when_the_directory_is_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let below = dir.path().join("bucket/c/t");
    std::fs::create_dir_all(&below).expect("made");
    let old = SystemTime::now() - Duration::from_millis(STORE_LEFTOVER_AGE_MS + 60_000);
    let make = |name: &str, at: SystemTime| {
        let file = std::fs::File::create(below.join(name)).expect("made");
        file.set_modified(at).expect("dated");
    };
    for name in ["a.parquet#1", "a.parquet#23", "a.parquet", "b#", "c#1x", "1"] {
        make(name, old);
    }
    make("d.parquet#1", SystemTime::now());
    local(dir.path());
    let mut left: Vec<_> =
        std::fs::read_dir(&below).expect("there").map(|e| e.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["1", "a.parquet", "b#", "c#1x", "d.parquet#1"], "and what may still be being written");
}

#[tokio::test]
async fn a_mirror_is_overwritten_only_by_who_knows_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let s = local(dir.path());
    let soon = || deadline_in(5_000);
    let put = |text: &'static str, seen: Option<Tag>| {
        let s = s.clone();
        async move { s.put_over("c/m", Bytes::from_static(text.as_bytes()), seen.as_ref(), soon()).await }
    };
    let first = put("1", None).await.expect("new");
    assert!(put("2", None).await.expect_err("there").is_changed());
    let second = put("22", Some(first.clone())).await.expect("known");
    assert!(put("3", Some(first)).await.expect_err("stale").is_changed());
    let start = |bytes: u64| s.get_start(Lane::Read, "c/m", bytes, soon());
    assert_eq!(start(10).await, Ok((Bytes::from_static(b"22"), second.clone())));
    assert_eq!(start(1).await, Ok((Bytes::from_static(b"2"), second.clone())), "no more than is asked for");
    let empty = put("", Some(second)).await.expect("known");
    assert_eq!(start(10).await, Ok((Bytes::new(), empty)));
    assert!(s.get_start(Lane::Read, "c/none", 10, soon()).await.expect_err("none").is_not_found());
}

#[test]
fn urls_that_name_no_store_are_refused_in_one_line() {
    for url in ["", "file://relative", "s3://", "http://x", "/tmp/x"] {
        let error = Store::open(url, None, StoreSettings::default()).expect_err(url).to_string();
        assert!(error.starts_with("object store ") && !error.contains('\n'), "{error}");
    }
}

/// The kind of a failure is read from the client's text: this holds what that text looks like.
#[test]
fn client_errors_are_sorted_by_their_text() {
    let generic = |text: &str| Error::Generic { store: "S3", source: text.to_string().into() };
    let status = |code: u16, body: &str| {
        generic(&format!(
            "Error performing PUT x in 1ms - Server returned non-2xx status code: {code} X: {body}"
        ))
    };
    for (error, kind) in [
        (status(503, "<Code>SlowDown</Code>"), FaultKind::SlowDown),
        (status(429, ""), FaultKind::SlowDown),
        (status(500, "<Code>InternalError</Code>"), FaultKind::Server),
        (status(502, ""), FaultKind::Server),
        (status(501, "<Code>NotImplemented</Code>"), FaultKind::Unsupported),
        (status(400, "<Code>InvalidAccessKeyId</Code>"), FaultKind::Denied),
        (status(400, "<Code>MalformedXML</Code>"), FaultKind::Other),
        (generic("Server returned error response: <Code>SlowDown</Code>"), FaultKind::SlowDown),
        (
            Error::NotFound { path: "x".into(), source: "<Code>NoSuchBucket</Code>".into() },
            FaultKind::NoBucket,
        ),
        (Error::NotFound { path: "x".into(), source: "<Code>NoSuchKey</Code>".into() }, FaultKind::NotFound),
        (Error::AlreadyExists { path: "x".into(), source: "412".into() }, FaultKind::Exists),
        (Error::Precondition { path: "x".into(), source: "412".into() }, FaultKind::Changed),
        (Error::PermissionDenied { path: "x".into(), source: "403".into() }, FaultKind::Denied),
    ] {
        let text = error.to_string();
        assert_eq!(fault(error).kind, kind, "{text}");
    }
}

#[test]
fn what_the_store_said_is_what_is_told() {
    let body = "<Error><Code>InvalidAccessKeyId</Code><Message>No such key.</Message><Key>x</Key></Error>";
    let said = fault(Error::PermissionDenied { path: "x".into(), source: body.into() });
    assert_eq!(said.message, "InvalidAccessKeyId: No such key.");
    let nowhere = "Error performing PUT http://169.254.169.254/latest/api/token in 1ms";
    let none = fault(Error::Generic { store: "S3", source: nowhere.into() });
    assert_eq!(none.kind, FaultKind::Denied);
    assert!(none.message.contains("AWS_ACCESS_KEY_ID"), "{}", none.message);
}

#[test]
fn a_bulk_delete_is_what_s3_takes() {
    assert_eq!(STORE_DELETE_KEYS_MAX, 1_000);
}
