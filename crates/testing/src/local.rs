//! The local AWS for tests: an account of its own for each test, the data of an application there, and a proxy that
//! makes calls fail.

mod fault_proxy;
mod stack;
mod tables;

pub use fault_proxy::{
    ATTEMPT_TIMEOUT, Access, Ambush, Answer, Entries, Fault, FaultKind, FaultProxy, Faults, Throttling,
    Traffic,
};
pub use stack::AwsStack;
pub use tables::{read_holders, read_oracle, read_rows};
