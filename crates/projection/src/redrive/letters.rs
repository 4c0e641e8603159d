//! Dead letters, for a redrive.

use std::{future::Future, time::Duration};

use millrace_aws::AwsError;
use millrace_core::Timestamp;

use crate::queue::ReceiptHandle;

/// How long a received letter stays hidden: longer than a run takes. A run that is not killed shows the letters that it
/// leaves before it ends.
pub(crate) const HIDDEN: Duration = Duration::from_secs(600);

/// How long a receive waits for letters. With a wait, SQS asks all of its servers (SQS Developer Guide, "Amazon SQS
/// short and long polling").
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// A dead letter. The body may hold personal data: never report it.
#[derive(Clone)]
pub(crate) struct Letter {
    /// The letter's id, the same at each receive.
    pub(crate) id: String,
    /// The proof of this receive.
    pub(crate) receipt: ReceiptHandle,
    /// The letter's text.
    pub(crate) body: String,
    /// When the letter was sent, by the queue's clock, if known. A letter that SQS moved by itself keeps the time at
    /// which it was first sent.
    pub(crate) sent_at: Option<Timestamp>,
    /// Why the message was given up. `None` where SQS moved it by itself, after too many attempts.
    pub(crate) reason: Option<String>,
    /// The number of attempts, if known.
    pub(crate) attempts: Option<u32>,
    /// The projection that failed, if known.
    pub(crate) projection: Option<String>,
}

/// A queue's dead letters, and the way back. Each call is one request.
pub(crate) trait DeadLetters: Send + Sync {
    /// Receives letters and hides them for [`HIDDEN`]. Empty if none came within [`WAIT`].
    fn receive(&self) -> impl Future<Output = Result<Vec<Letter>, AwsError>> + Send;

    /// Puts a copy of a letter into the queue that it came from: its body, without the reason.
    fn send_back(&self, letter: &Letter) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Deletes letters, up to ten. Returns a result for each, in their order.
    fn delete(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;

    /// The approximate number of letters, hidden ones included: SQS's counts lag (SQS API Reference,
    /// `GetQueueAttributes`).
    fn count(&self) -> impl Future<Output = Result<u64, AwsError>> + Send;

    /// Shows letters again at once, up to ten. Returns a result for each, in their order.
    fn show(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;
}
