//! A private OpenSSH server.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::keys::{KeyKind, KeyPair};
use crate::network::{Network, is_in};
use crate::process::{descendants, kill_tree, with_variable};

/// The server; the path must be absolute, it starts itself again for each connection.
const PROGRAM: &str = "/usr/sbin/sshd";

/// How long a server may take to listen, or to log what is waited for.
const LIMIT: Duration = Duration::from_secs(20);

/// The password of the account on servers with [`SshdBuilder::passwords`].
pub const PASSWORD: &str = "swordfish";

/// Its hash, as `openssl passwd -6` makes it.
const PASSWORD_HASH: &str =
    "$6$farcalltest$krkP/tJoXQhf/Aq4FqwEfCJH3110PqBwwiaMHYjp4MLaw5Q4SacXVIYlVNk0.gx9vzubMLNQ5Z/7f5rKDE.CV.";

/// Describes a server before it starts.
pub struct SshdBuilder {
    dir: tempfile::TempDir,
    host_keys: Vec<KeyKind>,
    given_host_keys: Vec<PathBuf>,
    authorized: String,
    options: Vec<String>,
    passwords: bool,
    place: At,
}

/// Where a server listens.
#[derive(Clone)]
struct At {
    address: Ipv4Addr,
    /// A port that is certainly free there; none can be known to be in a network that others use.
    port: Option<u16>,
    /// What starts the server there.
    prefix: Vec<String>,
    /// As the system names it, where it is not everybody's. Addresses in there are others' elsewhere.
    network: Option<PathBuf>,
}

/// A private `sshd` on a loopback port of its own, or in a [`Network`], for the account that runs the test. Dropping it kills it and all that
/// its connections started.
///
/// It accepts the key [`Sshd::client_key`] and those that were authorized, and nothing else unless told so. The home of its
/// sessions is an empty folder of the server's, unless an option sets variables: what the account's start-up files do is
/// nothing that a test should depend on.
pub struct Sshd {
    child: Child,
    place: At,
    port: u16,
    log: Log,
    host_keys: Vec<KeyPair>,
    client_key: KeyPair,
    dir: tempfile::TempDir,
}

type Log = Arc<(Mutex<Vec<String>>, Condvar)>;

impl Sshd {
    /// A server with an Ed25519 host key and the defaults of OpenSSH.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Describes a server.
    pub fn builder() -> SshdBuilder {
        let dir = tempfile::Builder::new().prefix("farcall-sshd-").tempdir().expect("a temporary folder");
        SshdBuilder {
            dir,
            host_keys: Vec::new(),
            given_host_keys: Vec::new(),
            authorized: String::new(),
            options: Vec::new(),
            passwords: false,
            place: At { address: Ipv4Addr::LOCALHOST, port: None, prefix: Vec::new(), network: None },
        }
    }

    /// Where it listens; the address is 127.0.0.1, or its network's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the listening process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its host keys that were made here, in the order asked for.
    pub fn host_key(&self, at: usize) -> &KeyPair {
        &self.host_keys[at]
    }

    /// A key that it lets in.
    pub fn client_key(&self) -> &KeyPair {
        &self.client_key
    }

    /// A folder for files that should live as long as the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A known hosts line with each of its host keys, for the address with its port.
    pub fn known_hosts(&self) -> String {
        self.known_hosts_as(&format!("[{}]:{}", self.place.address, self.port))
    }

    /// Known hosts lines under another name.
    pub fn known_hosts_as(&self, name: &str) -> String {
        self.host_keys.iter().map(|key| format!("{name} {}\n", key.public())).collect()
    }

    /// A configuration block for `alias` with all that is needed to get in, strictly checked. Further lines may follow.
    pub fn config(&self, alias: &str) -> String {
        let known = self.dir.path().join(format!("known_hosts_{alias}"));
        std::fs::write(&known, self.known_hosts()).expect("a writable folder");
        format!(
            "Host {alias}\n  HostName {}\n  Port {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  BatchMode yes\n",
            self.place.address,
            self.port,
            self.client_key.path().display(),
            known.display(),
        )
    }

