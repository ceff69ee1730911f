//! A network that is cut while a gateway starts, or is told to end, holds nobody up, and nothing is left there.

mod gateways;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{Class, Gateway, OpenError, Sender, Step, Tasks};
use farcall_test_support::{Cut, Network, Sshd};
use gateways::{Kind, Place, over_ssh, until};
use libtest_mimic::Arguments;

/// What a machine that is busy with other tests may add to any bound.
const BUSY: Duration = Duration::from_secs(4);

fn main() {
    farcall::init(Tasks::new().add(hold));
    // Whoever may not do that can at least see what tests there are.
    if !std::env::args().any(|arg| arg == "--list") {
        Network::enter_own();
    }
    let trials = [
        over_ssh("a_delivery_that_is_cut_off_ends_in_time", a_delivery_that_is_cut_off_ends_in_time),
        over_ssh("an_end_that_nobody_hears_is_bounded", an_end_that_nobody_hears_is_bounded),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit();
}

/// Says that it runs, and never ends.
async fn hold(running: Sender<u32>) {
    running.try_send(std::process::id()).expect("room for one");
    std::future::pending().await
}

/// What runs there besides the server.
fn started(network: &Network) -> Vec<String> {
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    network
        .processes()
        .into_iter()
        .map(name)
        .filter(|name| !name.is_empty() && !name.starts_with("sshd"))
        .collect()
}

/// Takes the place of the program that takes in what is delivered: after the first of it waits until it is told to go on. More
/// than a server takes at once is still to come then.
const HEAD: &str = "#!/bin/sh
case $1$2 in *1) exec /usr/bin/head $1 $2;; esac
/usr/bin/head -c 65536
: >HOME/begun
read go <HOME/go
exec /usr/bin/head -c $(($2-65536))
";

async fn a_delivery_that_is_cut_off_ends_in_time(kind: Kind) {
    const LIMIT: Duration = Duration::from_secs(6);
    let network = Network::start();
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().to_str().expect("text");
    let head = folder.path().join("head");
    std::fs::write(&head, HEAD.replace("HOME", home)).expect("written");
    std::fs::set_permissions(&head, std::fs::Permissions::from_mode(0o755)).expect("our own");
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("go")).status();
    assert!(made.expect("mkfifo (coreutils)").success());
    // Of lines with the same keyword the first counts.
    let variables = format!("SetEnv XDG_CACHE_HOME={home}/cache HOME={home} PATH={home}:/usr/bin:/bin");
    let server = Sshd::builder().option(variables).network(&network);
    let place = Arc::new(Place::behind(kind, server));
    let begin = Instant::now();
    let opening = {
        let place = Arc::clone(&place);
        tokio::spawn(async move { place.open_as(place.spec().start_limit(LIMIT)).await })
    };
    until("it is being delivered", || folder.path().join("begun").exists()).await;
    network.cut(Cut::Silent);
    std::fs::write(folder.path().join("go"), "on\n").expect("it waits for that");
    let error = opening.await.expect("no panic").expect_err("it is cut off");
    let taken = begin.elapsed();
    println!("{error} after {taken:?}");
    assert!(matches!(&error, OpenError::Launch(_)), "{error:?}");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::Deliver), "{error}");
    assert!(taken < LIMIT + BUSY, "{taken:?}");
    until("no client is left", || place.clients().is_empty()).await;
    // There is no worker yet that could end itself: the shell gives up as soon as this side has.
    until("nothing is left there", || started(&network).is_empty()).await;
    let left = std::fs::read_dir(folder.path().join("cache/farcall")).expect("a cache").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != ".x").collect();
    assert!(left.is_empty(), "half a program is left: {left:?}");
}

async fn an_end_that_nobody_hears_is_bounded(kind: Kind) {
    // Long enough to tell that nobody waits for it.
    const LEASE: Duration = Duration::from_secs(20);
    const GRACE: Duration = Duration::from_millis(500);
    let network = Network::start();
    let place = Place::behind(kind, Sshd::builder().network(&network));
    let spec = || place.spec().lease(LEASE).grace(GRACE);
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let gateway = place.open_as(spec()).await.expect("a gateway");
        let (running, mut runs) = gateway.pair();
        gateway.start(hold, (running,)).await.expect("a call").detach();
        runs.recv().await.expect("it runs");
        gateways.push(gateway);
    }
    let begin = Instant::now();
    network.cut(Cut::Silent);
    let ended = async |how: &str, gateway: &Gateway| {
        let end = gateway.wait().await;
        println!("{how}: {end} after {:?}", begin.elapsed());
        assert!(begin.elapsed() < LEASE / 2, "{how}: {:?}", begin.elapsed());
    };
    gateways[0].exit();
    gateways[1].kill();
    tokio::join!(ended("exit", &gateways[0]), ended("kill", &gateways[1]));
    until("no client is left", || place.clients().is_empty()).await;
    assert!(started(&network).len() >= 4, "over there nobody has heard of it");
    network.mend();
    until("nothing is left there", || started(&network).is_empty()).await;
}
