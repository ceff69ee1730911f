//! What is started holds what it was given and nothing else: descriptors, signals and limits, at every kind of place.
//!
//! The coordinator here is a careless program: it has descriptors that are not marked to be closed, ignores and blocks signals, and
//! its limit on descriptors is an odd one. The worker's tasks are as careless.

mod gateways;

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use farcall::{BoxError, Command, Context, Gateway, Stdio, Tasks, local};
use gateways::{EVERYWHERE, Kind, Place, at, plain};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// The program's first argument when it is a command that says what it holds.
const PLAY: &str = "--play";

/// The soft limit on descriptors here, and so wherever the place's shell comes from here.
const LIMIT: u64 = 517;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(PLAY) => return println!("{:?}", numbers()),
        // A worker's program is not careless before it is a worker.
        Some(word) if word.starts_with("--farcall") => {}
        _ => be_careless(),
    }
    gateways::main(
        Tasks::new().add(view).add(spoil).add(children).add(pipes),
        [
            at(&EVERYWHERE, "a_command_holds_what_it_was_given", a_command_holds_what_it_was_given),
            at(
                &EVERYWHERE,
                "a_command_has_signals_and_limits_as_they_were",
                a_command_has_signals_and_limits_as_they_were,
            ),
            at(&EVERYWHERE, "a_child_of_a_task_holds_nothing_of_the_workers", a_child_of_a_task),
            at(&EVERYWHERE, "workers_and_guardians_hold_their_own", workers_and_guardians_hold_their_own),
            at(&[Kind::Local, Kind::Command, Kind::Ssh], "isolated_tasks_hold_their_own", isolated_tasks),
            plain("local_children_hold_their_own", local_children_hold_their_own),
        ],
    );
}

fn be_careless() {
    // The descriptor stays open to the end.
    let secret = std::fs::File::create(secret()).expect("a file");
    std::mem::forget(careless_copy(&secret));
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: hard }).expect("a lower limit");
    // SAFETY: SIG_IGN runs no code; the set is initialised before it is used. Nobody sends these signals here.
    unsafe {
        for signal in [libc::SIGWINCH, libc::SIGUSR2, libc::SIGTTOU] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGUSR1, libc::SIGWINCH, libc::SIGALRM] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Its name is enough to know it by.
fn secret() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("inherited-secret")
}

/// A descriptor that is not closed when another program is executed.
fn careless_copy(file: &std::fs::File) -> OwnedFd {
    rustix::io::dup(file).expect("a copy")
}

// ---- what a process has ------------------------------------------------------------------------------------------

/// The numbers of the open descriptors.
fn numbers() -> Vec<i32> {
    let mut numbers: Vec<i32> = descriptors("self").into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    numbers
}

/// Numbers and names, without the list's own.
fn descriptors(of: &str) -> Vec<(i32, String)> {
    let folder = format!("/proc/{of}/fd");
    let entries = std::fs::read_dir(&folder).expect("descriptors").flatten();
    let paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    let name = |path: std::path::PathBuf| {
        // The list's own is closed by now.
        let target = std::fs::read_link(&path).ok()?;
        Some((path.file_name()?.to_str()?.parse().ok()?, target.to_string_lossy().into_owned()))
    };
    paths.into_iter().filter_map(name).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct View {
    descriptors: Vec<(i32, String)>,
    /// Those of the process that guards it.
    guardian: Vec<(i32, String)>,
    ignored: u64,
    blocked: u64,
    limits: (Option<u64>, Option<u64>),
}

impl farcall::Plain for View {}

impl View {
    fn here() -> View {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let bits = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            u64::from_str_radix(line.trim(), 16).expect("bits")
        };
        let guardian = rustix::process::getppid().expect("a parent").as_raw_nonzero().to_string();
        let limits = getrlimit(Resource::Nofile);
        View {
            descriptors: descriptors("self"),
            guardian: descriptors(&guardian),
            ignored: bits("SigIgn:"),
            blocked: bits("SigBlk:"),
            limits: (limits.current, limits.maximum),
        }
    }

    /// The pipes and sockets, by the names that the system gives them: the same for all who have them.
    fn streams(&self) -> BTreeSet<&str> {
        streams(&self.descriptors)
    }

    fn check(&self) {
        for (number, name) in self.descriptors.iter().chain(&self.guardian) {
            assert!(!name.contains("inherited-secret"), "{number} is {name}: {self:?}");
        }
        // Every Rust program ignores SIGPIPE; and two are the C library's own, whoever ignored them.
        let excepted = [libc::SIGPIPE, 32, 33].map(|number| 1 << (number - 1)).into_iter().sum::<u64>();
        assert_eq!(self.ignored & !excepted, 0, "{self:x?}");
        assert_eq!(self.blocked, 0, "{self:x?}");
        assert_eq!(self.limits.0, self.limits.1, "raised");
    }
}

