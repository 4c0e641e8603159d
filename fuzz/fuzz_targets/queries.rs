//! A target of libFuzzer: see the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millrace_fuzz::queries(data));
