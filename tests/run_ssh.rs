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
        &format!("Host silent\n  HostName 127.0.0.1\n  Port {}\n", silent.local_addr().unwrap().port()),
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
