//! An answer to a NACK.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_proto::fuzz::nack_answer(input));
