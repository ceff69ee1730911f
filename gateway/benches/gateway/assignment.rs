//! What a measuring process is asked to do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Args;
use crate::row::Row;

/// The first argument that makes a program take a measurement.
const MARK: &str = "measure";

/// One measurement: it prints one number.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) contender: String,
    pub(crate) row: String,
    /// About how long it measures.
    pub(crate) length: Duration,
    /// The home folder of whoever measures, with the configuration that leads to the servers.
    pub(crate) home: PathBuf,
}

impl Assignment {
    pub(crate) fn new(contender: &str, row: &Row, args: &Args, home: &Path) -> Self {
        Self {
            contender: contender.to_owned(),
            row: row.name.to_owned(),
            length: args.length,
            home: home.to_owned(),
        }
    }

    /// Reads what [`to_args`](Self::to_args) wrote; `None` if this process is not to measure.
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        if args.next()? != MARK {
            return None;
        }
        Some(Self {
            contender: args.next()?,
            row: args.next()?,
            length: Duration::from_millis(args.next()?.parse().ok()?),
            home: args.next()?.into(),
        })
    }

    /// The arguments that start a program with this assignment.
    pub(crate) fn to_args(&self) -> [OsString; 5] {
        [
            MARK.into(),
            self.contender.clone().into(),
            self.row.clone().into(),
            self.length.as_millis().to_string().into(),
            self.home.clone().into(),
        ]
    }
}
