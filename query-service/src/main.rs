//! The query service as a program.

use std::process::ExitCode;

/// A fifth of a command's processor time went into the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    query_service::main(std::env::args_os())
}
