//! Blocks with counts of symbols.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_proto::fuzz::block_counts(input));
