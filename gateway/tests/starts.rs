//! What a start asks for is checked before, and what it waits for holds up no gateway that is there already.

mod gateways;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use farcall::ssh::{Answer, ConfigFiles, Prompter, Question, Secret, SshOptions};
use farcall::{Class, CommandTarget, Gateway, OpenError, Spec, Step, Tasks};
use farcall_test_support::{KeyKind, KeyPair, Sshd, TempHome};
use gateways::{EVERYWHERE, Kind, Place, at, plain, until};

fn main() {
    gateways::main(
        Tasks::new().add(square),
        [
            plain(
                "what_cannot_be_is_refused_before_anything_starts",
                what_cannot_be_is_refused_before_anything_starts,
            ),
            at(&EVERYWHERE, "an_idle_gateway_outlives_its_lease", an_idle_gateway_outlives_its_lease),
            at(&EVERYWHERE, "starts_and_ends_leak_nothing", starts_and_ends_leak_nothing),
            plain("a_question_that_blocks_costs_no_gateway", a_question_that_blocks_costs_no_gateway),
            plain("a_folder_that_cannot_be_entered_is_named", a_folder_that_cannot_be_entered_is_named),
        ],
    );
}

async fn square(n: u64) -> u64 {
    n * n
}

async fn what_cannot_be_is_refused_before_anything_starts() {
    // Were it started, the class would be another.
    let spec = || Spec::command(CommandTarget::new("/does/not/exist"));
    for (spec, word) in [
        (spec().max_tasks(0), "max_tasks"),
        (spec().lease(Duration::ZERO), "lease"),
        (spec().grace(Duration::ZERO), "grace"),
        (spec().heartbeat(Duration::from_micros(1)), "heartbeat"),
        (spec().heartbeat(Duration::from_secs(11)), "heartbeat"),
        (spec().nice(40), "nice"),
        (spec().memory(0), "memory"),
        (spec().id(""), "id"),
        (spec().chdir(""), "chdir"),
        (spec().env("A-B", "1"), "env.A-B"),
        (Spec::ssh("-oProxyCommand=true"), "-oProxyCommand"),
    ] {
        let error = Gateway::open(&spec).await.expect_err("refused");
        assert!(matches!(&error, OpenError::Spec(_)), "{error:?}");
        assert_eq!(error.step(), Step::Config);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = Gateway::open(&spec()).await.expect_err("it is not there");
    assert_eq!((error.class(), error.step()), (Class::Exec, Step::Start));
}

async fn an_idle_gateway_outlives_its_lease(place: Arc<Place>) {
    let lease = Duration::from_millis(800);
    let gateway = place.open_as(place.spec().lease(lease)).await.expect("a gateway");
    // Nothing can be waited for: that nothing happens is the point.
    tokio::time::sleep(3 * lease).await;
    assert!(gateway.end().is_none(), "{:?}", gateway.end());
    assert_eq!(gateway.call(square, (3,)).await.expect("a number"), 9);
}

async fn starts_and_ends_leak_nothing(place: Arc<Place>) {
    fn held() -> (usize, usize, usize) {
        let count = |folder: &str| std::fs::read_dir(folder).expect("a folder").count();
        let children = farcall_test_support::descendants(std::process::id());
        (count("/proc/self/fd"), count("/proc/self/task"), children.len())
    }
    async fn start_and_end(place: &Place) {
        let gateway = place.open().await;
        assert_eq!(gateway.call(square, (2,)).await.expect("a number"), 4);
        gateway.exit();
        gateway.wait().await;
    }
    let (first, rest) = if place.kind == Kind::Local { (20, 300) } else { (5, 25) };
    for _ in 0..first {
        start_and_end(&place).await;
    }
    let before = held();
    for _ in 0..rest {
        start_and_end(&place).await;
    }
    until("nothing more is held than before", || {
        let now = held();
        now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2
    })
    .await;
}

/// Answers after a while in which its thread can do nothing else.
struct Slow {
    passphrase: &'static str,
    pause: Duration,
    asked: AtomicBool,
}

impl Prompter for Slow {
    fn ask(&self, _: Question) -> Answer<'_> {
        Box::pin(async {
            self.asked.store(true, Relaxed);
            std::thread::sleep(self.pause);
            Some(Secret::new(self.passphrase))
        })
    }
}

async fn a_question_that_blocks_costs_no_gateway() {
    let (heartbeat, lease) = (Duration::from_millis(100), Duration::from_millis(800));
    let home = TempHome::new();
    let key = KeyPair::generate(home.ssh("locked"), KeyKind::Ed25519, "open sesame");
    let server = Sshd::builder().authorize(&key).start();
    let own = format!("IdentityFile {}\n", key.path().display());
    let config = server.config("far").replace("BatchMode yes", "BatchMode no");
    let config: String = config
        .lines()
        .map(|line| if line.contains("IdentityFile") { own.clone() } else { format!("{line}\n") })
        .collect();
    let files = ConfigFiles::Only(home.write("config", &config));
    let prompter =
        Arc::new(Slow { passphrase: "open sesame", pause: 3 * lease, asked: AtomicBool::new(false) });
    let ssh = SshOptions {
        files,
        home: Some(home.path().to_owned()),
        prompter: Some(prompter.clone()),
        ..SshOptions::default()
    };
    let live = Gateway::open(&Spec::local().heartbeat(heartbeat).lease(lease)).await.expect("a gateway");
    let far = Gateway::builder(Spec::ssh("far")).ssh(ssh).open().await.expect("a gateway");
    assert!(prompter.asked.load(Relaxed));
    assert!(live.end().is_none(), "{:?}", live.end());
    assert_eq!(live.call(square, (3,)).await.expect("a number"), 9);
    assert_eq!(far.call(square, (4,)).await.expect("a number"), 16);
}

async fn a_folder_that_cannot_be_entered_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    for folder in [file.clone(), file.join("below"), "/proc/none/such".into()] {
        let error = Gateway::open(&Spec::local().chdir(&folder)).await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(&*folder.to_string_lossy()) && !text.contains("install it"), "{text}");
        assert_eq!((error.class(), error.step()), (Class::Bootstrap, Step::Exec), "{text}");
    }
}