    /// What it has logged so far, a line each.
    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().expect("not poisoned").clone()
    }

    /// Waits until `count` lines of the log contain `text`.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for_log(&self, text: &str, count: usize) {
        assert!(
            wait(&self.log, |lines| lines.iter().filter(|line| line.contains(text)).count() >= count),
            "{text:?} was not logged {count} times: {:#?}",
            self.log()
        );
    }

    /// The processes that its connections run, besides the listening one: those below it, and those that have left it
    /// and still carry the variable by which a session knows its connection.
    pub fn sessions(&self) -> Vec<u32> {
        let mut found = descendants(self.child.id());
        let ours = format!(" {} {}", self.place.address, self.port);
        let mut strays = with_variable("SSH_CONNECTION", |value| value.ends_with(&ours));
        strays.retain(|pid| self.place.network.as_ref().is_none_or(|network| is_in(*pid, network)));
        found.extend(strays.into_iter().filter(|pid| !found.contains(pid)).collect::<Vec<_>>());
        found
    }

    /// Waits until no connection is left, and nothing that one has started.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_until_idle(&self) {
        let limit = Instant::now() + LIMIT;
        while !self.sessions().is_empty() {
            assert!(Instant::now() < limit, "still running: {:?}", self.sessions());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the processes of all connections and goes on listening.
    pub fn cut_connections(&self) {
        for pid in self.sessions() {
            kill_tree(pid);
        }
    }
}

fn wait(log: &Log, done: impl Fn(&[String]) -> bool) -> bool {
    let limit = Instant::now() + LIMIT;
    let mut lines = log.0.lock().expect("not poisoned");
    while !done(&lines) {
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        lines = log.1.wait_timeout(lines, left).expect("not poisoned").0;
    }
    true
}

impl Drop for Sshd {
    fn drop(&mut self) {
        kill_tree(self.child.id());
        let _ = self.child.wait();
        // What a session left behind has no parent to be found by.
        self.cut_connections();
    }
}

impl SshdBuilder {
    /// The folder that the server will own, for files that its options name.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a host key of this kind. Without any, there is one Ed25519 key.
    #[must_use]
    pub fn host_key(mut self, kind: KeyKind) -> Self {
        self.host_keys.push(kind);
        self
    }

    /// Uses an existing key as host key, with its certificate where there is one beside it.
    #[must_use]
    pub fn given_host_key(mut self, key: &KeyPair) -> Self {
        self.given_host_keys.push(key.path().to_owned());
        if key.certificate_path().exists() {
            self.options.push(format!("HostCertificate {}", key.certificate_path().display()));
        }
        self
    }

    /// Lets a key in besides [`Sshd::client_key`].
    #[must_use]
    pub fn authorize(mut self, key: &KeyPair) -> Self {
        self.authorized.push_str(key.public());
        self.authorized.push('\n');
        self
    }

    /// Adds a line to `sshd_config`. Of lines with the same keyword the first wins, and those given here come first.
    #[must_use]
    pub fn option(mut self, line: impl Into<String>) -> Self {
        self.options.push(line.into());
        self
    }

    /// Gives the account the password [`PASSWORD`], in a mount namespace of the server's own: the machine's accounts are
    /// not touched. Needs root.
    #[must_use]
    pub fn passwords(mut self) -> Self {
        self.passwords = true;
        self
    }

