//! A worker is delivered wherever there is some folder to run it from and some tool to carry it, and the error says
//! which is missing where there is none.

mod place;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farcall_bootstrap::artifact::Artifact;
use farcall_bootstrap::image::Program;
use farcall_bootstrap::launch::Delivery;
use farcall_bootstrap::target::{Cache, LaunchOptions};
use farcall_bootstrap::{Class, LaunchError, Step};
use place::{Place, options, program};

/// All that the far half can use, hash tools and gzip apart.
const PLAIN: [&str; 17] = [
    "awk", "cat", "chmod", "dd", "env", "find", "head", "id", "ls", "mkdir", "mv", "nice", "rm", "rmdir",
    "touch", "uname", "wc",
];

/// Private and empty places for all of the ladder but the home.
const LADDER: &str = "for d in /var/tmp /tmp /dev/shm; do mount -t tmpfs -o mode=1777 none $d; done;";

async fn refused(place: &Place, options: &LaunchOptions) -> LaunchError {
    match place.start(&program(), options).await {
        Ok(worker) => panic!("started in {:?}", worker.link("exe")),
        Err(error) => error,
    }
}

/// Starts a worker and returns the folder that it was delivered to.
async fn delivered_to(place: &Place) -> PathBuf {
    let worker = place.start(&program(), &options()).await.expect("delivered");
    assert!(matches!(worker.delivery(), Delivery::Sent { kept: true, .. }), "{:?}", worker.delivery());
    let folder = worker.link("exe").parent().expect("a folder").to_owned();
    worker.echo_and_end().await;
    folder
}

/// Another processor, as far as anybody can tell who asks.
const S390X: &str = "echo s390x >$H/arch; mount --bind $H/arch /proc/sys/kernel/arch";

fn shipped() -> Artifact {
    Artifact::load(Path::new(env!("CARGO_BIN_EXE_farcall-bootstrap-test-worker"))).expect("a program")
}

#[tokio::test]
async fn a_read_only_home_is_passed_over() {
    let place = Place::new().mounts(&format!("{LADDER} mount --bind $H $H; mount -o remount,bind,ro $H"));
    assert_eq!(delivered_to(&place).await, Path::new("/var/tmp/farcall-0"));
}

#[tokio::test]
async fn a_home_that_does_not_exist_is_not_made() {
    let place = Place::new().mounts(LADDER);
    fs::remove_dir(place.home()).expect("removed");
    assert_eq!(delivered_to(&place).await, Path::new("/var/tmp/farcall-0"));
    assert!(!place.home().exists());
}

#[tokio::test]
async fn folders_mounted_noexec_are_passed_over() {
    let mounts = "for d in $H /var/tmp /tmp; do mount -t tmpfs -o noexec,mode=1777 none $d; done; \
                  mount -t tmpfs none /dev/shm";
    assert_eq!(delivered_to(&Place::new().mounts(mounts)).await, Path::new("/dev/shm/farcall-0"));
    // The same with shells whose own test of files does not see it.
    assert_eq!(
        delivered_to(&Place::new().shell("busybox").mounts(mounts)).await,
        Path::new("/dev/shm/farcall-0")
    );
}

#[tokio::test]
async fn a_cached_worker_in_a_folder_that_became_noexec_is_passed_over() {
    for shell in ["dash", "busybox", "ksh93"] {
        let place = Place::new().shell(shell);
        place.start(&program(), &options()).await.expect("delivered").echo_and_end().await;
        let place = place.mounts(&format!("{LADDER} mount --bind $H $H; mount -o remount,bind,noexec $H"));
        assert_eq!(delivered_to(&place).await, Path::new("/var/tmp/farcall-0"));
    }
}

#[tokio::test]
async fn noexec_everywhere_is_an_error_that_says_so() {
    let place = Place::new()
        .mounts("for d in $H /var/tmp /tmp /dev/shm; do mount -t tmpfs -o noexec,mode=1777 none $d; done");
    let error = refused(&place, &options()).await;
    assert_eq!((error.step(), error.class()), (Step::Probe, Class::Bootstrap));
    let text = error.to_string();
    for folder in ["/.cache/farcall", "/var/tmp/farcall-0", "/tmp/farcall-0", "/dev/shm/farcall-0"] {
        assert!(text.contains(&format!("{folder}=no-execution")), "{text}");
    }
    assert!(error.hint().expect("a remedy").contains("noexec"), "{text}");
}

