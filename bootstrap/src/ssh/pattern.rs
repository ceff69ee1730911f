//! Wildcard patterns as OpenSSH writes them: `*`, `?`, lists, negation.

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one.
///
/// Takes time proportional to the product of both lengths at worst: a file of a stranger cannot make it explode.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go back to: after the last star, and the text position that it has eaten up to.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                back = Some((p, t));
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut back {
                Some((star, eaten)) => {
                    *eaten += 1;
                    p = *star;
                    t = *eaten;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// Whether a list of patterns selects `text`: one must match, and none that begins with `!` may.
pub(crate) fn list_matches<'a>(patterns: impl IntoIterator<Item = &'a str>, text: &str) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(negated) if matches(negated, text) => return false,
            Some(_) => {}
            None => found |= matches(pattern, text),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b*", "abc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("[*]:2222", "[host]:2222", true),
            ("a**b*", "aXbY", true),
            ("*ab", "aab", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        // A pattern made to be slow.
        assert!(!matches(&"*a".repeat(64), &format!("{}b", "a".repeat(4096))));
    }

    #[test]
    fn a_negation_wins_wherever_it_stands() {
        assert!(list_matches(["*.org", "!bad.org"], "good.org"));
        assert!(!list_matches(["*.org", "!bad.org"], "bad.org"));
        assert!(!list_matches(["!bad.org", "*.org"], "bad.org"));
        assert!(!list_matches(["!bad.org"], "good.org"));
        assert!(!list_matches([], "good.org"));
    }
}
