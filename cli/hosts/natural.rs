//! The order people expect of names with numbers: `web2` before `web10`.

use std::cmp::Ordering;

/// Compares runs of digits by their value and everything else by its bytes.
///
/// Names that differ only in padding (`web1`, `web01`) are told apart by their text at the end, so that this agrees
/// with equality. Numbers may be of any length.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let order = match (left.first(), right.first()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y);
                (x, left) = split_number(left);
                (y, right) = split_number(right);
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            (Some(x), Some(y)) => {
                let order = x.cmp(y);
                (left, right) = (&left[1..], &right[1..]);
                order
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits at the start without leading zeros, and what follows them.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let significant = digits.iter().position(|&b| b != b'0').unwrap_or(digits.len());
    (&digits[significant..], rest)
}

#[cfg(test)]
mod tests {
    use super::compare;
    use std::cmp::Ordering;

    #[test]
    fn numbers_compare_by_value() {
        let sorted = ["", "10.0.0.9", "10.0.0.10", "a", "a1", "a01", "a2", "a10", "a10b", "ab", "é1"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                let expected = if (*a, *b) == ("a1", "a01") || (*a, *b) == ("a01", "a1") {
                    a.cmp(b) // the same number: their text decides
                } else {
                    i.cmp(&j)
                };
                assert_eq!(compare(a, b), expected, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn numbers_of_any_length_do_not_overflow() {
        assert_eq!(compare("n99999999999999999999998", "n99999999999999999999999"), Ordering::Less);
        assert_eq!(compare("n100000000000000000000000", "n99999999999999999999999"), Ordering::Greater);
    }
}
