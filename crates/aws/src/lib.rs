//! How Millrace speaks to AWS.
//!
//! One place for everything that clients share: time-outs and retries ([`Aws`]), the meaning of a failed call
//! ([`AwsError`]), the number and outcome of requests ([`Requests`]), the check that AWS answered all of them
//! ([`answered`]), their spans (`traced`), the segments of a table scan ([`Segment`]), and the codec of items
//! ([`item`]).
//!
//! ```no_run
//! use millrace_aws::Aws;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let aws = Aws::from_env(Aws::ATTEMPT_TIMEOUT).await?;
//! let tables = aws.dynamodb().list_tables().send().await.map_err(millrace_aws::AwsError::from)?;
//! println!("{:?}", tables.table_names());
//! # Ok(()) }
//! ```

mod answered;
mod connect;
mod error;
pub mod item;
mod outcome;
mod requests;
mod scan;
mod traced;

pub use answered::answered;
pub use connect::{Aws, NoRegion};
pub use error::{AwsError, AwsResult};
pub use requests::Requests;
pub use scan::{Place, Segment, printable, units};
