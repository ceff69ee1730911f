//! Panics of tasks: caught, with the place and the calls that led there. In a program whose panics end it: told by whatever
//! outlives it.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::task::Poll;

use crate::failure::{Panic, cut};

/// The most bytes of a backtrace.
const MAX_BACKTRACE: usize = 64 * 1024;

thread_local! {
    /// A task's code is running on this thread now.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// The panic that it is unwinding from.
    static SEEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Whether a panic ends the process, whoever would catch it.
pub(super) const END_THE_PROCESS: bool = cfg!(panic = "abort");

/// Has panics of tasks recorded instead of printed. All others go where they went before; where they end the process, they
/// and those of tasks go to `last_words`, if that is given.
pub(crate) fn install(last_words: Option<OwnedFd>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if END_THE_PROCESS {
            match &last_words {
                Some(place) => tell(place, info),
                None => before(info),
            }
        } else if WATCHED.get() {
            let panic = describe(info);
            // A panic while another unwinds ends the process; of two in a row the last counts.
            SEEN.with(|seen| *seen.borrow_mut() = Some(panic));
        } else {
            before(info);
        }
    }));
}

fn tell(place: &OwnedFd, info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let words = format!("panicked at {location}: {}\n", cut(text(info.payload())));
    // Nobody is left who could be told of a failure.
    let _ = rustix::io::write(place, words.as_bytes());
}

fn describe(info: &PanicHookInfo<'_>) -> Panic {
    // Captured even where the environment does not ask for it: a coordinator has nothing else to go by.
    let mut backtrace = Backtrace::force_capture().to_string();
    if backtrace.len() > MAX_BACKTRACE {
        let end = (0..=MAX_BACKTRACE).rev().find(|at| backtrace.is_char_boundary(*at)).unwrap_or(0);
        backtrace.truncate(end);
    }
    Panic {
        message: cut(text(info.payload())),
        location: info.location().map(ToString::to_string).unwrap_or_default(),
        backtrace,
    }
}

fn text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

/// Calls `code` of a task.
pub(crate) fn caught_here<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    let outer = WATCHED.replace(true);
    // What the code leaves behind when it panics belongs to the task, which is over then.
    let result = catch_unwind(AssertUnwindSafe(code));
    WATCHED.set(outer);
    result.map_err(|payload| {
        let seen = SEEN.with(|seen| seen.borrow_mut().take());
        // Without a record somebody replaced the hook.
        seen.unwrap_or_else(|| Panic {
            message: cut(text(&*payload)),
            location: String::new(),
            backtrace: String::new(),
        })
    })
}

/// Polls a task's future to its end, and drops it there.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match caught_here(|| future.as_mut().poll(cx)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_with_its_place_and_calls() {
        install(None);
        let panic = caught_here::<()>(|| panic!("the {}", "reason")).unwrap_err();
        assert_eq!(panic.message, "the reason");
        assert!(panic.location.contains("panics.rs:"), "{}", panic.location);
        assert!(panic.backtrace.contains("a_panic_comes_with_its_place_and_calls"), "{}", panic.backtrace);
        assert!(caught_here(|| 1).is_ok());
    }
}
