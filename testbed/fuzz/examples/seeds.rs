//! Writes the seeds of every corpus: valid inputs, and of each a few that are cut short or changed.
//!
//! A seed's bytes depend on nothing but the code, so that a second run changes nothing.

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let seeds = [nackcast_proto::fuzz::seeds(), nackcast_receiver::fuzz::seeds(), nackcast_sender::fuzz::seeds()];
    for (target, inputs) in seeds.into_iter().flatten() {
        let corpus = corpora.join(target);
        fs::create_dir_all(&corpus)?;
        for (number, input) in inputs.iter().enumerate() {
            for (name, bytes) in variants(input) {
                fs::write(corpus.join(format!("seed-{number}-{name}")), bytes)?;
            }
        }
    }
    Ok(())
}

fn variants(input: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let changed = |at: usize, by: u8| {
        let mut bytes = input.to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= by;
        }
        bytes
    };
    vec![
        ("valid", input.to_vec()),
        ("cut", input[..input.len() * 2 / 3].to_vec()),
        ("first", changed(0, 0x80)),
        ("middle", changed(input.len() / 2, 0x01)),
        ("last", changed(input.len().saturating_sub(1), 0xff)),
        ("longer", [input, &[0xff; 3]].concat()),
    ]
}
