//! What a task knows of the worker that it runs in.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use farcall_channel::{Cbor, Channel, Codec, Connection, Receiver, Sender};

/// A task's view of its worker: the optional first argument. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    pub(crate) gateway: Arc<str>,
    pub(crate) connection: Connection,
    pub(crate) states: Arc<States>,
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Context {
    /// The id of the gateway, as the coordinator calls it.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// A value that belongs to the worker process: built by the first task that asks for a `T`, shared by all others. If
    /// building panics, the next that asks builds it.
    ///
    /// ```
    /// # use farcall::Context;
    /// # struct Model;
    /// # impl Model { fn load() -> Model { Model } fn score(&self, _: &str) -> f64 { 0.0 } }
    /// fn score(cx: Context, text: String) -> f64 {
    ///     let model = cx.state(Model::load);
    ///     model.score(&text)
    /// }
    /// ```
    pub fn state<T: Send + Sync + 'static>(&self, build: impl FnOnce() -> T) -> Arc<T> {
        self.states.get(build)
    }

    /// Whether whoever called the task has dropped the call, or the worker is ending. An `async` task need not ask: it is
    /// dropped where it waits. One that blocks or computes should ask from time to time, and return.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed) || self.states.ending.load(Relaxed)
    }

    /// Two ends of a new channel. One may go to the coordinator, in the task's value or through another channel.
    pub fn pair<T>(&self) -> (Sender<T>, Receiver<T>)
    where
        Cbor: Codec<T>,
    {
        self.connection.pair()
    }

    /// As [`pair`](Self::pair), with the codec `C`.
    pub fn pair_with<T, C: Codec<T>>(&self) -> (Sender<T, C>, Receiver<T, C>) {
        self.connection.pair_with()
    }

    /// Two ends of a new channel of both directions.
    pub fn channel<S, R>(&self) -> (Channel<S, R>, Channel<R, S>)
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.connection.channel_pair()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

/// What the tasks of a worker share: the values of [`Context::state`], one of each type.
#[derive(Default)]
pub(crate) struct States {
    built: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// The worker is ending.
    ending: AtomicBool,
}

impl States {
    /// Tells all tasks that the worker is ending.
    pub(crate) fn end(&self) {
        self.ending.store(true, Relaxed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Drops what no task holds any more.
    pub(crate) fn clear(&self) {
        let built = std::mem::take(&mut *self.built.lock().unwrap_or_else(PoisonError::into_inner));
        // Not under the lock: that runs their code.
        drop(built);
    }

    fn get<T: Send + Sync + 'static>(&self, build: impl FnOnce() -> T) -> Arc<T> {
        let cell = {
            let mut states = self.built.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || -> Arc<dyn Any + Send + Sync> { Arc::new(OnceLock::<Arc<T>>::new()) };
            states.entry(TypeId::of::<T>()).or_insert_with(new).clone()
        };
        let cell = cell.downcast::<OnceLock<Arc<T>>>().expect("kept under the type's own key");
        // Not under the lock: building may take long, and may ask for another state.
        cell.get_or_init(|| Arc::new(build())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_built_once_and_again_after_a_panic() {
        let states = States::default();
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| states.get::<u32>(|| panic!("no"))));
        assert!(panicked.is_err());
        assert_eq!(*states.get(|| 1_u32), 1);
        assert_eq!(*states.get(|| 2_u32), 1);
        assert_eq!(*states.get(|| 3_u64), 3);
    }
}
