//! What differs between two builds of a program.

use std::fmt;

use crate::failure::plain;
use crate::tasks::Tasks;
use crate::wire::{BUILD, Hello};

/// What differs, beyond this many, is counted.
const MAX_NAMED: usize = 5;

/// What differs between this program and the worker's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The versions of this crate, here and there.
    pub farcall: Option<(String, String)>,
    /// Numbers of the sources of this crate, here and there: those of a worker that was not built with this program.
    pub build: Option<(u64, u64)>,
    /// The versions of the program, here and there.
    pub program: Option<(String, String)>,
    /// Tasks that the worker lacks.
    pub missing: Vec<String>,
    /// Tasks that only the worker has.
    pub unknown: Vec<String>,
    /// Tasks with other arguments or results: the name, the signature here and the one there.
    pub changed: Vec<(String, String, String)>,
}

impl Mismatch {
    /// `None` if both agree.
    pub(crate) fn between(tasks: &Tasks, theirs: &Hello) -> Option<Mismatch> {
        let differs =
            |ours: &str, theirs: &str| (ours != theirs).then(|| (ours.to_owned(), theirs.to_owned()));
        let mut mismatch = Mismatch {
            farcall: differs(env!("CARGO_PKG_VERSION"), &theirs.farcall),
            build: (theirs.build != BUILD).then_some((BUILD, theirs.build)),
            program: differs(tasks.program_version(), &theirs.program),
            ..Mismatch::default()
        };
        if tasks.digest() != theirs.digest {
            let ours = tasks.declared();
            for task in &ours {
                match theirs.tasks.iter().find(|other| other.name == task.name) {
                    None => mismatch.missing.push(task.name.clone()),
                    Some(other) if other.signature != task.signature => {
                        let changed = (task.name.clone(), task.signature.clone(), other.signature.clone());
                        mismatch.changed.push(changed);
                    }
                    Some(_) => {}
                }
            }
            let unknown = theirs.tasks.iter().filter(|task| !tasks.contains(&task.name));
            mismatch.unknown = unknown.map(|task| task.name.clone()).collect();
        }
        (tasks.digest() != theirs.digest || mismatch != Mismatch::default()).then_some(mismatch)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the worker is another build of this program")?;
        if let Some((ours, theirs)) = &self.farcall {
            write!(f, "; farcall {ours} here, {} there", plain(theirs))?;
        }
        if let Some((ours, theirs)) = &self.program {
            write!(f, "; program version {ours:?} here, {theirs:?} there")?;
        }
        if let Some((ours, theirs)) = &self.build {
            write!(f, "; built from other sources of farcall ({ours:016x} here, {theirs:016x} there)")?;
        }
        let mut list = |what: &str, count: usize, names: Vec<String>| match count {
            0 => Ok(()),
            _ if count > MAX_NAMED => {
                write!(f, "; {what}: {} and {} more", names.join(", "), count - MAX_NAMED)
            }
            _ => write!(f, "; {what}: {}", names.join(", ")),
        };
        // They come from there.
        let named =
            |names: &[String]| names.iter().take(MAX_NAMED).map(|name| plain(name).into_owned()).collect();
        list("tasks that it lacks", self.missing.len(), named(&self.missing))?;
        list("tasks that only it has", self.unknown.len(), named(&self.unknown))?;
        let changed = |(name, ours, theirs): &(String, String, String)| {
            format!("{name} ({ours} here, {} there)", plain(theirs))
        };
        let names = self.changed.iter().take(MAX_NAMED).map(changed).collect();
        list("tasks with other types", self.changed.len(), names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Declared;

    async fn kept(n: u64) -> u64 {
        n
    }

    async fn lost(n: u64) -> u64 {
        n
    }

    fn hello(tasks: &Tasks) -> Hello {
        Hello {
            farcall: env!("CARGO_PKG_VERSION").into(),
            program: tasks.program_version().into(),
            digest: tasks.digest(),
            tasks: tasks.declared(),
            build: BUILD,
            pid: 1,
        }
    }

    #[test]
    fn a_mismatch_names_what_differs() {
        let ours = Tasks::new().add(kept).add(lost).version("2");
        assert_eq!(Mismatch::between(&ours, &hello(&ours)), None);

        let stale = Hello { build: BUILD ^ 1, ..hello(&ours) };
        let text = Mismatch::between(&ours, &stale).unwrap().to_string();
        assert!(text.contains("built from other sources of farcall"), "{text}");

        let mut theirs = hello(&Tasks::new().add(kept).version("1"));
        theirs.tasks[0].signature = "(u32,) -> u64".into();
        theirs.tasks.push(Declared { name: "other".into(), signature: "() -> ()".into() });
        theirs.tasks.push(Declared { name: "bell\u{7}".into(), signature: "() -> ()".into() });
        let text = Mismatch::between(&ours, &theirs).unwrap().to_string();
        for part in [
            "\"2\" here, \"1\" there",
            "lacks: ",
            "::lost",
            "only it has: other, bell\u{fffd}",
            "(u64,) -> u64 here, (u32,) -> u64 there",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
