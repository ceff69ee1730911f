//! `farcall check`: the way to each host, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use farcall::ssh::SshOptions;
use farcall::{Gateway, Program, Spec, Step};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::CommandError;
use crate::args::check::CheckArgs;
use crate::check_json::{self, Checked};
use crate::check_table::{Cell, Row, STEPS, table};
use crate::environment::Environment;
use crate::exit::{Ended, Exit, Interrupt};
use crate::failure::not_opened;
use crate::hosts::select::read_groups;
use crate::hosts::{Host, labels};
use crate::interrupts::interrupts;
use crate::outcome::{Failure, Outcome};
use crate::output::summary;
use crate::place;
use crate::prompt;

/// How long a worker that was started may take to tell what machine it is on.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Checks all hosts and shows what was found.
///
/// # Errors
/// Hosts that cannot be understood, results that cannot be shown, or a fault of this program.
pub(crate) fn run(args: &CheckArgs, environment: &Environment) -> Result<Exit, CommandError> {
    let asked = args.hosts.groups.as_deref().or(environment.groups.as_deref());
    let groups = read_groups(asked, &environment.usual_groups)?;
    let chosen = args.hosts.selection(&[]).resolve(&groups, io::stdin().lock())?;
    let hosts: Vec<Host> = chosen.iter().cloned().collect();
    let labels = labels(&hosts);
    let specs = place::specs(&hosts, &labels, &args.connect)?;
    for note in place::missing_files(&args.connect)? {
        // Where nobody can be told, what comes of it still tells.
        let _ = writeln!(io::stderr(), "{note}");
    }
    let ssh = place::ssh(&args.connect, environment);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let exit = runtime.block_on(async {
        let mut interrupts = interrupts().map_err(CommandError::Runtime)?;
        let program = place::program(environment).map_err(CommandError::Program)?;
        let checked = check_all(specs, ssh, program, args.at_once.get().into(), &mut interrupts).await;
        prompt::restore();
        // By a thread of its own, which ends with the program: whoever reads may be stuck.
        let (tell, shown) = oneshot::channel();
        let json = args.json;
        thread::Builder::new()
            .name("show".to_owned())
            .spawn(move || drop(tell.send(show(&labels, checked, json))))
            .map_err(CommandError::Runtime)?;
        tokio::select! {
            shown = shown => shown.expect("a panic there is one of this program"),
            Some(which) = interrupts.recv() => {
                Ok(Ended { outcomes: &[], interrupt: Some(which), largest: false }.exit())
            }
        }
    });
    runtime.shutdown_background();
    exit
}

/// Shows the hosts that were checked, and what is wrong with them.
fn show(
    hosts: &[Host],
    AllChecked { mut found, begun, interrupt }: AllChecked,
    json: bool,
) -> Result<Exit, CommandError> {
    let (mut rows, mut outcomes) = (Vec::new(), Vec::new());
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (at, host) in hosts.iter().enumerate() {
        let (checked, outcome) = match found.remove(&at) {
            None if begun.contains(&at) => (None, Outcome::Interrupted),
            None => (None, Outcome::NotStarted),
            Some(found) => {
                let checked = Checked { row: found.row(host), took: found.ended - found.began };
                (Some(checked), found.failure.map_or(Outcome::Exited { code: 0 }, Outcome::Failed))
            }
        };
        if json {
            check_json::write(&mut out, host, &outcome, checked.as_ref())?;
        }
        rows.extend(checked.map(|checked| checked.row));
        outcomes.push(outcome);
    }
    if !json {
        out.write_all(table(&rows).as_bytes())?;
    }
    out.flush()?;
    let mut err = io::stderr().lock();
    for line in summary::lines(hosts, &outcomes, false) {
        writeln!(err, "{line}")?;
    }
    Ok(Ended { outcomes: &outcomes, interrupt, largest: false }.exit())
}

