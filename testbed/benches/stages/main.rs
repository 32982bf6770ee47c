//! The hot stages, one by one: `cargo bench --workspace --bench stages` (a part of a name chooses some of them).
//!
//! - Bytes a second count content or datagrams, as each group says; nanoseconds are of one symbol, one NACK or one entry.
//! - One thread; memory is warm, and so are the caches: this is what a stage costs, not what the whole is.
//! - `cargo test` runs each once, and measures nothing.

mod blocks;
mod codec;
mod decisions;
mod feedback;

use criterion::{criterion_group, criterion_main};
use nackcast_common::geometry::{Geometry, Layout};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// A whole block of the default geometry, as an object of its own.
fn layout() -> Layout {
    let geometry = Geometry::default();
    geometry.object(geometry.block_size().into()).expect("an object of one block")
}

/// Always the same random bytes.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    Xoshiro256PlusPlus::seed_from_u64(1).fill_bytes(&mut noise);
    noise
}

criterion_group!(stages, codec::bench, blocks::bench, feedback::bench, decisions::bench);
criterion_main!(stages);
