//! Results on stdout. A reader that went away (`| head`) is no error.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::failure::{Failure, OrFail};

/// Prints lines.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.or_running("stdout cannot be written"),
    }
}

/// Prints one JSON object on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string(value).or_running("the result cannot be written as JSON")?)
}
