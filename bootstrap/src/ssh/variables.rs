//! The variables that a server is asked to set for commands: `SetEnv` and `SendEnv`.

use std::collections::BTreeMap;
use std::fmt;

use super::pattern;

/// A variable for the far side.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Variable {
    pub name: String,
    pub value: String,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be a secret.
        f.debug_tuple("Variable").field(&self.name).finish()
    }
}

/// What a configuration says of variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Variables {
    /// `SetEnv`, each name once.
    pub set: Vec<Variable>,
    /// `SendEnv`: patterns of names.
    pub send: Vec<String>,
}

impl Variables {
    /// Reads both settings. The error is a word that is none of a variable.
    pub(crate) fn read<'a>(
        set: impl IntoIterator<Item = &'a String>,
        send: impl IntoIterator<Item = &'a String>,
    ) -> Result<Self, String> {
        let mut this = Self::default();
        for word in set {
            match word.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    // As in OpenSSH the first wins.
                    if this.set.iter().all(|variable| variable.name != name) {
                        this.set.push(Variable { name: name.to_owned(), value: value.to_owned() });
                    }
                }
                // The word may be a secret that lacks its name.
                _ => return Err("a word that is not NAME=VALUE".to_owned()),
            }
        }
        for word in send {
            match word.strip_prefix('-') {
                // What was said before is taken back.
                Some(unwanted) => this.send.retain(|name| !pattern::matches(unwanted, name)),
                None => this.send.push(word.clone()),
            }
        }
        Ok(this)
    }

    /// What to ask for, where `environment` is what there is to send. The server has its own opinion (`AcceptEnv`).
    pub(crate) fn wanted(&self, environment: &BTreeMap<String, String>) -> Vec<Variable> {
        let is_set = |name: &str| self.set.iter().any(|variable| variable.name == name);
        let is_sent = |name: &str| self.send.iter().any(|pattern| pattern::matches(pattern, name));
        let sent = environment.iter().filter(|(name, _)| is_sent(name) && !is_set(name));
        let sent = sent.map(|(name, value)| Variable { name: name.clone(), value: value.clone() });
        sent.chain(self.set.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_set_wins_over_what_is_sent() {
        let environment = ["LANG", "LC_ALL", "LC_TIME", "TOKEN", "X"]
            .map(|name| (name.to_owned(), format!("own {name}")))
            .into();
        let wanted = |set: &str, send: &str| {
            let variables = Variables::read(&words(set), &words(send)).expect("understood");
            let wanted = variables.wanted(&environment);
            assert!(!format!("{variables:?}{wanted:?}").contains("own"), "values are not shown");
            wanted.into_iter().map(|v| format!("{}={}", v.name, v.value)).collect::<Vec<_>>()
        };
        assert_eq!(wanted("", ""), [""; 0]);
        assert_eq!(wanted("", "LANG LC_*"), ["LANG=own LANG", "LC_ALL=own LC_ALL", "LC_TIME=own LC_TIME"]);
        assert_eq!(wanted("A=1 LANG=b=c A=2", "LANG X"), ["X=own X", "A=1", "LANG=b=c"]);
        assert_eq!(wanted("", "LANG LC_ALL LC_TIME -LC_*"), ["LANG=own LANG"]);
        assert_eq!(wanted("", "-LANG LANG"), ["LANG=own LANG"]);
        let error = Variables::read(&words("hunter2"), &[]).expect_err("no name");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
