//! The last lines of a run: who failed how, and how many are well.

use std::collections::BTreeMap;

use crate::hosts::{Host, fold};
use crate::outcome::Outcome;
use crate::text;

/// What was the same for several hosts: their label and the reason.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Class<'a> {
    rank: u8,
    label: String,
    message: &'a str,
    evidence: &'a str,
    hint: Option<&'a str>,
}

/// A line for each class of failure with its hosts folded, what is known about it below, and a last line that counts.
///
/// When all is well there is only the last line, and with `quiet` nothing.
pub(crate) fn lines(hosts: &[Host], outcomes: &[Outcome], quiet: bool) -> Vec<String> {
    let mut classes: BTreeMap<Class<'_>, Vec<&Host>> = BTreeMap::new();
    let mut tally: BTreeMap<(bool, u8, &'static str), usize> = BTreeMap::new();
    for (host, outcome) in hosts.iter().zip(outcomes) {
        let (message, evidence, hint) = match outcome {
            Outcome::Failed(failure) => (&*failure.message, &*failure.evidence, failure.hint.as_deref()),
            _ => ("", "", None),
        };
        if !outcome.is_ok() {
            let class = Class { rank: outcome.rank(), label: outcome.label(), message, evidence, hint };
            classes.entry(class).or_default().push(host);
        }
        let word = outcome.tally();
        // One word may stand for several ranks, as `unreachable` does: they count together.
        let rank = tally.keys().find(|key| key.2 == word).map_or(outcome.rank(), |key| key.1);
        *tally.entry((!outcome.is_ok(), rank, word)).or_default() += 1;
    }
    if quiet && classes.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for (class, hosts) in classes {
        let mut line = format!("{} ({}): {}", class.label, hosts.len(), fold(hosts.iter().copied()));
        if !class.message.is_empty() {
            line.push_str(": ");
            line.push_str(&text::one_line(class.message));
        }
        lines.push(line);
        lines.extend(text::lines(class.evidence).map(|line| format!("  | {line}")));
        lines.extend(text::lines(class.hint.unwrap_or_default()).map(|line| format!("  {line}")));
    }
    let counts: Vec<String> = tally.iter().map(|((_, _, word), count)| format!("{count} {word}")).collect();
    lines.push(counts.join(", "));
    lines
}
