//! Commands run in a worker's place as they would here: what they get, what they write, how they end.

mod gateways;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{Class, CommandError, ExitStatus, Gateway, Spec, Stdio, Tasks, map_command};
use gateways::{EVERYWHERE, Place, alive, at, plain, until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

fn main() {
    gateways::main(
        Tasks::new(),
        [
            at(&EVERYWHERE, "output_and_status", output_and_status),
            at(&EVERYWHERE, "both_outputs_whole_before_the_end", both_outputs_whole_before_the_end),
            at(&EVERYWHERE, "input_streams_while_output_does", input_streams_while_output_does),
            at(&EVERYWHERE, "directory_environment_and_names", directory_environment_and_names),
            at(
                &EVERYWHERE,
                "a_program_that_is_missing_is_told_from_a_folder",
                a_program_that_is_missing_is_told_from_a_folder,
            ),
            at(&EVERYWHERE, "signals_reach_the_group", signals_reach_the_group),
            at(&EVERYWHERE, "dropping_a_child_kills_its_group", dropping_a_child_kills_its_group),
            at(&EVERYWHERE, "output_that_is_held_open_is_cut", output_that_is_held_open_is_cut),
            at(&EVERYWHERE, "a_terminal_on_request", a_terminal_on_request),
            at(&EVERYWHERE, "inherited_output_is_the_gateway_s", inherited_output_is_the_gateway_s),
            at(
                &EVERYWHERE,
                "an_unread_output_holds_up_its_command_only",
                an_unread_output_holds_up_its_command_only,
            ),
            at(&EVERYWHERE, "an_unread_output_holds_up_no_other", an_unread_output_holds_up_no_other),
            at(
                &EVERYWHERE,
                "a_reader_that_goes_is_told_to_the_command",
                a_reader_that_goes_is_told_to_the_command,
            ),
            at(
                &EVERYWHERE,
                "what_is_left_behind_is_told_also_when_nobody_reads",
                what_is_left_behind_is_told_also_when_nobody_reads,
            ),
            at(&EVERYWHERE, "a_signal_that_is_refused_is_told", a_signal_that_is_refused_is_told),
            at(&EVERYWHERE, "a_command_ends_with_its_gateway", a_command_ends_with_its_gateway),
            at(&EVERYWHERE, "many_at_once", many_at_once),
            at(&EVERYWHERE, "a_memory_limit_holds", a_memory_limit_holds),
            plain("a_command_that_gets_no_thread_has_not_run", a_command_that_gets_no_thread_has_not_run),
            plain("threads_of_a_map_that_cannot_begin_end", threads_of_a_map_that_cannot_begin_end),
        ],
    );
}

async fn output_and_status(place: Arc<Place>) {
    let gateway = place.open().await;
    let output =
        gateway.command("sh").args(["-c", "echo out; echo err >&2; exit 7"]).output().await.expect("output");
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!((output.status, output.held_open), (ExitStatus::Code(7), false));
    let status = gateway.command("sh").args(["-c", "kill -9 $$"]).status().await.expect("a status");
    assert_eq!(status, ExitStatus::Signal(9));
    assert!(gateway.command("true").status().await.expect("a status").success());
    // The empty input is really empty.
    assert_eq!(gateway.command("cat").output().await.expect("output").stdout, b"");
}

async fn both_outputs_whole_before_the_end(place: Arc<Place>) {
    let gateway = place.open().await;
    let script = "i=0; while [ $i -lt 20000 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done";
    let output = gateway.command("sh").args(["-c", script]).output().await.expect("output");
    for (name, bytes) in [("out", output.stdout), ("err", output.stderr)] {
        let expected: String = (0..20_000).map(|number| format!("{name}{number}\n")).collect();
        assert!(String::from_utf8(bytes).expect("text") == expected, "{name} is whole and in order");
    }
}

async fn input_streams_while_output_does(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut child =
        gateway.command("cat").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await.expect("a command");
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut stdout = child.stdout.take().expect("it is piped");
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let sent = bytes.clone();
    let writing = tokio::spawn(async move {
        stdin.write_all(&sent).await.expect("written");
        stdin.shutdown().await.expect("shut down");
    });
    let mut read = Vec::new();
    stdout.read_to_end(&mut read).await.expect("read");
    writing.await.expect("written");
    assert!(read == bytes, "what comes back is what went there");
    assert!(child.wait().await.expect("its end").status.success());
    assert!(child.wait().await.expect("its end again").status.success());
}

async fn directory_environment_and_names(place: Arc<Place>) {
    use std::os::unix::ffi::OsStringExt;
    let gateway = place.open().await;
    let odd = std::ffi::OsString::from_vec(b"odd \xff'\n".to_vec());
    let output = gateway
        .command("sh")
        .arg0("other-name")
        .args(["-c", "pwd; printf '%s|' \"$0\" \"$1\" \"$A\" \"$HOME\""])
        .args(["zero".into(), odd.clone()])
        .env("A", &odd)
        .env_remove("HOME")
        .current_dir("/")
        .output()
        .await
        .expect("output");
    assert_eq!(output.stdout, b"/\nzero|odd \xff'\n|odd \xff'\n||");
    let output =
        gateway.command("/usr/bin/env").env_clear().env("ONLY", "this").output().await.expect("output");
    assert_eq!(output.stdout, b"ONLY=this\n");
}

async fn a_program_that_is_missing_is_told_from_a_folder(place: Arc<Place>) {
    let gateway = place.open().await;
    let missing = gateway.command("/does/not/exist").spawn().await.expect_err("missing");
    let folder = gateway.command("true").current_dir("/does/not/exist").spawn().await.expect_err("missing");
    let step_of = |error: CommandError| match error {
        CommandError::Start { step, source, .. } => {
            assert_eq!(source.kind(), ErrorKind::NotFound);
            step
        }
        other => panic!("{other:?}"),
    };
    assert_ne!(step_of(missing), step_of(folder));
}

async fn signals_reach_the_group(place: Arc<Place>) {
    let gateway = place.open().await;
    let script = "trap 'echo caught; exit 5' TERM; echo ready; sleep 1000 & wait";
    let mut child =
        gateway.command("sh").args(["-c", script]).stdout(Stdio::Piped).spawn().await.expect("a command");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("ready"));
    child.signal(15).await.expect("sent");
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("caught"));
    assert_eq!(child.wait().await.expect("its end").status, ExitStatus::Code(5));
    // Nobody is hit by accident afterwards.
    child.signal(9).await.expect("nothing happens");
    let mut child = gateway.command("sleep").arg("1000").spawn().await.expect("a command");
    child.kill().await.expect("sent");
    assert_eq!(child.wait().await.expect("its end").status, ExitStatus::Signal(9));
}

