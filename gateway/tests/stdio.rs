//! Whatever tasks and their children do to descriptors 0 to 2, the protocol stays whole and their prints are caught.

mod program;

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use farcall::worker::child::{Launch, Output};
use farcall::worker::limits;
use farcall::worker::stdio::{self, MAX_RECORD, Prints, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(10);

fn main() {
    program::main(
        play,
        &[
            ("prints_never_reach_the_protocol", prints_never_reach_the_protocol),
            ("prints_of_children_are_caught", prints_of_children_are_caught),
            ("standard_input_is_empty", standard_input_is_empty),
            ("closed_and_reused_descriptors_harm_nothing", closed_and_reused_descriptors_harm_nothing),
            ("stderr_stays_until_captured", stderr_stays_until_captured),
            ("one_file_for_both_outputs_is_captured_at_once", one_file_for_both_outputs_is_captured_at_once),
            ("protocol_over_a_socket", protocol_over_a_socket),
            ("protocol_carries_bulk_both_ways", protocol_carries_bulk_both_ways),
            ("file_as_input_is_refused", file_as_input_is_refused),
            ("protocol_is_not_inherited", protocol_is_not_inherited),
            ("few_descriptors_allowed", few_descriptors_allowed),
            ("prints_wait_for_a_reader", prints_wait_for_a_reader),
            ("directory_is_made_and_entered", directory_is_made_and_entered),
            ("niceness_is_added_to_all_threads", niceness_is_added_to_all_threads),
            ("memory_beyond_the_limit_is_refused", memory_beyond_the_limit_is_refused),
            ("slots_follow_affinity", slots_follow_affinity),
        ],
    );
}

// ---- the worker's role -------------------------------------------------------------------------------------------

/// Moves the streams aside, does what the first argument says, and then sends over the protocol what was caught:
/// `out` or `err`, the bytes in quotes, a line each; `done` at the end.
fn play(role: &str, args: &[String]) {
    match role {
        "limits" => return limited(&args[0]),
        "task" => {}
        other => panic!("unknown role {other}"),
    }
    let moved = stdio::move_aside().expect("move the streams aside");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let opened = moved.open();
        let (mut reader, mut writer, mut prints) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                eprintln!("{error}");
                return;
            }
        };
        let mut caught = Vec::new();
        match args[0].as_str() {
            "print" => {
                prints.capture_stderr().expect("capture");
                prints.capture_stderr().expect("harmless");
                println!("a line");
                eprint!("an error");
                // SAFETY: a valid buffer of that length.
                unsafe { libc::write(1, c"raw".as_ptr().cast(), 3) };
                catch(&mut prints, &mut caught);
            }
            "children" => {
                prints.capture_stderr().expect("capture");
                let mut command = std::process::Command::new("sh");
                command.args(["-c", "echo one; echo two >&2; (echo grandchild)"]);
                command.status().expect("run a shell");
                Launch::new("echo").arg("ours").spawn().expect("start").wait().await;
                Launch::new("echo").arg("hidden").stdout(Output::Null).spawn().expect("start").wait().await;
                catch(&mut prints, &mut caught);
            }
            "input" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).expect("read");
                println!("{text:?}");
                catch(&mut prints, &mut caught);
            }
            "close" => {
                prints.capture_stderr().expect("capture");
                println!("before");
                catch(&mut prints, &mut caught);
                for fd in 0..3 {
                    // SAFETY: what a careless task does; nothing here owns these descriptors.
                    unsafe { libc::close(fd) };
                }
                catch(&mut prints, &mut caught);
                // Reuses 0, 1 and 2, as a task's own files would.
                let files: Vec<_> =
                    (0..3).map(|_| std::fs::File::create("/dev/null").expect("open")).collect();
                println!("lost");
                let sum =
                    Launch::new("sh").args(["-c", "echo fine"]).stdout(Output::Piped).spawn().expect("start");
                let collected = sum.collect(100).await.expect("collect");
                caught.push((Stream::Stdout, collected.stdout));
                // With nothing at all in their places.
                drop(files);
                let sum =
                    Launch::new("sh").args(["-c", "echo too"]).stdout(Output::Piped).spawn().expect("start");
                let collected = sum.collect(100).await.expect("collect");
                caught.push((Stream::Stdout, collected.stdout));
                catch(&mut prints, &mut caught);
            }
            "late" => {
                eprintln!("far side");
                println!("caught");
                prints.capture_stderr().expect("capture");
                eprintln!("caught too");
                catch(&mut prints, &mut caught);
            }
            "errors" => {
                eprintln!("never in the protocol");
                catch(&mut prints, &mut caught);
            }
            "echo" => {
                let mut buffer = vec![0; 100_000];
                loop {
                    match reader.read(&mut buffer).await.expect("read") {
                        0 => return,
                        count => writer.write_all(&buffer[..count]).await.expect("write"),
                    }
                }
            }
            "inherit" => {
                let list = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -c -e pipe -e socket";
                let output =
                    std::process::Command::new("sh").args(["-c", list]).output().expect("run a shell");
                caught.push((Stream::Stdout, output.stdout));
            }
            "flood" => {
                prints.capture_stderr().expect("capture");
                let printing = std::thread::spawn(|| {
                    for _ in 0..300 {
                        std::io::stdout().write_all(&[b'x'; 1000]).expect("print");
                    }
                    std::io::stdout().write_all(b"\n").expect("print");
                });
                // Woken by the reactor, not by chance.
                let mut total = 0;
                while total < 300_001 {
                    let record = prints.next().await.expect("a record");
                    assert!(record.stream == Stream::Stdout && record.bytes.len() <= MAX_RECORD);
                    total += record.bytes.len();
                }
                printing.join().expect("printed all");
                eprint!("{total}");
                let last = prints.next().await.expect("a record");
                caught.push((last.stream, last.bytes));
                assert_eq!(prints.try_next().expect("read"), None);
            }
            other => panic!("unknown task {other}"),
        }
        for (stream, bytes) in caught {
            let name = if stream == Stream::Stdout { "out" } else { "err" };
            let line = format!("{name} {:?}\n", String::from_utf8(bytes).expect("text"));
            writer.write_all(line.as_bytes()).await.expect("write");
        }
        writer.write_all(b"done\n").await.expect("write");
    });
}

