//! Millrace's contracts.
//!
//! The generated code of every package stands under its own name: [`command`], [`query`], [`event`], [`types`]. By
//! hand come the two contracts that protobuf does not describe: the [`Envelope`] in which an event is stored and
//! published, and the [`codec`]s between the events of the contract and those of the domain.

/// Generated from `millrace/` and `google/type/`; the nesting follows the packages, as the generated paths expect.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::wildcard_enum_match_arm)]
mod generated {
    pub mod google {
        pub mod r#type {
            include!(concat!(env!("OUT_DIR"), "/google.r#type.rs"));
            include!(concat!(env!("OUT_DIR"), "/google.r#type.serde.rs"));
        }
    }
    pub mod millrace {
        pub mod r#type {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/millrace.r#type.v1.rs"));
                include!(concat!(env!("OUT_DIR"), "/millrace.r#type.v1.serde.rs"));
            }
        }
        pub mod event {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/millrace.event.v1.rs"));
                include!(concat!(env!("OUT_DIR"), "/millrace.event.v1.serde.rs"));
            }
        }
        pub mod command {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/millrace.command.v1.rs"));
            }
        }
        pub mod query {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/millrace.query.v1.rs"));
            }
        }
    }
}

pub mod codec;
mod envelope;
mod timestamp;

pub use envelope::Envelope;
pub use generated::{
    google::r#type::Money,
    millrace::{command::v1 as command, event::v1 as event, query::v1 as query, r#type::v1 as types},
};
pub use timestamp::Timestamp;

/// Every contract as an encoded `FileDescriptorSet`, for reflection and for clients that read contracts at run time.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/millrace.binpb"));