async fn dropping_a_child_kills_its_group(place: Arc<Place>) {
    let gateway = place.open().await;
    let script = "trap '' TERM HUP; sleep 1000 & echo $!; wait";
    let mut child =
        gateway.command("sh").args(["-c", script]).stdout(Stdio::Piped).spawn().await.expect("a command");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let below: u32 = lines.next_line().await.expect("a line").expect("a line").parse().expect("a number");
    let pid = child.id();
    assert!(alive(pid) && alive(below));
    assert_eq!(gateway.status().await.expect("a status").commands, 1);
    drop(child);
    until("the group is gone", || !alive(pid) && !alive(below)).await;
    while gateway.status().await.expect("a status").commands > 0 {}
}

async fn output_that_is_held_open_is_cut(place: Arc<Place>) {
    let gateway = place.open().await;
    let begin = Instant::now();
    let output =
        gateway.command("sh").args(["-c", "echo done; setsid sleep 1000 &"]).output().await.expect("output");
    assert_eq!((output.stdout.as_slice(), output.held_open), (&b"done\n"[..], true));
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

async fn a_terminal_on_request(place: Arc<Place>) {
    let gateway = place.open().await;
    let script = "stty size; tty >/dev/null && echo yes; read line; echo \"got $line\"; cat";
    let mut child =
        gateway.command("sh").args(["-c", script]).terminal(30, 100).spawn().await.expect("a command");
    let mut stdin = child.stdin.take().expect("a terminal has input");
    let mut lines = BufReader::new(child.stdout.take().expect("a terminal has output")).lines();
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("30 100"));
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("yes"));
    stdin.write_all(b"word\n").await.expect("typed");
    // What is typed is echoed.
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("word"));
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("got word"));
    stdin.shutdown().await.expect("the end-of-file character");
    assert!(child.wait().await.expect("its end").status.success());
}