#[tokio::test]
async fn a_folder_without_space_is_passed_over_and_none_anywhere_is_said() {
    let place = Place::new().mounts(&format!("{LADDER} mount -t tmpfs -o size=64k none $H"));
    assert_eq!(delivered_to(&place).await, Path::new("/var/tmp/farcall-0"));

    let place = Place::new()
        .mounts("for d in $H /var/tmp /tmp /dev/shm; do mount -t tmpfs -o size=64k,mode=1777 none $d; done");
    let error = refused(&place, &options()).await;
    assert_eq!(error.class(), Class::Bootstrap);
    assert!(error.evidence().contains("No space left"), "{error:?}");
    assert!(error.hint().expect("a remedy").contains("space"), "{error}");
}

#[tokio::test]
async fn a_cache_folder_of_somebody_else_or_a_link_or_open_to_others_is_passed_over() {
    let spoil: [fn(&Path); 4] = [
        |cache| {
            fs::create_dir(cache).expect("made");
            fs::set_permissions(cache, fs::Permissions::from_mode(0o700)).expect("private");
            chown(cache, Some(1234), Some(1234)).expect("given away");
        },
        |cache| {
            let real = cache.with_file_name("real");
            fs::create_dir(&real).expect("made");
            fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).expect("private");
            symlink(&real, cache).expect("linked");
        },
        |cache| {
            fs::create_dir(cache).expect("made");
            fs::set_permissions(cache, fs::Permissions::from_mode(0o770)).expect("open");
        },
        |cache| fs::write(cache, "a file").expect("written"),
    ];
    for (kind, spoil) in spoil.into_iter().enumerate() {
        let place = Place::new().mounts(LADDER);
        fs::create_dir(place.home().join(".cache")).expect("made");
        spoil(&place.cache());
        let bait = Bait::new(&place);
        assert_eq!(delivered_to(&place).await, Path::new("/var/tmp/farcall-0"), "kind {kind}");
        bait.was_left_alone();
    }
}

/// What lies in a folder under the right names, and is not to be run.
struct Bait(PathBuf);

impl Bait {
    fn new(place: &Place) -> Bait {
        let ran = place.home().join("ran");
        // It may be no folder.
        let _ = fs::write(place.cache().join(".x"), format!("#!/bin/sh\n: >{}\n", ran.display()));
        let _ = fs::set_permissions(place.cache().join(".x"), fs::Permissions::from_mode(0o755));
        let digest = shipped().digest().to_string();
        let worker = place.cache().join(format!("farcall-{}", &digest[..16]));
        let _ = fs::copy(env!("CARGO_BIN_EXE_farcall-bootstrap-test-worker"), worker);
        Bait(ran)
    }

    fn was_left_alone(&self) {
        assert!(!self.0.exists(), "something was run from there");
    }
}

