//! A word count over hosts: the text goes there in pieces as they ask for it, the counts come back and are added up. The text may be
//! larger than any memory, and a host may be lost on the way.
//!
//! ```text
//! cargo run -p farcall --example words 2*local < book.txt
//! cargo run -p farcall --example words ssh://web1 ssh://web2 < all-books.txt
//! ```

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, OnceLock};

use farcall::{BoxError, Gateway, Spec, Tasks};

/// How much text is counted at a time: enough to be worth the way.
const PIECE: u64 = 64 * 1024;

/// The part of the work that is done there.
fn count(text: String) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_insert(0) += 1;
    }
    counts
}

/// The pieces of a text, each ending with a line. Taken only as fast as they are counted.
///
/// An iterator of inputs can only end: if that is because the text cannot be read on, `failed` has the reason.
fn pieces(mut input: impl BufRead, failed: Arc<OnceLock<io::Error>>) -> impl Iterator<Item = String> {
    let mut read = move || {
        let mut piece = Vec::new();
        input.by_ref().take(PIECE).read_to_end(&mut piece)?;
        input.read_until(b'\n', &mut piece)?;
        Ok((!piece.is_empty()).then(|| String::from_utf8_lossy(&piece).into_owned()))
    };
    std::iter::from_fn(move || {
        read().unwrap_or_else(|error| {
            // Set once: it is the end.
            let _ = failed.set(error);
            None
        })
    })
}

fn main() -> Result<(), BoxError> {
    farcall::init(Tasks::new().add(count));

    let specs =
        std::env::args().skip(1).map(|text| Spec::parse_all(&text)).collect::<Result<Vec<_>, _>>()?.concat();
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut gateways = Vec::new();
        for spec in &specs {
            gateways.push(Gateway::open(spec).await?);
        }
        let failed = Arc::new(OnceLock::new());
        let text = pieces(io::BufReader::new(io::stdin()), Arc::clone(&failed));
        let mut counted = farcall::map(count, text).on(&gateways).start()?;
        let mut total = HashMap::new();
        while let Some((_, counts)) = counted.next().await {
            for (word, count) in counts? {
                *total.entry(word).or_insert(0) += count;
            }
        }
        if let Some(error) = failed.get() {
            return Err(format!("cannot read the text to its end: {error}").into());
        }
        let mut words: Vec<(String, u64)> = total.into_iter().collect();
        words.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then(a.cmp(b)));
        for (word, count) in words.iter().take(20) {
            println!("{count:8} {word}");
        }
        for gateway in counted.snapshot().gateways {
            eprintln!("{}: {} pieces", gateway.id, gateway.done);
        }
        Ok(())
    })
}