async fn inherited_output_is_the_gateway_s(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut output = gateway.output();
    gateway.command("echo").arg("to all").status().await.expect("a status");
    assert_eq!(&output.next().await.expect("a print").bytes[..], b"to all\n");
}

async fn an_unread_output_holds_up_its_command_only(place: Arc<Place>) {
    let gateway = place.open().await;
    let child = gateway.command("yes").stdout(Stdio::Piped).spawn().await.expect("a command");
    for _ in 0..20 {
        let output =
            gateway.command("head").args(["-c", "1000000", "/dev/zero"]).output().await.expect("output");
        assert_eq!(output.stdout.len(), 1_000_000);
    }
    let mut child = child;
    let mut some = vec![0; 1_000_000];
    child.stdout.as_mut().expect("it is piped").read_exact(&mut some).await.expect("read");
    assert!(some.chunks(2).all(|pair| pair == b"y\n"));
    child.kill().await.expect("sent");
    // Nobody reads what is left, and yet the end is told. What was written is still there.
    assert_eq!(child.wait().await.expect("its end").status, ExitStatus::Signal(9));
    let mut stdout = child.stdout.take().expect("it is piped");
    drop(child);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.expect("read");
    assert!(rest.len() > 64 << 10 && rest.chunks(2).all(|pair| b"y\n".starts_with(pair)), "{}", rest.len());
}

async fn an_unread_output_holds_up_no_other(place: Arc<Place>) {
    let gateway = place.open().await;
    for unread_is_stdout in [true, false] {
        // More than is sent to somebody who does not read, and less than waits for him on the way.
        let script = match unread_is_stdout {
            true => "head -c 100000 /dev/zero; echo reason >&2; sleep 1000",
            false => "head -c 100000 /dev/zero >&2; echo reason; sleep 1000",
        };
        let command = gateway.command("sh").args(["-c", script]);
        let mut child = command.stdout(Stdio::Piped).stderr(Stdio::Piped).spawn().await.expect("a command");
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (mut unread, mut read) = if unread_is_stdout { (stdout, stderr) } else { (stderr, stdout) };
        let mut reason = [0; 7];
        read.read_exact(&mut reason).await.expect("read");
        assert_eq!(&reason, b"reason\n");
        child.kill().await.expect("sent");
        // It ends with what wrote to it.
        let mut rest = Vec::new();
        assert_eq!(read.read_to_end(&mut rest).await.expect("read"), 0);
        assert_eq!(child.wait().await.expect("its end").status, ExitStatus::Signal(9));
        assert_eq!(unread.read_to_end(&mut rest).await.expect("read"), 100_000);
    }
}

async fn a_reader_that_goes_is_told_to_the_command(place: Arc<Place>) {
    let gateway = place.open().await;
    for errors in [false, true] {
        let script = if errors { "yes >&2" } else { "yes" };
        let command = gateway.command("sh").args(["-c", &format!("exec {script}")]);
        let mut child = command.stdout(Stdio::Piped).stderr(Stdio::Piped).spawn().await.expect("a command");
        let mut some = [0; 4];
        if errors {
            child.stderr.as_mut().expect("it is piped").read_exact(&mut some).await.expect("read");
            drop(child.stderr.take());
        } else {
            child.stdout.as_mut().expect("it is piped").read_exact(&mut some).await.expect("read");
            drop(child.stdout.take());
        }
        assert_eq!(&some, b"y\ny\n");
        assert_eq!(child.wait().await.expect("its end").status, ExitStatus::Signal(13));
    }
}

async fn what_is_left_behind_is_told_also_when_nobody_reads(place: Arc<Place>) {
    let gateway = place.open().await;
    for left in ["", "setsid sleep 1000 &"] {
        let script = format!("head -c 100000 /dev/zero; {left}");
        let command = gateway.command("sh").args(["-c", &script]).stdout(Stdio::Piped);
        let mut child = command.spawn().await.expect("a command");
        let ended = child.wait().await.expect("its end");
        assert_eq!((ended.status, ended.held_open), (ExitStatus::Code(0), !left.is_empty()), "{left:?}");
        let mut all = Vec::new();
        child.stdout.take().expect("it is piped").read_to_end(&mut all).await.expect("read");
        assert_eq!(all.len(), 100_000);
    }
}

