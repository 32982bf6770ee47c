//! Blocks: repair symbols made, a block assembled from symbols, restored, checked and kept. Bytes are the block's content.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use nackcast_common::archive::Archive;
use nackcast_common::fec::{Decoder, Encoder};
use nackcast_common::files::linux;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Digest, ObjectId};
use nackcast_receiver::blocks::{Blocks, Buffer, Check, Keep, Order, Report};
use nackcast_receiver::disk::part::PartStore;
use nackcast_receiver::disk::target::TargetDir;
use nackcast_receiver::engine::{BlockOutcome, Slot};

/// Symbols lost of a block.
const LOST: [u16; 4] = [0, 1, 5, 20];

pub(crate) fn bench(criterion: &mut Criterion) {
    let block = Block::new();
    encode(criterion, &block);
    decode(criterion, &block);
    assemble(criterion, &block);
    complete(criterion, &block);
}

/// A block, and repair symbols enough for every loss.
struct Block {
    layout: Layout,
    bytes: Vec<u8>,
    k: u16,
    symbol_size: u16,
    repair: Vec<u8>,
}

impl Block {
    fn new() -> Self {
        let layout = super::layout();
        let bytes = super::noise(layout.block_len(0) as usize);
        let (k, symbol_size) = (layout.source_symbols(0), layout.geometry().symbol_size());
        let most = LOST.into_iter().max().unwrap_or(0);
        let repair = Encoder::new().encode(layout.geometry().fec(), &bytes, k, symbol_size, 0..most);
        Self { layout, bytes, k, symbol_size, repair }
    }

    /// What arrives when the first of every so many symbols are lost: the rest, and as many repair symbols.
    fn received(&self, lost: u16) -> Buffer {
        let mut buffer = Buffer::default();
        self.put(lost, &mut buffer);
        buffer
    }

    fn put(&self, lost: u16, buffer: &mut Buffer) {
        let size = usize::from(self.symbol_size);
        let every = self.k.checked_div(lost).unwrap_or(u16::MAX);
        let is_lost = |esi: u16| esi.is_multiple_of(every) && esi / every < lost;
        let mut padded = vec![0; size];
        buffer.begin(self.layout, 0);
        for (esi, symbol) in (0..).zip(self.bytes.chunks(size)).filter(|(esi, _)| lost == 0 || !is_lost(*esi)) {
            match symbol.len() == size {
                true => buffer.put(esi, symbol),
                false => {
                    padded[..symbol.len()].copy_from_slice(symbol);
                    buffer.put(esi, &padded);
                }
            }
        }
        for (esi, symbol) in (self.k..).zip(self.repair.chunks_exact(size)).take(lost.into()) {
            buffer.put(esi, symbol);
        }
    }
}

fn encode(criterion: &mut Criterion, block: &Block) {
    let mut group = criterion.benchmark_group("FEC encode");
    group.throughput(Throughput::Bytes(block.bytes.len() as u64));
    let mut encoder = Encoder::new();
    let fec = block.layout.geometry().fec();
    for symbols in LOST {
        group.bench_function(BenchmarkId::from_parameter(symbols), |bencher| {
            bencher.iter(|| encoder.encode(fec, black_box(&block.bytes), block.k, block.symbol_size, 0..symbols));
        });
    }
}

fn decode(criterion: &mut Criterion, block: &Block) {
    let mut group = criterion.benchmark_group("FEC decode");
    group.throughput(Throughput::Bytes(block.bytes.len() as u64));
    let mut decoder = Decoder::new();
    let fec = block.layout.geometry().fec();
    let size = usize::from(block.symbol_size);
    for lost in LOST {
        let repair: Vec<_> = (0..lost).zip(block.repair.chunks_exact(size)).collect();
        let mut have = fixedbitset::FixedBitSet::with_capacity(block.k.into());
        have.insert_range(usize::from(lost)..);
        let mut bytes = block.bytes.clone();
        bytes.resize(usize::from(block.k) * size, 0);
        group.bench_function(BenchmarkId::from_parameter(lost), |bencher| {
            // What is restored is what was there, so that each time finds the same.
            bencher.iter(|| decoder.decode(fec, block.k, block.symbol_size, black_box(&mut bytes), &have, &repair));
        });
        assert_eq!(bytes[..block.bytes.len()], block.bytes, "the block came back");
    }
}

fn assemble(criterion: &mut Criterion, block: &Block) {
    let mut group = criterion.benchmark_group("block assembly");
    group.throughput(Throughput::Elements(block.k.into()));
    let mut buffer = Buffer::default();
    for lost in LOST {
        group.bench_function(BenchmarkId::from_parameter(lost), |bencher| {
            bencher.iter(|| block.put(lost, black_box(&mut buffer)));
        });
    }
}

/// What follows the last symbol that was needed: restored, checked, and given back or written (to memory, where a
/// machine has such a file system).
fn complete(criterion: &mut Criterion, block: &Block) {
    let memory = Path::new("/dev/shm");
    let place = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) });
    let place = place.expect("a directory");
    let target = TargetDir::open(linux(), place.path()).expect("a target");
    let archive = Archive::new(linux(), place.path().join("manifest"));
    let parts = Arc::new(PartStore::open(&target).expect("partial objects").0);
    let mut blocks = Blocks::new(parts, archive);
    let digest = Digest::of(&block.bytes);
    let object = ObjectId(digest.prefix());
    for (name, keep) in [("block complete, in memory", Keep::Memory), ("block complete, written", Keep::Disk)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(block.bytes.len() as u64));
        for lost in LOST {
            group.bench_function(BenchmarkId::from_parameter(lost), |bencher| {
                let received = || block.received(lost);
                let complete = |buffer| {
                    let (layout, check) = (block.layout, Check::Digest(digest));
                    blocks.handle(Order::Complete {
                        object,
                        layout,
                        block: 0,
                        slot: Some(Slot(0)),
                        buffer,
                        check,
                        keep,
                    });
                    let report = blocks.poll_report();
                    assert!(
                        matches!(report, Some(Report::Complete { outcome: BlockOutcome::Sound, .. })),
                        "{report:?}"
                    );
                    report
                };
                bencher.iter_batched(received, complete, BatchSize::SmallInput);
            });
        }
    }
}
