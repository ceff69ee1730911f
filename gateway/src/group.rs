//! Gateways that are started, used and ended together.

mod end;
mod error;
mod plan;
mod specs;
mod start;

use std::fmt;
use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

use farcall_bootstrap::Program;
use farcall_bootstrap::ssh::SshOptions;
use farcall_channel::Config;

pub use error::{NotStarted, PartialStart, StartError, StartFailure, TerminateError};
pub use plan::Plan;
pub use specs::IntoSpecs;

use crate::end::GatewayEnd;
use crate::gateway::Gateway;
use crate::multi::{self, MultiChannel, MultiError};
use crate::open::Builder;
use crate::spec::Spec;
use crate::task::{ChannelFirst, Task};

/// How many gateways are started at once, unless the builder says otherwise. Over SSH the handshakes at one server are gated
/// further.
const AT_ONCE: usize = 64;

/// What a group that is dropped leaves its gateways, level by level, until they are killed.
const DROPPED: Duration = Duration::from_secs(10);

/// Gateways that are started at once, reached by number and by id, and ended together.
///
/// A group keeps its gateways in the order in which they were asked for, those that have ended included, until they are
/// [removed](Self::remove). When it is dropped, it ends them all, whoever else holds a handle; so does the end of the
/// program, be it by a panic or a signal, since workers end with their coordinator.
///
/// ```no_run
/// use farcall::Group;
/// use std::time::Duration;
/// # async fn square(n: u64) -> u64 { n * n }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // After farcall::init(Tasks::new().add(square)) at the beginning of main.
/// let mut group = Group::open(["4*local", "ssh://web1?id=web"]).await?;
/// assert_eq!(group.call(square, (7,)).await?, [49; 5]);
/// println!("{:?}", group["web"].info().await?);
/// group.terminate(Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// ```
pub struct Group {
    gateways: Vec<Gateway>,
    /// The gateways here that lead through another: their ids and the others'.
    vias: Vec<(Arc<str>, Arc<str>)>,
    settings: Settings,
}

/// How a group starts its gateways: from [`Group::builder`].
///
/// ```no_run
/// # async fn example(ssh: farcall::ssh::SshOptions) -> Result<(), Box<dyn std::error::Error>> {
/// use farcall::{Group, Spec};
///
/// let mut group = Group::builder().default_spec(Spec::local().nice(10)).ssh(ssh).build();
/// group.add_default(4).await?;
/// group.add("ssh://web1").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct GroupBuilder {
    settings: Settings,
}

/// What holds for all starts of a group.
#[derive(Clone, Debug)]
struct Settings {
    default_spec: Spec,
    at_once: usize,
    program: Option<Program>,
    ssh: Option<SshOptions>,
    limits: Option<Config>,
}

impl Settings {
    fn builder(&self, spec: Spec) -> Builder {
        let mut builder = Gateway::builder(spec);
        if let Some(program) = &self.program {
            builder = builder.program(program.clone());
        }
        if let Some(ssh) = &self.ssh {
            builder = builder.ssh(ssh.clone());
        }
        if let Some(limits) = &self.limits {
            builder = builder.limits(limits.clone());
        }
        builder
    }
}

impl GroupBuilder {
    /// The spec of gateways for which none is given: `local`, unless this says otherwise. It must have no id.
    #[must_use]
    pub fn default_spec(mut self, spec: Spec) -> GroupBuilder {
        self.settings.default_spec = spec;
        self
    }

