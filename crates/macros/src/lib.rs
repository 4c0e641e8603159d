//! The derive macro of Millrace's rows: `#[derive(Row)]`. Its documentation stands at `millrace_core::Row`.
//!
//! ```
//! use millrace_core::{Row, Timestamp, uuid_id};
//!
//! uuid_id! {
//!     /// A ticket.
//!     pub struct TicketId;
//! }
//!
//! #[derive(Debug, Clone, PartialEq, Row)]
//! #[row(resource = "ticket", key = ticket_id)]
//! #[row(list(name = "by-owner", by = owner, order_by = opened_at))]
//! pub struct Ticket {
//!     ticket_id: TicketId,
//!     owner: String,
//!     opened_at: Timestamp,
//! }
//!
//! assert_eq!(Ticket::BY_OWNER.schema().name, "by-owner");
//! ```

mod row;

use proc_macro::TokenStream;

/// Makes a struct with named fields a row of a read model.
///
/// ```text
/// #[derive(Debug, Clone, PartialEq, Row)]
/// #[row(resource = "order", key = order_id)]
/// #[row(list(name = "by-user", by = user_id, order_by = created_at))]
/// #[row(list(name = "by-status", by = status, order_by = created_at, sharded))]
/// #[row(lookup(name = "by-number", by = number))]
/// pub struct OrderSummary { … }
/// ```
///
/// | part | meaning |
/// |---|---|
/// | `resource` | the row's name where it is missing |
/// | `key` | the field that is the row's id |
/// | `list` | rows that share the value of the field `by`, newest first by the field `order_by`, a `Timestamp`; `sharded` where many rows share a value |
/// | `lookup` | rows found by the value of the field `by`; with `order_by`, those that share it are sorted by that time, newest first |
/// | `crate` | the path of `millrace_core`, where it is not `::millrace_core` |
///
/// Each field becomes an attribute: `created_at` is `CreatedAt`. Its type can be written to and read from JSON by serde,
/// an optional one is an `Option`. For each field there is a constant, such as `OrderSummary::CREATED_AT`, by which a
/// `Patch` sets it; for each list and look-up one such as `OrderSummary::BY_STATUS`, by which queries read it. The constants
/// of fields called `name` and `schema` are `NAME_FIELD` and `SCHEMA_FIELD`: `NAME` is a projection's name, and `SCHEMA` the
/// row's schema.
#[proc_macro_derive(Row, attributes(row))]
pub fn derive_row(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    row::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
