//! Long names that other tools use for something that ours would do differently: refused, with our name for it.

use std::convert::Infallible;

use clap::builder::{TypedValueParser, ValueParser};

/// An option that always fails with `message`, however it is filled.
pub(super) fn refuse(message: &'static str) -> ValueParser {
    ValueParser::new(clap::builder::StringValueParser::new().try_map(move |_| Err::<Infallible, _>(message)))
}
