//! Messages of the unicast pull.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nackcast_proto::fuzz::pull(input));
