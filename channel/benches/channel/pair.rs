//! The two processes of a measurement: their roles, their cores and the pipes between them.
//!
//! Every contender, ours or not, is a program that is started as the near side, starts itself again as the far side,
//! and prints one number when it has measured. So each is set up the same way, and none inherits another's heap.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::pipe::fcntl_setpipe_size;
use rustix::thread::{CpuSet, sched_setaffinity};

/// What both directions are asked to hold: the most that an unprivileged process may ask for on a default kernel.
pub(crate) const PIPE_SIZE: usize = 1 << 20;

/// The first argument that makes a program take part in a measurement.
const MARK: &str = "measure";

/// Which of the two processes this one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The parent, which measures.
    Near,
    /// The child, which answers or sends.
    Far,
}

/// What a process of a measurement is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) side: Side,
    pub(crate) contender: String,
    pub(crate) row: String,
    pub(crate) length: Duration,
    /// The near side's core, then the far side's.
    pub(crate) cores: [usize; 2],
}

/// This process's ends of the two pipes, and on the near side the other process.
pub(crate) struct Ends {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
    /// Held so that the far side goes when the measurement does.
    pub(crate) far: Option<Far>,
}

/// The far side, killed when dropped: it has nothing to save, and it may be in the middle of a write.
pub(crate) struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        // It may have ended by itself when the pipes closed; then there is nothing left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Assignment {
    /// Reads what [`to_args`](Self::to_args) wrote; `None` if this process was not started as part of a measurement.
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        if args.next()? != MARK {
            return None;
        }
        let side = match args.next()?.as_str() {
            "near" => Side::Near,
            "far" => Side::Far,
            _ => return None,
        };
        Some(Self {
            side,
            contender: args.next()?,
            row: args.next()?,
            length: Duration::from_millis(args.next()?.parse().ok()?),
            cores: [args.next()?.parse().ok()?, args.next()?.parse().ok()?],
        })
    }

    /// The arguments that start a program with this assignment.
    pub(crate) fn to_args(&self) -> [String; 7] {
        [
            MARK.to_owned(),
            match self.side {
                Side::Near => "near",
                Side::Far => "far",
            }
            .to_owned(),
            self.contender.clone(),
            self.row.clone(),
            self.length.as_millis().to_string(),
            self.cores[0].to_string(),
            self.cores[1].to_string(),
        ]
    }

    /// Pins this process to its core and gives it its ends of the pipes; the near side also starts the far side.
    pub(crate) fn start(&self) -> io::Result<Ends> {
        match self.side {
            Side::Near => {
                let (far_reader, writer) = pipe()?;
                let (reader, far_writer) = pipe()?;
                let far = Self { side: Side::Far, ..self.clone() };
                let child = Command::new(std::env::current_exe()?)
                    .args(far.to_args())
                    .stdin(Stdio::from(far_reader))
                    .stdout(Stdio::from(far_writer))
                    .spawn()?;
                pin(self.cores[0])?;
                Ok(Ends { reader, writer, far: Some(Far(child)) })
            }
            Side::Far => {
                pin(self.cores[1])?;
                Ok(Ends {
                    reader: io::stdin().as_fd().try_clone_to_owned()?,
                    writer: io::stdout().as_fd().try_clone_to_owned()?,
                    far: None,
                })
            }
        }
    }
}

/// A pipe of the size that every contender gets.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    // A user past their share of pipe memory gets less; then all contenders do.
    let _ = fcntl_setpipe_size(&writer, PIPE_SIZE);
    Ok((reader.into(), writer.into()))
}

/// Keeps this process, and every thread it starts from here on, on one core.
fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}
