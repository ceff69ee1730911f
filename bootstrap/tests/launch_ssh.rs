//! A worker on a host that SSH reaches: delivered, cached, set up, ended, and refused with the reason.

mod place;

use std::time::Duration;

use farcall_bootstrap::launch::Delivery;
use farcall_bootstrap::process::Exit;
use farcall_bootstrap::ssh::{ConfigFiles, SshOptions, SshTarget};
use farcall_bootstrap::target::{Cache, LaunchOptions, Target};
use farcall_bootstrap::{Class, Step};
use farcall_test_support::{Sshd, TempHome};
use place::{Worker, options, program};

/// A server whose sessions keep their cache in its own folder.
struct Host {
    server: Sshd,
    home: TempHome,
    options: LaunchOptions,
}

impl Host {
    fn new(lines: &[&str]) -> Self {
        let mut builder = Sshd::builder();
        // The home too: nothing is looked for, or left, in the one of whoever runs the tests.
        let cache = format!("SetEnv XDG_CACHE_HOME={0} HOME={0}", builder.dir().display());
        for line in lines.iter().copied().chain([cache.as_str()]) {
            builder = builder.option(line);
        }
        let server = builder.start();
        let home = TempHome::new();
        let file = home.write("config", &server.config("far"));
        let ssh = SshOptions {
            files: ConfigFiles::Only(file),
            home: Some(home.path().to_owned()),
            ..SshOptions::default()
        };
        Self { server, home, options: LaunchOptions { ssh, ..options() } }
    }

    async fn start(&self, options: &LaunchOptions) -> Result<Worker, farcall_bootstrap::LaunchError> {
        Worker::start(&Target::from(SshTarget::new("far")), &program(), options).await
    }
}

#[tokio::test]
async fn a_worker_is_delivered_once_and_leaves_nothing_when_asked_to() {
    let host = Host::new(&[]);
    let odd = "it's \\ odd !\n";
    let settings = LaunchOptions {
        arguments: vec![odd.into()],
        env: vec![("TOKEN".into(), odd.into())],
        chdir: Some(host.home.path().join("a b")),
        ..host.options.clone()
    };
    let trackless = LaunchOptions { cache: Cache::LeaveNothing, ..settings.clone() };
    let worker = host.start(&trackless).await.expect("started");
    assert!(matches!(worker.delivery(), Delivery::Sent { kept: false, .. }));
    assert!(!host.server.dir().join("farcall").exists());
    worker.echo_and_end().await;

    let worker = host.start(&settings).await.expect("started");
    assert!(matches!(worker.delivery(), Delivery::Sent { kept: true, .. }));
    assert!(worker.link("exe").starts_with(host.server.dir().join("farcall")));
    worker.echo_and_end().await;

    let worker = host.start(&settings).await.expect("started");
    assert_eq!(worker.delivery(), Delivery::Cached);
    assert_eq!(worker.proc("cmdline").split('\0').nth(1), Some(odd));
    assert_eq!(worker.link("cwd"), host.home.path().join("a b"));
    assert!(worker.proc("environ").split('\0').any(|variable| variable == format!("TOKEN={odd}")));
    worker.echo_and_end().await;
}

#[tokio::test]
async fn its_end_is_known_and_dropping_it_ends_it() {
    let host = Host::new(&[]);
    let worker = host.start(&host.options).await.expect("started");
    let mut launched = worker.launched;
    assert_eq!(launched.process.id(), None, "it is elsewhere");
    let pid = rustix::process::Pid::from_raw(worker.pid.cast_signed()).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
    assert_eq!(launched.process.wait().await, Exit::Signal(15));
    assert!(launched.stderr.tail().starts_with(b"started\n"), "{:?}", launched.stderr);

    let worker = host.start(&host.options).await.expect("started");
    let pid = worker.pid;
    drop(worker);
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    while std::path::Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
        assert!(std::time::Instant::now() < limit, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn failures_on_the_far_side_carry_its_words() {
    let host = Host::new(&["ForceCommand echo only for backups; exit 7"]);
    let error = host.start(&host.options).await.err().expect("refused");
    assert_eq!((error.step(), error.class(), error.host()), (Step::Probe, Class::Bootstrap, "far"));
    assert!(error.to_string().contains("only for backups"), "{error}");
    assert!(error.to_string().contains("exit code 7"), "{error}");

    let host = Host::new(&[]);
    let failing = LaunchOptions { arguments: vec!["fail".into()], ..host.options.clone() };
    let error = host.start(&failing).await.err().expect("refused");
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::RemoteExit));
    assert!(error.evidence().contains("the reason for it"), "{error:?}");

    let mute = LaunchOptions {
        arguments: vec!["mute".into()],
        start_limit: Duration::from_secs(1),
        ..host.options.clone()
    };
    let error = host.start(&mute).await.err().expect("silent");
    assert_eq!((error.step(), error.class()), (Step::Greeting, Class::Timeout));
}

#[tokio::test]
async fn a_connection_that_is_cut_is_told_from_a_worker_that_ended() {
    let host = Host::new(&[]);
    let mut worker = host.start(&host.options).await.expect("started");
    host.server.cut_connections();
    assert_eq!(worker.launched.process.wait().await, Exit::Unknown);
}
