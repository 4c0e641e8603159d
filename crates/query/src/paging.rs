//! The common parts of queries whose answers come in pages.

use millrace_core::{Invalid, TenantId};
use millrace_server::Violations;

use crate::token::{PageTokens, Paged};

/// How much a page holds where the request does not say.
const PAGE_SIZE: u16 = 20;

/// The most that a page holds.
const MAX_ON_PAGE: u16 = 100;

/// The longest page token that is looked at, in characters.
const MAX_TOKEN_CHARS: usize = 1024;

/// The most that a reply weighs, in bytes, but for one whose only part weighs more. gRPC clients refuse messages over
/// 4 MiB unless they are told otherwise, and 100 orders of the largest kind weigh 8.
pub(crate) const MAX_BYTES: usize = 3 << 20;

/// Reads how much a page is to hold.
pub(crate) fn page_size(violations: &mut Violations, size: i32) -> Option<u16> {
    let size = match u16::try_from(size) {
        Ok(0) => Ok(PAGE_SIZE),
        Ok(size @ 1..=MAX_ON_PAGE) => Ok(size),
        Ok(_) | Err(_) => Err(Invalid("must be 1 to 100, or 0 for 20")),
    };
    violations.field("page_size", size)
}

/// Reads where a query goes on by a page token: `None` in it at its beginning, where the token is empty.
///
/// Where the query itself is bad, there is nothing that a token could be good for, so only its length is looked at.
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
