//! A child process with its log file; it never outlives its owner.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that has to happen, on a machine however slow and busy: a test that passes does
/// not wait so long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A running child. Dropping it kills it (by its own id) and waits for its end.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the command with both outputs appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|e| panic!("cannot open {}: {e}", log.display()));
        let copy: File = file.try_clone().expect("a file handle can be copied");
        let spawned = command.stdin(Stdio::null()).stdout(copy).stderr(file).spawn();
        let child = spawned.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Process { child, log: log.to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end; `None` if it is still there after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        until(limit, || self.ended())
    }

    /// Sends a signal by name ("TERM", "KILL", "STOP", "CONT").
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(done.is_ok_and(|status| status.success()), "cannot send {name} to process {}", self.id());
    }

    /// Kills it as a power cut would, as far as a process can feel that, and waits.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// Everything written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines, for failure messages.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}\n(log: {})", lines[lines.len().saturating_sub(12)..].join("\n"), self.log.display())
    }

    /// Resident memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("a live process tells its memory") / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks every 10 ms until there is an answer or the limit is over.
pub fn until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(Duration::from_millis(10));
    }
}

/// Lets real time pass: for faults that must last, and between two looks at another process, which no
/// condition here can announce.
#[allow(clippy::disallowed_methods)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A loopback port that was free a moment ago, and that nobody is given who asks the system for any: it lies
/// below those (Linux: from 32,768), so that it is free when its node starts, and when it starts again.
pub fn free_port() -> u16 {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 16_000;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Suites that run at once begin at different places.
    let begin = std::process::id().wrapping_mul(331) % COUNT;
    let mut ports = (0..COUNT).map(|_| FIRST + (begin + ASKED.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port as u16)).is_ok());
    free.expect("the loopback has free ports") as u16
}
