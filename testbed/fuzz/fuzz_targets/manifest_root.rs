//! The signed root of a manifest.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_proto::fuzz::manifest_root(input));
