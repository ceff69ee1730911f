//! Programs that are their own workers, for tests: the same tests at every kind of place.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use farcall::ssh::{ConfigFiles, SshOptions};
use farcall::{CommandTarget, Gateway, ItemError, OpenError, Spec, Tasks};
use farcall_test_support::{Sshd, SshdBuilder, TempHome};
use libtest_mimic::{Arguments, Trial};

/// How long anything that must happen may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    /// Through a command that hands a line to a shell.
    Command,
    Ssh,
    /// Through the system's `ssh`.
    OpenSsh,
}

impl Kind {
    /// As tests are called.
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

pub(crate) const EVERYWHERE: [Kind; 4] = [Kind::Local, Kind::Command, Kind::Ssh, Kind::OpenSsh];

/// A place of some kind, with the server that it needs.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    spec: Spec,
    ssh: SshOptions,
    pub(crate) server: Option<Sshd>,
    _home: Option<TempHome>,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Place {
        Place::behind(kind, Sshd::builder())
    }

    /// The same with a server that is described already, where it takes one.
    pub(crate) fn behind(kind: Kind, server: SshdBuilder) -> Place {
        // Shared by all, so that the program is delivered once.
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gateways");
        std::fs::create_dir_all(&cache).expect("a folder");
        if kind == Kind::Local {
            return Place {
                kind,
                spec: Spec::local(),
                ssh: SshOptions::default(),
                server: None,
                _home: None,
            };
        }
        if kind == Kind::Command {
            let variable = format!("XDG_CACHE_HOME={}", cache.display());
            let spec = Spec::command(CommandTarget::new("env").args([&*variable, "sh", "-c"]).as_line());
            return Place { kind, spec, ssh: SshOptions::default(), server: None, _home: None };
        }
        let home = TempHome::new();
        let variables = format!("SetEnv XDG_CACHE_HOME={} HOME={}", cache.display(), home.path().display());
        let server = server.option(&variables).start();
        let files = ConfigFiles::Only(home.write("config", &server.config("far")));
        let ssh =
            SshOptions { files: files.clone(), home: Some(home.path().to_owned()), ..SshOptions::default() };
        let spec = match kind {
            Kind::OpenSsh => "openssh://far".parse::<Spec>().expect("a spec").config(files),
            _ => Spec::ssh("far"),
        };
        Place { kind, spec, ssh, server: Some(server), _home: Some(home) }
    }

    /// Its spec, to be changed.
    pub(crate) fn spec(&self) -> Spec {
        self.spec.clone()
    }

    /// All of it as a spec's text, for another process.
    pub(crate) fn text(&self) -> String {
        let spec = self.spec();
        if self.kind == Kind::Ssh { spec.config(self.ssh.files.clone()) } else { spec }.to_string()
    }

    /// The system's clients that lead there.
    pub(crate) fn clients(&self) -> Vec<u32> {
        let ConfigFiles::Only(config) = &self.ssh.files else { return Vec::new() };
        let config = config.to_string_lossy();
        let ours = farcall_test_support::descendants(std::process::id()).into_iter();
        let names_it = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*config)
        };
        ours.filter(names_it).collect()
    }

    pub(crate) async fn open(&self) -> Gateway {
        self.open_as(self.spec()).await.expect("a gateway")
    }

    pub(crate) async fn open_as(&self, spec: Spec) -> Result<Gateway, OpenError> {
        Gateway::builder(spec).ssh(self.ssh.clone()).open().await
    }
}

/// Numbers that are the same for the same seed: xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// So many local gateways.
pub(crate) async fn local(count: usize) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..count {
        gateways.push(Gateway::open(&Spec::local()).await.expect("a gateway"));
    }
    gateways
}

/// What a map made of an item.
pub(crate) fn value<V>(result: Result<V, ItemError>) -> V {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until a gateway has nothing to do.
pub(crate) async fn until_idle(gateway: &Gateway) {
    for _ in 0..1000 {
        let status = gateway.status().await.unwrap();
        if status.tasks.is_empty() && status.commands == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still busy: {:?}", gateway.status().await);
}

pub(crate) type Test = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A test that needs a place.
pub(crate) fn at<F: Future<Output = ()> + Send + 'static>(
    kinds: &[Kind],
    name: &str,
    test: fn(Arc<Place>) -> F,
) -> Vec<Trial> {
    let trial = |kind: Kind| {
        Trial::test(format!("{}::{name}", kind.name()), move || {
            let place = Arc::new(Place::new(kind));
            run(Box::pin(async move { test(place).await }));
            Ok(())
        })
    };
    kinds.iter().copied().map(trial).collect()
}

/// A test that needs a kind of connection that crosses a network.
pub(crate) fn over_ssh<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    test: fn(Kind) -> F,
) -> Vec<Trial> {
    let trial = |kind: Kind| {
        Trial::test(format!("{}::{name}", kind.name()), move || {
            run(Box::pin(async move { test(kind).await }));
            Ok(())
        })
    };
    [Kind::Ssh, Kind::OpenSsh].map(trial).into()
}

/// A test that needs none.
pub(crate) fn plain<F: Future<Output = ()> + Send + 'static>(name: &str, test: fn() -> F) -> Vec<Trial> {
    vec![Trial::test(name, move || {
        run(Box::pin(async move { test().await }));
        Ok(())
    })]
}

pub(crate) fn run(test: Test) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(LIMIT, test).await.expect("the test takes too long");
    });
}

/// Plays a worker if the program was started as one, and otherwise runs the tests.
pub(crate) fn main(tasks: Tasks, trials: impl IntoIterator<Item = Vec<Trial>>) {
    farcall::init(tasks);
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Waits until `done`, for things of other processes that nobody tells.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the process is there, zombies aside.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Whether the process is there for all local gateways rather than for one: the fork server, and what it keeps ready.
pub(crate) fn serves_all(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("--farcall-fork-server")
}
