//! Values written so that no login shell changes them.

/// Writes bytes in an alphabet that every shell leaves alone; the rest as `_` and three octal digits, which the first
/// stage decodes. What stands before them must be a letter: some shells expand `=`, `%` or `~` at the start of a word.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"./:@%+,=-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("_{byte:03o}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn only_harmless_characters_remain() {
        let all: Vec<u8> = (0..=255).collect();
        let out = escape(&all);
        assert!(out.bytes().all(|b| b.is_ascii_alphanumeric() || b"./:@%+,=-_".contains(&b)));
        assert_eq!(escape(b"a_b'\n\\!/x"), "a_137b_047_012_134_041/x");
    }
}
