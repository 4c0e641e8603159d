//! Replies, and which of them are compressed where their caller asks for it.

use prost::Message;
use tonic::Response;

/// The smallest reply that is compressed, in bytes: about what a packet holds. Below it compression costs time on both
/// sides, and the network carries as many packets as before. ARCHITECTURE.md has figures.
const WORTH_COMPRESSING: usize = 1_400;

/// The largest reply that is compressed, in bytes: three times a page of a hundred usual orders. The framework compresses
/// a reply in one go, while nobody else is answered by that thread, health least of all: a page of 3 MiB, of texts that
/// somebody chose for it, keeps it for a third of a second by gzip, one of this size for 6 ms.
const MOST_COMPRESSED: usize = 64 * 1024;

/// A reply.
pub(crate) fn reply<M: Message>(message: M) -> Response<M> {
    let is_compressed = (WORTH_COMPRESSING..=MOST_COMPRESSED).contains(&message.encoded_len());
    let mut response = Response::new(message);
    if !is_compressed {
        response.disable_compression();
    }
    response
}
