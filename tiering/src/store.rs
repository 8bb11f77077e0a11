//! The real buckets: S3 and its look-alikes, and a local directory. The only file that names the
//! `object_store` crate.
//!
//! The client's own retries are off: `lane.rs` decides, per lane and within a deadline. Path style always, no
//! optional checksum headers, conditional puts by ETag (`If-None-Match: *`, `If-Match`). Over plain http the
//! payload is signed, so the store verifies what arrived; over https TLS does that and the payload is not
//! hashed twice.
//!
//! A local directory is as durable as a bucket must be: file and directory are synced before a put returns,
//! because the local copy of the data goes after publish. Invariants: 8, 19 (length of every body is checked
//! here).

use std::error::Error as _;
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use highwater_model::limits::{
    STORE_CONNECT_MS_MAX, STORE_LEFTOVER_AGE_MS, STORE_LEFTOVER_ENTRIES_MAX, STORE_LIST_KEYS_MAX,
};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig, UpdateVersion,
};
use tokio::sync::Mutex;

use crate::bucket::{Bucket, Fault, FaultKind, Listed, Tag};
use crate::lane::{Store, StoreSettings};

/// A URL or setting that names no store. One line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("object store {url}: {problem}")]
pub struct OpenError {
    pub url: String,
    pub problem: String,
}

impl Store {
    /// Opens `file:///DIR` (created when missing) or `s3://BUCKET/PREFIX`, the latter with credentials and
    /// region from the usual `AWS_*` variables and, if given, another endpoint. Makes no request yet: see
    /// [`crate::probe`].
    ///
    /// # Errors
    /// A URL that is neither, a directory that cannot be made, settings that the client refuses.
    pub fn open(url: &str, endpoint: Option<&str>, settings: StoreSettings) -> Result<Store, OpenError> {
        let bucket: Arc<dyn Bucket> = if let Some(dir) = url.strip_prefix("file://") {
            Arc::new(
                open_directory(FsPath::new(dir)).map_err(|problem| OpenError { url: url.into(), problem })?,
            )
        } else if let Some(rest) = url.strip_prefix("s3://") {
            Arc::new(open_s3(rest, endpoint).map_err(|problem| OpenError { url: url.into(), problem })?)
        } else {
            let problem = "is neither file:///DIR nor s3://BUCKET/PREFIX".to_string();
            return Err(OpenError { url: url.into(), problem });
        };
        Ok(Store::over(bucket, url.trim_end_matches('/'), settings))
    }
}

fn open_directory(dir: &FsPath) -> Result<ObjectBucket, String> {
    if !dir.is_absolute() {
        return Err("needs an absolute path: file:///DIR".to_string());
    }
    std::fs::create_dir_all(dir).map_err(|e| format!("cannot make the directory: {e}"))?;
    let removed = remove_leftovers(dir, SystemTime::now() - Duration::from_millis(STORE_LEFTOVER_AGE_MS));
    if removed > 0 {
        tracing::info!(dir = %dir.display(), removed, "removed what interrupted writes had left");
    }
    let store = LocalFileSystem::new_with_prefix(dir).map_err(|e| e.to_string())?.with_fsync(true);
    Ok(ObjectBucket { store: Arc::new(store), prefix: String::new(), local: true, overwrite: Mutex::new(()) })
}

/// A put that was cut short leaves `KEY#NUMBER`, which the client never lists and never removes. Removes
/// those last written before `before`; what cannot be looked at stays. Returns how many went.
fn remove_leftovers(dir: &FsPath, before: SystemTime) -> usize {
    let (mut ahead, mut looked_at, mut removed) = (vec![dir.to_path_buf()], 0, 0);
    while let Some(dir) = ahead.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            looked_at += 1;
            if looked_at > STORE_LEFTOVER_ENTRIES_MAX {
                return removed;
            }
            // The kind of the entry itself: links are not followed.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                ahead.push(entry.path());
            } else if kind.is_file() && is_leftover(&entry.file_name()) {
                let written = entry.metadata().and_then(|m| m.modified());
                let is_old = written.is_ok_and(|at| at < before);
                removed += usize::from(is_old && std::fs::remove_file(entry.path()).is_ok());
            }
        }
    }
    removed
}

