//! The sender's file of known hashes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_sender::fuzz::hash_cache(input));
