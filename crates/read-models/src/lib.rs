//! Millrace's read models: rows, conditional writes and lists, on DynamoDB and in memory.
