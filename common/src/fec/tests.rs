use proptest::prelude::*;
use proptest::sample::SizeRange;

use super::*;
use crate::ids::Digest;

const SCHEME: FecScheme = FecScheme::ReedSolomonLow;

/// Bytes that look random and are the same on every machine.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Restores a block from the source and repair symbols named.
fn restore(
    decoder: &mut Decoder,
    block: &[u8],
    k: u16,
    size: u16,
    kept: &FixedBitSet,
    indices: &[u16],
) -> Result<Vec<u8>, FecError> {
    let mut encoder = Encoder::new();
    let symbols = encoder.encode(SCHEME, block, k, size, 0..REPAIR_SYMBOLS);
    let repair: Vec<_> =
        indices.iter().map(|&i| (i, &symbols[usize::from(i) * usize::from(size)..][..usize::from(size)])).collect();
    let mut buffer = vec![0xee; usize::from(k) * usize::from(size)];
    let mut padded = block.to_vec();
    padded.resize(buffer.len(), 0);
    for esi in kept.ones() {
        let range = esi * usize::from(size)..(esi + 1) * usize::from(size);
        buffer[range.clone()].copy_from_slice(&padded[range]);
    }
    decoder.decode(SCHEME, k, size, &mut buffer, kept, &repair)?;
    assert_eq!(&buffer[block.len()..], &padded[block.len()..], "padding is restored as zeros");
    buffer.truncate(block.len());
    Ok(buffer)
}

#[test]
fn repair_symbols_are_frozen() {
    let mut encoder = Encoder::new();
    for (k, size, short, expected) in [
        (1_u16, 16_u16, 3, "c0c1726c022920f551d990e5c1a40dd1240b65b7a38f68bd48063cbb587776b4"),
        (2, 1400, 1, "dccf49bab919a409f9c4995bd865a2944434dd449a6b8509570ea40ddb3b8e35"),
        (188, 1400, 1056, "12150c77f2d360d5a16e1432566eeb1fa086762dfa99af72a1c265fefe8b39fc"),
        (1000, 64, 0, "e833e450be9254853e478f1c3001155541f9834713772bc6107b879a0b47e042"),
    ] {
        let block = bytes(usize::from(k) * usize::from(size) - short, u64::from(k));
        let symbols = encoder.encode(SCHEME, &block, k, size, 0..REPAIR_SYMBOLS);
        assert_eq!(Digest::of(&symbols).to_string(), expected, "K {k}");
    }
}

#[test]
fn fewer_repair_symbols_are_the_first_of_all() {
    let mut encoder = Encoder::new();
    for (k, size) in [(1_u16, 16_u16), (2, 32), (3, 66), (188, 1400), (255, 18), (256, 16), (257, 16), (1000, 62)] {
        let block = bytes(usize::from(k) * usize::from(size) - 1, 9);
        let all = encoder.encode(SCHEME, &block, k, size, 0..REPAIR_SYMBOLS);
        for range in [0..0, 0..1, 0..7, 3..5, 64..129, 100..101, 255..256] {
            let some = encoder.encode(SCHEME, &block, k, size, range.clone());
            let range = usize::from(range.start) * usize::from(size)..usize::from(range.end) * usize::from(size);
            assert!(some == all[range], "K {k}: the code is not prefix-stable");
        }
    }
}

#[test]
fn a_block_comes_back_from_repair_symbols_alone() {
    let mut decoder = Decoder::new();
    for k in [1_u16, 2, 3, 188, 256] {
        let block = bytes(usize::from(k) * 50 - 7, 1);
        let indices: Vec<u16> = (256 - k..256).rev().collect();
        let none = FixedBitSet::new();
        assert_eq!(restore(&mut decoder, &block, k, 50, &none, &indices), Ok(block), "K {k}");
    }
}

#[test]
fn malformed_and_missing_symbols_are_errors_and_leave_the_block() {
    let mut decoder = Decoder::new();
    let block = bytes(40, 2);
    let mut kept = FixedBitSet::with_capacity(4);
    kept.insert_range(0..2);
    assert_eq!(restore(&mut decoder, &block, 4, 10, &kept, &[5]), Err(FecError::NotEnough { have: 3, need: 4 }));
    assert_eq!(restore(&mut decoder, &block, 4, 10, &kept, &[5, 5]), Err(FecError::NotEnough { have: 3, need: 4 }));
    let mut buffer = block.clone();
    let long = [0; 12];
    let mut decode =
        |k, size, buffer: &mut [u8], repair: &[(u16, &[u8])]| decoder.decode(SCHEME, k, size, buffer, &kept, repair);
    assert_eq!(decode(4, 10, &mut buffer, &[(256, &long[..10])]), Err(FecError::RepairIndex(256)));
    assert_eq!(
        decode(4, 10, &mut buffer, &[(1, &long)]),
        Err(FecError::SymbolLength { index: 1, len: 12, symbol_size: 10 })
    );
    assert_eq!(decode(5, 10, &mut buffer, &[]), Err(FecError::BlockLength { k: 5, symbol_size: 10, len: 40 }));
    assert_eq!(decode(0, 10, &mut [], &[]), Err(FecError::Geometry { k: 0, symbol_size: 10 }));
    let odd: Vec<(u16, &[u8])> = (0..6).map(|i| (i, &long[..5])).collect();
    assert_eq!(decode(8, 5, &mut buffer, &odd), Err(FecError::Geometry { k: 8, symbol_size: 5 }));
    assert_eq!(buffer, block);
    // A refusal leaves nothing behind in the work memory.
    assert_eq!(restore(&mut decoder, &block, 4, 10, &kept, &[5, 6]), Ok(block));
}

#[test]
fn a_complete_block_needs_no_repair_symbol() {
    let mut kept = FixedBitSet::with_capacity(3);
    kept.insert_range(..);
    let block = bytes(30, 3);
    assert_eq!(restore(&mut Decoder::new(), &block, 3, 10, &kept, &[]), Ok(block));
}

/// K, which source symbols are lost, and a shuffled choice of repair symbols.
fn losses() -> impl Strategy<Value = (u16, Vec<usize>, Vec<u16>)> {
    let k = prop_oneof![1_u16..=4, 5_u16..70, Just(188_u16), Just(256), Just(1000)];
    k.prop_flat_map(|k| (Just(k), 0..=usize::from(k.min(REPAIR_SYMBOLS)))).prop_flat_map(|(k, lost)| {
        let exactly = SizeRange::from(lost);
        let sources: Vec<usize> = (0..usize::from(k)).collect();
        let repairs: Vec<u16> = (0..REPAIR_SYMBOLS).collect();
        (
            Just(k),
            proptest::sample::subsequence(sources, exactly.clone()),
            proptest::sample::subsequence(repairs, exactly).prop_shuffle(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_k_symbols_restore_the_block(
        (k, lost, indices) in losses(),
        half in 1_u16..50,
        short: prop::sample::Index,
        seed: u64,
    ) {
        let size = half * 2;
        let len = usize::from(k) * usize::from(size) - short.index(usize::from(size));
        let block = bytes(len, seed);
        let mut kept = FixedBitSet::with_capacity(usize::from(k));
        kept.insert_range(..);
        lost.iter().for_each(|&esi| kept.set(esi, false));
        prop_assert_eq!(restore(&mut Decoder::new(), &block, k, size, &kept, &indices), Ok(block));
    }
}
