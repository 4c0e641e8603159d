//! I17: a refusal is final. The command service and the SDK over a DynamoDB whose network loses, delays and repeats:
//! the event of a refused command is not there in the end, whatever was still on its way.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod drawn;
mod dynamo;
mod scripted;
