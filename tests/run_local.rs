//! `farcall run` on this machine needs nothing but the program.

mod program;

use program::Program;

#[test]
fn a_newcomers_first_line_works_without_any_ssh() {
    let program = Program::alone();
    let printed = {
        let mut command = program.command(&["run", "-w", "local", "echo", "$((6 * 7))", "from", "here"]);
        // A machine that has a shell and nothing of SSH.
        let bin = program.home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink("/bin/sh", bin.join("sh")).unwrap();
        command.env("PATH", &bin).output().unwrap()
    };
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "local: 42 from here\n");
    assert_eq!(String::from_utf8_lossy(&printed.stderr), "1 ok\n");
    assert_eq!(printed.status.code(), Some(0));
}

#[test]
fn one_target_passes_its_code_and_its_signal_through() {
    let program = Program::alone();
    for code in [0, 1, 3, 4, 70, 127, 130, 255] {
        assert_eq!(program.run(&["run", "-w", "local", &format!("exit {code}")]).code, code);
    }
    let printed = program.run(&["run", "-w", "local", "kill -9 $$"]);
    assert_eq!((printed.code, printed.last_line()), (137, "1 killed"));
    let printed = program.run(&["run", "-w", "local", "no-such-program"]);
    assert_eq!(printed.code, 127);
}

#[test]
fn one_of_several_that_died_by_a_signal_is_3() {
    let program = Program::alone();
    let first = program.home.path().join("first");
    let command = format!("mkdir {} 2>/dev/null && kill -9 $$; exit 5", first.display());
    let printed = program.run(&["run", "-N", "-w", "3*local", &command]);
    assert_eq!(printed.code, 3, "{printed:?}");
    assert!(printed.err.starts_with("killed by SIGKILL (1): local#"), "{}", printed.err);
    assert_eq!(printed.last_line(), "1 killed, 2 failed");
    std::fs::remove_dir(&first).unwrap();
    // A signal is a code too where the largest is asked for.
    assert_eq!(program.run(&["run", "-S", "-w", "3*local", &command]).code, 137);
}

#[test]
fn several_workers_of_one_machine_are_told_apart() {
    let program = Program::alone();
    let printed = program.run(&["run", "-w", "4*local", "echo", "hi"]);
    assert_eq!(printed.sorted(), ["local#1: hi", "local#2: hi", "local#3: hi", "local#4: hi"]);
    assert_eq!((printed.code, printed.last_line()), (0, "4 ok"));
    let failing = program.run(&["run", "-w", "4*local", "exit 5"]);
    assert_eq!((failing.code, &*failing.err), (1, "exit 5 (4): local#[1-4]\n4 failed\n"));
    assert_eq!(program.run(&["run", "-S", "-w", "4*local", "exit 5"]).code, 5);
}

#[test]
fn input_reaches_every_host_whole() {
    let program = Program::alone();
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    // Fewer at once than there are: those that start later get it from its beginning too.
    for at_once in ["8", "2"] {
        let printed = program.run_with(&["run", "-b", "-f", at_once, "-w", "5*local", "cksum"], &input);
        assert_eq!(printed.code, 0, "{printed:?}");
        let expected = format!(" {}", input.len());
        let sums: Vec<&str> = printed.out.lines().filter(|line| line.ends_with(&expected)).collect();
        assert_eq!(sums.len(), 1, "all have the same: {printed:?}");
        assert!(printed.out.contains("local#[1-5] (5)"), "{}", printed.out);
    }
}

#[test]
fn who_does_not_read_input_need_not() {
    let program = Program::alone();
    let input = vec![b'x'; 8 << 20];
    let printed = program.run_with(&["run", "-w", "3*local", "echo", "done"], &input);
    assert_eq!((printed.code, printed.last_line()), (0, "3 ok"), "{printed:?}");
    let printed = program.run_with(&["run", "-n", "-w", "local", "wc -c"], b"not for it");
    assert_eq!(printed.out.trim_start_matches("local:").trim(), "0");
}

#[test]
fn an_input_that_stays_open_does_not_keep_the_program() {
    let program = Program::alone();
    let mut command = program.command(&["run", "-w", "local", "echo", "done"]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let held = child.stdin.take(); // `wait` would close it
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(held);
}

#[test]
fn an_input_that_cannot_be_read_is_not_the_hosts_fault() {
    let program = Program::alone();
    let command = ["run", "-w", "2*local", "cat; echo the end of it"];
    let folder = std::fs::File::open("/").unwrap();
    let output = program.command(&command).stdin(folder).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(70), &b""[..]), "{said}");
    assert!(
        said.starts_with("stopped (2): local#[1-2]: cannot read standard input: Is a directory"),
        "{said}"
    );
}

#[test]
fn objects_for_programs_are_all_that_is_on_standard_output() {
    let program = Program::alone();
    let printed = program.run(&["run", "--json", "-w", "2*local", "printf 'a\\nb'; echo c >&2; exit 7"]);
    assert_eq!(printed.code, 1);
    let mut hosts = Vec::new();
    for line in printed.out.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&object["class"], &object["code"]), (&"remote exit".into(), &7.into()));
        assert_eq!((&object["stdout"], &object["stderr"]), (&"a\nb".into(), &"c\n".into()));
        hosts.push(object["host"].as_str().unwrap().to_owned());
    }
    hosts.sort();
    assert_eq!(hosts, ["local#1", "local#2"]);
}