/// Whoever owns what holds a folder can put another in its place.
#[tokio::test]
async fn a_cache_folder_in_a_folder_of_somebody_else_is_passed_over() {
    let given = |path: &Path| chown(path, Some(1234), Some(1234)).expect("given away");
    for whose in ["home", "home/.cache"] {
        let place = Place::new().mounts(LADDER);
        fs::create_dir_all(place.cache()).expect("made");
        fs::set_permissions(place.cache(), fs::Permissions::from_mode(0o700)).expect("private");
        given(&place.home().with_file_name(whose));
        let bait = Bait::new(&place);
        assert_eq!(delivered_to(&place).await, Path::new("/var/tmp/farcall-0"));
        bait.was_left_alone();
    }
    // In a folder like /tmp only owners rename.
    for (mode, served) in [(0o777, false), (0o1777, true)] {
        let place = Place::new().mounts(LADDER);
        let folder = place.home().join("theirs");
        fs::create_dir(&folder).expect("made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("open to all");
        given(&folder);
        let place = place.variable(format!("XDG_CACHE_HOME={}", folder.display()));
        let expected = if served { folder.join("farcall") } else { place.cache() };
        assert_eq!(delivered_to(&place).await, expected, "mode {mode:o}");
    }
}

#[tokio::test]
async fn xdg_cache_home_comes_first() {
    let place = Place::new();
    let folder = place.home().join("some where");
    let place = place.variable(format!("XDG_CACHE_HOME={}", folder.display()));
    assert_eq!(delivered_to(&place).await, folder.join("farcall"));
    assert!(!place.cache().exists());
}

#[tokio::test]
async fn without_a_hash_tool_nothing_cached_is_trusted_and_nothing_is_kept() {
    for shell in ["dash", "bash", "busybox", "mksh", "ksh93"] {
        let mut tools = PLAIN.to_vec();
        tools.push("gzip");
        let place = Place::new().only_tools(shell, &tools);
        for _ in 0..2 {
            let settings = LaunchOptions { nice: Some(1), ..options() };
            let worker = place.start(&program(), &settings).await.expect("delivered");
            assert!(
                matches!(worker.delivery(), Delivery::Sent { kept: false, .. }),
                "{:?}",
                worker.delivery()
            );
            worker.echo_and_end().await;
            assert_eq!(place.cached(), [], "{shell}");
        }
    }
}

#[tokio::test]
async fn where_a_running_program_cannot_be_removed_it_is_removed_when_it_ends() {
    let place = Place::new().mounts("mount -t tmpfs none /proc");
    let settings = LaunchOptions { cache: Cache::LeaveNothing, arguments: vec!["it's".into()], ..options() };
    let worker = place.start(&program(), &settings).await.expect("delivered");
    assert!(matches!(worker.delivery(), Delivery::Sent { kept: false, .. }));
    assert_eq!(worker.proc("cmdline").split('\0').nth(1), Some("it's"));
    assert!(place.cache().exists());
    worker.echo_and_end().await;
    assert!(!place.cache().exists(), "{:?}", place.cached());

    let settings = LaunchOptions { arguments: vec!["fail".into()], ..settings };
    let error = refused(&place, &settings).await;
    assert!(error.to_string().contains("exit code 3"), "{error}");
    assert!(!place.cache().exists(), "{:?}", place.cached());
}

#[tokio::test]
async fn a_start_that_fails_after_the_delivery_leaves_nothing_either() {
    for shell in ["dash", "bash", "busybox", "mksh", "ksh93", "yash", "zsh"] {
        let place = Place::new().shell(shell);
        let chdir = Some("/proc/none".into());
        let settings = LaunchOptions { cache: Cache::LeaveNothing, chdir, ..options() };
        let error = refused(&place, &settings).await;
        assert!(error.to_string().contains("folder to start in"), "{error}");
        assert!(!place.cache().exists(), "{shell}: {:?}", place.cached());
    }
}

#[tokio::test]
async fn without_gzip_the_plain_program_is_sent() {
    let mut tools = PLAIN.to_vec();
    tools.push("sha256sum");
    let place = Place::new().only_tools("dash", &tools);
    let worker = place.start(&program(), &options()).await.expect("delivered");
    assert_eq!(worker.delivery(), Delivery::Sent { bytes: shipped().bytes().len() as u64, kept: true });
    worker.echo_and_end().await;
}

#[tokio::test]
async fn with_gzip_less_than_half_is_sent() {
    let worker = Place::new().start(&program(), &options()).await.expect("delivered");
    let Delivery::Sent { bytes, .. } = worker.delivery() else { panic!("{:?}", worker.delivery()) };
    assert!(bytes < shipped().bytes().len() as u64 / 2, "{bytes}");
    worker.echo_and_end().await;
}

#[tokio::test]
async fn without_proc_programs_tell_what_the_place_is() {
    let place = Place::new().mounts("mount -t tmpfs none /proc");
    delivered_to(&place).await;
    let again = place.start(&program(), &options()).await.expect("started");
    assert_eq!(again.delivery(), Delivery::Cached);
    again.echo_and_end().await;
    let error = refused(&place.tool("uname", "echo FreeBSD riscv64"), &options()).await;
    assert!(error.to_string().contains("riscv64-freebsd"), "{error}");
}

#[tokio::test]
async fn without_head_another_tool_counts() {
    let tools: Vec<_> = PLAIN
        .iter()
        .copied()
        .filter(|&tool| tool != "head")
        .chain(["gzip", "sha256sum", "timeout"])
        .collect();
    delivered_to(&Place::new().only_tools("dash", &tools)).await;
}

#[tokio::test]
async fn every_hash_tool_serves() {
    for tool in ["shasum", "openssl"] {
        let mut tools = PLAIN.to_vec();
        tools.extend([tool, "perl"]);
        let place = Place::new().only_tools("dash", &tools);
        delivered_to(&place).await;
        let again = place.start(&program(), &options()).await.expect("started");
        assert_eq!(again.delivery(), Delivery::Cached, "{tool}");
        again.echo_and_end().await;
    }
}

#[tokio::test]
async fn a_gzip_that_does_not_work_is_done_without() {
    for script in ["exit 1", "cat", "head -c 1000 >/dev/null; exit 2"] {
        let place = Place::new().tool("gzip", script);
        let worker = place.start(&program(), &options()).await.expect("delivered");
        let Delivery::Sent { bytes, kept: true } = worker.delivery() else {
            panic!("{:?}", worker.delivery())
        };
        assert!(bytes > shipped().bytes().len() as u64, "sent twice: {bytes}");
        worker.echo_and_end().await;
    }
}

#[tokio::test]
async fn another_platform_without_a_build_is_named_with_the_remedy() {
    let place = Place::new().mounts(S390X);
    let error = refused(&place, &options()).await;
    assert_eq!((error.step(), error.class()), (Step::Deliver, Class::Bootstrap));
    assert!(error.to_string().contains("s390x-linux"), "{error}");
    assert!(error.hint().expect("a remedy").contains("cargo build --target"), "{error}");
}

/// The test worker with a few bytes changed.
fn altered(folder: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = shipped().bytes().to_vec();
    change(&mut bytes);
    let path = folder.join(name);
    fs::write(&path, bytes).expect("written");
    path
}

#[tokio::test]
async fn another_platforms_build_is_shipped_and_if_it_cannot_run_the_error_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = "farcall-bootstrap-test-worker-s390x";
    altered(folder.path(), name, |bytes| bytes[18..20].copy_from_slice(&22_u16.to_le_bytes()));
    let place = Place::new().mounts(S390X);
    let program = program().folder(folder.path());
    for _ in 0..2 {
        let error = place.start(&program, &options()).await.err().expect("this machine is no s390x");
        assert_eq!((error.step(), error.class()), (Step::Exec, Class::Exec), "{error:?}");
        assert!(error.hint().expect("a remedy").contains("s390x-linux"), "{error}");
    }
    assert_eq!(place.cached().iter().filter(|(name, _)| name.starts_with("farcall-")).count(), 1);
}

