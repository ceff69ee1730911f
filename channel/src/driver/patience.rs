//! How long a loop looks again before it sleeps.

use std::task::Context;

/// Where much has just moved, more is about to: to be put to sleep and woken again for each batch takes longer than the
/// batch takes to come, so a loop first looks again a few times, after the other tasks have had their turns.
#[derive(Debug, Default)]
pub(super) struct Patience {
    moved: usize,
    looked: u32,
}

impl Patience {
    /// So many bytes make a batch; round trips of small messages sleep at once.
    const BATCH: usize = 32 * 1024;
    /// So often it looks, which takes some tens of microseconds.
    const LOOKS: u32 = 32;

    pub(super) fn moved(&mut self, bytes: usize) {
        if bytes > 0 {
            self.moved = self.moved.saturating_add(bytes);
            self.looked = 0;
        }
    }

    /// Whether to look again rather than to sleep: then the task is woken once all others have had their turns and the
    /// streams were asked.
    pub(super) fn looks_again(&mut self, cx: &mut Context<'_>) -> bool {
        if self.moved < Self::BATCH || self.looked == Self::LOOKS {
            *self = Patience::default();
            return false;
        }
        self.looked += 1;
        // Its first poll asks the runtime for another turn; it holds nothing that must live until then.
        std::pin::pin!(tokio::task::yield_now()).poll(cx).is_pending()
    }
}