    /// How many gateways are started at once: 64, unless this says otherwise; at least one.
    #[must_use]
    pub fn at_once(mut self, count: usize) -> GroupBuilder {
        self.settings.at_once = count.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// As [`Builder::program`], for all gateways.
    #[must_use]
    pub fn program(mut self, program: Program) -> GroupBuilder {
        self.settings.program = Some(program);
        self
    }

    /// As [`Builder::ssh`], for all gateways.
    #[must_use]
    pub fn ssh(mut self, options: SshOptions) -> GroupBuilder {
        self.settings.ssh = Some(options);
        self
    }

    /// As [`Builder::limits`], for all gateways.
    #[must_use]
    pub fn limits(mut self, config: Config) -> GroupBuilder {
        self.settings.limits = Some(config);
        self
    }

    /// A group without gateways.
    pub fn build(self) -> Group {
        Group { gateways: Vec::new(), vias: Vec::new(), settings: self.settings }
    }

    /// As [`Group::open`].
    ///
    /// # Errors
    /// See [`PartialStart`].
    pub async fn open(self, specs: impl IntoSpecs) -> Result<Group, PartialStart> {
        let mut group = self.build();
        match group.add(specs).await {
            Ok(()) => Ok(group),
            Err(error) => Err(PartialStart { group, error }),
        }
    }
}

/// Which gateway of a group: by its number from 0, or by its id. Made from either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// The number.
    Index(usize),
    /// The id.
    Id(&'a str),
}

impl From<usize> for Which<'static> {
    fn from(index: usize) -> Which<'static> {
        Which::Index(index)
    }
}

impl<'a, T: AsRef<str> + ?Sized> From<&'a T> for Which<'a> {
    fn from(id: &'a T) -> Which<'a> {
        Which::Id(id.as_ref())
    }
}

impl fmt::Display for Which<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Index(index) => write!(f, "number {index}"),
            Which::Id(id) => f.write_str(id),
        }
    }
}

impl Which<'_> {
    /// The number among these ids.
    pub(crate) fn find<'a>(self, ids: impl ExactSizeIterator<Item = &'a str>) -> Option<usize> {
        match self {
            Which::Index(index) => (index < ids.len()).then_some(index),
            Which::Id(id) => ids.into_iter().position(|other| other == id),
        }
    }
}

impl Default for Group {
    fn default() -> Group {
        Group::new()
    }
}

impl Group {
    /// A group without gateways.
    pub fn new() -> Group {
        Group::builder().build()
    }

    /// Says how a group starts its gateways.
    pub fn builder() -> GroupBuilder {
        let settings = Settings {
            default_spec: Spec::local(),
            at_once: AT_ONCE,
            program: None,
            ssh: None,
            limits: None,
        };
        GroupBuilder { settings }
    }

    /// Starts gateways at once, and returns when each has started or failed.
    ///
    /// Ids are taken, and duplicates refused, before anything is started. If some do not start, those that did are in the error;
    /// with `?` they are ended:
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use farcall::Group;
    ///
    /// let group = match Group::open(["ssh://web1", "ssh://web2"]).await {
    ///     Ok(group) => group,
    ///     Err(partial) if !partial.group.is_empty() => {
    ///         partial.error.failures().iter().for_each(|failure| eprintln!("{failure}"));
    ///         partial.group
    ///     }
    ///     Err(partial) => return Err(partial.into()),
    /// };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Cancel safety: what a dropped `open` has started is ended.
    ///
    /// # Errors
    /// See [`PartialStart`].
    pub async fn open(specs: impl IntoSpecs) -> Result<Group, PartialStart> {
        Group::builder().open(specs).await
    }

