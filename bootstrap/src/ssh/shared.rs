//! Connections that several users share, each made once for all who wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

/// What can be shared.
pub(crate) trait Shareable: Send + Sync + 'static {
    /// Whether it serves nobody any more.
    fn is_over(&self) -> bool;

    /// How many users it may have at once.
    fn capacity(&self) -> usize;
}

/// Connections by what they lead to. Each lives as long as it has users.
pub(crate) struct Pool<K, C, E> {
    places: Mutex<HashMap<K, Place<C, E>>>,
}

struct Place<C, E> {
    connections: Vec<Weak<C>>,
    attempt: Weak<Attempt<C, E>>,
}

type Outcome<C, E> = Option<Result<Arc<C>, Arc<E>>>;

/// A connection that is being made. It is given up when the last who wait for it have gone.
struct Attempt<C, E> {
    outcome: watch::Receiver<Outcome<C, E>>,
    task: AbortHandle,
}

impl<C, E> Drop for Attempt<C, E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection was not made.
#[derive(Debug)]
pub(crate) enum NotShared<E> {
    /// The one attempt that all wait for failed.
    Failed(Arc<E>),
    /// It ended without a word: the runtime is being shut down.
    Abandoned,
}

enum Turn<C, E> {
    Take(Arc<C>),
    Wait(Arc<Attempt<C, E>>),
}

impl<K, C, E> Default for Pool<K, C, E> {
    fn default() -> Self {
        Self { places: Mutex::default() }
    }
}

impl<K, C, E> Pool<K, C, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    C: Shareable,
    E: Send + Sync + 'static,
{
    /// A connection with room for one more user; where there is none it is made by `connect`, once for all who ask
    /// meanwhile. If it cannot be made, those have failed too; who asks later tries anew.
    ///
    /// Cancel safe: while others wait, an attempt goes on without the one who began it.
    pub(crate) async fn get<F>(
        self: &Arc<Self>,
        key: K,
        connect: impl Fn() -> F,
    ) -> Result<Arc<C>, NotShared<E>>
    where
        F: Future<Output = Result<C, Arc<E>>> + Send + 'static,
    {
        // What was waited for holds its new connection, and is let go when there is a place on that or on another.
        let mut waited_for = None;
        loop {
            let attempt = match self.turn(&key, &connect) {
                Turn::Take(connection) => return Ok(connection),
                Turn::Wait(attempt) => waited_for.insert(attempt),
            };
            let mut outcome = attempt.outcome.clone();
            match outcome.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Err(e))) => return Err(NotShared::Failed(Arc::clone(e))),
                Ok(_) => {}
                Err(_) => return Err(NotShared::Abandoned),
            }
        }
    }

    fn turn<F>(self: &Arc<Self>, key: &K, connect: &impl Fn() -> F) -> Turn<C, E>
    where
        F: Future<Output = Result<C, Arc<E>>> + Send + 'static,
    {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // What nobody uses or waits for is forgotten, so the map stays as small as what is going on.
        if places.len() >= 64 {
            places.retain(|_, place| place.attempt.strong_count() > 0 || place.is_used());
        }
        let place = places.entry(key.clone()).or_insert_with(Place::new);
        place.connections.retain(|connection| connection.strong_count() > 0);
        for connection in &place.connections {
            let users = connection.strong_count();
            if let Some(connection) = connection.upgrade()
                && !connection.is_over()
                && users < connection.capacity()
            {
                return Turn::Take(connection);
            }
        }
        if let Some(attempt) = place.attempt.upgrade()
            && attempt.outcome.borrow().is_none()
        {
            return Turn::Wait(attempt);
        }
        let (tell, outcome) = watch::channel(None);
        let (pool, key, making) = (Arc::clone(self), key.clone(), connect());
        // Ends with the attempt to connect, or is aborted with the last who wait for it.
        let task = tokio::spawn(
            async move {
                let made = making.await.map(Arc::new);
                if let Ok(connection) = &made {
                    pool.add(key, connection);
                }
                tell.send_replace(Some(made));
            }
            .in_current_span(),
        );
        let attempt = Arc::new(Attempt { outcome, task: task.abort_handle() });
        place.attempt = Arc::downgrade(&attempt);
        Turn::Wait(attempt)
    }

    fn add(&self, key: K, connection: &Arc<C>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(key).or_insert_with(Place::new).connections.push(Arc::downgrade(connection));
    }
}

impl<C, E> Place<C, E> {
    fn new() -> Self {
        Self { connections: Vec::new(), attempt: Weak::new() }
    }