fn streams(descriptors: &[(i32, String)]) -> BTreeSet<&str> {
    let is_stream = |name: &&str| name.starts_with("pipe:") || name.starts_with("socket:");
    descriptors.iter().map(|(_, name)| &**name).filter(is_stream).collect()
}

fn assert_nothing_in_common(one: &View, other: &View) {
    let both: Vec<_> = one.streams().intersection(&other.streams()).map(ToString::to_string).collect();
    assert!(both.is_empty(), "{both:?} in {one:#?} and {other:#?}");
}

// ---- tasks -------------------------------------------------------------------------------------------------------

fn view() -> View {
    View::here()
}

#[derive(Default)]
struct Left(Mutex<Vec<OwnedFd>>);

/// Leaves open what others would inherit.
fn spoil(cx: Context) -> Result<(), BoxError> {
    let null = std::fs::File::open("/dev/null")?;
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    let kept = cx.state(Left::default);
    let mut left = kept.0.lock().expect("no panic");
    left.push(careless_copy(&null));
    for socket in [one, other] {
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty())?;
        left.push(socket.into());
    }
    assert!(left.iter().all(|fd| fd.as_raw_fd() > 2));
    Ok(())
}

/// Starts programs by the standard library: what they say they hold, and what the system says of one's signals.
fn children(program: String) -> Result<(Vec<String>, String), BoxError> {
    let mut said = Vec::new();
    for _ in 0..3 {
        let output = std::process::Command::new(&program).arg(PLAY).output()?;
        said.push(String::from_utf8(output.stdout)?);
    }
    let status = std::process::Command::new("cat").arg("/proc/self/status").output()?;
    Ok((said, String::from_utf8(status.stdout)?))
}

/// Has a pipe of its own in a child, besides what every child has.
async fn pipes(_given: local::PipeReceiver<u64>) -> View {
    View::here()
}

// ---- tests -------------------------------------------------------------------------------------------------------

fn program() -> String {
    std::env::current_exe().expect("a path").to_str().expect("text").to_owned()
}

/// A gateway with much that a command could inherit: careless tasks, calls, and commands that run.
async fn busy(place: &Place) -> (Gateway, impl Sized) {
    let gateway = place.open().await;
    gateway.call(spoil, ()).await.expect("spoilt");
    let cat: Command = gateway.command("cat").stdin(Stdio::Piped).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let cat = cat.spawn().await.expect("a command");
    let terminal = gateway.command("cat").terminal(24, 80).spawn().await.expect("a command");
    let isolated = gateway.isolated();
    if place.kind != Kind::OpenSsh {
        isolated.call(view, ()).await.expect("a view");
    }
    (gateway, (cat, terminal, isolated))
}

async fn a_command_holds_what_it_was_given(place: Arc<Place>) {
    let (gateway, _others) = busy(&place).await;
    let own = || gateway.command(program()).arg(PLAY);
    let output = own().output().await.expect("output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[0, 1, 2]\n");
    let output = own().terminal(24, 80).output().await.expect("output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[0, 1, 2]\r\n");
    let mut prints = gateway.output();
    own().status().await.expect("a status");
    let mut text = Vec::new();
    while !text.ends_with(b"]\n") {
        text.extend_from_slice(&prints.next().await.expect("a print").bytes);
    }
    assert_eq!(String::from_utf8_lossy(&text), "[0, 1, 2]\n");
    // Many at once, each with pipes of its own.
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        all.spawn(own().stdin(Stdio::Piped).output());
    }
    while let Some(output) = all.join_next().await {
        let output = output.expect("no panic").expect("output");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "[0, 1, 2]\n");
    }
}

