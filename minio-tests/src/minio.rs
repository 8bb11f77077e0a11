//! MinIO on a free port with a directory of its own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::net::{Net, address};
use crate::process::{PATIENCE, Process, free_port, until};
use crate::work::Work;
use crate::{http, tools};

pub const USER: &str = "highwater-tests";
pub const PASSWORD: &str = "highwater-tests-secret";
pub const BUCKET: &str = "tier";

/// A running MinIO with one bucket, empty at first.
pub struct Minio {
    process: Process,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    /// The network that it is in, and where there; none: the loopback.
    net: Option<(Arc<Net>, usize)>,
}

impl Minio {
    pub fn start(work: &Work) -> Minio {
        Minio::at(work, None, free_port())
    }

    /// In a place of a network.
    pub fn start_in(work: &Work, net: &Arc<Net>, place: usize) -> Minio {
        Minio::at(work, Some((net.clone(), place)), 9000)
    }

    fn at(work: &Work, net: Option<(Arc<Net>, usize)>, port: u16) -> Minio {
        let (data, log) = (work.join("minio"), work.join("minio.log"));
        // A directory under the drive is a bucket: no client is needed to make one.
        std::fs::create_dir_all(data.join(BUCKET)).expect("the work directory is writable");
        let process = Process::start(&mut command(&data, net.as_ref(), port), &log);
        let mut minio = Minio { process, port, data, log, net };
        minio.wait_ready();
        minio
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with all that it has.
    pub fn start_again(&mut self) {
        self.process = Process::start(&mut command(&self.data, self.net.as_ref(), self.port), &self.log);
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let ready = until(PATIENCE, || {
            assert!(self.process.ended().is_none(), "MinIO ended: {}", self.process.log_end());
            let (address, path) = (self.address(), "/minio/health/ready");
            match &self.net {
                None => http::get(&address, path).is_some_and(|(status, _)| status == 200).then_some(()),
                Some((net, _)) => net.answers(&format!("http://{address}{path}")).then_some(()),
            }
        });
        assert!(ready.is_some(), "MinIO is not ready after {PATIENCE:?}: {}", self.process.log_end());
    }

    /// HOST:PORT.
    pub fn address(&self) -> String {
        let host = self.net.as_ref().map_or("127.0.0.1".to_owned(), |(_, place)| address(*place));
        format!("{host}:{}", self.port)
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

fn command(data: &std::path::Path, net: Option<&(Arc<Net>, usize)>, port: u16) -> Command {
    let host = net.map_or("127.0.0.1".to_owned(), |(_, place)| address(*place));
    let mut command = Command::new(tools::minio());
    command.args(["server", "--address", &format!("{host}:{port}")]).arg(data);
    command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD);
    command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off");
    match net {
        Some((net, place)) => net.inside(*place, &command),
        None => command,
    }
}
