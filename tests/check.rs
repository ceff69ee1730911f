//! `farcall check` says how far it comes with each host, and what to do about those that are not well.

mod program;

use std::process::Stdio;
use std::time::{Duration, Instant};

use program::Program;
use rustix::process::Signal;

#[test]
fn a_table_shows_each_step_and_what_failed() {
    let mut program = Program::with_hosts(2);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    program.servers.push(program::server().option("ForceCommand exit 3").start());
    let [_, server, shut] = &program.servers[..] else { unreachable!("as many as were started") };
    let key = server.client_key().path().display().to_string();
    let stranger = server.config("stranger").replace(&key, "/nonexistent/key");
    let more = format!(
        "Host dead\n  HostName 127.0.0.1\n  Port {port}\nHost unknown\n  HostName 127.0.0.1\n  Port {}\n  \
         UserKnownHostsFile none\n  GlobalKnownHostsFile none\n",
        server.port()
    );
    let config = [program.home.read("config"), more, stranger, shut.config("shut")].concat();
    program.home.write("config", &config);
    let printed = program.run(&["check", "-w", "n1,dead,unknown,local,stranger,shut"]);
    assert_eq!(printed.code, 4, "{printed:?}");
    let rows: Vec<Vec<&str>> = printed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let platform = format!("{}-linux", std::env::consts::ARCH);
    let head = ["HOST", "RESOLVE", "CONNECT", "KEYS", "AUTH", "START", "PLATFORM", "CLOCK"];
    assert_eq!(rows[0], head);
    assert_eq!((rows[1][0], &rows[1][2..]), ("dead", &["FAILED"][..]));
    assert_eq!((rows[2][0], &rows[2][1..5]), ("local", &["-", "-", "-", "-"][..]));
    assert_eq!(rows[2][6..], [&*platform, "ok"]);
    assert_eq!(rows[3][0], "n1");
    assert!(rows[3][1..6].iter().all(|cell| cell.ends_with("ms")), "{:?}", rows[3]);
    assert_eq!(rows[3][6..], [&*platform, "ok"]);
    assert_eq!((rows[4][0], &rows[4][5..]), ("shut", &["FAILED"][..]));
    assert_eq!((rows[5][0], &rows[5][4..]), ("stranger", &["FAILED"][..]));
    assert_eq!((rows[6][0], &rows[6][3..]), ("unknown", &["FAILED"][..]));
    assert!(printed.err.contains("unreachable (1): dead: connection refused"), "{}", printed.err);
    assert!(printed.err.contains("host key (1): unknown: "), "{}", printed.err);
    assert!(printed.err.contains("SHA256:"), "{}", printed.err);
    assert!(printed.err.contains("unauthenticated (1): stranger: "), "{}", printed.err);
    assert!(printed.err.contains("no worker (1): shut: "), "{}", printed.err);
    program.wait_until_idle();
}

#[test]
fn all_well_is_0() {
    let program = Program::alone();
    let printed = program.run(&["check", "-w", "local"]);
    assert_eq!((printed.code, &*printed.err), (0, "1 ok\n"), "{printed:?}");
}

#[test]
fn objects_for_programs_say_the_same() {
    let program = Program::with_hosts(1);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead = format!("Host dead\n  HostName 127.0.0.1\n  Port {port}\n");
    program.home.write("config", &(program.home.read("config") + &dead));
    let printed = program.run(&["check", "--json", "-w", "n1,dead,local"]);
    assert_eq!(printed.code, 4, "{printed:?}");
    let objects: Vec<serde_json::Value> =
        printed.out.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let [dead, local, n1] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!(
        (&dead["host"], &dead["class"], &dead["step"]),
        (&"dead".into(), &"connect".into(), &"connect".into())
    );
    assert!(dead["message"].as_str().unwrap().contains("connection refused"), "{dead}");
    assert!(dead.get("platform").is_none() && dead["steps_ms"].get("connect").is_none(), "{dead}");
    let steps = |object: &serde_json::Value| {
        object["steps_ms"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
    };
    let platform = format!("{}-linux", std::env::consts::ARCH);
    for (object, host, way) in [(local, "local", "start"), (n1, "n1", "auth connect keys resolve start")] {
        assert_eq!((&object["host"], &object["class"]), (&host.into(), &"ok".into()), "{object}");
        assert_eq!(
            (steps(object).as_str(), object["platform"].as_str()),
            (way, Some(&*platform)),
            "{object}"
        );
        assert!(object["ms"].is_u64() && object["clock_ahead_ms"].is_i64(), "{object}");
        assert!(object.get("message").is_none(), "{object}");
    }
    assert_eq!(printed.last_line(), "2 ok, 1 unreachable", "{}", printed.err);
    program.wait_until_idle();
}

#[test]
fn an_interrupted_check_says_what_it_knows() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let program = Program::alone();
    program.home.write("config", &format!("Host silent\n  HostName 127.0.0.1\n  Port {port}\n"));
    // One after another: what comes first is known when the second is connected to.
    let running = program.start(&["check", "-f", "1", "-t", "1h", "-w", "local,silent,u"]);
    let _connection = silent.accept().unwrap();
    running.signal(Signal::INT);
    let printed = running.end();
    assert_eq!(printed.code, 130, "{printed:?}");
    let rows: Vec<&str> = printed.out.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(rows, ["HOST", "local"], "{printed:?}");
    assert_eq!(
        printed.err,
        "interrupted (1): silent\nnot started (1): u\n1 ok, 1 interrupted, 1 not started\n"
    );
}

#[test]
fn an_interrupt_ends_a_check_whose_reader_is_stuck() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = Program::alone();
    program.home.write("config", &format!("Host d*\n  HostName 127.0.0.1\n  Port {port}\n"));
    let mut command = program.command(&["check", "--json", "-w", "d[1-600]"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let unread = child.stdout.take().unwrap();
    let until = |what: &str, done: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + program::LIMIT;
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // All are checked then, and there is more to show than a pipe holds.
    until("it shows what it has found", &mut || rustix::io::ioctl_fionread(&unread).unwrap() > 0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    let mut ended = None;
    until("it ends", &mut || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(130));
}
