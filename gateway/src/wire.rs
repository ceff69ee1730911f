//! What gateway and worker say to each other, above the channels.
//!
//! The request of each channel says what it is for: a letter, and for a task its name. Then
//!
//! | request | the coordinator sends | the worker sends |
//! |---|---|---|
//! | `h` hello | its [`Hello`] | its own |
//! | `t` task | an [`Order`] with the arguments, perhaps another to let go | a [`Reply`] |
//! | `m` stream of calls, with its task's name, without one for commands | a [plan](crate::map::stream::Plan), then batches of [orders](crate::map::batch::Order) | batches of [replies](crate::map::batch::Reply) |
//! | `i` info, `s` status | | [`Info`](crate::Info), [`Status`](crate::Status) |
//! | `p` prints | | [`Printed`](crate::Printed), as long as it lives |
//! | `l` log | a filter | [`Event`](crate::log::Event)s, as long as it lives |
//! | `c` command | [`CommandOrder`]s, the first is the plan | [`CommandReport`]s |
//! | `v` relay | [`RelayOrder`]s, the first is the plan | [`RelayReport`]s |
//! | `d` dial | one [`DialOrder`] | one [`DialReport`] |
//! | `f` finish | | when all is done and told, `()` |
//! | `x` cancel, with the number of a call of [`local`](crate::local) | | |
//! | `e` end | | nothing: the worker ends when all that it has sent has arrived |

use bytes::Bytes;
use farcall_channel::{Raw, Receiver, Sender};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Panic};
use crate::tasks::Declared;

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Hello,
    Task(&'a str),
    /// Of calls of the task, or of commands.
    Stream(&'a str),
    Info,
    Status,
    Prints,
    Log,
    Command,
    Relay,
    Dial,
    Finish,
    Cancel(u64),
    End,
}

impl<'a> Request<'a> {
    pub(crate) fn to_bytes(self) -> Bytes {
        match self {
            Request::Hello => Bytes::from_static(b"h"),
            Request::Task(name) => [b"t", name.as_bytes()].concat().into(),
            Request::Stream(name) => [b"m", name.as_bytes()].concat().into(),
            Request::Info => Bytes::from_static(b"i"),
            Request::Status => Bytes::from_static(b"s"),
            Request::Prints => Bytes::from_static(b"p"),
            Request::Log => Bytes::from_static(b"l"),
            Request::Command => Bytes::from_static(b"c"),
            Request::Relay => Bytes::from_static(b"v"),
            Request::Dial => Bytes::from_static(b"d"),
            Request::Finish => Bytes::from_static(b"f"),
            Request::Cancel(number) => [&b"x"[..], &number.to_le_bytes()].concat().into(),
            Request::End => Bytes::from_static(b"e"),
        }
    }

    /// `None` for what no version of this side has ever said.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        match bytes {
            b"h" => Some(Request::Hello),
            [b't', name @ ..] => std::str::from_utf8(name).ok().map(Request::Task),
            [b'm', name @ ..] => std::str::from_utf8(name).ok().map(Request::Stream),
            b"i" => Some(Request::Info),
            b"s" => Some(Request::Status),
            b"p" => Some(Request::Prints),
            b"l" => Some(Request::Log),
            b"c" => Some(Request::Command),
            b"v" => Some(Request::Relay),
            b"d" => Some(Request::Dial),
            b"f" => Some(Request::Finish),
            [b'x', number @ ..] => {
                number.try_into().ok().map(|number| Request::Cancel(u64::from_le_bytes(number)))
            }
            b"e" => Some(Request::End),
            _ => None,
        }
    }
}

/// A number of the sources of this crate and those below: a program and its leaner twin, or its builds for other platforms, have
/// the same only if they were built from the same. See `build.rs`.
pub(crate) const BUILD: u64 = match u64::from_str_radix(env!("FARCALL_BUILD"), 16) {
    Ok(build) => build,
    Err(_) => panic!("the build script writes a number"),
};

/// What each side says of itself before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The version of this crate.
    pub(crate) farcall: String,
    /// The version of the program, if it told.
    pub(crate) program: String,
    /// Of all names and signatures.
    pub(crate) digest: u64,
    /// Its [`BUILD`]; an older one had none.
    #[serde(default)]
    pub(crate) build: u64,
    /// The worker lists its tasks when the digests differ.
    pub(crate) tasks: Vec<Declared>,
    /// The process.
    pub(crate) pid: u32,
}

/// From the caller of a task. A later build may know more of them.
#[derive(Serialize, Deserialize)]
pub(crate) enum Order<A> {
    /// Run with these arguments.
    #[serde(rename = "r")]
    Run(A),
    /// The caller goes; the task goes on.
    #[serde(rename = "d")]
    Detach,
}

