//! Queues as the projector needs them, on SQS and in memory.

mod memory;
mod sqs;

use std::{fmt, future::Future, sync::Arc, time::Duration};

pub use memory::{Calls, DeadLetter, MemoryQueue, WAIT};
use millrace_aws::AwsError;
use millrace_server::TraceParent;
pub use sqs::{SqsQueue, Unusable};

/// How many messages a call to a queue holds at most (SQS API Reference, `ReceiveMessage`).
pub const MAX_MESSAGES: u32 = 10;

/// What proves that a message was received, and lets its receiver delete or hide it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptHandle(pub Arc<str>);

/// A message as it was received. Its body may hold personal data: not for logs.
#[derive(Clone)]
pub struct Message {
    /// The message's id, the same each time that it is received.
    pub id: String,
    /// The proof of this time.
    pub receipt: ReceiptHandle,
    /// What it says.
    pub body: String,
    /// How often it has been received, this time included.
    pub attempts: u32,
    /// How long before this time it was received first.
    pub waited: Duration,
}

/// A queue on SQS: by its URL, or by its name in the account whose credentials are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueAddress {
    /// By its URL.
    Url(String),
    /// By its name.
    Name(String),
}

impl fmt::Display for QueueAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Url(text) | Self::Name(text)) = self;
        f.write_str(text)
    }
}

/// The rules of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a message that was received stays hidden from other receivers, if it is neither deleted nor hidden
    /// anew.
    pub visibility: Duration,
    /// How often a message is received at most, whatever becomes of it; after that the queue itself moves it to the dead
    /// letters.
    pub max_receives: u32,
}

/// How many messages a queue has, about (SQS API Reference, `GetQueueAttributes`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Those that can be received.
    pub waiting: u64,
    /// Those that are hidden: they are worked on, or failed and are to be tried again.
    pub hidden: u64,
    /// Dead letters.
    pub dead: u64,
}

/// What a dead letter is to carry besides its body.
#[derive(Debug, Clone)]
pub struct Cause {
    /// Why the message failed, in words.
    pub reason: String,
    /// Whose work it was.
    pub projection: &'static str,
    /// The trace that its event belongs to.
    pub trace_parent: Option<TraceParent>,
}

/// A queue that delivers every message at least once, in any order, and keeps dead letters.
pub trait Queue: Clone + Send + Sync + 'static {
    /// The queue's rules.
    fn rules(&self) -> Rules;

    /// Receives up to [`MAX_MESSAGES`], waiting for the first one as long as the queue allows.
    fn receive(&self) -> impl Future<Output = Result<Vec<Message>, AwsError>> + Send;

    /// Deletes messages, up to [`MAX_MESSAGES`], and says of each, in their order, whether that succeeded.
    fn delete(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;

    /// Hides messages, up to [`MAX_MESSAGES`], for so long from now on, and says of each, in their order, whether
    /// that succeeded.
    fn hide(
        &self,
        receipts: &[(ReceiptHandle, Duration)],
    ) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;

    /// Counts messages, about.
    fn depth(&self) -> impl Future<Output = Result<Depth, AwsError>> + Send;

    /// Puts a copy of a message among the dead letters. The message itself stays to be deleted.
    fn dead_letter(
        &self,
        message: &Message,
        cause: &Cause,
    ) -> impl Future<Output = Result<(), AwsError>> + Send;
}
