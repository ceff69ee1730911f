//! How times, and texts from elsewhere, are shown to people.

use std::time::Duration;

/// A time as it would be typed: `30s`, `2m`, `1h30m`, `250ms`.
pub(crate) fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut rest, mut text) = (millis, String::new());
    for (unit, size) in units {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    text
}

/// A text that somebody else wrote, on one line and without anything that a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        push_harmless(&mut line, word);
    }
    line
}

/// A text that somebody else wrote, line by line, without anything that a terminal would obey.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(|line| {
        let mut clean = String::with_capacity(line.len());
        push_harmless(&mut clean, line.trim_end());
        clean
    })
}

fn push_harmless(to: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\t' => to.push(c),
            // Control characters, and those that turn the direction of what follows.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                to.extend(c.escape_unicode());
            }
            c => to.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_typed() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (30_000, "30s"),
            (120_000, "2m"),
            (5_400_000, "1h30m"),
            (1_500, "1s500ms"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn foreign_text_cannot_drive_a_terminal() {
        assert_eq!(one_line("a\x1b[2J  b\r\nc\u{202e}d\0"), "a\\u{1b}[2J b c\\u{202e}d\\u{0}");
        assert_eq!(lines("a\tb\x07\r\n\nc").collect::<Vec<_>>(), ["a\tb\\u{7}", "", "c"]);
    }
}
