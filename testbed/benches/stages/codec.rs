//! One datagram: header, sealing, opening. Bytes are those of the whole datagram.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::ObjectId;
use nackcast_common::keys::Flow;
use nackcast_common::seal::FlowKey;
use nackcast_proto::wire::symbol::{PREFIX_LEN, SymbolId, datagram_len};
use nackcast_proto::wire::{DatagramType, Header, header};

/// As many as leave in one call.
const BATCH: usize = 46;

pub(crate) fn bench(criterion: &mut Criterion) {
    let (head, symbol) = (header(), SymbolId { object: ObjectId(0x0123_4567_89ab_cdef), block: 7, esi: 99 });
    let length = datagram_len(Geometry::default().symbol_size());
    let key = FlowKey::new(&[7; 32]);

    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(1));
    let mut datagram = super::noise(length);
    group
        .bench_function("write", |bencher| bencher.iter(|| write(black_box(&head), black_box(&symbol), &mut datagram)));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let read = Header::read(black_box(&datagram)).expect("an own header");
            (read, SymbolId::read(black_box(&datagram[header::LEN..])).expect("an own symbol").0)
        });
    });
    group.finish();

    let mut batch = super::noise(length * BATCH);
    let mut group = criterion.benchmark_group("datagrams");
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("seal", |bencher| {
        bencher.iter(|| {
            for (number, datagram) in (0..).zip(batch.chunks_exact_mut(length)) {
                key.seal_in_place(number, header::LEN, datagram);
            }
        });
    });
    for (number, datagram) in (0..).zip(batch.chunks_exact_mut(length)) {
        write(&head, &symbol, datagram);
        key.seal_in_place(number, header::LEN, datagram);
    }
    // What is opened is changed, so each time begins with a copy, which is measured beside it.
    let mut opened = batch.clone();
    group.bench_function("copy", |bencher| bencher.iter(|| opened.copy_from_slice(black_box(&batch))));
    group.bench_function("copy and open", |bencher| {
        bencher.iter(|| {
            opened.copy_from_slice(&batch);
            for (number, datagram) in (0..).zip(opened.chunks_exact_mut(length)) {
                black_box(key.open_in_place(number, header::LEN, datagram).expect("an own datagram"));
            }
        });
    });
    group.finish();
}

fn header() -> Header {
    let kind = DatagramType::Symbol;
    Header { datagram_type: kind, flow: Flow::Data, epoch_low: 1, session: u64::MAX / 3, packet_number: 1 << 20 }
}

fn write(head: &Header, symbol: &SymbolId, datagram: &mut [u8]) {
    let (front, body) = datagram.split_first_chunk_mut().expect("a datagram has a header");
    head.write(front);
    symbol.write(body.first_chunk_mut::<PREFIX_LEN>().expect("and a symbol's name"));
}
