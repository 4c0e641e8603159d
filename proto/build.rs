//! Compiles Millrace's own contracts, and passes their folder to the build scripts of applications.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let third_party = here.join("third_party");
    println!("cargo::metadata=include={}", here.display());
    println!("cargo::metadata=third_party={}", third_party.display());
    // Clients that read contracts by reflection decode the details of errors by theirs.
    millrace_build::Contracts::of_millrace(here, third_party).compile(&[
        "google/rpc/error_details.proto",
        "millrace/command/v1/command_result.proto",
        "millrace/query/v1/as_of.proto",
        "millrace/query/v1/history_service.proto",
    ])
}
