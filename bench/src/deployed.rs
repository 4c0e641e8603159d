//! The deployables of a run: each is this program under another name, with the allocator that it is deployed with. The
//! benchmark's own process has the C library's allocator, the default of programs.

use std::{ffi::OsString, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|name| name.to_str()) {
        Some("command-service") => command_service::main(args),
        Some("query-service") => query_service::main(args),
        Some("projector") => projector::main(args),
        Some(_) | None => {
            eprintln!("deployed: no deployable is named");
            ExitCode::FAILURE
        }
    }
}
