//! Requests, replies, and the choice of the replies to compress.

use futures::stream::BoxStream;
use millrace_server::{Call, Failure};
use prost::Message;
use tonic::{Request, Response, Status};

/// The result of a call.
pub type Reply<M> = Result<Response<M>, Status>;

/// The messages of a streaming reply.
pub type Messages<M> = BoxStream<'static, Result<M, Status>>;

/// The caller, and the message of the request.
///
/// # Errors
/// If the request names no valid tenant.
pub fn accept<M>(request: Request<M>) -> Result<(Call, M), Failure> {
    Ok((Call::of(&request)?, request.into_inner()))
}

/// The smallest reply that is compressed, in bytes: about a packet. Below it compression costs time on both sides, and
/// the network carries as many packets as before. ARCHITECTURE.md has figures.
const WORTH_COMPRESSING: usize = 1_400;

/// The largest reply that is compressed, in bytes: three times a page of a hundred usual orders. The framework
/// compresses a reply in one go, and its thread answers no other call meanwhile, not even health: gzip takes a third of
/// a second for a page of 3 MiB of texts chosen by an attacker, 6 ms for one of this size.
const MAX_COMPRESSED: usize = 64 * 1024;

/// A reply that succeeds.
///
/// # Errors
/// None: the type is that of calls.
pub fn reply<M: Message>(message: M) -> Reply<M> {
    let is_compressed = is_compressed(message.encoded_len());
    let mut response = Response::new(message);
    if !is_compressed {
        response.disable_compression();
    }
    Ok(response)
}

/// Whether a reply of so many bytes is compressed for a caller that accepts it.
fn is_compressed(bytes: usize) -> bool {
    (WORTH_COMPRESSING..=MAX_COMPRESSED).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_compressed_and_neither_rows_nor_what_keeps_others_waiting() {
        for (bytes, compressed) in
            [(157, false), (1_399, false), (1_400, true), (19_000, true), (65_536, true), (65_537, false)]
        {
            assert_eq!(is_compressed(bytes), compressed, "{bytes}");
        }
    }
}
