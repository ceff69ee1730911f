//! The ids of gateways: each belongs to one gateway at a time, automatic ones for ever.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The ids of this process.
static IDS: Mutex<Ids> = Mutex::new(Ids { next: 0, taken: None });

struct Ids {
    next: u64,
    /// Not const-constructible, so made by the first gateway.
    taken: Option<HashSet<Arc<str>>>,
}

/// An id that nobody else has. It is free again when this is dropped, unless it looks like an automatic one.
#[derive(Debug)]
pub(crate) struct Id(Arc<str>);

impl Id {
    /// The id that was asked for, `None` if it is taken; or the next automatic one.
    pub(crate) fn take(asked: Option<&str>) -> Option<Id> {
        let mut ids = IDS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = asked {
            let id: Arc<str> = asked.into();
            return ids.taken.get_or_insert_default().insert(Arc::clone(&id)).then(|| Id(id));
        }
        loop {
            let id: Arc<str> = format!("gw{}", ids.next).into();
            ids.next += 1;
            if ids.taken.get_or_insert_default().insert(Arc::clone(&id)) {
                return Some(Id(id));
            }
        }
    }

    pub(crate) fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        let mut ids = IDS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.0.strip_prefix("gw").and_then(|number| number.parse::<u64>().ok());
        // Behind the counter it cannot come again by itself, and need not be kept; before it, it must not.
        let automatic = number.is_some_and(|number| number >= ids.next);
        if !automatic && let Some(taken) = &mut ids.taken {
            taken.remove(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_had_by_one_at_a_time_and_automatic_ones_never_again() {
        let first = Id::take(None).unwrap();
        let number: u64 = first.text().strip_prefix("gw").unwrap().parse().unwrap();
        assert!(Id::take(Some(first.text())).is_none());
        let ahead = format!("gw{}", number + 1);
        drop(Id::take(Some(&ahead)).unwrap());
        drop(first);
        assert_eq!(&**Id::take(None).unwrap().text(), format!("gw{}", number + 2));
        let web = Id::take(Some("web")).unwrap();
        assert!(Id::take(Some("web")).is_none());
        drop(web);
        assert!(Id::take(Some("web")).is_some());
    }
}
