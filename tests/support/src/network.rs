//! Networks of their own, each joined to this process's by a wire that can be cut.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with a single wire, whose other end is in the namespace of this process: see
/// [`enter_own`](Self::enter_own).
///
/// It has no name and is held by a descriptor, so it goes with this value, or with this process however that ends, and with
/// the last process in it.
pub struct Network {
    namespace: File,
    number: u8,
}

/// What happens to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Frames vanish on the way, in both directions; both ends look as if all were well.
    Silent,
    /// Only what is sent to the far side vanishes.
    Thither,
    /// Only what the far side sends vanishes.
    Hither,
    /// The far side's interface is down: both ends see that nothing is plugged in.
    Unplugged,
}

/// Addresses of hardware, by what is there.
const NEAR: u8 = 1;
const FAR: u8 = 2;
const NOBODY: u8 = 3;

impl Network {
    /// Moves this process into a network of its own, in which there is nothing but a loopback interface.
    ///
    /// # Panics
    /// When there is more than one thread, since the others would stay where they are, and when it is not permitted: it
    /// takes root, or its like.
    pub fn enter_own() {
        let threads = std::fs::read_dir("/proc/self/task").expect("a mounted /proc").count();
        assert_eq!(threads, 1, "to be called before any thread is started");
        let namespace = namespace();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a network of its own needs root");
        ip(&[], "link set lo up");
    }

    /// Makes a network and joins it to this process's, which must be its [own](Self::enter_own).
    pub fn start() -> Network {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let network = Network { namespace: namespace(), number };
        let (near, far) = (hardware(number, NEAR), hardware(number, FAR));
        let there = network.path();
        ip(
            &[],
            &format!(
                "link add name near{number} address {near} type veth \
                 peer name far{number} address {far} netns {}",
                there.display()
            ),
        );
        ip(&[], &format!("address add {}/30 dev near{number}", network.near_address()));
        ip(&[], &format!("link set near{number} up"));
        network.far(&format!("address add {}/30 dev far{number}", network.address()));
        network.far("link set lo up");
        network.mend();
        network
    }

    /// The far side's address.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    fn near_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// What goes before a program and its arguments to start it there: it becomes that program, with the same process id,
    /// and is killed when the thread that started it ends.
    pub fn prefix(&self) -> Vec<String> {
        let enter = format!("--net={}", self.path().display());
        ["nsenter", &enter, "setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).into()
    }

    /// Everything that runs there, zombies aside.
    pub fn processes(&self) -> Vec<u32> {
        let name = self.name();
        let all = std::fs::read_dir("/proc").expect("a mounted /proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_in(*pid, &name)).collect()
    }

    /// What the system calls it.
    pub(crate) fn name(&self) -> PathBuf {
        std::fs::read_link(self.path()).expect("our own descriptor")
    }

    /// Cuts the wire. Nobody is told: what is sent is lost.
    pub fn cut(&self, how: Cut) {
        match how {
            // An address that nobody has: whoever gets the frame takes it for somebody else's.
            Cut::Silent => {
                self.far_is(NOBODY);
                self.near_is(NOBODY);
            }
            Cut::Thither => self.far_is(NOBODY),
            Cut::Hither => self.near_is(NOBODY),
            Cut::Unplugged => self.far(&format!("link set far{} down", self.number)),
        }
    }

    /// Makes the wire whole again.
    pub fn mend(&self) {
        self.far(&format!("link set far{} up", self.number));
        self.far_is(FAR);
        self.near_is(NEAR);
    }

    /// Tells the near side where the far side is.
    fn far_is(&self, at: u8) {
        let (address, number) = (self.address(), self.number);
        ip(&[], &neighbour(&address, number, at, "near"));
    }

    /// Tells the far side where the near side is.
    fn near_is(&self, at: u8) {
        self.far(&neighbour(&self.near_address(), self.number, at, "far"));
    }

    fn far(&self, words: &str) {
        ip(&self.prefix(), words);
    }
}

/// Whether the process is in the network of that name. A zombie is in none.
pub(crate) fn is_in(pid: u32, network: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs == network)
}

fn neighbour(address: &Ipv4Addr, number: u8, at: u8, side: &str) -> String {
    let hardware = hardware(number, at);
    format!("neighbour replace {address} lladdr {hardware} dev {side}{number} nud permanent")
}

/// An address that the standard leaves to whoever administers the network.
fn hardware(number: u8, at: u8) -> String {
    format!("02:00:00:00:{number:02x}:{at:02x}")
}

fn ip(prefix: &[String], words: &str) {
    let mut all = prefix.iter().map(String::as_str).chain(["ip"]).chain(words.split_whitespace());
    let mut command = Command::new(all.next().expect("at least its name"));
    let output = command.args(all).stdin(Stdio::null()).output();
    let output = output.expect("ip (iproute2), nsenter and setpriv (util-linux) must be installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new network namespace, made by a process that ends at once.
fn namespace() -> File {
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo in; read wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare (util-linux) must be installed");
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    said.read_line(&mut line).expect("what unshare says");
    assert_eq!(line, "in\n", "a network of its own needs root");
    let file = File::open(format!("/proc/{}/ns/net", child.id())).expect("its network");
    drop(child.stdin.take());
    child.wait().expect("our own child");
    file
}
