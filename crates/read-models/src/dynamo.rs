//! Read models on DynamoDB.

#[cfg(any(test, feature = "audit"))]
mod audit;
mod item;
#[cfg(any(test, feature = "contract"))]
mod load;
mod merge;
mod orders;
mod provenance;
mod table;
mod users;

#[cfg(any(test, feature = "audit"))]
pub use audit::DynamoRow;
pub use orders::DynamoOrders;
pub use users::DynamoUsers;
