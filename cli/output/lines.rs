//! Cuts a stream of bytes into lines.

/// A line longer than this is shown in parts, so that a host that never ends one cannot fill the memory.
pub(super) const MAX_LINE: usize = 1 << 20;

/// The part of a stream that has not ended its line yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands out every line that is complete, without its newline.
    pub(super) fn push<E>(
        &mut self,
        bytes: &[u8],
        mut line: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            if self.partial.is_empty() {
                line(&rest[..end])?;
            } else {
                self.partial.extend_from_slice(&rest[..end]);
                line(&std::mem::take(&mut self.partial))?;
            }
            rest = &rest[end + 1..];
        }
        while self.partial.len() + rest.len() > MAX_LINE {
            let (part, after) = rest.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(part);
            line(&std::mem::take(&mut self.partial))?;
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Hands out what is left, a line that was never ended.
    pub(super) fn finish<E>(&mut self, line: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match std::mem::take(&mut self.partial) {
            partial if partial.is_empty() => Ok(()),
            partial => line(&partial),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            let _: Result<(), Infallible> = lines.push(piece, |line| {
                found.push(line.to_vec());
                Ok(())
            });
        }
        let _: Result<(), Infallible> = lines.finish(|line| {
            found.push(line.to_vec());
            Ok(())
        });
        found
    }

    #[test]
    fn lines_do_not_depend_on_where_bytes_are_cut() {
        let text = b"one\n\ntwo\xff\0\r\nthree";
        let expected: Vec<&[u8]> = vec![b"one", b"", b"two\xff\0\r", b"three"];
        for at in 0..=text.len() {
            for to in at..=text.len() {
                assert_eq!(cut(&[&text[..at], &text[at..to], &text[to..]]), expected, "{at} {to}");
            }
        }
        assert!(cut(&[b"", b""]).is_empty());
    }

    #[test]
    fn a_line_without_end_comes_in_bounded_parts() {
        let long = vec![b'x'; 2 * MAX_LINE + 5];
        let parts = cut(&[&long[..10], &long[10..], b"\nshort\n"]);
        let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 5, 5]);
    }
}
