//! What the program is told by its surroundings: variables and terminals, read once in `main`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Everything that is read from the environment, typed. Nothing else in the program looks at it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// A groups file named by `FARCALL_GROUPS`.
    pub(crate) groups: Option<PathBuf>,
    /// Where a groups file usually is, in order.
    pub(crate) usual_groups: Vec<PathBuf>,
    /// Where builds of the lean worker for other platforms may lie, in order.
    pub(crate) workers: Vec<PathBuf>,
    /// `NO_COLOR` is set and not empty.
    pub(crate) no_color: bool,
    /// All variables that are text, for SSH configurations that refer to them; the agent's socket is among them.
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) stdin_is_terminal: bool,
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn read() -> Self {
        let mut environment = Self::from_variables(|name| std::env::var_os(name));
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        environment.variables = texts.collect();
        environment.stdin_is_terminal = std::io::stdin().is_terminal();
        environment.stdout_is_terminal = std::io::stdout().is_terminal();
        environment.stderr_is_terminal = std::io::stderr().is_terminal();
        environment
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let home = |folder| set("HOME").map(|home| PathBuf::from(home).join(folder));
        let xdg = |name, usual| {
            set(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute()) // a relative one is to be ignored, says the XDG specification
                .or_else(|| home(usual))
        };
        let config = xdg("XDG_CONFIG_HOME", ".config");
        let workers = xdg("XDG_DATA_HOME", ".local/share")
            .map(|data| data.join("farcall/workers"))
            .into_iter()
            .chain(["/usr/lib/farcall/workers".into()]);
        let usual_groups = config
            .map(|config| config.join("farcall/groups"))
            .into_iter()
            .chain(["/etc/farcall/groups".into()]);
        Environment {
            groups: set("FARCALL_GROUPS").map(PathBuf::from),
            usual_groups: usual_groups.collect(),
            workers: workers.collect(),
            no_color: set("NO_COLOR").is_some(),
            ..Environment::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Environment::from_variables(find)
    }

    #[test]
    fn groups_files_follow_the_xdg_rules() {
        let paths = |variables: &[(&str, &str)]| with(variables).usual_groups;
        let expect = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(paths(&[]), expect(&["/etc/farcall/groups"]));
        let home = ("HOME", "/home/u");
        let usual = expect(&["/home/u/.config/farcall/groups", "/etc/farcall/groups"]);
        assert_eq!(paths(&[home]), usual);
        assert_eq!(paths(&[home, ("XDG_CONFIG_HOME", "relative")]), usual);
        assert_eq!(paths(&[home, ("XDG_CONFIG_HOME", "")]), usual);
        let set = expect(&["/c/farcall/groups", "/etc/farcall/groups"]);
        assert_eq!(paths(&[home, ("XDG_CONFIG_HOME", "/c")]), set);
        assert_eq!(with(&[("FARCALL_GROUPS", "/g")]).groups, Some(PathBuf::from("/g")));
    }

    #[test]
    fn an_empty_no_color_does_not_count() {
        assert!(!with(&[]).no_color);
        assert!(!with(&[("NO_COLOR", "")]).no_color);
        assert!(with(&[("NO_COLOR", "0")]).no_color);
    }
}