    fn is_used(&self) -> bool {
        self.connections.iter().any(|connection| connection.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Knows which it is.
    struct Double {
        number: usize,
        over: AtomicBool,
    }

    impl Shareable for Double {
        fn is_over(&self) -> bool {
            self.over.load(Ordering::SeqCst)
        }

        fn capacity(&self) -> usize {
            4
        }
    }

    /// Makes a connection for each permit that it is given.
    #[derive(Clone)]
    struct Maker {
        pool: Arc<Pool<&'static str, Double, usize>>,
        begun: Arc<AtomicUsize>,
        permits: Arc<Semaphore>,
        fail: Arc<AtomicBool>,
    }

    impl Maker {
        fn new(permits: usize) -> Self {
            Self {
                pool: Arc::default(),
                begun: Arc::default(),
                permits: Arc::new(Semaphore::new(permits)),
                fail: Arc::default(),
            }
        }

        async fn get(self, key: &'static str) -> Result<Arc<Double>, usize> {
            let make = || {
                let (begun, permits, fail) =
                    (Arc::clone(&self.begun), Arc::clone(&self.permits), Arc::clone(&self.fail));
                async move {
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    permits.acquire().await.expect("never closed").forget();
                    if fail.load(Ordering::SeqCst) {
                        return Err(Arc::new(number));
                    }
                    Ok(Double { number, over: AtomicBool::new(false) })
                }
            };
            match self.pool.get(key, make).await {
                Ok(connection) => Ok(connection),
                Err(NotShared::Failed(number)) => Err(*number),
                Err(NotShared::Abandoned) => unreachable!("the runtime lives"),
            }
        }

        fn begin(&self, key: &'static str) -> tokio::task::JoinHandle<Result<Arc<Double>, usize>> {
            tokio::spawn(self.clone().get(key))
        }
    }

    /// Lets all that can go on do so; the test's runtime has one thread.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_who_ask_together_share_up_to_the_capacity() {
        let maker = Maker::new(100);
        let tasks: Vec<_> = (0..12).map(|_| maker.begin("a")).collect();
        let mut users = HashMap::<usize, usize>::new();
        let mut all = Vec::new();
        for task in tasks {
            let connection = task.await.expect("no panic").expect("made");
            *users.entry(connection.number).or_default() += 1;
            all.push(connection);
        }
        assert!(users.values().all(|&users| users <= 4), "{users:?}");
        assert!(maker.begun.load(Ordering::SeqCst) <= 4, "{users:?}");
        // A place that was left is taken before another connection is made.
        let begun = maker.begun.load(Ordering::SeqCst);
        all.pop();
        all.push(maker.clone().get("a").await.expect("there"));
        assert_eq!(maker.begun.load(Ordering::SeqCst), begun);
        // Another key is another matter.
        maker.clone().get("b").await.expect("made");
        assert_eq!(maker.begun.load(Ordering::SeqCst), begun + 1);
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_last_user_and_one_that_is_over_serves_nobody() {
        let maker = Maker::new(100);
        let (first, second) = (maker.clone().get("a").await, maker.clone().get("a").await);
        let (first, second) = (first.expect("made"), second.expect("there"));
        assert!(Arc::ptr_eq(&first, &second));
        first.over.store(true, Ordering::SeqCst);
        assert_eq!(maker.clone().get("a").await.expect("made").number, 1);
        let ended = Arc::downgrade(&second);
        drop((first, second));
        assert_eq!(ended.strong_count(), 0);
        assert_eq!(maker.clone().get("a").await.expect("made").number, 2);
    }

    #[tokio::test]
    async fn a_failure_is_that_of_all_who_waited() {
        let maker = Maker::new(0);
        maker.fail.store(true, Ordering::SeqCst);
        let tasks: Vec<_> = (0..3).map(|_| maker.begin("a")).collect();
        settle().await;
        maker.permits.add_permits(1);
        for task in tasks {
            assert_eq!(task.await.expect("no panic").err(), Some(0));
        }
        maker.fail.store(false, Ordering::SeqCst);
        maker.permits.add_permits(1);
        assert_eq!(maker.get("a").await.expect("made").number, 1);
    }

    #[tokio::test]
    async fn an_attempt_goes_on_for_those_who_still_wait_and_ends_with_the_last() {
        let maker = Maker::new(0);
        let (first, second) = (maker.begin("a"), maker.begin("a"));
        settle().await;
        first.abort();
        settle().await;
        maker.permits.add_permits(1);
        assert_eq!(second.await.expect("no panic").expect("made").number, 0);

        let (first, second) = (maker.begin("b"), maker.begin("b"));
        settle().await;
        first.abort();
        second.abort();
        settle().await;
        maker.permits.add_permits(1);
        // The one that was given up has not taken the permit.
        assert_eq!(maker.get("b").await.expect("made").number, 2);
    }

    #[tokio::test]
    async fn what_nobody_uses_is_forgotten() {
        let maker = Maker::new(1000);
        let names: Vec<&'static str> = (0..200).map(|n| &*n.to_string().leak()).collect();
        for name in names {
            maker.clone().get(name).await.expect("made");
        }
        assert!(maker.pool.places.lock().expect("not poisoned").len() <= 64);
    }
}
