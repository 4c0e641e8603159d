//! The body of a reply, which may stop before its end.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::length;

/// A body with its length announced in advance. If fewer bytes are given, the rest never comes.
pub(super) struct Reply {
    given: Option<Bytes>,
    told: u64,
}

impl Reply {
    /// All of a body.
    pub(super) fn whole(body: Bytes) -> Self {
        Self { told: length(&body), given: Some(body) }
    }

    /// The first half of a body. An empty one is announced with one byte, which never comes.
    pub(super) fn half(body: Bytes) -> Self {
        Self { told: length(&body).max(1), given: Some(body.slice(..body.len() / 2)) }
    }

    /// How many bytes are given.
    pub(super) fn given(&self) -> u64 {
        self.given.as_ref().map_or(0, length)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.given.take() {
            Some(given) => {
                self.told -= length(&given);
                Poll::Ready(Some(Ok(Frame::data(given))))
            }
            None if self.told == 0 => Poll::Ready(None),
            // No wake-up follows: the rest never comes.
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.told == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.told)
    }
}
