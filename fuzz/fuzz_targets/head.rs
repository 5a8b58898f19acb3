//! Any bytes as a request's head: see `check_head` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| async_task_system::fuzzing::check_head(bytes));
