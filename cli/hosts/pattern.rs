//! One name with ranges in brackets, expanded: `r[1-2]sw[01-03]`.

use std::ops::Range as Span;

use super::error::Problem;
use super::{MAX_HOSTS, MAX_NAME};

/// A problem and the part of the pattern it is in.
pub(super) type Fault = (Problem, Span<usize>);

enum Segment<'a> {
    Literal(&'a str),
    Ranges(Vec<Range>),
}

/// Numbers from `start` to `end` in steps, each written with at least `width` digits.
struct Range {
    start: u64,
    end: u64,
    step: u64,
    width: usize,
}

impl Range {
    fn len(&self) -> u64 {
        (self.end - self.start) / self.step + 1
    }

    fn texts(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.len()).map(|i| format!("{:0width$}", self.start + i * self.step, width = self.width))
    }
}

/// Whether the text is a full specification, `scheme://…`.
pub(super) fn is_full_spec(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
    })
}

/// All names that the pattern stands for, at most `MAX_HOSTS`, checked before anything is built.
///
/// Brackets around an address (`[::1]`), and those after the `?` of a full specification, are part of the name.
pub(super) fn expand(text: &str) -> Result<Vec<String>, Fault> {
    let segments = parse(text)?;
    let mut count: u64 = 1;
    for segment in &segments {
        if let Segment::Ranges(ranges) = segment {
            let here = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.len()));
            count = count.saturating_mul(here);
        }
    }
    if count > MAX_HOSTS as u64 {
        return Err((Problem::TooManyHosts, 0..text.len()));
    }
    let mut names = vec![String::new()];
    for segment in &segments {
        match segment {
            Segment::Literal(literal) => names.iter_mut().for_each(|name| name.push_str(literal)),
            Segment::Ranges(ranges) => {
                let texts: Vec<String> = ranges.iter().flat_map(Range::texts).collect();
                names = names
                    .iter()
                    .flat_map(|name| texts.iter().map(move |text| format!("{name}{text}")))
                    .collect();
            }
        }
    }
    if names.iter().any(|name| name.len() > MAX_NAME) {
        return Err((Problem::NameTooLong, 0..text.len()));
    }
    Ok(names)
}

fn parse(text: &str) -> Result<Vec<Segment<'_>>, Fault> {
    // A text this long names nothing that exists; past it, one range could still ask for much memory.
    if text.len() > MAX_NAME * 64 {
        return Err((Problem::NameTooLong, 0..text.len()));
    }
    let ranges_end = if is_full_spec(text) { text.find('?').unwrap_or(text.len()) } else { text.len() };
    let mut segments = Vec::new();
    let mut literal_from = 0;
    let mut at = 0;
    while let Some(found) = text[at..ranges_end].find(['[', ']']) {
        let open = at + found;
        if text.as_bytes()[open] == b']' {
            return Err((Problem::StrayBracket, open..open + 1));
        }
        let Some(length) = text[open..ranges_end].find(']') else {
            return Err((Problem::UnclosedBracket, open..open + 1));
        };
        let close = open + length;
        let inside = &text[open + 1..close];
        at = close + 1;
        if inside.contains(':') {
            continue; // an address, part of the literal
        }
        segments.push(Segment::Literal(&text[literal_from..open]));
        segments.push(Segment::Ranges(parse_ranges(inside, open + 1)?));
        literal_from = at;
    }
    segments.push(Segment::Literal(&text[literal_from..]));
    Ok(segments)
}

/// The comma-separated ranges between two brackets; `offset` is where they start in the pattern.
fn parse_ranges(inside: &str, offset: usize) -> Result<Vec<Range>, Fault> {
    let mut ranges = Vec::new();
    let mut from = offset;
    for item in inside.split(',') {
        let span = from..from + item.len();
        from = span.end + 1;
        let range = parse_range(item.trim());
        ranges.push(range.map_err(|problem| (problem, span))?);
    }
    Ok(ranges)
}

fn parse_range(item: &str) -> Result<Range, Problem> {
    if item.is_empty() {
        return Err(Problem::EmptyRange);
    }
    let not_a_range = || Problem::NotARange(item.to_owned());
    let (ends, step) = match item.split_once('/') {
        Some((ends, step)) => (ends, number(step, not_a_range)?),
        None => (item, 1),
    };
    if step == 0 {
        return Err(Problem::ZeroStep);
    }
    let (first, last) = match ends.split_once('-') {
        Some(pair) => pair,
        None if item.contains('/') => return Err(not_a_range()),
        None => (ends, ends),
    };
    let (start, end) = (number(first, not_a_range)?, number(last, not_a_range)?);
    if start > end {
        return Err(Problem::Backwards(first.to_owned(), last.to_owned()));
    }
    // A padded end promises a width that the start must have too; `01-20` and `08-100` are plain.
    if last.starts_with('0') && last.len() > 1 && last.len() != first.len() {
        let width = first.len().max(last.len());
        return Err(Problem::Padding(format!("{start:0width$}"), format!("{end:0width$}")));
    }
    let width = if first.starts_with('0') { first.len() } else { 1 };
    Ok(Range { start, end, step, width })
}

fn number(text: &str, not_a_number: impl Fn() -> Problem) -> Result<u64, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_a_number());
    }
    if text.len() > 18 {
        return Err(Problem::NumberTooLong);
    }
    text.parse().map_err(|_| not_a_number())
}