#[test]
fn files_have_what_each_host_said() {
    let program = Program::alone();
    let (out, err) = (program.home.path().join("deep/out"), program.home.path().join("err"));
    let command = "echo out; echo err >&2; printf end";
    let folders = ["--outdir", out.to_str().unwrap(), "--errdir", err.to_str().unwrap()];
    let run = |more: &[&str]| {
        let printed =
            program.run(&[&["run", "-q"], &folders[..], more, &["-w", "2*local", command]].concat());
        let mut errors: Vec<&str> = printed.err.lines().collect();
        errors.sort_unstable();
        assert_eq!((printed.code, &errors[..]), (0, &["local#1: err", "local#2: err"][..]), "{printed:?}");
    };
    let files = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<(String, String)> = entries
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let both = |text: &str| ["local#1", "local#2"].map(|name| (name.to_owned(), text.to_owned()));
    run(&[]);
    assert_eq!((files(&out), files(&err)), (both("out\nend").into(), both("err\n").into()));
    run(&[]);
    assert_eq!(files(&out), both("out\nend"), "what was there is replaced");
    run(&["--append"]);
    assert_eq!((files(&out), files(&err)), (both("out\nendout\nend").into(), both("err\nerr\n").into()));
    // A folder that cannot be made is known before anything is started.
    let printed = program.run(&["run", "--outdir", "/dev/null/x", "-w", "local", "echo ran"]);
    assert_eq!((printed.code, &*printed.out), (2, ""), "{printed:?}");
    assert!(printed.err.starts_with("farcall: cannot write /dev/null/x: "), "{}", printed.err);
}

#[test]
fn the_odd_one_is_shown_by_how_it_differs() {
    let program = Program::alone();
    let first = program.home.path().join("first");
    let command = format!("echo a; mkdir {} 2>/dev/null && echo b || echo c; echo d", first.display());
    let printed = program.run(&["run", "--diff", "-w", "3*local", &command]);
    assert_eq!(printed.code, 0, "{printed:?}");
    let lines: Vec<&str> = printed.out.lines().collect();
    let usual = &lines[1];
    assert!(["local#[2-3] (2)", "local#[1,3] (2)", "local#[1-2] (2)"].contains(usual), "{}", printed.out);
    assert_eq!(lines[3..6], ["a", "c", "d"], "{}", printed.out);
    assert_eq!(lines[6], format!("--- {usual}"), "{}", printed.out);
    assert!(lines[7].starts_with("+++ local#"), "{}", printed.out);
    assert_eq!(lines[9..], [" a", "-c", "+b", " d"], "{}", printed.out);
}

#[test]
fn megabytes_of_output_arrive_whole_and_in_order() {
    let program = Program::alone();
    let printed = program.run(&["run", "-N", "-w", "local", "seq 300000"]);
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(printed.out == expected, "{} bytes of {}", printed.out.len(), expected.len());
}

#[test]
fn a_place_that_is_none_is_a_matter_of_usage() {
    let program = Program::alone();
    for line in
        [&["run", "-w", "nope://x", "true"][..], &["run", "-w", "local!local", "true"], &["run", "true"]]
    {
        let printed = program.run(line);
        assert_eq!((printed.code, &*printed.out), (2, ""), "{line:?}: {printed:?}");
    }
}

#[test]
fn a_reader_that_goes_ends_the_run() {
    let program = Program::alone();
    let mut running = program.start(&["run", "-w", "local", "seq 1000000; while :; do echo more; done"]);
    running.wait_for("local: 1");
    let pid = running.pid();
    running.close_output();
    assert_eq!(running.end().code, 141, "as a shell would see it of process {pid}");
}

#[test]
fn hosts_come_from_the_groups_file() {
    let program = Program::alone();
    let folder = program.home.path().join(".config/farcall");
    std::fs::create_dir_all(&folder).unwrap();
    let groups = "# what there is\nfarm: 3*local\nodd: local#2\nrest: @farm!@odd\n";
    std::fs::write(folder.join("groups"), groups).unwrap();
    let run = |hosts: &[&str]| {
        let printed = program.run(&[&["run", "-N"], hosts, &["echo $PPID"]].concat());
        assert_eq!(printed.code, 0, "{printed:?}");
        (printed.out.lines().count(), printed.last_line().to_owned())
    };
    assert_eq!(run(&["-w", "@farm"]), (3, "3 ok".to_owned()));
    assert_eq!(run(&["-w", "@rest"]), (2, "2 ok".to_owned()));
    assert_eq!(run(&["-a"]), (3, "3 ok".to_owned()));
    assert_eq!(run(&["-a", "-x", "@odd"]), (2, "2 ok".to_owned()));
    let other = program.home.path().join("others");
    std::fs::write(&other, "all: local\nmore: 5*local\n").unwrap();
    assert_eq!(run(&["--groups", other.to_str().unwrap(), "-a"]), (1, "1 ok".to_owned()));

    let printed = program.run(&["run", "-w", "@nobody", "true"]);
    assert_eq!(printed.code, 2, "{printed:?}");
    assert!(printed.err.contains("nobody") && printed.err.contains("farm"), "{}", printed.err);
    let printed = Program::alone().run(&["run", "-a", "true"]);
    assert_eq!(printed.code, 2, "{printed:?}");
    assert!(printed.err.contains("there is none: looked for "), "{}", printed.err);
}
