//! NACKs built, parsed and merged; a manifest parsed.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use nackcast_common::ids::{ChannelId, Digest, Generation, ObjectIndex, RunId};
use nackcast_common::keys::SigningKey;
use nackcast_common::ranges::RangeSet;
use nackcast_proto::manifest::decode_root;
use nackcast_proto::wire::{Nack, ShortObject};
use nackcast_testbed::sim::scale::Content;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::decisions::{CHANNEL, SESSION, Sender};

/// Receivers whose NACKs are merged, one after the other.
const RECEIVERS: u32 = 1_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    nacks(criterion);
    manifest(criterion);
}

/// 256 MiB in one file, of which every block lacks a few symbols, and a hundredth of 10,000 objects.
fn lacks(content: &Content) -> (Vec<ShortObject>, RangeSet) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let object = content.manifest.objects().iter().max_by_key(|object| object.layout.size()).expect("there is content");
    let blocks = (0..object.layout.block_count()).map(|block| (block, random.random_range(1..20))).collect();
    let missing = (0..100).map(|_| random.random_range(0..10_000)).collect();
    (vec![ShortObject { object: object.id, blocks }], missing)
}

fn head(content: &Content) -> Nack {
    Nack {
        channel: CHANNEL,
        session: SESSION,
        sequence: 1,
        hold: Duration::from_millis(20),
        manifest: content.encoded.reference.hash.prefix(),
        generation: Generation(1),
        loss_ppm: 50_000,
        heard: 1_000_000,
        ..Nack::default()
    }
}

fn nacks(criterion: &mut Criterion) {
    let content = Content::new(CHANNEL, &SigningKey::from_seed([1; 32]), 256 << 20, 1, 1).expect("content");
    let (short, missing) = lacks(&content);
    let mut group = criterion.benchmark_group("NACK");
    group.throughput(Throughput::Elements(1));
    group.bench_function("build", |bencher| {
        bencher.iter_batched(
            || (short.clone(), missing.clone()),
            |(mut short, mut missing)| head(&content).fill(&mut Vec::new(), &mut short, &mut missing).encode(),
            BatchSize::SmallInput,
        );
    });
    let body = head(&content).fill(&mut Vec::new(), &mut short.clone(), &mut missing.clone()).encode();
    group.bench_function("parse", |bencher| bencher.iter(|| Nack::decode(black_box(&body)).expect("an own NACK")));
    group.finish();

    // Of the file alone: what is not in the manifest would only be refused.
    let nack = head(&content).fill(&mut Vec::new(), &mut short.clone(), &mut RangeSet::new());
    let mut group = criterion.benchmark_group("NACKs merged");
    group.throughput(Throughput::Elements(RECEIVERS.into()));
    group.bench_function("by a sender that is behind its first pass", |bencher| {
        let passed = || {
            let mut sender = Sender::new(&content);
            sender.send(u64::MAX);
            sender
        };
        let merge = |mut sender: Sender| {
            let nack = Nack { time: sender.now.0, hold: Duration::ZERO, ..nack.clone() };
            for receiver in 0..RECEIVERS {
                let from = SocketAddr::from(([10, 0, 0, 1], 7600));
                sender.engine.handle_nack(
                    sender.now + Duration::from_millis(1),
                    from,
                    RunId(receiver.into()),
                    1,
                    &nack,
                );
            }
            sender
        };
        assert_eq!(merge(passed()).engine.snapshot().nacks, u64::from(RECEIVERS), "every NACK is taken");
        bencher.iter_batched(passed, merge, BatchSize::LargeInput);
    });
    group.finish();
}

fn manifest(criterion: &mut Criterion) {
    const FILES: u32 = 100_000;
    let publisher = SigningKey::from_seed([1; 32]);
    let channel = ChannelId([9; 16]);
    let content = Content::new(channel, &publisher, 1_000_000_000, FILES, 1).expect("content");
    let parts: std::collections::BTreeMap<Digest, Bytes> =
        content.encoded.parts.iter().map(|part| (part.digest, part.bytes.clone())).collect();
    let mut group = criterion.benchmark_group("manifest");
    group.sample_size(10).throughput(Throughput::Elements(FILES.into()));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            let root = decode_root(black_box(&content.encoded.root.bytes), &publisher.verifying_key(), channel);
            let manifest = root.expect("an own root").assemble(|digest| parts.get(digest).cloned());
            manifest.expect("own parts").object(ObjectIndex(0)).map(|object| object.id)
        });
    });
    group.bench_function("encode and sign", |bencher| {
        bencher.iter(|| nackcast_proto::manifest::encode(black_box(&content.manifest), &publisher));
    });
    group.finish();
}
