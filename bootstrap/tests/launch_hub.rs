//! Starts from a hub, which here is this machine: what it feeds, what it cannot feed, and what comes of it.

mod place;

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use farcall_bootstrap::artifact::Artifact;
use farcall_bootstrap::hub::Later;
use farcall_bootstrap::launch::{Delivery, launch_via};
use farcall_bootstrap::{Class, Exit, Hub, HubError, HubProcess, HubStart, HubStarted, Step, Target};
use place::{Place, options, program};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::process::Child;
use tokio::sync::{Mutex, watch};

/// What the hub does when it is told to feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feeds {
    Well,
    /// It cannot, and says so.
    Not,
    /// Other bytes than it should.
    Damaged,
}

struct Here {
    image: Option<Artifact>,
    feeds: Feeds,
    /// Bytes that came from the side that launches.
    sent: watch::Sender<u64>,
}

impl Here {
    async fn new(feeds: Feeds) -> Here {
        let image = program().for_here().await.expect("the worker");
        Here { image: Some(image), feeds, sent: watch::channel(0).0 }
    }
}

impl Hub for Here {
    fn name(&self) -> &str {
        "here"
    }

    fn image(&self) -> Option<&Artifact> {
        self.image.as_ref()
    }

    fn start(&self, start: HubStart) -> Later<'_, Result<HubStarted, HubError>> {
        let program = start.program.unwrap_or_else(|| OsString::from(program().local()));
        let mut command = tokio::process::Command::new(&program);
        command.args(start.args).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn().map_err(|source| HubError::Start {
            hub: "here".into(),
            program: program.display().to_string(),
            step: "execute the program".into(),
            source,
        });
        Box::pin(async move {
            let mut child = started?;
            let (near, far) = tokio::io::duplex(65536);
            let stdin = Arc::new(Mutex::new(Some(child.stdin.take().expect("piped"))));
            tokio::spawn(pass_on(far, Arc::clone(&stdin), self.sent.clone()));
            let reader = Box::new(child.stdout.take().expect("piped"));
            let stderr = Box::new(child.stderr.take().expect("piped"));
            let image = self.image.clone();
            let process = Arc::new(Process { child: Mutex::new(child), stdin, image, feeds: self.feeds });
            Ok(HubStarted { reader, writer: Box::new(near), stderr, process })
        })
    }
}

type Input = Arc<Mutex<Option<tokio::process::ChildStdin>>>;

async fn pass_on(mut from: DuplexStream, to: Input, sent: watch::Sender<u64>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        sent.send_modify(|sent| *sent += length as u64);
        let mut to = to.lock().await;
        if write(to.as_mut(), &buffer[..length]).await.is_err() {
            return;
        }
    }
    *to.lock().await = None;
}

async fn write(to: Option<&mut (impl AsyncWrite + Unpin)>, bytes: &[u8]) -> io::Result<()> {
    let to = to.ok_or(io::ErrorKind::BrokenPipe)?;
    to.write_all(bytes).await?;
    to.flush().await
}

struct Process {
    child: Mutex<Child>,
    stdin: Input,
    image: Option<Artifact>,
    feeds: Feeds,
}

impl HubProcess for Process {
    fn exit(&self) -> Later<'_, Exit> {
        Box::pin(async move { self.child.lock().await.wait().await.map_or(Exit::Unknown, Exit::from) })
    }

    fn kill(&self) {
        // Its end is being waited for; that it is dropped kills it too.
    }

    fn feed(&self, length: u64) -> Later<'_, io::Result<bool>> {
        Box::pin(async move {
            if self.feeds == Feeds::Not {
                return Ok(false);
            }
            let mut bytes = self.image.as_ref().expect("told to have one").bytes().to_vec();
            assert_eq!(bytes.len() as u64, length);
            if self.feeds == Feeds::Damaged {
                bytes[length as usize / 2] ^= 1;
            }
            write(self.stdin.lock().await.as_mut(), &bytes).await?;
            Ok(true)
        })
    }
}

/// Starts a worker at a new place, and returns how it came there and how many bytes crossed for it.
async fn deliver(feeds: Feeds) -> (Delivery, u64) {
    // What arrived damaged in one folder is sent to the next, which is not to be the machine's.
    let place = Place::new().mounts("mkdir -p $H/next; mount --bind $H/next /var/tmp");
    let hub = Here::new(feeds).await;
    let worker = place.start_via(&hub, &program(), &options()).await.expect("started");
    let (delivery, sent) = (worker.delivery(), *hub.sent.borrow());
    worker.echo_and_end().await;
    // It is there, whole, for the next one.
    let again = place.start_via(&hub, &program(), &options()).await.expect("started");
    assert_eq!(again.delivery(), Delivery::Cached);
    again.echo_and_end().await;
    (delivery, sent)
}

#[tokio::test]
async fn a_program_that_the_hub_has_does_not_cross() {
    let (delivery, sent) = deliver(Feeds::Well).await;
    assert_eq!(delivery, Delivery::Shared { kept: true });
    assert!(sent < 1000, "{sent} bytes crossed");
}

#[tokio::test]
async fn a_hub_that_cannot_feed_has_it_sent_through() {
    let (delivery, sent) = deliver(Feeds::Not).await;
    let length = program().for_here().await.expect("the worker").bytes().len() as u64;
    // As it is, since that was what the far side had been told.
    assert_eq!(delivery, Delivery::Sent { bytes: length, kept: true });
    assert!(sent > length);
}

#[tokio::test]
async fn what_was_fed_damaged_is_found_out_and_sent_from_here() {
    let (delivery, sent) = deliver(Feeds::Damaged).await;
    assert!(
        matches!(delivery, Delivery::Sent { kept: true, bytes } if bytes < sent),
        "{delivery:?}, {sent} bytes"
    );
}

#[tokio::test]
async fn a_hub_that_runs_another_program_has_ours_sent() {
    let (place, mut hub) = (Place::new(), Here::new(Feeds::Well).await);
    hub.image = Some(Artifact::load(&std::env::current_exe().expect("a path")).expect("a program"));
    let worker = place.start_via(&hub, &program(), &options()).await.expect("started");
    assert!(matches!(worker.delivery(), Delivery::Sent { kept: true, .. }), "{:?}", worker.delivery());
    worker.echo_and_end().await;
}

#[tokio::test]
async fn what_the_hub_cannot_start_is_named() {
    let hub = Here::new(Feeds::Well).await;
    let target = Target::from(farcall_bootstrap::CommandTarget::new("no-such-command"));
    let error = launch_via(&hub, &target, &program(), &options()).await.expect_err("there is none");
    assert_eq!((error.step(), error.class()), (Step::Start, Class::Exec));
    assert!(error.to_string().starts_with("no-such-command via here: "), "{error}");

    let mut silent = options();
    silent.start_limit = Duration::from_millis(200);
    let target = Target::from(farcall_bootstrap::CommandTarget::new("sleep").args(["1000"]).as_worker());
    let error = launch_via(&hub, &target, &program(), &silent).await.expect_err("it says nothing");
    assert_eq!(error.class(), Class::Timeout, "{error}");
}
