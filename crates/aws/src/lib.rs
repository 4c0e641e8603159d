//! How Millrace speaks to AWS.
//!
//! One place for what every client has in common: time-outs and retries ([`Aws`]), what a failed call means
//! ([`AwsError`]), how many requests were sent and how they ended ([`Requests`]), whether AWS answered all of them
//! ([`answered`]), which spans they are in (`traced`), what reading whole tables needs ([`Segment`]), and the codec of items
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
pub use scan::{Segment, printable, units};
