//! Delivers and starts worker programs locally, over SSH or through any command.