/// To the caller of a task.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply<V> {
    #[serde(rename = "v")]
    Value(V),
    #[serde(rename = "f")]
    Failed(Failure),
    #[serde(rename = "p")]
    Panicked(Panic),
    /// The arguments could not be read.
    #[serde(rename = "a")]
    Arguments(String),
    /// The value could not be sent.
    #[serde(rename = "u")]
    Unsendable(String),
    /// The worker cannot run anything.
    #[serde(rename = "r")]
    Refused(String),
}

/// Text that need not be UTF-8, as this system's names are.
pub(crate) type Name = std::ffi::OsString;

/// What a command is to be.
#[derive(Serialize, Deserialize)]
pub(crate) struct CommandPlan {
    pub(crate) program: Name,
    pub(crate) arg0: Option<Name>,
    pub(crate) args: Vec<Name>,
    /// `None` takes a variable away.
    pub(crate) env: Vec<(Name, Option<Name>)>,
    pub(crate) env_clear: bool,
    pub(crate) directory: Option<Name>,
    pub(crate) stdin: Option<Receiver<Bytes, Raw>>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    /// Rows and columns.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// Where an output of a command goes.
#[derive(Serialize, Deserialize)]
pub(crate) enum Output {
    Inherit,
    Null,
    Piped(Sender<Bytes, Raw>),
}

/// From the holder of a command.
#[derive(Serialize, Deserialize)]
pub(crate) enum CommandOrder {
    Start(Box<CommandPlan>),
    /// To the process alone, or to its group. The turn comes back with the answer.
    Signal {
        turn: u64,
        number: i32,
        group: bool,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
}

/// To the holder of a command.
#[derive(Serialize, Deserialize)]
pub(crate) enum CommandReport {
    Started {
        pid: u32,
    },
    /// The step that failed, the system's number of the error if it has one, and its words.
    NotStarted {
        step: String,
        code: Option<i32>,
        message: String,
    },
    Ended {
        status: ExitReport,
        held_open: bool,
    },
    /// What became of a signal: nothing to tell, or the system's number of the error if it has one, and its words.
    Signalled {
        turn: u64,
        refused: Option<(Option<i32>, String)>,
    },
    /// The worker could not follow it any more.
    Lost {
        message: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum ExitReport {
    Code(i32),
    Signal(i32),
}

/// What a hub is to start for a leaf.
#[derive(Serialize, Deserialize)]
pub(crate) struct RelayPlan {
    /// `None` for the hub's own program.
    pub(crate) program: Option<Name>,
    pub(crate) arg0: Option<Name>,
    pub(crate) args: Vec<Name>,
    pub(crate) env: Vec<(Name, Name)>,
    /// Made if it is missing.
    pub(crate) directory: Option<Name>,
    pub(crate) nice: Option<i32>,
    /// In bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) stdin: Receiver<Bytes, Raw>,
    pub(crate) stdout: Sender<Bytes, Raw>,
    pub(crate) stderr: Sender<Bytes, Raw>,
}

/// From the side that relays a leaf.
#[derive(Serialize, Deserialize)]
pub(crate) enum RelayOrder {
    Start(Box<RelayPlan>),
    /// Write the hub's own program, of so many bytes, to the input.
    Feed {
        length: u64,
    },
    Kill,
}

/// To the side that relays a leaf.
#[derive(Serialize, Deserialize)]
pub(crate) enum RelayReport {
    Started {
        pid: u32,
    },
    /// As of [`CommandReport`].
    NotStarted {
        step: String,
        code: Option<i32>,
        message: String,
    },
    /// The program was written, or none of it.
    Fed {
        written: bool,
    },
    Ended {
        status: ExitReport,
    },
    /// The worker could not follow it any more.
    Lost {
        message: String,
    },
}

/// A connection that a hub is to make.
#[derive(Serialize, Deserialize)]
pub(crate) struct DialOrder {
    /// An address or a name.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) family: DialFamily,
    /// To the host.
    pub(crate) input: Receiver<Bytes, Raw>,
    /// From the host.
    pub(crate) output: Sender<Bytes, Raw>,
}

/// Which addresses may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DialFamily {
    Any,
    V4,
    V6,
}

/// What came of a [`DialOrder`].
#[derive(Serialize, Deserialize)]
pub(crate) enum DialReport {
    Connected,
    /// The name has no address; why.
    Unresolved(String),
    /// No address took the connection; why.
    Unreached(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        let all = [
            Request::Hello,
            Request::Task("a::b"),
            Request::Stream("a::b"),
            Request::Stream(""),
            Request::Info,
            Request::Status,
            Request::Prints,
            Request::Log,
            Request::Command,
            Request::Relay,
            Request::Dial,
            Request::Finish,
            Request::Cancel(1 << 40),
            Request::End,
        ];
        for request in all {
            assert_eq!(Request::parse(&request.to_bytes()), Some(request));
        }
        for other in [&b""[..], b"x", b"hh", b"m\xff", b"t\xff"] {
            assert_eq!(Request::parse(other), None);
        }
    }
}
