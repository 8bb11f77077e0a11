//! MinIO on a free port with a directory of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, free_port, until};
use crate::work::Work;
use crate::{http, tools};

pub const USER: &str = "highwater-tests";
pub const PASSWORD: &str = "highwater-tests-secret";
pub const BUCKET: &str = "tier";

/// A running MinIO with one empty bucket.
pub struct Minio {
    process: Process,
    port: u16,
    data: PathBuf,
}

impl Minio {
    pub fn start(work: &Work) -> Minio {
        let data = work.join("minio");
        // A directory under the drive is a bucket: no client is needed to make one.
        std::fs::create_dir_all(data.join(BUCKET)).expect("the work directory is writable");
        let port = free_port();
        let process = Process::start(
            Command::new(tools::minio())
                .args(["server", "--address", &format!("127.0.0.1:{port}")])
                .arg(&data)
                .env("MINIO_ROOT_USER", USER)
                .env("MINIO_ROOT_PASSWORD", PASSWORD)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off"),
            &work.join("minio.log"),
        );
        let mut minio = Minio { process, port, data };
        let ready = until(Duration::from_secs(60), || {
            assert!(minio.process.ended().is_none(), "MinIO ended: {}", minio.process.log_end());
            http::get(&minio.address(), "/minio/health/ready").filter(|(status, _)| *status == 200)
        });
        assert!(ready.is_some(), "MinIO is not ready after 60 s: {}", minio.process.log_end());
        minio
    }

    /// HOST:PORT.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Keys of every object in the bucket, in order, as MinIO has them on its drive.
    pub fn keys(&self) -> Vec<String> {
        let (mut found, mut open) = (Vec::new(), vec![self.data.join(BUCKET)]);
        while let Some(dir) = open.pop() {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            for entry in entries {
                let path = entry.path();
                if path.join("xl.meta").is_file() {
                    let key = path.strip_prefix(self.data.join(BUCKET)).expect("the walk began there");
                    found.push(key.to_string_lossy().into_owned());
                } else if path.is_dir() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    }
}
