//! The map of a partial object on a receiver's disk.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_receiver::fuzz::part_map(input));
