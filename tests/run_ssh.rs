//! `farcall run` on hosts that SSH reaches.

mod program;

use farcall_test_support::{Sshd, TempHome};
use program::Program;

/// A port where nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn many_hosts_answer_and_the_last_line_counts_them() {
    let program = Program::with_hosts(3);
    let printed = program.run(&["run", "-w", "n[1-3]", "echo", "$FARCALL_NOTHING$((40+2))"]);
    assert_eq!(printed.sorted(), ["n1: 42", "n2: 42", "n3: 42"]);
    assert_eq!((printed.code, &*printed.err), (0, "3 ok\n"));
    program.wait_until_idle();
}

#[test]
fn what_is_the_same_is_shown_once_and_the_odd_one_last() {
    let program = Program::with_hosts(3);
    let odd = program.servers[1].port();
    let command = format!("case $SSH_CONNECTION in *' {odd}') echo old;; *) echo new;; esac");
    let printed = program.run(&["run", "-b", "-w", "n[1-3]", &command]);
    let (new, old) = (printed.out.find("n[1,3] (2)"), printed.out.find("n2"));
    assert!(new.is_some() && new < old, "{}", printed.out);
    assert_eq!(printed.code, 0);
}

#[test]
fn a_dead_host_is_named_with_its_reason_and_the_others_run() {
    let program = Program::with_hosts(2);
    let config = program.home.read("config");
    let dead = |name: &str| format!("Host {name}\n  HostName 127.0.0.1\n  Port {}\n", closed_port());
    program.home.write("config", &format!("{config}{}{}", dead("dead1"), dead("dead2")));
    let printed = program.run(&["run", "-w", "n[1-2],dead[1-2]", "echo", "up"]);
    assert_eq!(printed.sorted(), ["n1: up", "n2: up"]);
    assert_eq!(printed.err, "unreachable (2): dead[1-2]: connection refused\n2 ok, 2 unreachable\n");
    assert_eq!(printed.code, 4);
    // With a single target as well, and never 255.
    assert_eq!(program.run(&["run", "-w", "dead1", "exit 255"]).code, 4);
    let printed = program.run(&["run", "--json", "-w", "dead1", "true"]);
    let object: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!((&object["class"], &object["step"]), (&"connect".into(), &"connect".into()));
}

#[test]
fn an_unknown_host_key_is_shown_with_the_command_that_accepts_it() {
    let mut program = Program::with_hosts(1);
    let server = &program.servers[0];
    let known = program.home.ssh("known_hosts");
    let config = format!(
        "Host new1\n  HostName 127.0.0.1\n  Port {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
         UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n",
        server.port(),
        server.client_key().path().display(),
        known.display()
    );
    program.home.write("config", &config);
    let printed = program.run(&["run", "-w", "new1", "id"]);
    assert_eq!((printed.code, &*printed.out), (4, ""));
    let fingerprint = std::process::Command::new("ssh-keygen")
        .arg("-lf")
        .arg(server.host_key(0).public_path())
        .output()
        .unwrap();
    let fingerprint = String::from_utf8(fingerprint.stdout).unwrap();
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();
    assert!(printed.err.contains(fingerprint), "{}", printed.err);
    assert!(!known.exists(), "nothing is accepted by itself");
    // The command is one that works.
    let command = printed.err.split_once("run: ").expect("a command").1.lines().next().unwrap();
    let accepted = std::process::Command::new("sh").arg("-c").arg(command).status().unwrap();
    assert!(accepted.success(), "{command}");
    let printed = program.run(&["run", "-w", "new1", "echo in"]);
    assert_eq!((printed.code, &*printed.out), (0, "new1: in\n"), "after {command}: {}", printed.err);
    program.servers.clear();
}

#[test]
fn options_of_ssh_mean_what_they_mean_there() {
    let program = Program::with_hosts(1);
    let server = &program.servers[0];
    let known = program.home.write("known", &server.known_hosts());
    let port = format!("Port={}", server.port());
    let known = format!("UserKnownHostsFile={}", known.display());
    let key = server.client_key().path().display().to_string();
    let none = ["run", "-F", "none", "-o", &port, "-o", &known, "-i", &key, "-w", "127.0.0.1"];
    let user =
        String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let bare = Program { home: TempHome::new(), servers: Vec::new() };
    let line: Vec<&str> = none.iter().copied().chain(["-l", user.trim(), "echo", "in"]).collect();
    let printed = bare.run(&line);
    assert_eq!((printed.code, &*printed.out), (0, "127.0.0.1: in\n"), "{}", printed.err);
    let line: Vec<&str> = none.iter().copied().chain(["-l", "no-such-account", "echo", "in"]).collect();
    let printed = bare.run(&line);
    assert_eq!((printed.code, &*printed.out), (4, ""));
    assert!(printed.err.starts_with("unauthenticated (1): 127.0.0.1: "), "{}", printed.err);
}