async fn a_command_has_signals_and_limits_as_they_were(place: Arc<Place>) {
    let (gateway, _others) = busy(&place).await;
    for terminal in [false, true] {
        let script = "cat /proc/self/status | grep '^Sig[BICP]'; ulimit -Sn; ulimit -Hn";
        let command = gateway.command("sh").args(["-c", script]);
        let command = if terminal { command.terminal(24, 80) } else { command };
        let output = command.output().await.expect("output");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut lines: Vec<&str> = text.lines().collect();
        let hard =
            getrlimit(Resource::Nofile).maximum.map_or("unlimited".to_owned(), |hard| hard.to_string());
        assert_eq!(lines.split_off(4), [LIMIT.to_string(), hard], "{text}");
        let masks = lines.iter().map(|line| u64::from_str_radix(line[7..].trim(), 16).expect("a mask"));
        assert!(masks.into_iter().all(|mask| mask == 0), "{text}");
    }
}

async fn a_child_of_a_task(place: Arc<Place>) {
    let gateway = place.open().await;
    let _child =
        gateway.command("cat").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await.expect("a command");
    let (said, status) = gateway.call(children, (program(),)).await.expect("what they said");
    assert_eq!(said, ["[0, 1, 2]\n"; 3]);
    let masks = status.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigCgt"));
    assert!(masks.clone().all(|line| line.ends_with("\t0000000000000000")) && masks.count() == 2, "{status}");
}

async fn workers_and_guardians_hold_their_own(place: Arc<Place>) {
    let (one, other) = (place.open().await, place.open().await);
    let _child =
        one.command("cat").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await.expect("a command");
    let third = place.open().await;
    let mut views = Vec::new();
    for gateway in [&one, &other, &third] {
        // A guardian lets go of what is not its own a few milliseconds after its start.
        let tidy = async || gateway.call(view, ()).await.expect("a view").guardian.len() <= 8;
        while !tidy().await {}
        let view = gateway.call(view, ()).await.expect("a view");
        view.check();
        views.push(view);
    }
    for (at, view) in views.iter().enumerate() {
        for other in &views[at + 1..] {
            assert_nothing_in_common(view, other);
            // Nor has a guardian anything of another's worker, which would not end while it lives.
            let both =
                |one: &View, other: &View| streams(&one.guardian).intersection(&other.streams()).count();
            assert_eq!((both(view, other), both(other, view)), (0, 0), "{view:#?} {other:#?}");
        }
    }
}

async fn isolated_tasks(place: Arc<Place>) {
    let (gateway, _others) = busy(&place).await;
    assert!(gateway.status().await.expect("a status").slots > 1, "this takes two processors");
    let isolated = gateway.isolated();
    let mut slots = [isolated.slot().await.expect("a slot"), isolated.slot().await.expect("a slot")];
    let mut views = Vec::new();
    for slot in &mut slots {
        views.push(slot.call(view, ()).await.expect("a view"));
    }
    views.iter().for_each(View::check);
    assert_nothing_in_common(&views[0], &views[1]);
}

async fn local_children_hold_their_own() {
    let mut one = local::Worker::new().await.expect("a worker");
    let mut other = local::Worker::new().await.expect("a worker");
    let (ours, theirs) = local::pipe::<u64>().expect("a pipe");
    let first = one.call(pipes, (theirs,)).await.expect("a view");
    let second = other.call(view, ()).await.expect("a view");
    let third = local::run(view, ()).await.expect("a view");
    for view in [&first, &second, &third] {
        view.check();
    }
    assert_nothing_in_common(&first, &second);
    assert_nothing_in_common(&second, &third);
    // The first had one more, which was passed, and does not have it any more.
    let after = one.call(view, ()).await.expect("a view");
    assert!(after.streams().len() < first.streams().len(), "{first:#?} {after:#?}");
    drop(ours);
}
