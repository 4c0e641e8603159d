//! Read models on DynamoDB.

mod item;
mod orders;
mod provenance;
mod table;
mod users;

pub use orders::DynamoOrders;
pub use users::DynamoUsers;
