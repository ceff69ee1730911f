//! Reads a host set with its operators, from left to right.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::error::{Place, Problem, SetError, Source};
use super::groups::Groups;
use super::pattern::{self, is_full_spec};
use super::{Host, HostSet, MAX_HOSTS};

/// How deep parentheses may nest, and groups within groups: far beyond use, and well within any stack.
const MAX_DEPTH: usize = 32;

/// The hosts that `text` stands for, with the groups of `groups`.
///
/// # Errors
/// What is wrong, where in the text (or in which line of the groups file) it is, and what to write instead. A set, or
/// a step on the way to it, of more than [`MAX_HOSTS`] hosts is an error too, found before the memory is spent.
pub(crate) fn evaluate(text: &str, source: Source, groups: &Groups) -> Result<HostSet, SetError> {
    Evaluator { groups, open: Vec::new(), known: HashMap::new() }.text(text, source)
}

/// What is kept while groups refer to groups: each is evaluated once, so that no nesting can multiply the work.
struct Evaluator<'g> {
    groups: &'g Groups,
    open: Vec<String>,
    known: HashMap<String, Arc<HostSet>>,
}

impl Evaluator<'_> {
    fn text(&mut self, text: &str, source: Source) -> Result<HostSet, SetError> {
        let mut reader = Reader { text, source, at: 0 };
        let set = self.set(&mut reader, 0)?;
        match reader.peek() {
            None => Ok(set),
            Some(_) => Err(reader.error(Problem::StrayParenthesis, reader.at..reader.at + 1)),
        }
    }

    /// Terms joined by operators, up to the end or to the `)` of the caller.
    fn set(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<HostSet, SetError> {
        if depth > MAX_DEPTH {
            return Err(reader.error(Problem::NestedTooDeeply(MAX_DEPTH), reader.at..reader.at));
        }
        reader.skip_space();
        match reader.peek() {
            None | Some(')') => return Err(reader.error(Problem::Empty, reader.at..reader.at)),
            Some(c) if is_operator(c) => {
                return Err(reader.error(Problem::NothingBefore(c), reader.at..reader.at + 1));
            }
            Some(_) => {}
        }
        let begin = reader.at;
        let mut set = self.term(reader, depth)?;
        loop {
            reader.skip_space();
            let operator = match reader.peek() {
                None | Some(')') => return Ok(set),
                Some(c) if is_operator(c) => {
                    let at = reader.at;
                    reader.at += 1;
                    reader.skip_space();
                    match reader.peek() {
                        Some(next) if next != ')' && !is_operator(next) => c,
                        _ => return Err(reader.error(Problem::NothingAfter(c), at..at + 1)),
                    }
                }
                Some(_) => ',', // white space alone
            };
            let operand = self.term(reader, depth)?;
            match operator {
                '!' => set.difference(&operand),
                '&' => set.intersection(&operand),
                '^' => set.symmetric_difference(operand),
                _ => set.union(operand),
            }
            if set.len() > MAX_HOSTS {
                return Err(reader.error(Problem::TooManyHosts, begin..reader.at));
            }
        }
    }

    fn term(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<HostSet, SetError> {
        match reader.peek() {
            Some('(') => {
                let open = reader.at;
                reader.at += 1;
                let set = self.set(reader, depth + 1)?;
                if reader.peek() != Some(')') {
                    return Err(reader.error(Problem::UnclosedParenthesis, open..open + 1));
                }
                reader.at += 1;
                Ok(set)
            }
            Some('@') => self.group_term(reader),
            _ => host_term(reader, depth > 0),
        }
    }

    fn group_term(&mut self, reader: &mut Reader<'_>) -> Result<HostSet, SetError> {
        let span = reader.take_word(false, false);
        let name = &reader.text[span.start + 1..span.end];
        let names = match name {
            "" => return Err(reader.error(Problem::NoGroupName, span)),
            "*" => {
                if self.groups.searched().is_some() {
                    return Err(reader.error(self.groups.missing("*"), span));
                }
                self.groups.names().map(str::to_owned).collect()
            }
            _ => pattern::expand(name).map_err(|(problem, at)| {
                reader.error(problem, span.start + 1 + at.start..span.start + 1 + at.end)
            })?,
        };
        let mut set = HostSet::default();
        for name in names {
            set.union(HostSet::clone(&*self.group(&name, reader, &span)?));
            if set.len() > MAX_HOSTS {
                return Err(reader.error(Problem::TooManyHosts, span));
            }
        }
        Ok(set)
    }

    fn group(
        &mut self,
        name: &str,
        reader: &Reader<'_>,
        span: &Range<usize>,
    ) -> Result<Arc<HostSet>, SetError> {
        if let Some(set) = self.known.get(name) {
            return Ok(set.clone());
        }
        let Some(definition) = self.groups.get(name) else {
            return Err(reader.error(self.groups.missing(name), span.clone()));
        };
        if let Some(first) = self.open.iter().position(|open| open == name) {
            let mut circle = self.open[first..].to_vec();
            circle.push(name.to_owned());
            return Err(reader.error(Problem::Cycle(circle), span.clone()));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(reader.error(Problem::GroupsTooDeep(MAX_DEPTH), span.clone()));
        }
        self.open.push(name.to_owned());
        let set = Arc::new(self.text(definition.text(), definition.source())?);
        self.open.pop();
        self.known.insert(name.to_owned(), set.clone());
        Ok(set)
    }
}

/// `web[1-3]`, `4*local`, `ssh://…`: what is not a group and not in parentheses.
fn host_term(reader: &mut Reader<'_>, in_parentheses: bool) -> Result<HostSet, SetError> {
    let start = reader.at;
    let rest = &reader.text[start..];
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let copies = if digits > 0 && rest[digits..].starts_with('*') {
        let count: Option<usize> = rest[..digits].parse().ok();
        reader.at += digits + 1;
        match count {
            Some(0) => return Err(reader.error(Problem::NoCopies, start..reader.at)),
            Some(count) if count <= MAX_HOSTS => count,
            _ => return Err(reader.error(Problem::TooManyHosts, start..reader.at)),
        }
    } else {
        1
    };
    let full = is_full_spec(word_at(reader));
    let span = reader.take_word(full, in_parentheses);
    let word = &reader.text[span.clone()];
    let shift = |at: Range<usize>| span.start + at.start..span.start + at.end;
    if word.is_empty() {
        return Err(match reader.peek() {
            Some(c) => reader.error(Problem::NothingBefore(c), reader.at..reader.at + c.len_utf8()),
            None => reader.error(Problem::NothingAfter('*'), start..reader.at),
        });
    }
    check_name(word, full).map_err(|(problem, at)| reader.error(problem, shift(at)))?;
    let names = pattern::expand(word).map_err(|(problem, at)| reader.error(problem, shift(at)))?;
    if names.len() * copies > MAX_HOSTS {
        return Err(reader.error(Problem::TooManyHosts, start..span.end));
    }
    Ok(match copies {
        1 => names.into_iter().map(Host::new).collect(),
        _ => names
            .iter()
            .flat_map(|name| (1..=copies).map(move |copy| Host::new(format!("{name}#{copy}"))))
            .collect(),
    })
}

/// What follows up to white space: enough to see whether a full specification begins here.
fn word_at<'a>(reader: &Reader<'a>) -> &'a str {
    let rest = &reader.text[reader.at..];
    rest.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[')).next().unwrap_or(rest)
}

