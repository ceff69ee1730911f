//! `farcall run` asks at the terminal for what it needs to get in, once, whatever its standard streams are.

mod program;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use farcall_test_support::{KeyKind, KeyPair, kill_tree};
use program::{Program, server};

#[test]
fn a_passphrase_is_asked_for_once_for_all_hosts() {
    let home = farcall_test_support::TempHome::new();
    let key = KeyPair::generate(home.ssh("locked"), KeyKind::Ed25519, "open sesame");
    let servers = vec![server().authorize(&key).start(), server().authorize(&key).start()];
    let config: String = servers
        .iter()
        .enumerate()
        .map(|(at, server)| {
            let config = server.config(&format!("n{}", at + 1)).replace("BatchMode yes", "BatchMode no");
            config.replace(&*server.client_key().path().to_string_lossy(), &key.path().to_string_lossy())
        })
        .collect();
    home.write("config", &config);
    let program = Program { home, servers };
    let plain = program.command(&["run", "--color", "never", "-L", "-w", "n[1-2]", "echo in"]);
    let words: Vec<String> = std::iter::once(plain.get_program())
        .chain(plain.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    // Gives the program a terminal of its own.
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).env_clear();
    script.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("util-linux's script");
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let pid = child.id();
    let (done, watched) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if watched.recv_timeout(program::LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill_tree(pid);
        }
    });
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains("locked: ") {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    stdin.write_all(b"open sesame\n").unwrap();
    stdout.read_to_end(&mut seen).unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{seen}");
    let _ = done.send(());
    assert!(seen.contains("n1: in") && seen.contains("n2: in") && seen.contains("2 ok"), "{seen}");
    assert_eq!(seen.matches("Passphrase for").count(), 1, "{seen}");
    assert!(!seen.contains("sesame"), "what is typed is not shown: {seen}");
}
