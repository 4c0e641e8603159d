//! The common parts of paged queries.

use millrace_core::{Invalid, TenantId};
use millrace_server::Violations;

use crate::token::{PageTokens, Paged};

/// The default page size.
const PAGE_SIZE: u16 = 20;

/// The largest page size.
const MAX_ON_PAGE: u16 = 100;

/// The longest page token that is read, in characters.
const MAX_TOKEN_CHARS: usize = 1024;

/// The largest reply, in bytes, unless its only part is larger. gRPC clients by default refuse messages over 4 MiB, and
/// 100 orders of the largest kind weigh 8.
pub(crate) const MAX_BYTES: usize = 3 << 20;

/// Reads a page size.
pub(crate) fn page_size(violations: &mut Violations, size: i32) -> Option<u16> {
    let size = match u16::try_from(size) {
        Ok(0) => Ok(PAGE_SIZE),
        Ok(size @ 1..=MAX_ON_PAGE) => Ok(size),
        Ok(_) | Err(_) => Err(Invalid("must be 1 to 100, or 0 for 20")),
    };
    violations.field("page_size", size)
}

/// Reads the place of a page token: `None` in it at the beginning, where the token is empty.
///
/// For a bad query no token can be valid, so only its length is checked.
pub(crate) fn reached<Q: Paged>(
    violations: &mut Violations,
    tokens: &PageTokens,
    tenant: &TenantId,
    query: Option<&Q>,
    token: &str,
) -> Option<Option<Q::Place>> {
    if token.chars().count() > MAX_TOKEN_CHARS {
        return violations.field("page_token", Err(Invalid("must be at most 1024 characters")));
    }
    match query {
        Some(query) if !token.is_empty() => {
            violations.field("page_token", tokens.open(tenant, query, token)).map(Some)
        }
        Some(_) | None => Some(None),
    }
}