fn catch(prints: &mut Prints, caught: &mut Vec<(Stream, Vec<u8>)>) {
    while let Some(record) = prints.try_next().expect("read what was printed") {
        caught.push((record.stream, record.bytes));
    }
}

/// All that comes over the protocol.
fn protocol(task: &str) -> String {
    let mut launched = program::Launch::role("task").arg(task).start();
    let mut all = String::new();
    launched.stdout.read_to_string(&mut all).expect("read the protocol");
    assert!(launched.ended(SOON).success());
    all
}

// ---- tests -------------------------------------------------------------------------------------------------------

fn prints_never_reach_the_protocol() {
    assert_eq!(protocol("print"), "out \"a line\\nraw\"\nerr \"an error\"\ndone\n");
}

fn prints_of_children_are_caught() {
    assert_eq!(protocol("children"), "out \"one\\ngrandchild\\nours\\n\"\nerr \"two\\n\"\ndone\n");
}

fn standard_input_is_empty() {
    let (theirs, mut ours) = std::io::pipe().expect("a pipe");
    ours.write_all(b"protocol").expect("the pipe has room");
    let mut launched = program::Launch::role("task").arg("input").stdin(theirs).start();
    assert_eq!(launched.line(), "out \"\\\"\\\"\\n\"");
}

fn closed_and_reused_descriptors_harm_nothing() {
    assert_eq!(protocol("close"), "out \"before\\n\"\nout \"fine\\n\"\nout \"too\\n\"\ndone\n");
}

fn stderr_stays_until_captured() {
    let mut launched = program::Launch::role("task").arg("late").stderr(Stdio::piped()).start();
    assert_eq!(launched.line(), "out \"caught\\n\"");
    assert_eq!(launched.line(), "err \"caught too\\n\"");
    let mut errors = String::new();
    launched.child.stderr.take().expect("stderr is piped").read_to_string(&mut errors).expect("read");
    assert_eq!(errors, "far side\n");
}

fn one_file_for_both_outputs_is_captured_at_once() {
    let (mut ours, theirs) = program::socket_pair();
    let command = format!("exec \"$0\" {} task errors 2>&1", program::PLAY);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &command]).arg(std::env::current_exe().expect("own path")).stdout(theirs);
    let mut child = shell.stdin(Stdio::piped()).spawn().expect("start");
    drop(shell);
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read the protocol");
    assert_eq!(all, "err \"never in the protocol\\n\"\ndone\n");
    assert!(child.wait().expect("wait").success());
}

fn protocol_over_a_socket() {
    let (mut ours, theirs) = program::socket_pair();
    let other = theirs.try_clone().expect("duplicate");
    let mut command = std::process::Command::new(std::env::current_exe().expect("own path"));
    command.args([program::PLAY, "task", "echo"]).stdin(theirs).stdout(other);
    let mut child = command.spawn().expect("start");
    drop(command);
    ours.write_all(b"there and back").expect("write");
    ours.shutdown(std::net::Shutdown::Write).expect("end");
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    assert_eq!(all, "there and back");
    assert!(child.wait().expect("wait").success());
}

