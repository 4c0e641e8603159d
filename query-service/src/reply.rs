//! Replies, and which of them are compressed where their caller asks for it.

use prost::Message;
use tonic::Response;

/// The smallest reply that is compressed, in bytes: about what a packet holds. Below it compression costs time on both
/// sides, and the network carries as many packets as before. ARCHITECTURE.md has figures.
const WORTH_COMPRESSING: usize = 1_400;

/// A reply.
pub(crate) fn reply<M: Message>(message: M) -> Response<M> {
    let is_small = message.encoded_len() < WORTH_COMPRESSING;
    let mut response = Response::new(message);
    if is_small {
        response.disable_compression();
    }
    response
}
