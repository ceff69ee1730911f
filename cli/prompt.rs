//! Asks for passphrases and passwords at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};
use std::thread;

use farcall::ssh::{Answer, Prompter, Question, Secret};
use rustix::fs::OFlags;
use rustix::termios::{LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::text::one_line;

/// The terminal's echo: whoever changes it holds this meanwhile.
static ECHO: Mutex<Echo> = Mutex::new(Echo::On);

enum Echo {
    On,
    /// The terminal as it was before.
    Off(File, Termios),
    /// The program is about to end, and nothing is asked any more.
    Over,
}

/// The terminal that controls this process, whatever its standard streams are. Without one, every question is declined.
pub(crate) struct Terminal;

impl Prompter for Terminal {
    fn ask(&self, question: Question) -> Answer<'_> {
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            // Nobody waits for it: a read cannot be broken off, and ends with the program at the latest.
            let asking = move || drop(tell.send(ask(&question)));
            thread::Builder::new().name("prompt".to_owned()).spawn(asking).ok()?;
            told.await.ok()?
        })
    }
}

/// Gives the terminal its echo back, if a question is still open, and asks nothing any more: to be called before the program
/// ends.
pub(crate) fn restore() {
    turn_on(&mut ECHO.lock().unwrap_or_else(PoisonError::into_inner), Echo::Over);
}

fn turn_on(echo: &mut Echo, then: Echo) {
    if let Echo::Off(terminal, before) = std::mem::replace(echo, then) {
        // Without waiting: a terminal that was stopped takes nothing more.
        let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
        let _ = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open("/dev/tty")
            .and_then(|mut terminal| writeln!(terminal));
    }
}

/// Has the terminal show what is typed, or nothing of it, unless all is over. One that shows nothing already, for a question that
/// was given up, stays so, and how it was before that is kept.
fn begin(echo: &mut Echo, terminal: &File, shown: bool) -> Option<()> {
    match echo {
        Echo::Over => return None,
        Echo::On if shown => return Some(()),
        Echo::Off(..) => {}
        Echo::On => {
            let before = tcgetattr(terminal).ok()?;
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            let other = terminal.try_clone().ok()?;
            tcsetattr(terminal, OptionalActions::Now, &silent).ok()?;
            *echo = Echo::Off(other, before);
        }
    }
    // What was typed before the question was not meant for it.
    let _ = tcflush(terminal, QueueSelector::IFlush);
    Some(())
}

fn ask(question: &Question) -> Option<Secret> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let (text, echo) = prompt(question);
    let state = || ECHO.lock().unwrap_or_else(PoisonError::into_inner);
    begin(&mut state(), &terminal, echo)?;
    let answer = (&terminal).write_all(text.as_bytes()).ok().and_then(|()| line(&terminal));
    let mut state = state();
    if !matches!(*state, Echo::Over) {
        turn_on(&mut state, Echo::On);
    }
    answer.map(Secret::new)
}

/// What was typed up to the end of the line; nothing at the end of the input.
fn line(terminal: &File) -> Option<String> {
    let mut line = String::new();
    let count = BufReader::new(terminal).read_line(&mut line).ok()?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    (count > 0).then_some(line)
}

/// The words, and whether the answer may be seen.
fn prompt(question: &Question) -> (String, bool) {
    let again = |failures: u32| if failures > 0 { "Wrong, try again. " } else { "" };
    match question {
        Question::Passphrase { key, failures } => {
            (format!("{}Passphrase for {}: ", again(*failures), one_line(&key.to_string_lossy())), false)
        }
        Question::Password { user, host, failures } => {
            (format!("{}Password of {}@{}: ", again(*failures), one_line(user), one_line(host)), false)
        }
        Question::Server { user, host, instructions, prompt, echo } => {
            let instructions = one_line(instructions);
            let space = if instructions.is_empty() { "" } else { " " };
            let who = format!("{}@{}", one_line(user), one_line(host));
            (format!("{who}: {instructions}{space}{} ", one_line(prompt)), *echo)
        }
        // What cannot be put into words is declined by an empty answer.
        _ => (String::new(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_cannot_drive_the_terminal() {
        let question = Question::Server {
            user: "me".into(),
            host: "h".into(),
            instructions: "Hello\x1b[2J\n".into(),
            prompt: "Code:\r".into(),
            echo: true,
        };
        assert_eq!(prompt(&question), ("me@h: Hello\\u{1b}[2J Code: ".to_owned(), true));
        let question = Question::Passphrase { key: "/k".into(), failures: 1 };
        assert_eq!(prompt(&question), ("Wrong, try again. Passphrase for /k: ".to_owned(), false));
    }
}
