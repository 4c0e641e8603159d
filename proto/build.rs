//! Compiles the contracts without `protoc`: protox parses them, tonic and pbjson generate from its descriptors.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// Every contract, in the order of dependence.
const CONTRACTS: [&str; 9] = [
    "millrace/type/v1/order.proto",
    "millrace/event/v1/user_events.proto",
    "millrace/event/v1/order_events.proto",
    "millrace/command/v1/user_command_service.proto",
    "millrace/command/v1/order_command_service.proto",
    "millrace/query/v1/read_after.proto",
    "millrace/query/v1/user_query_service.proto",
    "millrace/query/v1/order_query_service.proto",
    "millrace/query/v1/history_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for folder in ["millrace", "third_party"] {
        println!("cargo::rerun-if-changed={}", here.join(folder).display());
    }

    let descriptors = protox::compile(CONTRACTS, [here.clone(), here.join("third_party")])?;
    let encoded = descriptors.encode_to_vec();
    fs::write(out.join("millrace.binpb"), &encoded)?;

    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        // The rules are options for clients; the servers' own parsers keep them.
        .extern_path(".buf.validate", "crate::unused")
        .compile_fds(descriptors)?;

    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        // An event written by a newer release may carry fields that this one does not know.
        .ignore_unknown_fields()
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .build(&[".millrace.event.v1", ".millrace.type.v1", ".google.type"])?;
    Ok(())
}
