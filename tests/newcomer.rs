//! The lines that a newcomer would type do what they look like; those that other files of this folder cover are not here.

mod program;

use farcall_test_support::{Sshd, TempHome};
use program::{Program, server};

/// Hosts that the configuration knows, some of them names of the same server.
fn named(hosts: &[(&Sshd, Vec<String>)]) -> String {
    let blocks = hosts.iter().flat_map(|(server, names)| names.iter().map(|name| server.config(name)));
    blocks.collect()
}

/// `PREFIX` with each number.
fn numbered(prefix: &str, numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("{prefix}{number}")).collect()
}

/// The program with a configuration, and with a groups file in its usual place.
fn program(servers: Vec<Sshd>, config: &str, groups: &str) -> Program {
    let home = TempHome::new();
    home.write("config", config);
    let folder = home.path().join(".config/farcall");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("groups"), groups).unwrap();
    Program { home, servers }
}

#[test]
fn twenty_web_servers_say_how_long_they_are_up() {
    let web = server().start();
    let names = (1..=20).map(|n| format!("web{n:02}")).collect();
    let config = named(&[(&web, names)]);
    let program = program(vec![web], &config, "");
    let printed = program.run(&["run", "-w", "web[01-20]", "uptime"]);
    assert_eq!((printed.code, &*printed.err), (0, "20 ok\n"), "{printed:?}");
    let lines = printed.sorted();
    assert_eq!(lines.len(), 20, "{printed:?}");
    for (n, line) in (1..).zip(lines) {
        assert!(line.starts_with(&format!("web{n:02}: ")) && line.contains(" up "), "{line}");
    }
    program.wait_until_idle();
}

#[test]
fn databases_that_say_the_same_are_one_block_and_silent_ones_are_named() {
    let (same, odd, silent) = (server().start(), server().start(), server().start());
    let config = named(&[
        (&same, numbered("db", (1..=9).chain([11]))),
        (&odd, numbered("db", [10])),
        (&silent, numbered("db", [12])),
    ]);
    let command = format!(
        "case $SSH_CONNECTION in *' {}') echo openssl-1;; *' {}') ;; *) echo openssl-3;; esac",
        odd.port(),
        silent.port()
    );
    let program = program(vec![same, odd, silent], &config, "db: db[1-12]\n");
    let printed = program.run(&["run", "-w", "@db", "-b", &command]);
    assert_eq!(printed.code, 0, "{printed:?}");
    const RULER: &str = "---------------\n";
    let expected = format!("{RULER}db[1-9,11] (10)\n{RULER}openssl-3\n{RULER}db10\n{RULER}openssl-1\n");
    assert_eq!(printed.out, expected);
    assert_eq!(printed.err, "no output (1): db12\n12 ok\n");
    program.wait_until_idle();
}

#[test]
fn who_takes_too_long_is_listed_and_stopped() {
    let (quick, slow) = (server().start(), server().start());
    let config = named(&[(&quick, numbered("q", [1])), (&slow, numbered("s", 1..=2))]);
    let command = format!("case $SSH_CONNECTION in *' {}') sleep 1000;; esac; du -s /bin/sh", slow.port());
    let program = program(vec![quick, slow], &config, "data: q1,s[1-2]\n");
    let printed = program.run(&["run", "-a", "-u", "5", &command]);
    assert_eq!(printed.code, 3, "{printed:?}");
    assert!(printed.out.starts_with("q1: ") && printed.out.lines().count() == 1, "{printed:?}");
    assert_eq!(printed.err, "timed out after 5s (2): s[1-2]\n1 ok, 2 timed out\n");
    program.wait_until_idle();
}

#[test]
fn a_message_of_the_day_is_written_everywhere() {
    let servers = vec![server().start(), server().start()];
    let config = named(&[(&servers[0], numbered("m", 1..=2)), (&servers[1], numbered("m", [3]))]);
    let program = program(servers, &config, "all: m[1-3]\n");
    let etc = program.home.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let command = format!("tee {}/motd.$$ >/dev/null", etc.display());
    let printed = program.run_with(&["run", "-a", &command], b"Welcome.\n\n  Be kind");
    assert_eq!((printed.code, &*printed.out, &*printed.err), (0, "", "3 ok\n"), "{printed:?}");
    let files: Vec<_> = std::fs::read_dir(&etc).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(std::fs::read(file).unwrap(), b"Welcome.\n\n  Be kind");
    }
}

