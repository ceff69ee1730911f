//! The names under which hosts are shown: those of specifications without the values of their variables.
//!
//! A value may be a secret, and names go to terminals, files, logs, and the lists of processes on the hosts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Host;

/// What stands for a value.
const HIDDEN: char = '…';

/// The hosts as they are shown, in the same order, each under a name of its own: hosts that only their values tell apart
/// are numbered, `ssh://h?env.TOKEN=…#1`.
pub(crate) fn labels(hosts: &[Host]) -> Arc<[Host]> {
    let plain: Vec<Option<String>> = hosts.iter().map(|host| without_values(host.spec())).collect();
    let copy = |host: &Host| host.name()[host.spec().len()..].to_owned();
    let first: Vec<String> = hosts
        .iter()
        .zip(&plain)
        .map(|(host, plain)| match plain {
            Some(plain) => plain.clone() + &copy(host),
            None => host.name().to_owned(),
        })
        .collect();
    let mut count: HashMap<&str, usize> = HashMap::new();
    for name in &first {
        *count.entry(name).or_default() += 1;
    }
    let mut taken: HashSet<String> =
        count.iter().filter(|(_, count)| **count == 1).map(|(name, _)| (*name).to_owned()).collect();
    let mut next: HashMap<&str, usize> = HashMap::new();
    let labels = hosts.iter().zip(&plain).zip(&first).map(|((host, plain), first)| match plain {
        None => host.clone(),
        Some(_) if count[first.as_str()] == 1 => Host::new(first.as_str()),
        Some(plain) => {
            let number = next.entry(plain.as_str()).or_default();
            loop {
                *number += 1;
                let label = format!("{plain}#{number}");
                if taken.insert(label.clone()) {
                    return Host::new(label);
                }
            }
        }
    });
    labels.collect()
}

/// The specification with values hidden, if there are any.
fn without_values(spec: &str) -> Option<String> {
    let (place, settings) = spec.split_once('?')?;
    // A key may be escaped too, and then be any.
    let is_variable = |key: &str| key.starts_with("env.") || key.contains('%');
    let hidden = |setting: &str| match setting.split_once('=') {
        Some((key, _)) if is_variable(key) => format!("{key}={HIDDEN}"),
        _ => setting.to_owned(),
    };
    let shown: Vec<String> = settings.split('&').map(hidden).collect();
    let shown = format!("{place}?{}", shown.join("&"));
    (shown != spec).then_some(shown)
}

/// A text with specifications in it, in which each character of a value is replaced, so that places in it stay the same.
pub(super) fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let (mut key, mut in_settings, mut in_value) = (String::new(), false, false);
    for c in text.chars() {
        match c {
            ',' => in_settings = false,
            c if c.is_whitespace() => in_settings = false,
            '?' | '&' if !in_settings || c == '&' => {
                in_settings = in_settings || c == '?';
                key.clear();
                in_value = false;
            }
            '=' if in_settings && !in_value => {
                in_value = key.starts_with("env.") || key.contains('%');
                masked.push(c);
                continue;
            }
            c => key.push(c),
        }
        masked.push(if in_settings && in_value { HIDDEN } else { c });
        in_value &= in_settings;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::error::Source;
    use crate::hosts::{evaluate, groups::Groups};

    fn shown(set: &str) -> Vec<String> {
        let hosts = evaluate(set, Source::Argument, &Groups::default()).unwrap();
        let hosts: Vec<Host> = hosts.iter().cloned().collect();
        labels(&hosts).iter().map(|host| host.name().to_owned()).collect()
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        assert_eq!(shown("web1,2*local"), ["local#1", "local#2", "web1"]);
        assert_eq!(
            shown("ssh://h?chdir=/a&env.TOKEN=s3cret=&nice=5"),
            ["ssh://h?chdir=/a&env.TOKEN=…&nice=5"]
        );
        assert_eq!(shown("ssh://h?%65nv.TOKEN=s3cret"), ["ssh://h?%65nv.TOKEN=…"], "an escaped key");
        assert_eq!(shown("2*local://?env.A=x"), ["local://?env.A=…#1", "local://?env.A=…#2"]);
    }

    #[test]
    fn hosts_that_only_values_tell_apart_are_numbered() {
        assert_eq!(
            shown("ssh://h?env.A=x,ssh://h?env.A=y,ssh://i?env.A=x"),
            ["ssh://h?env.A=…#1", "ssh://h?env.A=…#2", "ssh://i?env.A=…"]
        );
        assert_eq!(
            shown("2*ssh://h?env.A=x,2*ssh://h?env.A=y"),
            ["ssh://h?env.A=…#1", "ssh://h?env.A=…#2", "ssh://h?env.A=…#3", "ssh://h?env.A=…#4"]
        );
        assert_eq!(
            shown("ssh://h?env.A=x,ssh://h?env.A=y,ssh://h?env.A=z#1"),
            ["ssh://h?env.A=…#2", "ssh://h?env.A=…#3", "ssh://h?env.A=…#1"],
            "a number that somebody chose is another's"
        );
    }

    #[test]
    fn masks_cover_values_and_nothing_else() {
        let cases = [
            ("web[1-3],a", "web[1-3],a"),
            ("ssh://h?env.A=x=y&nice=5,b=c", "ssh://h?env.A=………&nice=5,b=c"),
            ("ssh://h?nice=5&env.A=xé d&e", "ssh://h?nice=5&env.A=…… d&e"),
            ("a?b ssh://h?%65nv.A=xy&c=d", "a?b ssh://h?%65nv.A=……&c=d"),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(text), expected);
        }
    }
}
