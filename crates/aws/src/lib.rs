//! How Millrace speaks to AWS.
//!
//! One place for what every client has in common: time-outs and retries ([`Aws`]), what a failed call means
//! ([`AwsError`]), and how many requests were sent ([`Requests`]).

mod connect;
mod error;
mod requests;

pub use connect::{Aws, NoRegion};
pub use error::{AwsError, AwsResult};
pub use requests::Requests;
