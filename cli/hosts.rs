//! Host sets: what `-w`, `-x`, groups files and host files mean.
//!
//! A set is written as names, ranges and groups joined by operators:
//!
//! | text | means |
//! |---|---|
//! | `web[01-20,30]` | ranges, padding kept; `[0-8/2]` steps; several brackets multiply |
//! | `@db` | the hosts of a group; `@rack[1-3]` several groups; `@*` every group |
//! | `local`, `4*local` | this machine, once or as four separate workers `local#1` … `local#4` |
//! | `ssh://u@web[1-3]:22?chdir=/srv` | a full specification; it ends at a comma or white space, so `&` may be part of it |
//! | `a,b` `a b` | union |
//! | `a!b` `a&b` `a^b` | difference, intersection, symmetric difference |
//!
//! All operators bind equally and are applied from left to right, as ClusterShell does; parentheses change that.
//!
//! The crate `nodeset` reads the same notation, but it has no bound on the size of a set, its errors do not say where
//! in the text they are, it cannot carry full specifications or copies, and it brings an argument parser, a logger and
//! two configuration formats along. So this is our own.

pub(crate) mod error;
mod expression;
mod fold;
pub(crate) mod groups;
mod label;
mod natural;
mod pattern;
pub(crate) mod select;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub(crate) use expression::evaluate;
pub(crate) use fold::fold;
pub(crate) use label::labels;

/// The most hosts that one set may hold, also while it is being computed.
pub(crate) const MAX_HOSTS: usize = 100_000;

/// The longest name or specification of one host, in bytes.
pub(crate) const MAX_NAME: usize = 1024;

/// One place to run at: a host name, `local`, or a full specification, with its copy number where there are several.
///
/// Two hosts are the same when their names are the same text; nothing is resolved here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host(Arc<str>);

impl Host {
    /// A host of that name. The caller has checked the name.
    fn new(name: impl Into<Arc<str>>) -> Self {
        Host(name.into())
    }

    /// The name that people see, unique in its set: `web03`, `local#2`, `ssh://u@h:22`.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Where to start a worker: the name without the copy number.
    pub(crate) fn spec(&self) -> &str {
        match self.0.rsplit_once('#') {
            Some((spec, copy)) if !copy.is_empty() && copy.bytes().all(|b| b.is_ascii_digit()) => spec,
            _ => &self.0,
        }
    }
}

impl Ord for Host {
    fn cmp(&self, other: &Self) -> Ordering {
        natural::compare(&self.0, &other.0)
    }
}

impl PartialOrd for Host {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hosts without duplicates, in natural order (`web9` before `web10`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostSet(BTreeSet<Host>);

impl HostSet {
    /// How many hosts there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The hosts in natural order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Host> {
        self.0.iter()
    }

    /// Takes every host of `other` in, without a look at the limit.
    pub(crate) fn union(&mut self, other: HostSet) {
        self.0.extend(other.0);
    }

    /// Takes every host of `other` out.
    pub(crate) fn difference(&mut self, other: &HostSet) {
        self.0.retain(|host| !other.0.contains(host));
    }

    /// Keeps the hosts that are in both.
    pub(crate) fn intersection(&mut self, other: &HostSet) {
        self.0.retain(|host| other.0.contains(host));
    }

    /// Keeps the hosts that are in exactly one of the two.
    pub(crate) fn symmetric_difference(&mut self, other: HostSet) {
        for host in other.0 {
            if !self.0.remove(&host) {
                self.0.insert(host);
            }
        }
    }
}

impl FromIterator<Host> for HostSet {
    fn from_iter<I: IntoIterator<Item = Host>>(hosts: I) -> Self {
        HostSet(hosts.into_iter().collect())
    }
}