/// What was found out about one host.
struct Found {
    began: Instant,
    /// The steps in the order in which they began.
    steps: Vec<(Step, Instant)>,
    /// When the worker was started, or could not be.
    ended: Instant,
    failure: Option<Failure>,
    platform: Option<String>,
    clock_ahead_ms: Option<i64>,
}

/// What came of all checks; hosts are counted by their place in the list.
struct AllChecked {
    found: BTreeMap<usize, Found>,
    /// Those whose check was begun.
    begun: BTreeSet<usize>,
    interrupt: Option<Interrupt>,
}

/// Checks so many at once; an interrupt ends it early.
async fn check_all(
    specs: Vec<Spec>,
    ssh: SshOptions,
    program: Program,
    at_once: usize,
    interrupts: &mut mpsc::Receiver<Interrupt>,
) -> AllChecked {
    let places = Arc::new(Semaphore::new(at_once));
    let begun = Arc::new(Mutex::new(BTreeSet::new()));
    // Dropping it drops all that still runs.
    let mut checks = JoinSet::new();
    for (at, spec) in specs.into_iter().enumerate() {
        let (ssh, program, places) = (ssh.clone(), program.clone(), Arc::clone(&places));
        let begun = Arc::clone(&begun);
        checks.spawn(async move {
            let _place = places.acquire().await.expect("it is never closed");
            begun.lock().unwrap_or_else(PoisonError::into_inner).insert(at);
            (at, check(spec, ssh, program).await)
        });
    }
    let mut found = BTreeMap::new();
    let mut take = |ended: Result<(usize, Found), JoinError>| match ended {
        Ok((at, one)) => drop(found.insert(at, one)),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let interrupt = loop {
        tokio::select! {
            Some(which) = interrupts.recv() => {
                // What is known by now is shown.
                while let Some(ended) = checks.try_join_next() {
                    take(ended);
                }
                break Some(which);
            }
            ended = checks.join_next() => match ended {
                Some(ended) => take(ended),
                None => break None,
            },
        }
    };
    let begun = std::mem::take(&mut *begun.lock().unwrap_or_else(PoisonError::into_inner));
    AllChecked { found, begun, interrupt }
}

async fn check(spec: Spec, ssh: SshOptions, program: Program) -> Found {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let watcher = move |step| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push((step, Instant::now()));
    };
    let ssh = SshOptions { watcher: Some(Arc::new(watcher)), ..ssh };
    let began = Instant::now();
    let opened = Gateway::builder(spec).ssh(ssh).program(program).open().await;
    let ended = Instant::now();
    let steps = std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner));
    let mut found = Found { began, steps, ended, failure: None, platform: None, clock_ahead_ms: None };
    match opened {
        Err(error) => found.failure = Some(not_opened(&error)),
        Ok(gateway) => {
            // Where these fail the host is still fit for work; the cells stay empty.
            let _ = tokio::time::timeout(ANSWER_LIMIT, async {
                found.platform = gateway.info().await.ok().map(|info| format!("{}-{}", info.arch, info.os));
                found.clock_ahead_ms = clock_ahead(&gateway).await;
            })
            .await;
        }
    }
    found
}

/// How far the clock there is ahead of ours, in milliseconds.
async fn clock_ahead(gateway: &Gateway) -> Option<i64> {
    let before = SystemTime::now();
    let output = gateway.command("date").arg("+%s %N").output().await.ok()?;
    let took = before.elapsed().ok()?;
    let middle = before.duration_since(SystemTime::UNIX_EPOCH).ok()? + took / 2;
    theirs_ahead(&String::from_utf8_lossy(&output.stdout), i64::try_from(middle.as_millis()).ok()?)
}

/// From `seconds nanoseconds`; where the tool does not know those, only whole seconds count.
fn theirs_ahead(printed: &str, ours_ms: i64) -> Option<i64> {
    let mut words = printed.split_whitespace();
    let seconds_ms = words.next()?.parse::<i64>().ok()?.checked_mul(1000)?;
    match words.next().and_then(|nanos| nanos.parse::<i64>().ok()) {
        Some(nanos) => seconds_ms.checked_add(nanos / 1_000_000)?.checked_sub(ours_ms),
        None => Some(seconds_ms.checked_sub(ours_ms)? / 1000 * 1000),
    }
}