fn is_leftover(name: &std::ffi::OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn open_s3(rest: &str, endpoint: Option<&str>) -> Result<ObjectBucket, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    if bucket.is_empty() {
        return Err("names no bucket".to_string());
    }
    if !prefix.is_empty() {
        Path::parse(prefix).map_err(|e| format!("prefix: {e}"))?;
    }
    let from_env = std::env::var("AWS_ENDPOINT_URL_S3").or_else(|_| std::env::var("AWS_ENDPOINT_URL")).ok();
    let endpoint = endpoint.map(str::to_string).or(from_env);
    let http = endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_millis(STORE_CONNECT_MS_MAX))
        .with_allow_http(http)
        .with_http1_only()
        .with_pool_idle_timeout(Duration::from_secs(60));
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env()
        .with_client_options(options)
        .with_allow_http(http)
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(false)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_unsigned_payload(!http)
        .with_disable_tagging(true)
        .with_retry(retry);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    let store = builder.build().map_err(|e| e.to_string())?;
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    Ok(ObjectBucket { store: Arc::new(store), prefix, local: false, overwrite: Mutex::new(()) })
}

/// A store of the `object_store` crate below a prefix.
#[derive(Debug)]
struct ObjectBucket {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    local: bool,
    /// The local directory has no conditional overwrite; one process owns it, so a lock gives the same.
    overwrite: Mutex<()>,
}

impl ObjectBucket {
    fn path(&self, key: &str) -> Result<Path, Fault> {
        Path::parse(format!("{}{key}", self.prefix)).map_err(|e| Fault::new(FaultKind::Other, e))
    }

    async fn put(&self, path: &Path, body: PutPayload, mode: PutMode) -> Result<Tag, Fault> {
        let done = self.store.put_opts(path, body, mode.into()).await.map_err(fault)?;
        Ok(Tag(done.e_tag.unwrap_or_default()))
    }

    async fn tag_of(&self, path: &Path) -> Result<Option<Tag>, Fault> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(Tag(meta.e_tag.unwrap_or_default()))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(fault(e)),
        }
    }
}

#[async_trait]
impl Bucket for ObjectBucket {
    async fn put_new(&self, key: &str, body: &[Bytes]) -> Result<(), Fault> {
        let payload = PutPayload::from_iter(body.iter().cloned());
        self.put(&self.path(key)?, payload, PutMode::Create).await.map(|_| ())
    }

    async fn put_over(&self, key: &str, body: Bytes, seen: Option<&Tag>) -> Result<Tag, Fault> {
        let path = self.path(key)?;
        let Some(tag) = seen else { return self.put(&path, body.into(), PutMode::Create).await };
        if self.local {
            let _one_writer = self.overwrite.lock().await;
            if self.tag_of(&path).await?.as_ref() != Some(tag) {
                return Err(Fault::new(FaultKind::Changed, key));
            }
            return self.put(&path, body.into(), PutMode::Overwrite).await;
        }
        let version = UpdateVersion { e_tag: Some(tag.0.clone()), version: None };
        self.put(&path, body.into(), PutMode::Update(version)).await
    }

