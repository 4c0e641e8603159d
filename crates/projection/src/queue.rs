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

/// Proof of a receive; with it the receiver deletes or hides the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptHandle(pub Arc<str>);

/// A message as it was received. The body may hold personal data: do not log it.
#[derive(Clone)]
pub struct Message {
    /// The message's id, the same at each receive.
    pub id: String,
    /// The proof of this receive.
    pub receipt: ReceiptHandle,
    /// The message's text.
    pub body: String,
    /// How often the message has been received, this time included.
    pub attempts: u32,
    /// The time since the first receive.
    pub waited: Duration,
}

/// A queue on SQS: by its URL, or by its name in the account of the process's credentials.
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
    /// How long a received message stays hidden from other receivers, unless it is deleted or hidden again.
    pub visibility: Duration,
    /// How often a message is received at most, with any outcome; then the queue itself moves it to the dead letters.
    pub max_receives: u32,
}

/// How many messages a queue has, about (SQS API Reference, `GetQueueAttributes`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Visible messages.
    pub waiting: u64,
    /// Hidden messages: in work, or failed and to be tried again.
    pub hidden: u64,
    /// Dead letters.
    pub dead: u64,
}

/// The attributes of a dead letter.
#[derive(Debug, Clone)]
pub struct Cause {
    /// Why the message failed, in words.
    pub reason: String,
    /// The projection that failed.
    pub projection: &'static str,
    /// The trace of the event.
    pub trace_parent: Option<TraceParent>,
}

/// A queue that delivers every message at least once, in any order, and keeps dead letters.
pub trait Queue: Clone + Send + Sync + 'static {
    /// The queue's rules.
    fn rules(&self) -> Rules;

    /// Receives up to [`MAX_MESSAGES`], waiting for the first one as long as the queue allows.
    fn receive(&self) -> impl Future<Output = Result<Vec<Message>, AwsError>> + Send;

    /// Deletes messages, up to [`MAX_MESSAGES`]. Returns a result for each, in their order.
    fn delete(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;

    /// Hides messages, up to [`MAX_MESSAGES`], for so long from now on. Returns a result for each, in their order.
    fn hide(
        &self,
        receipts: &[(ReceiptHandle, Duration)],
    ) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;

    /// Counts messages, about.
    fn depth(&self) -> impl Future<Output = Result<Depth, AwsError>> + Send;

    /// Puts a copy of a message among the dead letters. The message itself is still to be deleted.
    fn dead_letter(
        &self,
        message: &Message,
        cause: &Cause,
    ) -> impl Future<Output = Result<(), AwsError>> + Send;
}
