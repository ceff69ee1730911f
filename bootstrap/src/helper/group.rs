//! Helpers with what they start themselves: process groups that end with this process.
//!
//! What the kernel ends with a parent is a process, and not those below it: a program that a configuration has `ssh` execute, or
//! the rest of a pipeline. So, while there are such groups, a shell waits for the end of this process, which it notices by the
//! end of its input, and kills what it was told of. That shell can do nothing else, and ends when there is no group left.
//! The kernel is not asked as well: that takes a fork, whose cost grows with the memory that this process uses, and there is a
//! helper of this kind for every host.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::local::NO_SIGNAL;

/// A helper that leads a process group. Dropping it kills the group, unless its end was waited for.
pub(crate) struct Group {
    pub(crate) child: Child,
    pid: Option<Pid>,
}

/// Starts `command` as a helper, with a process group of its own, which also keeps an interrupt at the terminal from it.
///
/// It belongs to the runtime that this is called on.
pub(crate) fn spawn(mut command: Command) -> io::Result<Group> {
    command.process_group(0).kill_on_drop(true);
    let mut groups = groups();
    // Before, so that there is but an instant in which nothing watches over it.
    groups.watch();
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            groups.rest();
            return Err(error);
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        groups.add(pid);
    }
    Ok(Group { child, pid })
}

impl Group {
    /// Collects what the helper prints, and waits for its end. What it leaves behind then is its own affair.
    ///
    /// Cancelling kills the group.
    pub(crate) async fn output(mut self) -> io::Result<Output> {
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let (stdout, stderr) = tokio::try_join!(all_of(out), all_of(err))?;
        Ok(Output { status: self.child.wait().await?, stdout, stderr })
    }
}

async fn all_of(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(pid) = self.pid else { return };
        // The number is the helper's until it is reaped.
        if self.child.id().is_some() {
            // It fails only when nothing is left to kill.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        groups().remove(pid);
    }
}

fn groups() -> MutexGuard<'static, Groups> {
    static GROUPS: Mutex<Groups> = Mutex::new(Groups { all: Vec::new(), watcher: None });
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The groups that there are.
struct Groups {
    all: Vec<Pid>,
    /// The other end of the shell's input.
    watcher: Option<UnixStream>,
}

impl Groups {
    /// Sees that the shell runs. Somebody may have killed it.
    fn watch(&mut self) {
        // An empty line, to see whether it still listens.
        self.tell("\n");
        if self.watcher.is_some() {
            return;
        }
        match watcher() {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                let all: String = self.all.iter().map(|group| format!("+ {group}\n")).collect();
                self.tell(&all);
            }
            Err(error) => tracing::warn!(%error, "nothing watches over the helpers that are started"),
        }
    }

    /// Lets the shell end where there is nothing to watch over.
    fn rest(&mut self) {
        if self.all.is_empty() {
            self.watcher = None;
        }
    }

    fn add(&mut self, group: Pid) {
        self.all.push(group);
        self.tell(&format!("+ {group}\n"));
    }

    fn remove(&mut self, group: Pid) {
        self.all.retain(|other| *other != group);
        self.tell(&format!("- {group}\n"));
        self.rest();
    }

    /// Never waits: a line is short, and a shell that takes none is as good as none.
    fn tell(&mut self, line: &str) {
        let flags = NO_SIGNAL | SendFlags::DONTWAIT;
        self.watcher = self.watcher.take().filter(|to| send(to, line.as_bytes(), flags) == Ok(line.len()));
    }
}

/// What the shell does.
const WATCH: &str = r#"trap '' HUP INT TERM
a=
while read -r o n; do
  case $o in
  +) a="$a $n";;
  -) b=; for i in $a; do [ "$i" = "$n" ] || b="$b $i"; done; a=$b;;
  esac
done
for i in $a; do kill -9 "-$i"; done"#;

/// Starts the shell.
fn watcher() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", WATCH]).arg(format!("farcall-helpers of {}", std::process::id()));
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    command.env_clear().current_dir("/").process_group(0);
    let mut shell = command.spawn()?;
    // Ends with the shell, and that with its input.
    tokio::spawn(async move { shell.wait().await });
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper() -> Group {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        spawn(command).expect("started")
    }

    #[tokio::test]
    async fn the_shell_kills_what_it_was_told_of_and_nothing_else() {
        let mut groups_of_ours = [sleeper(), sleeper(), sleeper(), sleeper()];
        let [first, second, third, fourth] = &mut groups_of_ours;
        // As if they were over.
        for over in [&first, &third] {
            groups().remove(over.pid.expect("it runs"));
        }
        // As if this process were over. It kills in the order in which it was told.
        groups().watcher = None;
        for watched in [second, fourth] {
            let status = watched.child.wait().await.expect("ours");
            assert_eq!(status.signal(), Some(9));
        }
        for over in [first, third] {
            assert_eq!(over.child.try_wait().expect("ours"), None);
        }
    }

    #[tokio::test]
    async fn a_shell_that_was_killed_is_replaced() {
        let mut first = sleeper();
        // Nobody listens any more.
        let (deaf, gone) = UnixStream::pair().expect("a socket");
        drop(gone);
        groups().watcher = Some(deaf);
        // It ends with the old one, which was not killed but let go.
        first.child.wait().await.expect("ours");
        let mut second = sleeper();
        let mut third = sleeper();
        groups().watcher = None;
        for watched in [&mut second, &mut third] {
            assert_eq!(watched.child.wait().await.expect("ours").signal(), Some(9));
        }
    }
}
