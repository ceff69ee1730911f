//! `farcall run` asks at the terminal for what it needs to get in, once, whatever its standard streams are.

mod program;

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use farcall_test_support::{KeyKind, KeyPair, PASSWORD, Sshd, TempHome, kill_tree};
use program::{Program, server};

/// The program at a terminal of its own, and somebody who sits there.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: Vec<u8>,
    watch: mpsc::Sender<()>,
}

impl Terminal {
    fn start(program: &Program, args: &[&str]) -> Terminal {
        Terminal::start_between(program, "", args, "")
    }

    /// With what the shell is to do at the terminal before and after the program.
    fn start_between(program: &Program, before: &str, args: &[&str], after: &str) -> Terminal {
        let plain = program.command(args);
        let words: Vec<String> = std::iter::once(plain.get_program())
            .chain(plain.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{before}{}{after}", words.join(" ")), "/dev/null"]).env_clear();
        script.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child =
            script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("util-linux's script");
        let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let pid = child.id();
        let (watch, watched) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if watched.recv_timeout(program::LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill_tree(pid);
            }
        });
        Terminal { child, keyboard, screen, seen: Vec::new(), watch }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until this was shown so often.
    fn wait_for(&mut self, text: &str, times: usize) {
        let mut byte = [0];
        while self.text().matches(text).count() < times {
            assert_eq!(self.screen.read(&mut byte).unwrap(), 1, "{}", self.text());
            self.seen.push(byte[0]);
        }
    }

    fn type_line(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// All that was shown, and the exit code.
    fn end(mut self) -> (String, Option<i32>) {
        self.screen.read_to_end(&mut self.seen).unwrap();
        let code = self.child.wait().unwrap().code();
        let _ = self.watch.send(());
        (self.text(), code)
    }
}

/// Hosts that the configuration calls `n1`, `n2`, …, each with its block changed.
fn hosts(servers: Vec<Sshd>, change: impl Fn(&Sshd, String) -> String) -> Program {
    let home = TempHome::new();
    let blocks = servers.iter().enumerate().map(|(at, server)| {
        let block = server.config(&format!("n{}", at + 1)).replace("BatchMode yes", "BatchMode no");
        change(server, block)
    });
    home.write("config", &blocks.collect::<String>());
    Program { home, servers }
}

#[test]
fn a_passphrase_is_asked_for_once_for_all_hosts() {
    let keys = TempHome::new();
    let key = KeyPair::generate(keys.ssh("locked"), KeyKind::Ed25519, "open sesame");
    let servers = vec![server().authorize(&key).start(), server().authorize(&key).start()];
    let program = hosts(servers, |server, block| {
        block.replace(&*server.client_key().path().to_string_lossy(), &key.path().to_string_lossy())
    });
    let mut terminal =
        Terminal::start(&program, &["run", "--color", "never", "-L", "-w", "n[1-2]", "echo in"]);
    terminal.wait_for("locked: ", 1);
    terminal.type_line("open sesame");
    let (seen, code) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("n1: in") && seen.contains("n2: in") && seen.contains("2 ok"), "{seen}");
    assert_eq!(seen.matches("Passphrase for").count(), 1, "{seen}");
    assert!(!seen.contains("sesame"), "what is typed is not shown: {seen}");
}

/// Without a key that the server knows, by this method alone.
fn with_password(method: &str) -> Program {
    let server = server().passwords().start();
    let method = format!("  PubkeyAuthentication no\n  PreferredAuthentications {method}\n");
    hosts(vec![server], |_, block| block + &method)
}

#[test]
fn a_password_is_asked_for_again_when_it_was_wrong() {
    let program = with_password("password");
    let mut terminal = Terminal::start(&program, &["run", "--color", "never", "-w", "n1", "echo in"]);
    terminal.wait_for("Password of ", 1);
    terminal.type_line("not it");
    terminal.wait_for("Wrong, try again. Password of ", 1);
    terminal.type_line(PASSWORD);
    let (seen, code) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("n1: in") && seen.contains("1 ok"), "{seen}");
    assert_eq!(seen.matches("Password of ").count(), 2, "{seen}");
    assert!(!seen.contains(PASSWORD) && !seen.contains("not it"), "what is typed is not shown: {seen}");
    program.wait_until_idle();
}

#[test]
fn the_servers_questions_are_asked() {
    let program = with_password("keyboard-interactive");
    let mut terminal = Terminal::start(&program, &["run", "--color", "never", "-w", "n1", "echo in"]);
    terminal.wait_for("Password: ", 1);
    terminal.type_line(PASSWORD);
    let (seen, code) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("n1: in") && !seen.contains(PASSWORD), "{seen}");
    program.wait_until_idle();
}

#[test]
fn wrong_passwords_end_as_an_authentication_that_failed() {
    let program = with_password("password");
    let mut terminal = Terminal::start(&program, &["run", "--color", "never", "-w", "n1", "echo in"]);
    for attempt in 1..=3 {
        terminal.wait_for("Password of ", attempt);
        terminal.type_line("not it");
    }
    let (seen, code) = terminal.end();
    assert_eq!(code, Some(4), "{seen}");
    assert!(seen.contains("unauthenticated (1): n1: ") && !seen.contains("n1: in"), "{seen}");
    assert_eq!(seen.matches("Password of ").count(), 3, "{seen}");
}

#[test]
fn an_interrupt_at_a_question_gives_the_terminal_its_echo_back() {
    let program = with_password("password");
    let run = ["run", "--color", "never", "-w", "n1", "echo in"];
    let mut terminal =
        Terminal::start_between(&program, "trap : INT; ", &run, "; code=$?; stty -a; exit $code");
    terminal.wait_for("Password of ", 1);
    // As the terminal has it when Ctrl-C is pressed.
    terminal.keyboard.write_all(b"\x03").unwrap();
    let (seen, code) = terminal.end();
    assert_eq!(code, Some(130), "{seen}");
    assert!(seen.contains("not started (1): n1"), "{seen}");
    assert!(seen.contains(" echo ") && !seen.contains("-echo "), "{seen}");
}

#[test]
fn nobody_is_asked_where_there_is_no_terminal() {
    let program = with_password("password");
    // A session of its own has no terminal, whatever the tests run at.
    let plain = program.command(&["run", "-w", "n1", "echo in"]);
    let mut alone = Command::new("setsid");
    alone.arg("-w").arg(plain.get_program()).args(plain.get_args()).env_clear();
    alone.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = alone.stdin(Stdio::null()).output().expect("util-linux's setsid");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("unauthenticated (1): n1: "), "{said}");
}
