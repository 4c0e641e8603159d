//! Generated from the contracts in `proto/shop`.

/// The nesting follows the packages, as the generated paths expect.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::wildcard_enum_match_arm, clippy::panic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contracts.rs"));
}

pub use generated::{
    google,
    google::r#type::Money,
    shop::{self, command::v1 as command, event::v1 as event, query::v1 as query, r#type::v1 as types},
};

/// The contracts as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));
