#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| buildkit::fuzzing::files(bytes));