fn protocol_carries_bulk_both_ways() {
    let mut launched = program::Launch::role("task").arg("echo").start();
    let mut stdin = launched.stdin.take().expect("stdin is piped");
    let sent: Vec<u8> = (0..3_000_000u32).map(|number| number.to_le_bytes()[0] ^ 0x5a).collect();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&copy).expect("write"));
    let mut received = Vec::new();
    launched.stdout.read_to_end(&mut received).expect("read");
    writing.join().expect("written");
    assert!(received == sent, "{} of {} bytes, or altered", received.len(), sent.len());
}

fn file_as_input_is_refused() {
    let file = std::fs::File::open(std::env::current_exe().expect("own path")).expect("open a file");
    let mut launched = program::Launch::role("task").arg("print").stdin(file).stderr(Stdio::piped()).start();
    let mut errors = String::new();
    launched.child.stderr.take().expect("stderr is piped").read_to_string(&mut errors).expect("read");
    assert_eq!(errors, "standard input is not a pipe, socket or terminal\n");
}

fn protocol_is_not_inherited() {
    // The shell's own pipe for its output, that of its `grep`, and the worker's stderr if the tests' is a pipe: counted
    // for a shell that was started without any worker.
    let list = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -c -e pipe -e socket";
    let plain = std::process::Command::new("sh")
        .args(["-c", list])
        .stdin(Stdio::null())
        .output()
        .expect("run a shell");
    let plain = String::from_utf8(plain.stdout).expect("text");
    assert_eq!(protocol("inherit"), format!("out {plain:?}\ndone\n"));
}

fn few_descriptors_allowed() {
    let mut command = std::process::Command::new("sh");
    let exec = format!("ulimit -Sn 20; ulimit -Hn 20; exec \"$0\" {} task print", program::PLAY);
    command.args(["-c", &exec]).arg(std::env::current_exe().expect("own path")).stdin(Stdio::piped());
    let output = command.output().expect("run");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("done\n"), "{output:?}");
}

fn prints_wait_for_a_reader() {
    assert_eq!(protocol("flood"), "err \"300001\"\ndone\n");
}

// ---- limits ------------------------------------------------------------------------------------------------------

fn limited(what: &str) {
    match what {
        "directory" => {
            let base = std::env::temp_dir().join(format!("farcall-limits-{}", std::process::id()));
            let deep = base.join("a/b/c");
            limits::enter_directory(&deep).expect("make and enter");
            limits::enter_directory(&deep).expect("enter what is there");
            let here = std::env::current_dir().expect("a working directory");
            let error =
                limits::enter_directory(std::path::Path::new("/dev/null/x")).expect_err("not a directory");
            println!("{} {error}", here == deep.canonicalize().expect("resolve"));
            std::fs::remove_dir_all(base).expect("remove");
        }
        "nice" => {
            let own = || {
                let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("read");
                let fields = stat.rsplit_once(')').expect("a name").1;
                // The state is the third field of the file, the niceness the nineteenth.
                fields.split_whitespace().nth(16).expect("a niceness").parse::<i32>().expect("a number")
            };
            let before = own();
            limits::add_nice(3).expect("be nice");
            let thread = std::thread::spawn(own).join().expect("a niceness");
            println!("{} {}", own() - before, thread - before);
        }
        "memory" => {
            limits::limit_memory(64 << 20).expect("limit memory");
            let mut small = Vec::<u8>::new();
            let mut large = Vec::<u8>::new();
            let fits = small.try_reserve_exact(16 << 20).is_ok();
            let exceeds = large.try_reserve_exact(128 << 20).is_err();
            // Address space alone is not limited.
            let reserved = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {}).is_ok();
            println!("{fits} {exceeds} {reserved}");
        }
        "slots" => {
            let all = limits::slots().get();
            let mut one = rustix::thread::CpuSet::new();
            let allowed = rustix::thread::sched_getaffinity(None).expect("an affinity");
            let first = (0..1024).find(|cpu| allowed.is_set(*cpu)).expect("a processor");
            one.set(first);
            rustix::thread::sched_setaffinity(None, &one).expect("stay on one processor");
            println!("{} {}", all >= 1, limits::slots());
        }
        other => panic!("unknown limit {other}"),
    }
}

fn limits_say(what: &str) -> String {
    program::Launch::role("limits").arg(what).start().line()
}

fn directory_is_made_and_entered() {
    assert_eq!(limits_say("directory"), "true cannot create /dev/null/x");
}

fn niceness_is_added_to_all_threads() {
    assert_eq!(limits_say("nice"), "3 3");
}

fn memory_beyond_the_limit_is_refused() {
    assert_eq!(limits_say("memory"), "true true true");
}

fn slots_follow_affinity() {
    assert_eq!(limits_say("slots"), "true 1");
}