#[test]
fn a_new_key_is_kept_if_that_is_asked_for_and_a_changed_one_never() {
    let program = Program::with_hosts(2);
    let known = program.home.ssh("known_hosts");
    let alias = |server: &Sshd| {
        server.config("new1").replace("StrictHostKeyChecking yes\n", "").replace(
            "UserKnownHostsFile ",
            &format!("HostKeyAlias new1\n  UserKnownHostsFile {} ", known.display()),
        )
    };
    program.home.write("config", &alias(&program.servers[0]));
    let line = ["run", "-o", "StrictHostKeyChecking=accept-new", "-w", "new1", "echo in"];
    let strict = ["run", "-w", "new1", "echo in"];
    assert_eq!(program.run(&strict).code, 4, "by itself nothing is accepted");
    let printed = program.run(&line);
    assert_eq!((printed.code, &*printed.out), (0, "new1: in\n"), "{}", printed.err);
    let kept = std::fs::read_to_string(&known).unwrap();
    let key = program.servers[0].host_key(0).public().split(' ').nth(1).unwrap().to_owned();
    assert!(kept.lines().count() == 1 && kept.contains(&key), "{kept}");
    assert_eq!(program.run(&strict).code, 0, "it is known now");
    program.home.write("config", &alias(&program.servers[1]));
    let printed = program.run(&line);
    assert_eq!((printed.code, &*printed.out), (4, ""), "{printed:?}");
    assert!(printed.err.starts_with("host key (1): new1: "), "{}", printed.err);
    assert_eq!(std::fs::read_to_string(&known).unwrap(), kept);
}

#[test]
fn a_jump_host_leads_to_all() {
    let program = Program::with_hosts(3);
    let bastion = &program.servers[0];
    let printed = program.run(&["run", "-J", "n1", "-w", "n[2-3]", "echo", "there"]);
    assert_eq!(printed.sorted(), ["n2: there", "n3: there"], "{}", printed.err);
    assert_eq!(printed.code, 0);
    bastion.wait_for_log("Accepted publickey", 1);
    program.wait_until_idle();
}

#[test]
fn a_jump_host_that_is_down_is_named() {
    let program = Program::with_hosts(1);
    let down = format!("Host bastion\n  HostName 127.0.0.1\n  Port {}\n", closed_port());
    program.home.write("config", &(program.home.read("config") + &down));
    let printed = program.run(&["run", "-J", "bastion", "-w", "n1", "true"]);
    assert_eq!((printed.code, &*printed.out), (4, ""), "{printed:?}");
    assert_eq!(printed.err, "unreachable (1): n1: jump host bastion: connection refused\n1 unreachable\n");
}

#[test]
fn files_that_are_not_there_are_named_before_anything_is_started() {
    let program = Program::with_hosts(1);
    let none = program.home.path().join("none");
    let none = none.to_str().unwrap();
    let printed = program.run(&["run", "-i", none, "-w", "n1,local", "echo in"]);
    assert_eq!((printed.code, printed.sorted()), (0, vec!["local: in", "n1: in"]), "{printed:?}");
    let warned = format!("farcall: going on without the key {none}: No such file or directory");
    assert!(printed.err.starts_with(&warned), "{}", printed.err);
    let alone = Program::alone();
    for command in
        [&["run", "-F", none, "-w", "n1,local", "echo in"][..], &["check", "-F", none, "-w", "local"]]
    {
        let printed = alone.run(command);
        assert_eq!((printed.code, &*printed.out), (2, ""), "{printed:?}");
        let said = format!("farcall: cannot read the SSH configuration {none}: No such file or directory");
        assert!(printed.err.starts_with(&said), "{}", printed.err);
    }
}

#[test]
fn input_reaches_every_host_whole() {
    let program = Program::with_hosts(3);
    let input: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let printed = program.run_with(&["run", "-b", "-w", "n[1-3]", "cksum"], &input);
    assert!(printed.out.contains("n[1-3] (3)"), "{printed:?}");
    assert!(printed.out.contains(&format!(" {}\n", input.len())), "{printed:?}");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let program = Program::alone();
    program.home.write(
        "config",
        &format!(
            "Host silent\n  HostName 127.0.0.1\n  Port {}\n  ConnectTimeout 1000\n",
            silent.local_addr().unwrap().port()
        ),
    );
    let printed = program.run(&["run", "-t", "1", "-w", "silent,local", "echo", "up"]);
    assert_eq!((printed.code, &*printed.out), (4, "local: up\n"));
    assert!(printed.err.starts_with("unreachable (1): silent: "), "{}", printed.err);
}

