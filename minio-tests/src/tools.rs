//! Where the tools are; each is installed by `scripts/tools.sh` when first asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::step::step;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

/// Installs the tool unless it is there. Panics with the script's own words if that fails.
pub fn ensure(tool: &str) {
    static READY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut ready = READY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if ready.contains(tool) {
        return;
    }
    step(format!("tools: {tool}"));
    let done = Command::new(root().join("scripts/tools.sh")).arg(tool).output();
    let done = done.unwrap_or_else(|e| panic!("cannot run scripts/tools.sh: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "scripts/tools.sh {tool} failed:\n{text}");
    ready.insert(tool.to_owned());
}

/// The broker's binary, which `make` builds before the tests run; or another one, of another release perhaps.
pub fn highwater() -> PathBuf {
    let given = std::env::var_os("HIGHWATER_TEST_BINARY").map(PathBuf::from);
    let path = given.unwrap_or_else(|| root().join("target/release/highwater"));
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    path
}

/// MinIO's server.
pub fn minio() -> PathBuf {
    ensure("minio");
    root().join("target/tools/minio")
}

/// Python with the Kafka client and the Parquet readers.
pub fn python() -> PathBuf {
    ensure("python");
    root().join("target/venv/bin/python")
}

/// Class path of the Java client tests.
pub fn java_class_path() -> String {
    ensure("java");
    let dir = root().join("target/java");
    format!("{0}/classes:{0}/lib/*", dir.display())
}

/// Class path of Kafka's own programs, with Connect's file connectors and the Java programs of `java/`.
pub fn kafka_class_path() -> String {
    ensure("kafka");
    ensure("java");
    let target = root().join("target");
    let jars = std::fs::read_dir(target.join("java/lib")).expect("it has been filled");
    let names = jars.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let file =
        names.into_iter().find(|name| name.starts_with("connect-file-")).expect("java/pom.xml names it");
    let target = target.display();
    format!("{target}/java/classes:{target}/kafka/lib/*:{target}/java/lib/{file}")
}
