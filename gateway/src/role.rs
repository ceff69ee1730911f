//! The worker's arguments: that it is one, whose, and how it lives.

use std::ffi::OsString;
use std::time::Duration;

/// The first argument of a program that is to be a worker.
pub(crate) const WORD: &str = "--farcall-worker";

/// The first argument of a program that is to be a fork server. Its second says, for people, whose.
pub(crate) const FORK_SERVER_WORD: &str = "--farcall-fork-server";

/// What a worker is told before it says anything. People see it in a list of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// The gateway's id.
    pub(crate) id: String,
    /// Who started it: host and process.
    pub(crate) from: String,
    /// Whether a socket for calls comes with the standard error.
    pub(crate) calls: bool,
    pub(crate) life: Life,
}

/// The longest of all times: whoever asks for more means for ever, and no clock can be set as far as a duration may be long.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long things may take, and how much may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    pub(crate) max_tasks: Option<usize>,
}

impl Default for Life {
    fn default() -> Life {
        Life {
            heartbeat: Duration::from_secs(5),
            lease: Duration::from_secs(20),
            grace: Duration::from_secs(2),
            max_tasks: None,
        }
    }
}

/// The arguments are not those of a worker of this version.
#[derive(Debug, thiserror::Error)]
#[error("{argument:?} is no argument of a farcall worker; only a farcall coordinator starts one")]
pub(crate) struct RoleError {
    argument: OsString,
}

impl Role {
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let mut words = vec![
            WORD.to_owned(),
            format!("id={}", self.id),
            format!("from={}", self.from),
            format!("heartbeat={}", self.life.heartbeat.as_millis()),
            format!("lease={}", self.life.lease.as_millis()),
            format!("grace={}", self.life.grace.as_millis()),
        ];
        words.extend(self.calls.then(|| "calls=1".to_owned()));
        words.extend(self.life.max_tasks.map(|max| format!("max-tasks={max}")));
        words.into_iter().map(Into::into).collect()
    }

    /// Reads what follows [`WORD`].
    pub(crate) fn from_arguments(words: impl Iterator<Item = OsString>) -> Result<Role, RoleError> {
        let mut role = Role { id: String::new(), from: String::new(), calls: false, life: Life::default() };
        for word in words {
            role.take(&word).ok_or(RoleError { argument: word })?;
        }
        Ok(role)
    }

    fn take(&mut self, word: &OsString) -> Option<()> {
        let (key, value) = word.to_str()?.split_once('=')?;
        let millis = || Some(Duration::from_millis(value.parse().ok()?));
        match key {
            "id" => self.id = value.into(),
            "calls" => self.calls = value == "1",
            "from" => self.from = value.into(),
            "heartbeat" => self.life.heartbeat = millis()?,
            "lease" => self.life.lease = millis()?,
            "grace" => self.life.grace = millis()?,
            "max-tasks" => self.life.max_tasks = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_they_are_written() {
        let life = Life { max_tasks: Some(3), lease: Duration::from_millis(1500), ..Life::default() };
        let role = Role { id: "web 1=a".into(), from: "here:7".into(), calls: true, life };
        let words = role.to_arguments();
        assert_eq!(words[0], WORD);
        assert_eq!(Role::from_arguments(words.into_iter().skip(1)).unwrap(), role);
        for wrong in ["lease=soon", "colour=red", "id"] {
            let error = Role::from_arguments([OsString::from(wrong)].into_iter()).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
