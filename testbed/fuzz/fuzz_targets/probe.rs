//! A probe between senders, or its answer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_proto::fuzz::probe(input));
