//! `farcall run` where hosts are reached by other commands than our own SSH.

mod program;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use farcall_test_support::TempHome;
use program::{Program, wait_until_none_has};

#[test]
fn the_systems_ssh_is_a_way_too() {
    let program = Program::with_hosts(2);
    let printed = program.run_with(&["run", "-w", "openssh://n1,n2", "tr a-z A-Z"], b"both\n");
    assert_eq!(printed.sorted(), ["n2: BOTH", "openssh://n1: BOTH"], "{printed:?}");
    assert_eq!((printed.code, printed.last_line()), (0, "2 ok"));
    program.wait_until_idle();
}

#[test]
fn the_systems_ssh_is_told_the_options() {
    let program = Program::with_hosts(2);
    let printed = program.run(&["run", "-J", "n1", "-w", "openssh://n2", "echo there"]);
    assert_eq!((printed.code, &*printed.out), (0, "openssh://n2: there\n"), "{}", printed.err);
    program.servers[0].wait_for_log("Accepted publickey", 1);

    let server = &program.servers[0];
    let known = program.home.write("known", &server.known_hosts());
    let port = format!("Port={}", server.port());
    let known = format!("UserKnownHostsFile={}", known.display());
    let key = server.client_key().path().display().to_string();
    let other = program.servers[1].client_key().path().display().to_string();
    let bare = Program { home: TempHome::new(), servers: Vec::new() };
    let keys = ["-F", "none", "-i", &other, "-i", &key];
    let line = [&["run"], &keys[..], &["-o", &port, "-o", &known, "-w", "openssh://127.0.0.1", "echo in"]];
    let printed = bare.run(&line.concat());
    assert_eq!((printed.code, &*printed.out), (0, "openssh://127.0.0.1: in\n"), "{}", printed.err);

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("openssh://{}", silent.local_addr().unwrap());
    let printed = bare.run(&["run", "-F", "none", "-t", "1", "-w", &place, "true"]);
    assert_eq!(printed.code, 4, "{printed:?}");
    assert!(printed.err.contains("timed out during banner exchange"), "{}", printed.err);
}

/// In a folder of its own a tool named `docker` that takes what that takes: `exec -i box PROGRAM…`. The text is a script
/// that has the program as its arguments.
fn docker(program: &Program, text: &str) -> String {
    let tool = program.home.path().join("docker");
    let head = "#!/bin/sh\n[ \"$1 $2 $3\" = 'exec -i box' ] || { echo \"no such container: $3\" >&2; exit 1; }\nshift 3\n";
    std::fs::write(&tool, format!("{head}{text}")).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", program.home.path().display(), std::env::var("PATH").unwrap())
}

#[test]
fn a_command_that_takes_a_program_is_a_way_as_of_containers() {
    let program = Program::alone();
    let path = docker(&program, "exec \"$@\"\n");
    let run = |line: &[&str]| program.command(line).env("PATH", &path).output().unwrap();
    let inside = run(&["run", "-w", "docker://box", "echo inside; exit 9"]);
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "docker://box: inside\n");
    assert_eq!(inside.status.code(), Some(9));
    let outside = run(&["run", "-w", "docker://other", "true"]);
    let said = String::from_utf8_lossy(&outside.stderr);
    assert_eq!(outside.status.code(), Some(4), "{said}");
    assert!(said.contains("no such container: other"), "{said}");
}

#[test]
fn a_worker_without_a_standard_error_keeps_apart_what_commands_print() {
    let program = Program::alone();
    let path = docker(&program, "exec \"$@\" 2>&-\n");
    let line = ["run", "-w", "docker://box", "echo out; echo error >&2"];
    let printed = program.command(&line).env("PATH", &path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "docker://box: out\n");
    assert_eq!(String::from_utf8_lossy(&printed.stderr), "docker://box: error\n1 ok\n");
}

#[test]
fn a_worker_outlives_a_command_that_reads_nothing() {
    let program = Program::alone();
    let path = docker(&program, "exec \"$@\"\n");
    let input = vec![b'x'; 4 << 20];
    let mut command =
        program.command(&["run", "-w", "docker://box", "exec <&-; sleep 0.2; echo done; exit 5"]);
    let mut running =
        command.env("PATH", &path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all of it.
    let _ = running.stdin.take().unwrap().write_all(&input);
    let printed = running.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "docker://box: done\n");
    assert_eq!(printed.status.code(), Some(5));
}

#[test]
fn a_host_that_could_not_be_reached_is_tried_again() {
    let program = Program::alone();
    let count = program.home.path().join("count");
    let text = format!(
        "echo attempt >>{0}\n[ $(wc -l <{0}) -gt 2 ] || {{ echo still booting >&2; exit 1; }}\nexec \"$@\"\n",
        count.display()
    );
    let path = docker(&program, &text);
    let run = |retries: &str| {
        let _ = std::fs::remove_file(&count);
        let line = ["run", "--retries", retries, "-w", "docker://box", "echo in; exit 5"];
        let output = program.command(&line).env("PATH", &path).output().unwrap();
        let attempts = std::fs::read_to_string(&count).unwrap().lines().count();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr), attempts)
    };
    let (code, out, err, attempts) = run("5");
    assert_eq!(
        (code, &*out, attempts),
        (Some(5), "docker://box: in\n", 3),
        "a command that ran is not run again: {err}"
    );
    let (code, out, err, attempts) = run("1");
    assert_eq!((code, &*out, attempts), (Some(4), "", 2), "{err}");
    assert!(err.contains("still booting"), "{err}");
}

#[test]
fn a_host_that_hangs_before_the_command_runs_is_given_up() {
    let program = Program::alone();
    // Passes on what goes in up to the command, of which the encoding may set letters apart, and then nothing more.
    let text = "exec perl -e '\
        open(my $to, \"|-\", @ARGV) or die; my $seen = \"\";\n\
        while (sysread(STDIN, my $bytes, 65536)) {\n\
            $seen = substr($seen, -40) . $bytes;\n\
            if ($seen =~ /n.?e.?v.?e.?r.?b.?e.?g.?u.?n/s) { 1 while sysread(STDIN, $bytes, 65536); last }\n\
            syswrite($to, $bytes);\n\
        }' \"$@\"\n";
    let path = docker(&program, text);
    // The tool itself is in nobody's way.
    let line = ["run", "-w", "docker://box", "echo begun"];
    let output = program.command(&line).env("PATH", &path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "docker://box: begun\n", "{output:?}");
    let mark = format!("hangs-{}", std::process::id());
    let line = ["run", "-t", "1", "--retries", "3", "-w", "docker://box?start_limit=60", "echo neverbegun"];
    let began = Instant::now();
    let output = program.command(&line).env("PATH", &path).env("FARCALL_TEST", &mark).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*output.stdout), (Some(4), &b""[..]), "{said}");
    let expected =
        "lost (1): docker://box?start_limit=60: no answer within 1s when the command was to be started\n";
    assert!(said.starts_with(expected), "{said}");
    assert!(began.elapsed() < Duration::from_secs(15), "it was the lease that ended it");
    wait_until_none_has(&mark);
}