#[tokio::test]
async fn a_missing_loader_is_named() {
    // A dynamic program whose loader is on no machine.
    let folder = tempfile::tempdir().expect("a folder");
    let mut bytes = fs::read("/bin/true").expect("readable");
    let loader = b"/lib64/ld-linux-x86-64.so.2";
    let at = bytes.windows(loader.len()).position(|window| window == loader).expect("dynamic");
    bytes[at..at + 27].copy_from_slice(b"/lib64/ld-absent-x86-64.so9");
    let path = folder.path().join("dynamic");
    fs::write(&path, bytes).expect("written");
    let error = Place::new().start(&Program::at(path), &options()).await.err().expect("it cannot run");
    assert_eq!((error.step(), error.class()), (Step::Exec, Class::Exec), "{error:?}");
    let hint = error.hint().expect("a remedy");
    assert!(hint.contains("ld-absent") && hint.contains("static"), "{error}");
}

#[tokio::test]
async fn a_c_library_that_is_too_old_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bytes = fs::read("/bin/true").expect("readable");
    let mut changed = 0;
    let version = b"GLIBC_2.";
    for at in 0..bytes.len() - version.len() {
        if bytes[at..].starts_with(version) {
            // A version that no library has yet.
            bytes[at + 6] = b'9';
            changed += 1;
        }
    }
    assert!(changed > 0, "it is dynamic, and wants versions");
    let path = folder.path().join("dynamic");
    fs::write(&path, bytes).expect("written");
    let error = Place::new().start(&Program::at(path), &options()).await.err().expect("it cannot run");
    assert_eq!((error.step(), error.class()), (Step::Exec, Class::Exec), "{error:?}");
    assert!(error.evidence().contains("GLIBC_9."), "{error:?}");
    let hint = error.hint().expect("a remedy");
    assert!(hint.contains("too old") && hint.contains("static"), "{error}");
}

#[tokio::test]
async fn a_worker_that_fails_at_once_is_reported_with_code_signal_and_words() {
    let place = Place::new();
    let with = |argument: &str| LaunchOptions { arguments: vec![argument.into()], ..options() };
    let error = refused(&place, &with("fail")).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::RemoteExit));
    assert!(error.to_string().contains("exit code 3"), "{error}");
    assert!(error.evidence().contains("the reason for it"), "{error:?}");

    let error = refused(&place, &with("abort")).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::Signal));
    assert!(error.to_string().contains("signal 6"), "{error}");

    let limited = LaunchOptions { start_limit: Duration::from_secs(1), ..with("mute") };
    let error = refused(&place, &limited).await;
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::Timeout));
}

#[tokio::test]
async fn settings_that_the_place_refuses_are_named() {
    let place = Place::new();
    let chdir = LaunchOptions { chdir: Some("/proc/none/such".into()), ..options() };
    let error = refused(&place, &chdir).await;
    assert!(error.to_string().contains("folder to start in"), "{error}");
    assert!(error.evidence().contains("mkdir"), "{error:?}");
    assert_eq!(error.hint(), Some("give a folder that the account there can make or enter"));

    let place = Place::new().login(&["setpriv", "--reuid=1234", "--clear-groups", "bash", "-c"]);
    chown(place.home(), Some(1234), Some(1234)).expect("given");
    let nice = LaunchOptions { nice: Some(-5), ..options() };
    let error = refused(&place, &nice).await;
    assert!(error.to_string().contains("niceness"), "{error}");
}
