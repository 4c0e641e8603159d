//! Millrace's event store: append, load, snapshots, unique keys, on DynamoDB and in memory.
