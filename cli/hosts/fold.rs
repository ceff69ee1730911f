//! Writes a host set in few characters: `db[1-9,11]`, `r[1-2]sw[01-03]`.

use std::collections::{BTreeMap, BTreeSet};

use super::Host;
use super::natural;
use super::pattern::is_full_spec;

/// More numbers in one name than this are taken as text, but for the last ones, which vary most.
const MAX_DIMENSIONS: usize = 8;

/// A number as it is written: its value, and how many characters it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Index {
    value: u64,
    length: usize,
}

impl Index {
    fn padded(&self) -> bool {
        self.length > decimal_length(self.value)
    }

    fn text(&self) -> String {
        format!("{:0width$}", self.value, width = self.length)
    }
}

fn decimal_length(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The numbers of one dimension, sorted; several of them make a product.
type Axis = Vec<Index>;

/// The shortest text we can find that [`evaluate`](super::evaluate) reads back as the same hosts, in natural order.
pub(crate) fn fold<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> String {
    let mut shapes: BTreeMap<Vec<&str>, BTreeSet<Vec<Axis>>> = BTreeMap::new();
    for host in hosts {
        let (literals, indices) = split(host.name());
        let point = indices.into_iter().map(|index| vec![index]).collect();
        shapes.entry(literals).or_default().insert(point);
    }
    // Each part with the name of its first host, which decides where it stands.
    let mut parts: Vec<(String, String)> = Vec::new();
    for (literals, points) in shapes {
        for product in merge(points) {
            let first = write(&literals, &product, |axis| axis[0].text());
            let text = write(&literals, &product, |axis| match axis {
                [only] => only.text(),
                _ => format!("[{}]", ranges(axis)),
            });
            parts.push((first, text));
        }
    }
    parts.sort_by(|a, b| natural::compare(&a.0, &b.0));
    let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
    texts.join(",")
}

/// The text between the numbers, and the numbers: `r1sw02` is `r`, `sw`, `` and 1, 02.
///
/// Digits in brackets (addresses), after the `?` of a full specification, and too long ones are text.
fn split(name: &str) -> (Vec<&str>, Vec<Index>) {
    let end = if is_full_spec(name) { name.find('?').unwrap_or(name.len()) } else { name.len() };
    let bytes = name.as_bytes();
    let mut numbers = Vec::new();
    let (mut at, mut in_bracket) = (0, false);
    while at < end {
        let from = at;
        while at < end && bytes[at].is_ascii_digit() {
            at += 1;
        }
        if at > from && at - from <= 18 && !in_bracket {
            numbers.push(from..at);
        }
        if at == from {
            match bytes[at] {
                b'[' => in_bracket = true,
                b']' => in_bracket = false,
                _ => {}
            }
            at += 1;
        }
    }
    let numbers = numbers.split_off(numbers.len().saturating_sub(MAX_DIMENSIONS));
    let (mut literals, mut indices, mut from) = (Vec::new(), Vec::new(), 0);
    for span in numbers {
        let value = name[span.clone()].parse().expect("at most 18 digits fit");
        indices.push(Index { value, length: span.len() });
        literals.push(&name[from..span.start]);
        from = span.end;
    }
    literals.push(&name[from..]);
    (literals, indices)
}

/// Joins points into products: those that agree in all axes but one become one, axis by axis, until nothing changes.
fn merge(points: BTreeSet<Vec<Axis>>) -> Vec<Vec<Axis>> {
    let mut products: Vec<Vec<Axis>> = points.into_iter().collect();
    let dimensions = products.first().map_or(0, Vec::len);
    loop {
        let before = products.len();
        for axis in (0..dimensions).rev() {
            let mut joined: BTreeMap<Vec<Axis>, Axis> = BTreeMap::new();
            for mut product in products {
                let here = std::mem::take(&mut product[axis]);
                joined.entry(product).or_default().extend(here);
            }
            products = joined
                .into_iter()
                .map(|(mut product, mut here)| {
                    here.sort_unstable();
                    product[axis] = here;
                    product
                })
                .collect();
        }
        if products.len() == before {
            return products;
        }
    }
}

fn write(literals: &[&str], product: &[Axis], axis_text: impl Fn(&[Index]) -> String) -> String {
    let mut text = literals[0].to_owned();
    for (axis, literal) in product.iter().zip(&literals[1..]) {
        text.push_str(&axis_text(axis));
        text.push_str(literal);
    }
    text
}

/// `1-3,5`, `01-20`: consecutive numbers of one width as ranges.
fn ranges(axis: &[Index]) -> String {
    // Numbers of one padded width first; where such a range reaches the numbers that fill that width without padding
    // (09 to 10), it takes them along, so that 01 to 20 is one range.
    let mut plain: BTreeSet<u64> = BTreeSet::new();
    let mut padded: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for index in axis {
        match index.padded() {
            true => padded.entry(index.length).or_default().push(index.value),
            false => {
                plain.insert(index.value);
            }
        }
    }
    let mut found: Vec<(Index, Index)> = Vec::new();
    for (length, values) in padded {
        for (first, mut last) in runs(values) {
            while decimal_length(last + 1) >= length && plain.remove(&(last + 1)) {
                last += 1;
            }
            let end = Index { value: last, length: length.max(decimal_length(last)) };
            found.push((Index { value: first, length }, end));
        }
    }
    for (first, last) in runs(plain) {
        let index = |value| Index { value, length: decimal_length(value) };
        found.push((index(first), index(last)));
    }
    found.sort_unstable();
    let texts: Vec<String> = found
        .iter()
        .map(|(first, last)| match first == last {
            true => first.text(),
            false => format!("{}-{}", first.text(), last.text()),
        })
        .collect();
    texts.join(",")
}

/// Sorted numbers as pairs of first and last of each run without gaps.
fn runs(values: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == value => *last = value,
            _ => runs.push((value, value)),
        }
    }
    runs
}
