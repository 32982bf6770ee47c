//! How many bytes a receiver's NACKs take to name what it lacks of a million objects.
//!
//! `cargo bench -p nackcast-testbed --bench nack_size` prints a table: our NACK datagrams against a plain list of
//! indices, a serialised roaring bitmap, and the entropy bound, log2 of the number of such sets; then the time per
//! set. Sets are the same in every run.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::limits::TAG_LEN;
use nackcast_proto::wire::{Nack, header};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use roaring::RoaringBitmap;

const OBJECTS: u32 = 1_000_000;
/// How long each set is encoded, and decoded, for the mean time of one.
const MEASURED: Duration = Duration::from_millis(300);

struct Case {
    name: &'static str,
    missing: RangeSet,
    /// Bytes below which no code can name every such set; none where a range says it all.
    bound: Option<f64>,
}

struct Sizes {
    datagrams: usize,
    /// Bodies alone, and with header and tag.
    bodies: usize,
    on_wire: usize,
    encode: Duration,
    decode: Duration,
}

fn main() {
    println!(
        "| missing of 1,000,000 | objects | bound | NACK bodies | datagrams | with header and tag | times the bound (with header and tag) | roaring | plain list | encode | decode |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |");
    for case in cases() {
        print_row(&case, &measure(&case.missing));
    }
}

fn cases() -> Vec<Case> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut sample = |count: usize| {
        let chosen = rand::seq::index::sample(&mut random, OBJECTS as usize, count);
        chosen.into_iter().filter_map(|index| u32::try_from(index).ok()).collect::<RangeSet>()
    };
    let (one, ten) = (sample(OBJECTS as usize / 100), sample(OBJECTS as usize / 10));
    let start = random.random_range(0..OBJECTS - 10_000);
    let run = std::iter::once(start..start + 10_000).fold(RangeSet::new(), |mut set, range| {
        set.insert(range);
        set
    });
    vec![
        Case { name: "all (nothing held)", missing: RangeSet::full(OBJECTS), bound: None },
        Case { name: "random 1 %", missing: one, bound: Some(entropy_bytes(0.01)) },
        Case { name: "random 10 %", missing: ten, bound: Some(entropy_bytes(0.1)) },
        Case { name: "one run of 10,000", missing: run, bound: None },
    ]
}

fn entropy_bytes(share: f64) -> f64 {
    let bits = -share * share.log2() - (1.0 - share) * (1.0 - share).log2();
    bits * f64::from(OBJECTS) / 8.0
}

/// As many NACKs as it takes, as if there were no budget for a window.
fn encode(missing: &RangeSet) -> Vec<Vec<u8>> {
    let base = Nack {
        session: nackcast_common::ids::SessionId(u64::MAX / 3),
        sequence: 100_000,
        time: 100_000_000_000,
        hold: Duration::from_millis(20),
        manifest: u64::MAX / 3,
        loss_ppm: 20_000,
        nonce: u64::MAX / 3,
        heard: 1_000_000,
        objects_missing: missing.count(),
        bytes_missing: missing.count() * 100_000,
        ..Nack::default()
    };
    let mut left = missing.clone();
    let mut bodies = Vec::new();
    while !left.is_empty() {
        bodies.push(base.clone().fill(&mut Vec::new(), &mut Vec::new(), &mut left).encode());
    }
    bodies
}

fn decode(bodies: &[Vec<u8>]) -> RangeSet {
    let mut sum = RangeSet::new();
    for body in bodies {
        sum.union(&Nack::decode(body).expect("an own NACK decodes").missing);
    }
    sum
}

fn measure(missing: &RangeSet) -> Sizes {
    let bodies = encode(missing);
    assert_eq!(&decode(&bodies), missing, "the datagrams name the set, no more and no less");
    Sizes {
        datagrams: bodies.len(),
        bodies: bodies.iter().map(Vec::len).sum(),
        on_wire: bodies.iter().map(|body| body.len() + header::LEN + TAG_LEN).sum(),
        encode: mean_time(|| drop(black_box(encode(black_box(missing))))),
        decode: mean_time(|| drop(black_box(decode(black_box(&bodies))))),
    }
}

fn mean_time(work: impl Fn()) -> Duration {
    let clock = Clock::start();
    let mut count = 0;
    loop {
        work();
        count += 1;
        let passed = clock.now().since(Time::ZERO);
        if passed >= MEASURED {
            return passed / count;
        }
    }
}

fn print_row(case: &Case, sizes: &Sizes) {
    let mut roaring: RoaringBitmap = case.missing.iter().collect();
    roaring.optimize();
    let bound = case.bound.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}"));
    let ratio = case.bound.map_or_else(
        || "-".to_owned(),
        |bound| format!("{:.3} ({:.3})", sizes.bodies as f64 / bound, sizes.on_wire as f64 / bound),
    );
    println!(
        "| {} | {} | {bound} | {} | {} | {} | {ratio} | {} | {} | {:.1?} | {:.1?} |",
        case.name,
        case.missing.count(),
        sizes.bodies,
        sizes.datagrams,
        sizes.on_wire,
        roaring.serialized_size(),
        case.missing.count() * 4,
        sizes.encode,
        sizes.decode,
    );
}
