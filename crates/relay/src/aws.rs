//! The relay's ports on AWS.

mod bus;
mod leases;
mod refill;
mod stream;
mod undecoded;

pub use bus::EventBridgeBus;
pub use leases::DynamoLeases;
pub use refill::DynamoRefill;
pub use stream::DynamoStream;