#[test]
fn a_connection_that_breaks_is_lost_and_never_an_exit_code() {
    let program = Program::with_hosts(2);
    let mut running = program.start(&["run", "--retries", "2", "-w", "n[1-2]", "echo started; sleep 1000"]);
    running.wait_for("started");
    running.wait_for("started");
    for server in &program.servers {
        server.cut_connections();
    }
    let printed = running.end();
    assert_eq!(printed.code, 4, "{printed:?}");
    assert_eq!(printed.out.matches("started").count(), 2, "a command that ran is not run again");
    assert!(
        printed.err.contains("lost (2): n[1-2]: the connection to the peer was lost: "),
        "{}",
        printed.err
    );
    assert_eq!(printed.last_line(), "2 lost");
    program.wait_until_idle();
}

#[test]
fn the_worker_is_sent_once() {
    let home = TempHome::new();
    let cache = home.path().join("cache");
    let server = Sshd::builder()
        .option(format!("SetEnv XDG_CACHE_HOME={} HOME={}", cache.display(), home.path().display()))
        .start();
    let config = server.config("n1");
    home.write("config", &config);
    let program = Program { home, servers: vec![server] };
    let sent = || -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
        let Ok(entries) = std::fs::read_dir(cache.join("farcall")) else { return Vec::new() };
        let entries = entries.map(|entry| entry.unwrap());
        let workers = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        workers.map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap())).collect()
    };
    assert_eq!(sent(), []);
    assert_eq!(program.run(&["run", "-w", "n1", "true"]).code, 0);
    let first = sent();
    let [(worker, _)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(program.run(&["run", "-w", "n1", "true"]).code, 0);
    assert_eq!(sent(), first);
    // It is the lean twin, which has nothing of the command line.
    let has_help = |path: &std::path::Path| {
        let help = b"Choosing hosts";
        std::fs::read(path).unwrap().windows(help.len()).any(|bytes| bytes == help)
    };
    assert!(has_help(env!("CARGO_BIN_EXE_farcall").as_ref()));
    assert!(!has_help(worker));
}

#[test]
fn what_happens_on_the_hosts_is_traced_with_their_names() {
    let program = Program::with_hosts(2);
    let output =
        program.command(&["run", "-w", "n[1-2]", "true"]).env("FARCALL_LOG", "trace").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let far: Vec<&str> = said.lines().filter(|line| line.contains("farcall::far")).collect();
    for host in ["gateway=n1", "gateway=n2"] {
        assert!(far.iter().any(|line| line.contains(host)), "{said}");
    }
    assert!(said.lines().any(|line| !line.contains("farcall::far") && line.contains("farcall")), "{said}");
    let output =
        program.command(&["run", "-w", "local", "true"]).env("FARCALL_LOG", "loud=er").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("FARCALL_LOG"), "{said}");
}

#[test]
fn values_of_variables_are_shown_nowhere() {
    let program = Program::with_hosts(1);
    let files = program.home.path().join("files");
    let hosts = "ssh://n1?env.TOKEN=s3cret-one,ssh://n1?env.TOKEN=s3cret-two";
    // It has the value, and prints how the worker that started it is listed.
    let command = "echo ${TOKEN#s3cret-}; tr '\\0' ' ' </proc/$PPID/cmdline";
    let labels = ["ssh://n1?env.TOKEN=…#1", "ssh://n1?env.TOKEN=…#2"];
    let line = ["run", "--outdir", files.to_str().unwrap(), "-w", hosts, command];
    let printed = program.run(&line);
    assert_eq!(printed.code, 0, "{printed:?}");
    for (label, value) in labels.iter().zip(["one", "two"]) {
        assert!(printed.out.contains(&format!("{label}: {value}\n")), "{printed:?}");
        assert!(printed.out.contains(&format!(" id={label} ")), "{printed:?}");
    }
    let json = program.run(&["run", "--json", "-w", hosts, command]);
    let failing = program.run(&["run", "-w", hosts, "exit 9"]);
    assert_eq!(failing.err, format!("exit 9 (2): {}\n2 failed\n", labels.join(",")));
    let dry = program.run(&["run", "--dry-run", "-w", hosts, "true"]);
    let check = program.run(&["check", "-w", hosts]);
    assert_eq!((json.code, dry.code, check.code), (0, 0, 0), "{json:?} {dry:?} {check:?}");
    let wrong = program.run(&["run", "-w", "ssh://n1?env.TOKEN=s3cret&nice=s", "true"]);
    let torn = program.run(&["run", "-w", "ssh://n1?env.TOKEN=s3cret&env.B=s3cret, n[1", "true"]);
    assert_eq!((wrong.code, torn.code), (2, 2), "{wrong:?} {torn:?}");
    for printed in [printed, json, failing, dry, check, wrong, torn] {
        assert!(!printed.out.contains("s3cret") && !printed.err.contains("s3cret"), "{printed:?}");
        assert!(printed.out.contains('…') || printed.err.contains('…'), "{printed:?}");
    }
    let mut names: Vec<_> = std::fs::read_dir(&files)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        labels.map(|label| label
            .replace('/', "%2F")
            .replace('?', "%3F")
            .replace('=', "%3D")
            .replace('…', "%E2%80%A6"))
    );
}
