//! A set of missing objects.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_proto::fuzz::index_set(input));