    /// Has the server listen in a network of its own. It is killed when the thread that starts it ends.
    #[must_use]
    pub fn network(mut self, network: &Network) -> Self {
        self.place = At {
            address: network.address(),
            port: Some(2222),
            prefix: network.prefix(),
            network: Some(network.name()),
        };
        self
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// When `sshd` is not installed, or does not start.
    pub fn start(self) -> Sshd {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} must be installed (openssh-server)");
        // Run as root it wants this folder, which a service manager would have made.
        if rustix::process::getuid().is_root() {
            std::fs::create_dir_all("/run/sshd").expect("a folder for sshd");
        }
        let dir = self.dir.path();
        // Its account checks want to reach the keys, whoever they run as.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("our own folder");
        let client_key = KeyPair::generate(dir.join("client_key"), KeyKind::Ed25519, "");
        let kinds = if self.host_keys.is_empty() && self.given_host_keys.is_empty() {
            vec![KeyKind::Ed25519]
        } else {
            self.host_keys.clone()
        };
        let host_keys: Vec<KeyPair> = kinds
            .iter()
            .enumerate()
            .map(|(n, kind)| KeyPair::generate(dir.join(format!("host_key_{n}")), *kind, ""))
            .collect();
        let authorized = dir.join("authorized_keys");
        std::fs::write(&authorized, format!("{}{}\n", self.authorized, client_key.public()))
            .expect("our own folder");
        let home = dir.join("home");
        std::fs::create_dir_all(&home).expect("our own folder");
        let mut config = self.options.join("\n");
        config.push_str(&format!("\nSetEnv HOME={}\n", home.display()));
        for path in
            host_keys.iter().map(KeyPair::path).chain(self.given_host_keys.iter().map(PathBuf::as_path))
        {
            config.push_str(&format!("HostKey {}\n", path.display()));
        }
        config.push_str(&format!(
            "AuthorizedKeysFile {}\nListenAddress {}\nPidFile none\nStrictModes no\nUsePAM {}\n\
             PasswordAuthentication {2}\nKbdInteractiveAuthentication {2}\nPermitRootLogin {}\nLogLevel VERBOSE\nUseDNS no\n",
            authorized.display(),
            self.place.address,
            if self.passwords { "yes" } else { "no" },
            if self.passwords { "yes" } else { "prohibit-password" },
        ));
        if self.passwords {
            write_account_files(dir);
        }
        // A port that is free now may be taken when the server asks for it: then another is tried.
        for _ in 0..20 {
            let port = self.place.port.unwrap_or_else(free_port);
            let file = dir.join("sshd_config");
            std::fs::write(&file, format!("Port {port}\n{config}")).expect("our own folder");
            let (mut child, log) = spawn(&file, &self.place.prefix, self.passwords.then_some(dir));
            let listens = |lines: &[String]| lines.iter().any(|line| line.starts_with("Server listening on"));
            let ended = |lines: &[String]| lines.last().is_some_and(|line| line == ENDED);
            let decided = wait(&log, |lines| listens(lines) || ended(lines));
            let lines = log.0.lock().expect("not poisoned").clone();
            if decided && listens(&lines) {
                return Sshd { child, place: self.place, port, log, host_keys, client_key, dir: self.dir };
            }
            kill_tree(child.id());
            let _ = child.wait();
            assert!(
                lines.iter().any(|line| line.contains("Address already in use")),
                "sshd did not start: {lines:#?}"
            );
        }
        panic!("no port stayed free long enough for sshd");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|listener| listener.local_addr()).expect("a loopback port").port()
}

/// A last line of our own, when the server's log has ended.
const ENDED: &str = "(sshd closed its log)";

fn spawn(config: &Path, prefix: &[String], accounts: Option<&Path>) -> (Child, Log) {
    let mut words = prefix.to_vec();
    match accounts {
        None => words.push(PROGRAM.into()),
        Some(dir) => {
            let dir = dir.display();
            let script = format!(
                "mount --bind {dir}/shadow /etc/shadow && mount --bind {dir}/pam /etc/pam.d/sshd && exec {PROGRAM} \"$@\""
            );
            words.extend(["unshare", "--mount", "sh", "-c", &script, "sshd"].map(Into::into));
        }
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let mut child = command
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sshd, or unshare (util-linux), can be started");
    let log = Log::default();
    let (writer, stderr) = (Arc::clone(&log), child.stderr.take().expect("piped"));
    // Ends with the last process that has the server's standard error.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            writer.0.lock().expect("not poisoned").push(text);
            writer.1.notify_all();
            line.clear();
        }
        writer.0.lock().expect("not poisoned").push(ENDED.to_owned());
        writer.1.notify_all();
    });
    (child, log)
}

/// Files that take the place of the machine's, for the server alone.
fn write_account_files(dir: &Path) {
    let shadow = std::fs::read_to_string("/etc/shadow").expect("passwords need root");
    let uid = rustix::process::getuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").expect("readable by all");
    let user = passwd
        .lines()
        .find(|line| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(uid))
        .and_then(|line| line.split(':').next())
        .expect("our own account");
    let lines: String = shadow
        .lines()
        .map(|line| match line.split_once(':') {
            Some((name, _)) if name == user => format!("{user}:{PASSWORD_HASH}:20000:0:99999:7:::\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(dir.join("shadow"), lines).expect("our own folder");
    std::fs::set_permissions(dir.join("shadow"), std::fs::Permissions::from_mode(0o600))
        .expect("our own file");
    let pam =
        "auth required pam_unix.so nodelay\naccount required pam_permit.so\nsession required pam_permit.so\n";
    std::fs::write(dir.join("pam"), pam).expect("our own folder");
}
