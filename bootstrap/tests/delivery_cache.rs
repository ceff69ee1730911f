//! A cached worker is run only when it is whole, is never seen half-made, and old ones go.

mod place;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use farcall_bootstrap::artifact::Artifact;
use farcall_bootstrap::launch::{Delivery, launch};
use farcall_bootstrap::target::{CommandTarget, LaunchOptions, Target};
use farcall_bootstrap::{Class, Step};
use place::{Place, Worker, options, program};

async fn start(place: &Place) -> Delivery {
    let worker = place.start(&program(), &options()).await.expect("started");
    let delivery = worker.delivery();
    worker.echo_and_end().await;
    delivery
}

/// The command lines of all processes.
fn commands() -> impl Iterator<Item = String> {
    let processes = fs::read_dir("/proc").expect("mounted").filter_map(Result::ok);
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Waits for something that happens soon after.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_worker_that_was_changed_in_any_way_is_replaced() {
    let place = Place::new();
    start(&place).await;
    let path = place.cached_worker();
    let whole = fs::read(&path).expect("readable");
    type Damage = fn(&Path, &[u8]) -> io::Result<()>;
    let damage: [Damage; 6] = [
        |path, whole| fs::write(path, &whole[..whole.len() - 1]),
        |path, _| fs::write(path, b""),
        |path, whole| {
            let mut other = whole.to_vec();
            other[whole.len() / 2] ^= 1;
            fs::write(path, other)
        },
        |path, whole| {
            let before = fs::metadata(path)?.modified()?;
            let mut other = whole.to_vec();
            other[whole.len() / 3] ^= 1;
            let mut file = fs::File::options().write(true).open(path)?;
            io::Write::write_all(&mut file, &other)?;
            file.set_modified(before)
        },
        |path, _| fs::write(path, b"#!/bin/sh\necho HELLO 1; cat\n"),
        |path, _| fs::set_permissions(path, fs::Permissions::from_mode(0o600)),
    ];
    for (kind, damage) in damage.into_iter().enumerate() {
        damage(&path, &whole).expect("damaged");
        assert!(matches!(start(&place).await, Delivery::Sent { kept: true, .. }), "kind {kind}");
        assert!(fs::read(&path).expect("readable") == whole);
        assert_eq!(start(&place).await, Delivery::Cached);
    }
}

#[tokio::test]
async fn what_is_cached_is_private_and_nothing_else_is_left() {
    let place = Place::new();
    start(&place).await;
    let name = place.cached_worker().file_name().expect("a name").to_str().expect("text").to_owned();
    let note = |kind: &str| (name.replace("farcall-", kind), 0o600);
    assert_eq!(place.cached(), [note(".u-"), note(".v-"), (".x".into(), 0o700), (name.clone(), 0o700)]);
    assert_eq!(fs::metadata(place.cache()).expect("there").permissions().mode() & 0o7777, 0o700);
}

#[tokio::test]
async fn a_folder_in_the_place_of_the_worker_is_an_error_or_passed_over() {
    let place = Place::new();
    start(&place).await;
    let path = place.cached_worker();
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    let place = place.mounts("for d in /var/tmp /tmp /dev/shm; do mount -t tmpfs -o mode=1777 none $d; done");
    let worker = place.start(&program(), &options()).await.expect("delivered elsewhere");
    assert!(worker.link("exe").starts_with("/var/tmp/farcall-0"), "{:?}", worker.link("exe"));
    worker.echo_and_end().await;
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_leaves_nothing() {
    let place = Place::new();
    let whole =
        Artifact::load(Path::new(env!("CARGO_BIN_EXE_farcall-bootstrap-test-worker"))).expect("a program");
    let packed = whole.packed().await.len();
    // As many bytes reach the far side, the answer to its question included.
    for cut in [0, 1, 10, 40, 5000, packed / 2, packed] {
        // Byte by byte: other tools wait for more before they pass anything on.
        let line =
            format!("dd bs=1 count={cut} 2>/dev/null | HOME='{}' bash -c \"$0\"", place.home().display());
        let target = Target::from(CommandTarget::new("bash").args(["-c", &line]).as_line());
        let error = launch(&target, &program(), &options()).await.expect_err("cut");
        assert_eq!((error.step(), error.class()), (Step::Deliver, Class::Bootstrap), "{error:?}");
        assert_eq!(place.cached(), [(".x".into(), 0o700)], "cut after {cut}");
    }
}

#[tokio::test]
async fn a_start_that_is_dropped_in_the_middle_leaves_nothing() {
    let place = Place::new();
    // The far side's end of the pipe is read, but never to its end.
    let line = format!(
        "{{ dd bs=1 count=100000; touch '{home}/half'; exec tail -f '{home}/half'; }} | HOME='{home}' bash -c \"$0\"",
        home = place.home().display()
    );
    let target = Target::from(CommandTarget::new("bash").args(["-c", &line]).as_line());
    {
        let (program, options) = (program(), options());
        let start = launch(&target, &program, &options);
        tokio::select! {
            result = start => panic!("{result:?}"),
            () = until("half arrives", || place.home().join("half").exists()) => {}
        }
        assert!(place.cached().iter().any(|(name, _)| name.starts_with(".n")), "{:?}", place.cached());
    }
    let home = place.home().display().to_string();
    until("all of it is gone", || !commands().any(|command| command.contains(&home))).await;
    // The whole group was killed, so nobody is left to clean: what is left is no worker, and the next delivery's.
    let left = place.cached();
    assert!(
        left.iter().all(|(name, mode)| name == ".x" || (name.starts_with(".n") && mode & 0o111 == 0)),
        "{left:?}"
    );
    let hour = SystemTime::now() - Duration::from_secs(2 * 3600);
    for (name, _) in left.iter().filter(|(name, _)| name.starts_with(".n")) {
        fs::File::open(place.cache().join(name)).expect("there").set_modified(hour).expect("aged");
    }
    start(&place).await;
    assert_eq!(place.cached().len(), 4, "{:?}", place.cached());
}

#[tokio::test]
async fn old_versions_go_but_never_one_in_use_or_a_recent_one() {
    let place = Place::new();
    fs::create_dir(place.home().join(".cache")).expect("made");
    fs::create_dir(place.cache()).expect("made");
    fs::set_permissions(place.cache(), fs::Permissions::from_mode(0o700)).expect("private");
    let sleep = fs::read("/bin/sleep").expect("readable");
    let put = |name: &str, hours: u64| {
        let path = place.cache().join(name);
        fs::write(&path, &sleep).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("executable");
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        fs::File::open(&path).expect("there").set_modified(then).expect("aged");
        path
    };
    for (hours, name) in
        (2..9).map(|hours| (hours, format!("old{hours}"))).chain((0..4).map(|n| (0, format!("new{n}"))))
    {
        put(&format!("farcall-{name}"), 1000);
        put(&format!(".u-{name}"), hours);
    }
    put(".n-stale", 2);
    put(".n-fresh", 0);
    put("unrelated", 2);
    let used = put("farcall-used", 1000);
    put(".u-used", 100);
    let mut running = Command::new(&used).arg("1000").stdin(Stdio::null()).spawn().expect("started");
    start(&place).await;
    let names: Vec<String> = place.cached().into_iter().map(|(name, _)| name).collect();
    running.kill().expect("running");
    running.wait().expect("reaped");
    let ours = place.cached().into_iter().map(|(name, _)| name);
    let ours = ours.filter(|name| name.len() >= 16).collect::<Vec<_>>();
    assert_eq!(ours.len(), 3, "{names:?}");
    let versions = ["used", "new0", "new1", "new2", "new3"];
    let mut expected = [".n-fresh", ".x", "unrelated"].map(String::from).to_vec();
    expected.extend(versions.iter().flat_map(|name| [format!("farcall-{name}"), format!(".u-{name}")]));
    expected.extend(ours);
    expected.sort_unstable();
    assert_eq!(names, expected);
}

/// What digests the worker leaves a mark; returns whether it did at a start.
async fn was_checked(place: &Place) -> bool {
    let mark = place.home().join("mark");
    let _ = fs::remove_file(&mark);
    assert_eq!(start(place).await, Delivery::Cached);
    mark.exists()
}

#[tokio::test]
async fn a_check_stands_until_the_file_changes_or_the_machine_starts_anew() {
    let place = Place::new().tool("sha256sum", "echo >\"$HOME/mark\"; exec /usr/bin/sha256sum");
    start(&place).await;
    // The note was written after the worker, but the system's clock may be too coarse to show it.
    was_checked(&place).await;
    assert!(!was_checked(&place).await, "the check of this boot stands");

    let worker = place.cached_worker();
    let name = worker.file_name().expect("a name").to_str().expect("text").replace("farcall-", ".v-");
    let note = place.cache().join(name);
    let said = fs::read_to_string(&note).expect("a note");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a name of this boot");
    assert!(said.starts_with(boot.trim()), "{said}");
    fs::write(&note, said.replace(boot.trim(), "another")).expect("writable");
    assert!(was_checked(&place).await, "the check was of another boot");
    assert!(!was_checked(&place).await);

    // Any sign of change is enough, be it without effect.
    fs::File::open(&worker).expect("there").set_modified(SystemTime::now()).expect("touched");
    assert!(was_checked(&place).await, "the file was touched");
    was_checked(&place).await;
    let copy = place.home().join("copy");
    fs::copy(&worker, &copy).expect("copied");
    fs::rename(&copy, &worker).expect("replaced");
    assert!(was_checked(&place).await, "it is another file");
}

#[tokio::test]
async fn use_keeps_a_version_young() {
    let place = Place::new();
    start(&place).await;
    let worker = place.cached_worker();
    let version = worker.file_name().expect("a name").to_str().expect("text").replace("farcall-", ".u-");
    let note = place.cache().join(version);
    let then = SystemTime::now() - Duration::from_secs(48 * 3600);
    fs::File::open(&note).expect("there").set_modified(then).expect("aged");
    assert_eq!(start(&place).await, Delivery::Cached);
    let modified = fs::metadata(&note).expect("there").modified().expect("a time");
    assert!(modified > SystemTime::now() - Duration::from_secs(3600));
}

#[tokio::test]
async fn a_read_only_cache_still_serves() {
    let place = Place::new();
    start(&place).await;
    let place = place.mounts("mount --bind $H $H; mount -o remount,bind,ro $H");
    assert_eq!(start(&place).await, Delivery::Cached);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_sessions_deliver_the_same_worker_at_once() {
    let place = Place::new();
    let (target, program) = (place.target(), program());
    let settings = LaunchOptions { start_limit: Duration::from_secs(300), ..options() };
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (target, program, settings) = (target.clone(), program.clone(), settings.clone());
        starts.spawn(async move { Worker::start(&target, &program, &settings).await });
    }
    let mut workers = Vec::new();
    while let Some(worker) = starts.join_next().await {
        workers.push(worker.expect("no panic").expect("started"));
    }
    let sent = workers.iter().filter(|worker| matches!(worker.delivery(), Delivery::Sent { .. })).count();
    assert!(sent > 1, "they were at it at once: {sent}");
    for worker in workers {
        worker.echo_and_end().await;
    }
    place.cached_worker();
    assert_eq!(place.cached().len(), 4, "{:?}", place.cached());
    assert_eq!(start(&place).await, Delivery::Cached);
}
