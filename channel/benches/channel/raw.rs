//! The limit: plain blocking reads and writes on the same pipes.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufReader, BufWriter, Read, Write};

use crate::meter::Meter;
use crate::pair::{Assignment, Ends, Side};
use crate::payload::{BULK, SMALL};

/// What a reader or writer gathers before a system call, where messages are small.
const BATCH: usize = 64 << 10;

/// What one system call moves, where messages are large: a whole one at a time leaves the cache.
const PIECE: usize = 256 << 10;

/// Takes this process's part in a row; the near side returns what it measured.
pub(crate) fn run(assignment: &Assignment, ends: Ends) -> io::Result<f64> {
    let Ends { reader, writer, far } = ends;
    let (reader, writer) = (File::from(reader), File::from(writer));
    let length = assignment.length;
    let measured = match (assignment.row.as_str(), assignment.side) {
        ("rtt_64" | "rtt_64_thread", Side::Near) => ask(reader, writer, Meter::new(length, 8)),
        ("rtt_64" | "rtt_64_thread", Side::Far) => answer(reader, writer),
        ("bulk_1m", Side::Near) => receive(reader, BULK, Meter::new(length, 1)),
        ("bulk_1m", Side::Far) => send(writer, BULK),
        ("stream_64_bytes", Side::Near) => {
            receive(BufReader::with_capacity(BATCH, reader), SMALL, Meter::new(length, 1024))
        }
        ("stream_64_bytes", Side::Far) => send(BufWriter::with_capacity(BATCH, writer), SMALL),
        (row, _) => Err(io::Error::other(format!("a plain pipe has no part in {row}"))),
    };
    drop(far);
    measured
}

fn ask(mut reader: impl Read, mut writer: impl Write, mut meter: Meter) -> io::Result<f64> {
    let mut message = [0x5a; SMALL];
    loop {
        writer.write_all(&message)?;
        reader.read_exact(&mut message)?;
        if meter.tick() {
            return Ok(meter.microseconds_each());
        }
    }
}

fn answer(mut reader: impl Read, mut writer: impl Write) -> io::Result<f64> {
    let mut message = [0; SMALL];
    loop {
        reader.read_exact(&mut message)?;
        writer.write_all(&message)?;
    }
}

fn receive(mut reader: impl Read, size: usize, mut meter: Meter) -> io::Result<f64> {
    let mut message = vec![0; size];
    loop {
        for piece in message.chunks_mut(PIECE) {
            reader.read_exact(piece)?;
        }
        black_box(&message);
        if meter.tick() {
            return Ok(meter.per_second());
        }
    }
}

fn send(mut writer: impl Write, size: usize) -> io::Result<f64> {
    let message = vec![0x5a; size];
    loop {
        for piece in message.chunks(PIECE) {
            writer.write_all(piece)?;
        }
    }
}