#[test]
fn many_hosts_behind_a_bastion_cost_it_few_logins() {
    let (bastion, inner) = (server().start(), server().start());
    let config = named(&[(&bastion, vec!["bastion".to_owned()]), (&inner, numbered("int", 1..=30))]);
    let program = program(vec![bastion, inner], &config, "");
    let printed = program.run(&["run", "-J", "bastion", "-w", "int[1-30]", "-b", "id -u"]);
    assert_eq!((printed.code, &*printed.err), (0, "30 ok\n"), "{printed:?}");
    assert!(printed.out.contains("int[1-30] (30)"), "{}", printed.out);
    let [bastion, inner] = &program.servers[..] else { unreachable!() };
    inner.wait_for_log("Accepted publickey", 30);
    let logged = |server: &Sshd, text: &str| server.log().iter().filter(|line| line.contains(text)).count();
    assert!(logged(bastion, "Accepted publickey") <= 4, "{:#?}", bastion.log());
    for server in [bastion, inner] {
        // What a server says that has more handshakes than it takes.
        assert_eq!(logged(server, "MaxStartups"), 0, "{:#?}", server.log());
    }
    program.wait_until_idle();
}

#[test]
fn programs_find_who_failed_and_why() {
    let web = server().start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead = format!("Host dead\n  HostName 127.0.0.1\n  Port {port}\n");
    let config = named(&[(&web, numbered("n", 1..=2))]) + &dead;
    let program = program(vec![web], &config, "all: n[1-2],dead\n");
    let first = program.home.path().join("first");
    let command = format!("mkdir {} 2>/dev/null || exit 3; uptime", first.display());
    let printed = program.run(&["run", "-a", "--json", &command]);
    assert_eq!(printed.code, 4, "{printed:?}");
    // As `jq -r 'select(.class!="ok").host'` would.
    let objects: Vec<serde_json::Value> =
        printed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (well, ill): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object["class"] == "ok");
    assert_eq!((well.len(), ill.len()), (1, 2), "{printed:?}");
    assert!(well[0]["stdout"].as_str().unwrap().contains(" up "), "{printed:?}");
    let dead = ill.iter().find(|object| object["host"] == "dead").expect("it is among them");
    assert_eq!((&dead["class"], &dead["step"]), (&"connect".into(), &"connect".into()), "{dead}");
    let failed = ill.iter().find(|object| object["host"] != "dead").expect("it is among them");
    assert_eq!((&failed["class"], &failed["code"]), (&"remote exit".into(), &3.into()), "{failed}");
}

#[test]
fn a_check_of_all_shows_every_host() {
    let web = server().start();
    let config = named(&[(&web, numbered("n", 1..=3))]);
    let program = program(vec![web], &config, "web: n[1-2]\nrest: n3\n");
    let printed = program.run(&["check", "-a"]);
    assert_eq!((printed.code, &*printed.err), (0, "3 ok\n"), "{printed:?}");
    let rows: Vec<Vec<&str>> = printed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 4, "{}", printed.out);
    for (row, host) in rows[1..].iter().zip(["n1", "n2", "n3"]) {
        assert_eq!((row[0], row.len(), row[7]), (host, 8, "ok"), "{}", printed.out);
        assert!(row[1..6].iter().all(|cell| cell.ends_with("ms")), "{}", printed.out);
    }
}

#[test]
fn cargo_run_in_a_clone_is_farcall() {
    // The first line of the README, but for the build.
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let told = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let packages = told["packages"].as_array().unwrap();
    let here = packages.iter().find(|package| package["name"] == "farcall-cli").unwrap();
    assert_eq!(here["default_run"], "farcall");
    assert_eq!(
        told["workspace_default_members"].as_array().unwrap().len(),
        1,
        "of several it would not know which"
    );
    let readme = include_str!("../README.md");
    assert!(readme.contains("\ncargo run --release -- run -w local uname -a\n"));
    let program = Program::alone();
    let printed = program.run(&["run", "-w", "local", "uname", "-a"]);
    let uname = std::process::Command::new("uname").arg("-a").output().unwrap();
    let expected = format!("local: {}", String::from_utf8(uname.stdout).unwrap());
    assert_eq!((printed.code, printed.out), (0, expected), "{}", printed.err);
}
