//! Limits as people write them: numbers, and times such as `30`, `30s`, `2m`, `1h30m`, `500ms`.

use std::num::NonZeroU16;
use std::time::Duration;

/// The longest limit: a year. Beyond it a number was meant as something else, and clocks would overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a text is no time limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitError {
    #[error("a time is a number of seconds, or has a unit: 30, 30s, 2m, 1h30m, 500ms")]
    NotATime,
    #[error("longer than a year")]
    TooLong,
    #[error("a limit of 0 would fail at once")]
    Zero,
    #[error(
        "-t is the limit for connecting, in seconds; to write the output of each host to a file use --outdir"
    )]
    NotATree,
    #[error("-u is the limit for the command, in seconds; the user to log in as is -l")]
    NotAUser,
}

/// A time: a number of seconds, or numbers with units from the largest to the smallest.
fn time(text: &str) -> Result<Duration, LimitError> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut previous = u64::MAX;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let millis: u64 = match &rest[digits..unit_end] {
            "" if digits == text.len() => 1000,
            "ms" => 1,
            "s" | "sec" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(LimitError::NotATime),
        };
        if digits == 0 || millis >= previous {
            return Err(LimitError::NotATime);
        }
        previous = millis;
        let number: u64 = rest[..digits].parse().map_err(|_| LimitError::TooLong)?;
        let part = number.checked_mul(millis).map(Duration::from_millis).ok_or(LimitError::TooLong)?;
        total = total.checked_add(part).ok_or(LimitError::TooLong)?;
        rest = &rest[unit_end..];
    }
    if total > LONGEST { Err(LimitError::TooLong) } else { Ok(total) }
}

/// The limit for connecting (`-t`), never without end: a server that says nothing must not hang anything.
pub(super) fn connect_limit(text: &str) -> Result<Duration, LimitError> {
    match time(text) {
        Ok(Duration::ZERO) => Err(LimitError::Zero),
        // Elsewhere -t takes a folder.
        Err(LimitError::NotATime) if text.contains('/') || text.starts_with('.') => Err(LimitError::NotATree),
        other => other,
    }
}

/// The limit for the command (`-u`); 0 is none.
pub(super) fn command_limit(text: &str) -> Result<Limit, LimitError> {
    match time(text) {
        Ok(Duration::ZERO) => Ok(Limit(None)),
        Ok(limit) => Ok(Limit(Some(limit))),
        // Elsewhere -u takes a user.
        Err(LimitError::NotATime) if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
            Err(LimitError::NotAUser)
        }
        Err(error) => Err(error),
    }
}

/// How many hosts at once.
pub(super) fn at_once(text: &str) -> Result<NonZeroU16, &'static str> {
    text.parse().map_err(|_| "write a number from 1 to 65535")
}

/// How many more attempts.
pub(super) fn retries(text: &str) -> Result<u32, &'static str> {
    const MOST: u32 = 100;
    text.parse().ok().filter(|retries| *retries <= MOST).ok_or("write a number from 0 to 100")
}

/// A time limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Duration>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let cases = [
            ("30", 30_000),
            ("30s", 30_000),
            ("2m", 120_000),
            ("2min", 120_000),
            ("1h30m", 5_400_000),
            ("1m30s", 90_000),
            ("1s500ms", 1_500),
            ("500ms", 500),
            ("1d", 86_400_000),
        ];
        for (text, millis) in cases {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "s", "30x", "1.5", "-1", "30 s", "s30", "1h30", "30s1m", "1s1s", "１"] {
            assert_eq!(time(text), Err(LimitError::NotATime), "{text}");
        }
        for text in ["367d", "99999999999999999999", "999999999999999999d"] {
            assert_eq!(time(text), Err(LimitError::TooLong), "{text}");
        }
    }

    #[test]
    fn letters_that_mean_other_things_elsewhere_are_explained() {
        assert_eq!(connect_limit("/tmp/out"), Err(LimitError::NotATree));
        assert_eq!(connect_limit("0"), Err(LimitError::Zero));
        assert_eq!(command_limit("root"), Err(LimitError::NotAUser));
        assert_eq!(command_limit("0"), Ok(Limit(None)));
        assert_eq!(command_limit("2m"), Ok(Limit(Some(Duration::from_secs(120)))));
    }
}
