//! Whether AWS answered every attempt at a call.

use std::{cell::Cell, future::Future};

tokio::task_local! {
    static ATTEMPTS: Cell<Attempts>;
}

/// The answers to the attempts so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempts {
    /// There was no reply, or the client does not report attempts.
    Unseen,
    /// All were answered.
    Answered,
    /// One was not.
    Unanswered,
}

/// Makes calls, and returns whether AWS answered every attempt at them.
///
/// An unanswered attempt may have taken effect, or may do so later: a reply was lost, a request is still under way, or
/// AWS failed in the middle (after a status code 500 "the operation may have succeeded or failed": "Error handling with
/// DynamoDB", Developer Guide). The SDK retries by itself, and its result is that of the last attempt alone.
///
/// Only clients of [`Aws`](crate::Aws) report attempts. The calls of others count as unanswered.
pub async fn answered<T>(calls: impl Future<Output = T>) -> (T, bool) {
    let watched = async {
        let result = calls.await;
        (result, ATTEMPTS.with(Cell::get) == Attempts::Answered)
    };
    ATTEMPTS.scope(Cell::new(Attempts::Unseen), watched).await
}

/// Notes that an attempt has ended.
pub(crate) fn note(was_answered: bool) {
    // Most calls are not asked about.
    let _ = ATTEMPTS.try_with(|attempts| {
        let all = was_answered && attempts.get() != Attempts::Unanswered;
        attempts.set(if all { Attempts::Answered } else { Attempts::Unanswered });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_attempt_without_an_answer_is_enough() {
        for (attempts, all) in [
            (&[][..], false),
            (&[true], true),
            (&[true, true], true),
            (&[false, true], false),
            (&[true, false], false),
        ] {
            let calls = async { attempts.iter().for_each(|attempt| note(*attempt)) };
            assert_eq!(answered(calls).await, ((), all), "{attempts:?}");
        }
        // Outside of `answered`.
        note(false);
    }
}
