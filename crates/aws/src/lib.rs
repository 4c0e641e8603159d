//! How Millrace speaks to AWS.
//!
//! One place for what every client has in common: time-outs and retries ([`Aws`]), what a failed call means
//! ([`AwsError`]), how many requests were sent and how they ended ([`Requests`]), which spans they are in (`traced`), and what
//! reading whole tables needs ([`Segment`]).

mod connect;
mod error;
mod outcome;
mod requests;
mod scan;
mod traced;

pub use connect::{Aws, NoRegion};
pub use error::{AwsError, AwsResult};
pub use requests::Requests;
pub use scan::{Segment, printable, units};