    async fn get_start(&self, key: &str, bytes_max: u64) -> Result<(Bytes, Tag), Fault> {
        let path = self.path(key)?;
        let tag = |meta: &ObjectMeta| Tag(meta.e_tag.clone().unwrap_or_default());
        let options = GetOptions { range: Some((0..bytes_max).into()), ..GetOptions::default() };
        let got = match self.store.get_opts(&path, options).await {
            Ok(got) => got,
            Err(e @ Error::NotFound { .. }) => return Err(fault(e)),
            // Of an empty object there is no range.
            Err(e) => match self.store.head(&path).await {
                Ok(meta) if meta.size == 0 => return Ok((Bytes::new(), tag(&meta))),
                _ => return Err(fault(e)),
            },
        };
        let (tag, size) = (tag(&got.meta), bytes_max.min(got.meta.size));
        let body = got.bytes().await.map_err(fault)?;
        if body.len() as u64 != size {
            return Err(Fault::new(FaultKind::Truncated, format!("{key}: {} of {size} bytes", body.len())));
        }
        Ok((body, tag))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Fault> {
        self.store.get_range(&self.path(key)?, range).await.map_err(fault)
    }

    async fn head(&self, key: &str) -> Result<u64, Fault> {
        Ok(self.store.head(&self.path(key)?).await.map_err(fault)?.size)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Fault> {
        let paths = keys.iter().map(|k| self.path(k)).collect::<Result<Vec<_>, _>>()?;
        let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut done = self.store.delete_stream(paths);
        while let Some(deleted) = done.next().await {
            match deleted {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(fault(e)),
            }
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, Fault> {
        let limit = limit.min(STORE_LIST_KEYS_MAX);
        let below = self.path(prefix.trim_end_matches('/'))?;
        let found = match after {
            Some(after) => self.store.list_with_offset(Some(&below), &self.path(after)?),
            None => self.store.list(Some(&below)),
        };
        let mut listed: Vec<Listed> = found
            .take(if self.local { STORE_LIST_KEYS_MAX } else { limit })
            .map_ok(|meta| Listed {
                key: meta.location.as_ref().trim_start_matches(self.prefix.as_str()).to_string(),
                bytes: meta.size,
            })
            .try_collect()
            .await
            .map_err(fault)?;
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed.truncate(limit);
        Ok(listed)
    }
}

/// Sorts a client error into what the lanes act on. The crate keeps the HTTP status inside private types, so
/// the text of the cause is read for it; a test per kind holds that reading.
fn fault(error: Error) -> Fault {
    let text = one_line(&error);
    let kind = match &error {
        _ if text.contains("NoSuchBucket") => FaultKind::NoBucket,
        // Where the client looks for credentials when it was given none.
        _ if text.contains("169.254.169.254") => FaultKind::Denied,
        Error::NotFound { .. } => FaultKind::NotFound,
        Error::AlreadyExists { .. } => FaultKind::Exists,
        Error::Precondition { .. } | Error::NotModified { .. } => FaultKind::Changed,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => FaultKind::Denied,
        Error::NotImplemented { .. } | Error::NotSupported { .. } => FaultKind::Unsupported,
        Error::InvalidPath { .. } | Error::JoinError { .. } => FaultKind::Other,
        _ => deeper(&error, &text),
    };
    Fault { kind, message: brief(&text) }
}

/// What the store itself said, if it said something; else the client's words, at most 300 characters.
fn brief(text: &str) -> String {
    if text.contains("169.254.169.254") {
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_string();
    }
    let tag = |name: &str| {
        let inside = text.split_once(&format!("<{name}>"))?.1;
        Some(inside.split_once(&format!("</{name}>"))?.0)
    };
    let said = match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_string(),
        (None, _) => text.to_string(),
    };
    said.chars().take(300).collect()
}

fn deeper(error: &Error, text: &str) -> FaultKind {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect => FaultKind::Connect,
                _ => FaultKind::Interrupted,
            };
        }
        cause = inner.source();
    }
    let status = text.split("status code: ").nth(1).and_then(|t| t.get(..3)).and_then(|t| t.parse().ok());
    match status {
        _ if text.contains("SlowDown") || text.contains("RequestTimeTooSkewed") => FaultKind::SlowDown,
        Some(429u16 | 503) => FaultKind::SlowDown,
        Some(501) => FaultKind::Unsupported,
        Some(408) => FaultKind::Interrupted,
        Some(500..) => FaultKind::Server,
        Some(401 | 403) => FaultKind::Denied,
        _ if text.contains("InternalError") => FaultKind::Server,
        _ if text.contains("AccessKey") || text.contains("credential") => FaultKind::Denied,
        _ => FaultKind::Other,
    }
}

/// The error and its causes without line breaks.
fn one_line(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
