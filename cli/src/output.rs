//! Results on stdout. A reader that went away (`| head`) is no error.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::failure::{Failure, OrFail};

/// Whoever reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It took what was printed.
    There,
    /// It closed its end.
    Gone,
}

/// Prints lines.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write(text).map(|_reader| ())
}

/// Prints one JSON object on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print_event(value).map(|_reader| ())
}

/// The same, for those to whom it matters whether it is read.
pub(crate) fn print_event(value: &impl Serialize) -> Result<Reader, Failure> {
    write(&serde_json::to_string(value).or_running("the result cannot be written as JSON")?)
}

fn write(text: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).or_running("stdout cannot be written"),
    }
}
