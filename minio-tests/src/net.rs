//! A network of its own for a test: one namespace per node, and one for MinIO and the clients, on one bridge.
//!
//! Owns namespaces, what iptables cuts between them, and small disks (a file mounted by a loop device), all
//! under names that no other run has, so that several runs may be there at once and use the same addresses.
//! A process of its own removes everything when the test ends, however it ends: it waits for the end of its
//! standard input, which the system closes with the test's process. Must not: touch the machine's own network
//! (every link and rule is inside the namespaces), or end a process that is not in one of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::until;
use crate::tools;

/// Where MinIO and the clients are.
pub const HUB: usize = 0;
/// The hub's address ends so, the nodes' in their numbers.
const HUB_LAST: usize = 254;
const SUBNET: &str = "10.77.0";
const REMOVAL_MAX: Duration = Duration::from_secs(120);

/// What cleans up: kills what still runs inside, takes disks off, removes the namespaces.
const REMOVER: &str = r#"
cat >/dev/null
for ns in $NAMESPACES; do
    for try in 1 2 3; do
        pids=$(ip netns pids "$ns" 2>/dev/null) || break
        [ -n "$pids" ] || break
        kill -KILL $pids 2>/dev/null
        sleep 0.1
    done
done
if [ -d "$DISKS" ]; then
    for dir in "$DISKS"/*/; do
        umount "$dir" 2>/dev/null || umount -l "$dir" 2>/dev/null
    done
    rm -rf --one-file-system "$DISKS"
fi
for ns in $NAMESPACES; do
    ip netns del "$ns" 2>/dev/null
done
exit 0
"#;

/// The network; all of it goes when this is dropped.
pub struct Net {
    /// The hub, then the nodes.
    namespaces: Vec<String>,
    disks: PathBuf,
    remover: Child,
}

impl Net {
    /// A hub and `nodes` nodes that all reach each other. `work` holds the disks' files.
    ///
    /// # Panics
    /// With what is missing, and how to get it, where the machine does not allow this.
    pub fn new(work: &Path, nodes: usize) -> Net {
        static RUN: AtomicU32 = AtomicU32::new(0);
        tools::ensure("net");
        let own = format!("hw{}-{}", std::process::id(), RUN.fetch_add(1, Ordering::Relaxed));
        let namespaces: Vec<String> = (0..=nodes).map(|n| format!("{own}-{n}")).collect();
        let disks = work.join("disks");
        std::fs::create_dir_all(&disks).expect("the work directory is writable");
        let mut command = Command::new("sh");
        command.args(["-c", REMOVER]).env("NAMESPACES", namespaces.join(" ")).env("DISKS", &disks);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Of its own group, so that Ctrl-C reaches the test and not what cleans up after it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let remover = command.spawn().unwrap_or_else(|e| panic!("cannot start sh: {e}"));
        let net = Net { namespaces, disks, remover };
        net.build();
        net
    }

    fn build(&self) {
        for namespace in &self.namespaces {
            run(&["ip", "netns", "add", namespace]);
            run(&["ip", "-n", namespace, "link", "set", "lo", "up"]);
        }
        let hub = &self.namespaces[HUB];
        run(&["ip", "-n", hub, "link", "add", "br0", "type", "bridge"]);
        run(&["ip", "-n", hub, "addr", "add", &format!("{}/24", address(HUB)), "dev", "br0"]);
        run(&["ip", "-n", hub, "link", "set", "br0", "up"]);
        for (n, namespace) in self.namespaces.iter().enumerate().skip(1) {
            let (port, own) = (port(n), format!("{}/24", address(n)));
            let pair = ["type", "veth", "peer", "name", "eth0", "netns", namespace];
            run(&[&["ip", "-n", hub, "link", "add", &port][..], &pair].concat());
            run(&["ip", "-n", hub, "link", "set", &port, "master", "br0"]);
            run(&["ip", "-n", hub, "link", "set", &port, "up"]);
            run(&["ip", "-n", namespace, "addr", "add", &own, "dev", "eth0"]);
            run(&["ip", "-n", namespace, "link", "set", "eth0", "up"]);
        }
    }

    /// The command, to be run inside: `place` is HUB or a node's number.
    pub fn inside(&self, place: usize, command: &Command) -> Command {
        let mut wrapped = Command::new("nsenter");
        wrapped.arg(format!("--net=/run/netns/{}", self.namespaces[place]));
        wrapped.arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }

    /// Whether a GET from the hub is answered with 200.
    pub fn answers(&self, url: &str) -> bool {
        let mut get = Command::new(tools::python());
        get.args(["-c", "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=2)", url]);
        let done = self.inside(HUB, &get).stdin(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        let (namespace, source) = (&self.namespaces[to], address(from));
        run(&["nsenter", &at(namespace), "iptables", "-w", "10", "-A", "INPUT", "-s", &source, "-j", "DROP"]);
    }

    /// From now on nothing reaches the node or leaves it, of which not even itself is told.
    pub fn unplug(&self, node: usize) {
        run(&["ip", "-n", &self.namespaces[HUB], "link", "set", &port(node), "nomaster"]);
    }

    /// Everybody reaches everybody again.
    pub fn heal(&self) {
        for (n, namespace) in self.namespaces.iter().enumerate() {
            run(&["nsenter", &at(namespace), "iptables", "-w", "10", "-F", "INPUT"]);
            if n != HUB {
                run(&["ip", "-n", &self.namespaces[HUB], "link", "set", &port(n), "master", "br0"]);
            }
        }
    }

    /// A file system of this size, for a node's data.
    pub fn disk(&self, name: &str, mebibytes: u64) -> Disk {
        let (dir, image) = (self.disks.join(name), self.disks.join(format!("{name}.img")));
        std::fs::create_dir_all(&dir).expect("the work directory is writable");
        let file = std::fs::File::create(&image).expect("the work directory is writable");
        file.set_len(mebibytes << 20).expect("a sparse file");
        let (image, path) = (image.to_string_lossy(), dir.to_string_lossy());
        run(&["mkfs.ext4", "-q", "-F", "-m", "0", &image]);
        run(&["mount", "-o", "loop", &image, &path]);
        Disk { dir }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let ended = until(REMOVAL_MAX, || self.remover.try_wait().ok().flatten());
        if ended.is_none() {
            crate::step::step(format!("namespaces {} are not removed yet", self.namespaces.join(" ")));
        }
    }
}

/// A small file system that can be filled.
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// A directory on it.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        use std::io::Write;
        const CHUNK: usize = 1 << 20;
        let file = std::fs::File::create(self.ballast());
        let mut file = file.unwrap_or_else(|e| panic!("cannot make {}: {e}", self.ballast().display()));
        let (zeros, mut size) = (vec![0u8; CHUNK], CHUNK);
        while size > 0 {
            match file.write(&zeros[..size]) {
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(e) => panic!("cannot fill {}: {e}", self.dir.display()),
            }
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

/// The address of HUB or a node.
pub fn address(place: usize) -> String {
    format!("{SUBNET}.{}", if place == HUB { HUB_LAST } else { place })
}

/// A node's end of the bridge.
fn port(node: usize) -> String {
    format!("port{node}")
}

fn at(namespace: &str) -> String {
    format!("--net=/run/netns/{namespace}")
}

fn run(command: &[&str]) {
    let done = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|e| panic!("cannot run {}: {e}; scripts/tools.sh net", command[0]));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{}: {said}\nThis test needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN (a container needs \
         --privileged), a kernel with network namespaces, veth, bridge and loop devices, and 'apt-get \
         install iproute2 iptables e2fsprogs util-linux'",
        command.join(" ")
    );
}