    /// Starts more gateways at once. Those that started are in the group also when others failed.
    ///
    /// Cancel safety: what a dropped `add` has started is ended, and the group is as before.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn add(&mut self, specs: impl IntoSpecs) -> Result<(), StartError> {
        let plan = self.plan(specs)?;
        self.start(plan).await
    }

    /// As [`add`](Self::add), with so many of the default spec.
    ///
    /// Cancel safety: as of `add`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn add_default(&mut self, count: usize) -> Result<(), StartError> {
        self.add(vec![self.settings.default_spec.clone(); count]).await
    }

    /// The first half of [`add`](Self::add), for who wants to know the ids before anything is started: takes them, and checks
    /// all that can be checked.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut group = farcall::Group::new();
    /// let plan = group.plan("100*local")?;
    /// println!("starting {} gateways, {} first", plan.len(), plan.ids().next().expect("a hundred"));
    /// group.start(plan).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn plan(&self, specs: impl IntoSpecs) -> Result<Plan, StartError> {
        Plan::new(specs.into_specs()?, |id| self.get(id).is_some())
    }

    /// The second half of [`add`](Self::add).
    ///
    /// Cancel safety: as of `add`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(&mut self, plan: Plan) -> Result<(), StartError> {
        let started = start::start(plan, &self.settings, |id| self.get(id).cloned()).await?;
        let count = started.gateways.len();
        self.gateways.extend(started.gateways);
        self.vias.extend(started.vias.into_iter().filter(|(leaf, _)| {
            // Only of those that are there.
            self.gateways.iter().rev().take(count).any(|gateway| gateway.id() == &**leaf)
        }));
        match started.failures {
            failures if failures.is_empty() => Ok(()),
            failures => Err(StartError::Failed { failures, started: count }),
        }
    }

    /// How many gateways it has, those that have ended included.
    pub fn len(&self) -> usize {
        self.gateways.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }

    /// Its gateways, in the order in which they were asked for.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// Its gateways one by one, in the order in which they were asked for.
    pub fn iter(&self) -> std::slice::Iter<'_, Gateway> {
        self.gateways.iter()
    }

    /// A gateway by its number or its id.
    pub fn get<'a>(&self, which: impl Into<Which<'a>>) -> Option<&Gateway> {
        Some(&self.gateways[self.find(which.into())?])
    }

    fn find(&self, which: Which<'_>) -> Option<usize> {
        which.find(self.gateways.iter().map(Gateway::id))
    }

    /// Takes a gateway out of the group, which no longer ends it. Those behind it get the next lower number.
    pub fn remove<'a>(&mut self, which: impl Into<Which<'a>>) -> Option<Gateway> {
        let gateway = self.gateways.remove(self.find(which.into())?);
        let id = gateway.id();
        self.vias.retain(|(leaf, hub)| &**leaf != id && &**hub != id);
        Some(gateway)
    }

    /// Takes all gateways out of the group, which no longer ends them.
    pub fn take(&mut self) -> Vec<Gateway> {
        self.vias.clear();
        std::mem::take(&mut self.gateways)
    }

    /// Runs a task on each gateway at once, and returns the values in the gateways' order, when all have ended.
    ///
    /// Cancel safety: dropping it cancels the task everywhere; see [`Gateway::call`].
    ///
    /// # Errors
    /// The first that failed, with what came of all the others: see [`MultiError`].
    pub async fn call<F, M>(&self, task: F, args: F::Args) -> Result<Vec<F::Value>, MultiError<F::Value>>
    where
        F: Task<M>,
        F::Args: Clone,
    {
        self.call_with(task, |_| args.clone()).await
    }

    /// As [`call`](Self::call), with arguments for each gateway: ends of channels, say, which belong to one gateway.
    ///
    /// Cancel safety: as of `call`.
    ///
    /// # Errors
    /// As of [`call`](Self::call).
    pub async fn call_with<F: Task<M>, M>(
        &self,
        task: F,
        mut args: impl FnMut(&Gateway) -> F::Args,
    ) -> Result<Vec<F::Value>, MultiError<F::Value>> {
        let calls = self.iter().map(|gateway| gateway.call(task, args(gateway)));
        multi::values(self.ids(), calls.collect()).await
    }

    /// Starts a task on each gateway whose first argument is a channel, and holds the other ends: `args` are the other
    /// arguments.
    ///
    /// Where the task cannot be started, that is its end there: it fails nothing else.
    ///
    /// Cancel safety: dropping it cancels the tasks that were started.
    ///
    /// ```no_run
    /// # use farcall::{Channel, Event, Group};
    /// async fn count(mut lines: Channel<u64, String>) -> Result<u64, farcall::BoxError> {
    ///     let mut count = 0;
    ///     while let Some(line) = lines.recv().await? {
    ///         count += line.len() as u64;
    ///         lines.send(count).await?;
    ///     }
    ///     Ok(count)
    /// }
    ///
    /// # async fn example(group: Group) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tasks = group.open_task(count, ()).await;
    /// tasks.send_each("to all".to_owned()).await?;
    /// tasks.send_to(0, "to the first".to_owned()).await?;
    /// tasks.close_sending();
    /// while let Some(from) = tasks.recv().await {
    ///     match from.event {
    ///         Event::Message(count) => println!("{}: {count}", from.id),
    ///         Event::End(Err(error)) => eprintln!("{}: {error}", from.id),
    ///         _ => {}
    ///     }
    /// }
    /// println!("{:?}", tasks.values().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open_task<F, M>(
        &self,
        task: F,
        args: <F::Args as ChannelFirst>::Rest,
    ) -> MultiChannel<<F::Args as ChannelFirst>::Receives, <F::Args as ChannelFirst>::Sends, F::Value>
    where
        F: Task<M>,
        F::Args: ChannelFirst,
        <F::Args as ChannelFirst>::Rest: Clone,
    {
        self.open_task_with(task, |_| args.clone()).await
    }

    /// As [`open_task`](Self::open_task), with arguments for each gateway.
    ///
    /// Cancel safety: as of `open_task`.
    pub async fn open_task_with<F, M>(
        &self,
        task: F,
        args: impl FnMut(&Gateway) -> <F::Args as ChannelFirst>::Rest,
    ) -> MultiChannel<<F::Args as ChannelFirst>::Receives, <F::Args as ChannelFirst>::Sends, F::Value>
    where
        F: Task<M>,
        F::Args: ChannelFirst,
    {
        MultiChannel::open(self, task, args).await
    }

    fn ids(&self) -> Vec<Arc<str>> {
        self.gateways.iter().map(|gateway| Arc::clone(gateway.inner().id.text())).collect()
    }

    /// Ends all gateways within `limit`, leaves before the hubs that they lead through, and takes them out of the group.
    ///
    /// Each is told to end, as by [`Gateway::exit`]: tasks are dropped, what they started is killed, and nothing waits for tasks
    /// that compute. One that has not ended after three quarters of the time (with hubs, of its level's share) is killed. None
    /// that hangs holds up the others. A worker ends by itself within its grace (2 s), so a limit of four seconds or
    /// more sees it end in order.
    ///
    /// Returns how they ended, in their order.
    ///
    /// Cancel safety: a dropped `terminate` goes on.
    ///
    /// # Errors
    /// [`TerminateError`]: gateways that nobody saw end in time. All others have ended.
    pub async fn terminate(&mut self, limit: Duration) -> Result<Vec<Arc<GatewayEnd>>, TerminateError> {
        let Some(ending) = self.end(limit) else { return Ok(Vec::new()) };
        match ending.await {
            Ok(ends) if ends.overdue.is_empty() => Ok(ends.ended),
            Ok(ends) => Err(TerminateError { overdue: ends.overdue, ended: ends.ended }),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The driver ends with the program only.
                Err(_) => Ok(Vec::new()),
            },
        }
    }

    /// Has all gateways ended by the driver, whether or not anybody waits for it.
    fn end(&mut self, limit: Duration) -> Option<tokio::task::JoinHandle<end::Ends>> {
        let driver = self.gateways.first()?.inner().driver.clone();
        let heights = end::heights(self.gateways.iter().map(Gateway::id), &self.vias);
        // At once, and not when the driver comes to it: the program may be about to end.
        for (gateway, _) in self.gateways.iter().zip(&heights).filter(|(_, height)| **height == 0) {
            gateway.exit();
        }
        Some(driver.spawn(end::end(self.take(), heights, limit)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Ends by itself, within its limit.
        drop(self.end(DROPPED));
    }
}

impl<'a, W: Into<Which<'a>>> Index<W> for Group {
    type Output = Gateway;

    /// # Panics
    /// If there is none; see [`get`](Group::get).
    fn index(&self, which: W) -> &Gateway {
        let which = which.into();
        match self.find(which) {
            Some(index) => &self.gateways[index],
            None => panic!("the group has no gateway {which}"),
        }
    }
}

impl<'a> IntoIterator for &'a Group {
    type Item = &'a Gateway;
    type IntoIter = std::slice::Iter<'a, Gateway>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl AsRef<[Gateway]> for Group {
    fn as_ref(&self) -> &[Gateway] {
        &self.gateways
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.gateways).finish()
    }
}
