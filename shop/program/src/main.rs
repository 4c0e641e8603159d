//! The shop's own program: `cargo run` is the shop on this machine.

mod calls;
mod demo;

use std::process::ExitCode;

use millrace_cli::Program;

fn main() -> ExitCode {
    Program::new(shop::shop(), command_service::main, query_service::main, projector::main)
        .calls(calls::to_try())
        .demo(demo::walk)
        .main()
}
