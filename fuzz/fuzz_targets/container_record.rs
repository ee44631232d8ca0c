#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| container::fuzzing::record(bytes));
