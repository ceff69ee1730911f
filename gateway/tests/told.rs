//! What a worker tells of itself: its process and machine, and what happens in it.

mod gateways;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use farcall::{Gateway, Spec, Tasks};
use gateways::{EVERYWHERE, Place, at, plain};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--calls") => return calls(),
        Some("--idles") => return idles(),
        _ => {}
    }
    gateways::main(
        tasks(),
        [
            at(&EVERYWHERE, "the_process_and_its_machine", the_process_and_its_machine),
            plain("frames_of_both_sides_are_traced", frames_of_both_sides_are_traced),
            plain("events_that_nobody_reads_cost_no_gateway", events_that_nobody_reads_cost_no_gateway),
        ],
    );
}

fn tasks() -> Tasks {
    Tasks::new().add(square).version("1.2.3")
}

async fn square(n: u64) -> u64 {
    n * n
}

// ---- programs ----------------------------------------------------------------------------------------------------

fn run<F: Future>(future: F) -> F::Output {
    farcall::init(tasks());
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn calls() {
    run(async {
        let gateway = Gateway::open(&Spec::local().id("traced")).await.expect("a gateway");
        for number in 0..100 {
            assert_eq!(gateway.call(square, (number,)).await.expect("a number"), number * number);
        }
        gateway.close().await.expect("closed");
    });
}

fn idles() {
    run(async {
        let (heartbeat, lease) = (Duration::from_millis(100), Duration::from_millis(800));
        let gateway =
            Gateway::open(&Spec::local().heartbeat(heartbeat).lease(lease)).await.expect("a gateway");
        // Nothing can be waited for: that nothing happens is the point.
        tokio::time::sleep(3 * lease).await;
        println!("{}", if gateway.end().is_none() { "it lives" } else { "it has ended" });
    });
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn the_process_and_its_machine(place: Arc<Place>) {
    let gateway = place.open_as(place.spec().chdir("/")).await.expect("a gateway");
    let info = gateway.info().await.expect("information");
    assert_eq!(info.pid, gateway.pid());
    assert_eq!(info.cwd.as_deref(), Some(std::path::Path::new("/")));
    let executable = std::fs::read_link(format!("/proc/{}/exe", info.pid)).expect("it lives");
    assert_eq!(info.executable, Some(executable));
    let uname = rustix::system::uname();
    assert_eq!(info.host, uname.nodename().to_string_lossy());
    assert_eq!(info.release, uname.release().to_string_lossy());
    assert_eq!((info.os.as_str(), info.arch.as_str()), (std::env::consts::OS, std::env::consts::ARCH));
    assert_eq!((info.farcall.as_str(), info.program.as_str()), (env!("CARGO_PKG_VERSION"), "1.2.3"));
    assert!(info.cores >= 1 && info.cores <= std::thread::available_parallelism().expect("a number").get());
    let (memory, resident) = (info.memory.expect("on Linux"), info.resident.expect("on Linux"));
    assert!(memory > 64 << 20 && resident > 100 << 10 && resident < memory, "{info:?}");
    let later = gateway.info().await.expect("information");
    assert!(later.uptime > info.uptime && later.uptime < Duration::from_secs(600), "{later:?}");
}

async fn frames_of_both_sides_are_traced() {
    let mut program = Command::new(std::env::current_exe().expect("a path"));
    program.arg("--calls").env("FARCALL_LOG", "trace");
    let output = tokio::task::block_in_place(|| program.output().expect("it ran"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stderr).expect("text");
    let frames = |far: bool| {
        let lines = text.lines().filter(|line| line.contains("frame") && line.contains("channel="));
        lines.filter(|line| line.contains("gateway=traced") == far).count()
    };
    // Each call has several; those of the channel that tells them are not told, or there would be no end.
    assert!(frames(false) > 200 && frames(true) > 200, "{} and {}:\n{text}", frames(false), frames(true));
    assert!(text.lines().count() < 20_000, "{}", text.lines().count());
}

async fn events_that_nobody_reads_cost_no_gateway() {
    let (unread, full) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&full, true).expect("set");
    while (&full).write(&[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).expect("set");
    let mut program = Command::new(std::env::current_exe().expect("a path"));
    // Frames are traced by the thread that moves the bytes; other events by those that they belong to.
    program.arg("--idles").env("FARCALL_LOG", "farcall_channel=trace");
    program.stdout(Stdio::piped()).stderr(OwnedFd::from(full));
    let mut child = program.spawn().expect("started");
    drop(program);
    let line = tokio::task::block_in_place(|| {
        BufReader::new(child.stdout.take().expect("it is piped"))
            .lines()
            .next()
            .expect("a line")
            .expect("a line")
    });
    assert_eq!(line, "it lives");
    drop(unread);
    assert!(child.wait().expect("waited for").code().is_some());
}
