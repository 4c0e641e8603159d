//! The bodies of the fuzz targets: each takes any bytes, and panics where its property is broken.
//!
//! Millrace is tried from outside, by its crates' public items: stored items come in replies of an AWS that is played
//! (`wire`), requests go to the services over stores in memory. Most targets read their bytes as a series of choices
//! ([`arbitrary::Unstructured`]), so that a good item, query or token is damaged in some places and inputs get far.

mod application;
mod calls;
mod commands;
mod damage;
mod identity;
mod metadata;
mod queries;
mod queue;
mod relay;
mod rows;
mod stored;
mod wire;

macro_rules! targets {
    ($($(#[$doc:meta])* $name:ident: $body:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(data: &[u8]) {
            // Too few bytes make too few choices: such an input says nothing.
            let _ = $body(data);
        }
    )*};
}

targets! {
    /// Metadata of calls, and the names of things.
    call_metadata: metadata::call_metadata;
    /// Claims of tokens.
    claims: identity::claims;
    /// Messages of commands.
    commands: commands::commands;
    /// Sets of keys.
    key_sets: identity::key_sets;
    /// Leases of the relay.
    leases: relay::leases;
    /// Messages of the queues.
    messages: queue::messages;
    /// Page tokens.
    page_tokens: queries::page_tokens;
    /// Files of TLS.
    pem_files: identity::pem_files;
    /// Messages of queries, their read-after tokens among them.
    queries: queries::queries;
    /// SQS's attributes of a queue, and its messages.
    queue_replies: queue::replies;
    /// Records of the event store's stream.
    records: relay::records;
    /// Rows of the read models.
    rows: rows::rows;
    /// Snapshots.
    snapshots: stored::snapshots;
    /// Items of the event store.
    stored_items: stored::items;
    /// Bearer tokens.
    tokens: identity::tokens;
}