/// Refuses what no host is called: it is a slip of the pen, or of a shell that did not expand something.
fn check_name(word: &str, full: bool) -> Result<(), pattern::Fault> {
    if let Some((at, c)) = word.char_indices().find(|(_, c)| c.is_control()) {
        return Err((Problem::BadCharacter(c), at..at + c.len_utf8()));
    }
    if full {
        return Ok(()); // its own parser knows better, later
    }
    let host = word.rfind('@').map_or(0, |at| at + 1);
    if word.starts_with('-') || word[host..].starts_with('-') {
        return Err((Problem::LeadingDash, 0..word.len())); // it would look like an option to some program
    }
    // An address of version 6 has more colons, and kinds of places have a word before the colon and more than digits behind.
    if let Some((name, port)) = word.split_once(':')
        && !name.is_empty()
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err((Problem::Port(word.to_owned()), name.len()..word.len()));
    }
    for (at, c) in word.char_indices() {
        let problem = match c {
            '*' => Problem::Wildcard,
            '{' | '}' => Problem::Braces,
            '.' if word[at..].starts_with("..") => return Err((Problem::Braces, at..at + 2)),
            '?' => match &word[..at] {
                "local" => Problem::Settings("local", "?…".to_owned()),
                host => Problem::Settings("ssh", format!("{host}?…")),
            },
            '"' | '\'' | '\\' | '`' | '$' | ';' | '<' | '>' | '|' | '=' => Problem::BadCharacter(c),
            _ => continue,
        };
        return Err((problem, at..at + c.len_utf8()));
    }
    Ok(())
}

fn is_operator(c: char) -> bool {
    matches!(c, ',' | '!' | '&' | '^')
}

/// A text and how far it has been read.
struct Reader<'a> {
    text: &'a str,
    source: Source,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Reads up to an operator, a parenthesis or white space outside brackets. A full specification may hold all of
    /// them but a comma, white space, and, within parentheses, the `)` that closes them.
    fn take_word(&mut self, full: bool, in_parentheses: bool) -> Range<usize> {
        let start = self.at;
        let mut in_bracket = false;
        for c in self.text[start..].chars() {
            let ends = match c {
                _ if in_bracket => false,
                ',' => true,
                ')' => in_parentheses || !full,
                '!' | '&' | '^' | '(' => !full,
                c => c.is_whitespace(),
            };
            if ends {
                break;
            }
            match c {
                '[' => in_bracket = true,
                ']' => in_bracket = false,
                _ => {}
            }
            self.at += c.len_utf8();
        }
        start..self.at
    }

    fn error(&self, problem: Problem, span: Range<usize>) -> SetError {
        let place = Place { source: self.source.clone(), text: self.text.to_owned(), span };
        SetError { problem, place }
    }
}
