//! The projector as a process.

use std::process::ExitCode;

/// A fifth of a command's processor time went into the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    projector::main(std::env::args_os())
}