/// The column of a step.
fn column(step: Step) -> usize {
    match step {
        Step::Resolve => 0,
        Step::Connect => 1,
        Step::KeyExchange => 2,
        Step::Authenticate => 3,
        _ => 4,
    }
}

impl Found {
    fn row(&self, host: &Host) -> Row {
        Row {
            host: host.name().to_owned(),
            cells: self.cells(),
            platform: self.platform.clone(),
            clock_ahead_ms: self.clock_ahead_ms,
        }
    }

    fn cells(&self) -> [Cell; STEPS.len()] {
        let mut cells = [Cell::NotNeeded; STEPS.len()];
        let mut took = [None::<Duration>; STEPS.len()];
        let mut last = match &self.failure {
            // Nothing was begun at the host itself: a jump host, or the configuration, was in the way.
            Some(failure) if ["jump", "config"].contains(&&*failure.step) => 1,
            _ => STEPS.len() - 1,
        };
        if self.steps.is_empty() {
            took[last] = Some(self.ended - self.began);
        }
        for (at, (step, began)) in self.steps.iter().enumerate() {
            let ended = self.steps.get(at + 1).map_or(self.ended, |next| next.1);
            last = column(*step);
            *took[last].get_or_insert_default() += ended - *began;
        }
        for (cell, took) in cells.iter_mut().zip(took) {
            *cell = took.map_or(Cell::NotNeeded, Cell::Took);
        }
        if self.failure.is_some() {
            cells[last] = Cell::Failed;
            cells[last + 1..].fill(Cell::NotReached);
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::FailureClass;

    fn found(steps: &[(Step, u64)], ended: u64, failed: Option<&str>) -> Found {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        Found {
            began,
            steps: steps.iter().map(|&(step, ms)| (step, at(ms))).collect(),
            ended: at(ended),
            failure: failed.map(|step| Failure {
                class: FailureClass::Connect,
                step: step.to_owned(),
                message: String::new(),
                evidence: String::new(),
                hint: None,
            }),
            platform: None,
            clock_ahead_ms: None,
        }
    }

    #[test]
    fn each_step_has_its_time() {
        use Cell::{Failed, NotNeeded, NotReached, Took};
        use Step::*;
        let ms = |ms| Took(Duration::from_millis(ms));
        let all = [(Resolve, 0), (Connect, 2), (KeyExchange, 5), (Authenticate, 20), (Session, 30)];
        assert_eq!(found(&all, 90, None).cells(), [ms(2), ms(3), ms(15), ms(10), ms(60)]);
        let again = [(Connect, 0), (KeyExchange, 5), (Connect, 10), (KeyExchange, 20)];
        assert_eq!(
            found(&again, 21, Some("host key")).cells(),
            [NotNeeded, ms(15), Failed, NotReached, NotReached]
        );
        assert_eq!(found(&[], 4, None).cells(), [NotNeeded, NotNeeded, NotNeeded, NotNeeded, ms(4)]);
        assert_eq!(
            found(&[], 4, Some("start")).cells(),
            [NotNeeded, NotNeeded, NotNeeded, NotNeeded, Failed]
        );
        assert_eq!(
            found(&[], 4, Some("jump")).cells(),
            [NotNeeded, Failed, NotReached, NotReached, NotReached]
        );
    }

    #[test]
    fn clocks_are_compared_as_precisely_as_they_are_told() {
        assert_eq!(theirs_ahead("100 500000000\n", 100_400), Some(100));
        assert_eq!(theirs_ahead("100 %N\n", 100_900), Some(0));
        assert_eq!(theirs_ahead("100\n", 103_900), Some(-3000));
        assert_eq!(theirs_ahead("date: bad format\n", 0), None);
        assert_eq!(theirs_ahead("", 0), None);
    }
}
