//! Dead letters, as sending them back needs them.

use std::{future::Future, time::Duration};

use millrace_aws::AwsError;
use millrace_core::Timestamp;

use crate::queue::ReceiptHandle;

/// How long a letter that was received stays hidden: longer than a run takes. A run that is not killed shows the letters
/// that it leaves before it ends.
pub(crate) const HIDDEN: Duration = Duration::from_secs(600);

/// How long a receiving waits for letters. With a wait, SQS asks all of its servers (SQS Developer Guide, "Amazon SQS
/// short and long polling").
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// A dead letter. Its body may hold personal data: not for a report.
#[derive(Clone)]
pub(crate) struct Letter {
    /// Its id, the same each time that it is received.
    pub(crate) id: String,
    /// The proof of this time.
    pub(crate) receipt: ReceiptHandle,
    /// What it says.
    pub(crate) body: String,
    /// When it was sent, by the queue's clock, if the queue says it. One that SQS moved by itself keeps the time at
    /// which it was first sent.
    pub(crate) sent_at: Option<Timestamp>,
    /// Why it was given up. `None` where SQS moved it by itself, after too many attempts.
    pub(crate) reason: Option<String>,
    /// After how many attempts, if that is known.
    pub(crate) attempts: Option<u32>,
    /// Whose work it was, if that is known.
    pub(crate) projection: Option<String>,
}

/// The dead letters of a queue, and the way back. Each call is one request.
pub(crate) trait DeadLetters: Send + Sync {
    /// Receives some, which are hidden from then on for [`HIDDEN`]. None, if none came within [`WAIT`].
    fn receive(&self) -> impl Future<Output = Result<Vec<Letter>, AwsError>> + Send;

    /// Puts a copy of a letter into the queue that it came from: its body, and nothing of why it was given up.
    fn send_back(&self, letter: &Letter) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Deletes letters, up to ten, and says of each, in their order, whether that succeeded.
    fn delete(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;

    /// How many letters there are, hidden ones among them. About: SQS's counts lag (SQS API Reference,
    /// `GetQueueAttributes`).
    fn count(&self) -> impl Future<Output = Result<u64, AwsError>> + Send;

    /// Shows letters again at once, up to ten, and says of each, in their order, whether that succeeded.
    fn show(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), AwsError>>> + Send;
}