async fn a_signal_that_is_refused_is_told(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut child = gateway.command("sleep").arg("1000").spawn().await.expect("a command");
    for number in [0, 999, -9] {
        let error = child.signal(number).await.expect_err("there is no such signal");
        assert!(
            matches!(&error, CommandError::Signal { number: refused, .. } if *refused == number),
            "{error:?}"
        );
        assert_eq!((error.class(), error.step()), (None, "signal"));
    }
    // A signal whose sender did not wait disturbs nobody.
    for _ in 0..20 {
        let mut signal = Box::pin(child.signal(999));
        tokio::select! {
            biased;
            error = &mut signal => drop(error.expect_err("there is no such signal")),
            () = tokio::task::yield_now() => {}
        }
        drop(signal);
        child.signal_process(18).await.expect("continued");
    }
    child.kill().await.expect("killed");
    child.kill().await.expect("killed or gone");
    assert_eq!(child.wait().await.expect("its end").status, ExitStatus::Signal(9));
    child.signal(999).await.expect("nothing happens");
    let error = gateway.command("/does/not/exist").spawn().await.expect_err("missing");
    assert_eq!((error.class(), error.step()), (Some(Class::Exec), "start"));
}

async fn a_command_ends_with_its_gateway(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut child =
        gateway.command("sleep").arg("1000").stdout(Stdio::Piped).spawn().await.expect("a command");
    gateway.exit();
    let error = child.wait().await.expect_err("ended");
    assert!(matches!(error, CommandError::Ended(_)), "{error:?}");
    until("the command is gone", || !alive(child.id())).await;
    let error = gateway.command("true").output().await.expect_err("refused");
    assert!(matches!(error, CommandError::Ended(_)), "{error:?}");
}

async fn many_at_once(place: Arc<Place>) {
    let gateway = place.open().await;
    let runs: Vec<_> = (0..200)
        .map(|number| {
            let command =
                gateway.command("sh").args(["-c".to_owned(), format!("echo {number}; exit {}", number % 7)]);
            tokio::spawn(command.output())
        })
        .collect();
    for (number, run) in (0..).zip(runs) {
        let output = run.await.expect("no panic").expect("output");
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
        assert_eq!(output.status, ExitStatus::Code(number % 7));
    }
    while gateway.status().await.expect("a status").commands > 0 {}
}

async fn a_memory_limit_holds(place: Arc<Place>) {
    let gateway = place.open_as(place.spec().memory(200 << 20)).await.expect("a gateway");
    let output = gateway.command("sh").args(["-c", "ulimit -d"]).output().await.expect("output");
    assert_eq!(output.stdout, b"204800\n");
}

async fn a_command_that_gets_no_thread_has_not_run() {
    let (mut ran, mut refused) = (0, 0);
    // From where there is no room for a worker up to where there is some for all of its threads.
    for kibibytes in (512..16 << 10).step_by(256) {
        let Ok(small) = Gateway::open(&Spec::local().memory(kibibytes << 10)).await else { continue };
        match small.command("true").output().await {
            Ok(output) => {
                assert!(output.status.success(), "{output:?}");
                ran += 1;
            }
            // Without room for what is not a thread nothing can go on.
            Err(CommandError::Ended(_)) => {}
            Err(error) => {
                assert!(matches!(error, CommandError::Start { .. }), "{kibibytes} KiB: {error:?}");
                refused += 1;
            }
        }
    }
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} did not");
}

async fn threads_of_a_map_that_cannot_begin_end() {
    // Each thread has a stack of 2 MiB.
    let gateway = Gateway::open(&Spec::local().memory(256 << 20)).await.expect("a gateway");
    let mut results = map_command("true", vec![Vec::<String>::new(); 10])
        .on([&gateway])
        .slots(1000)
        .replace_lost(0)
        .start()
        .expect("a map");
    while let Some((_, result)) = results.next().await {
        assert!(result.is_err(), "there is no room for so many threads");
    }
    drop(results);
    assert!(gateway.end().is_none());
    let threads = || {
        let all = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("it lives");
        let names = all.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
        names.filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "farcall-command")).count()
    };
    until("all of its threads have ended", || threads() == 0).await;
}
