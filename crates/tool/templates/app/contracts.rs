//! Generated from the contracts in `proto`.

/// The nesting follows the packages, as the generated paths expect.
#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contracts.rs"));
}

pub use generated::{{app_snake}}::{command::v1 as command, event::v1 as event, query::v1 as query};

/// The contracts as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));
