//! Page tokens: the place in a paged reply, sealed so that nobody can make, change or misuse one.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use millrace_core::{Invalid, TenantId};
use sha2::{Digest as _, Sha256};

/// The version of the format: this byte, the place, the seal; in base64url without padding.
const FORM: u8 = 2;
const SEAL_LEN: usize = 32;

/// A query with a paged reply.
pub trait Paged {
    /// The end of a page.
    type Place;

    /// Distinguishes the query from every other, with its filters and its order, but without the page size, which a
    /// caller may change between pages. The first part is the kind of query.
    fn identity(&self) -> Vec<Vec<u8>>;

    /// A place as bytes.
    fn write(place: &Self::Place) -> Vec<u8>;

    /// The place in bytes, if there is one.
    fn read(bytes: &[u8]) -> Option<Self::Place>;
}

/// Makes and reads page tokens.
///
/// A token holds a place and an HMAC-SHA256 over it, the query and the tenant. So it is valid only for continuing that
/// query of that tenant.
#[derive(Clone)]
pub struct PageTokens(Hmac<Sha256>);

impl fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageTokens(…)")
    }
}

impl PageTokens {
    /// Tokens sealed with a key of any length.
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104, section 2)"))
    }

    /// Tokens sealed with a key derived from the table's name. See `PAGE_TOKEN_KEY` for why a public name does no harm.
    pub fn of_table(name: &str) -> Self {
        let key: [u8; 32] =
            Sha256::new().chain_update("millrace page tokens of ").chain_update(name).finalize().into();
        Self::new(&key)
    }

    /// The token for the page after `place`.
    pub fn seal<Q: Paged>(&self, tenant: &TenantId, query: &Q, place: &Q::Place) -> String {
        let mut token = vec![FORM];
        token.extend(Q::write(place));
        let seal = self.sealing(tenant, query, &token).finalize().into_bytes();
        token.extend(seal);
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// The place in a token, if it was made for this query of this tenant.
    pub fn open<Q: Paged>(&self, tenant: &TenantId, query: &Q, token: &str) -> Result<Q::Place, Invalid> {
        const BAD: Invalid = Invalid("must be the next_page_token of the page before, of the same query");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| BAD)?;
        let body_len = bytes.len().checked_sub(SEAL_LEN).ok_or(BAD)?;
        let (body, seal) = bytes.split_at_checked(body_len).ok_or(BAD)?;
        // In constant time.
        self.sealing(tenant, query, body).verify_slice(seal).map_err(|_| BAD)?;
        match body.split_first() {
            Some((&FORM, place)) => Q::read(place).ok_or(BAD),
            Some(_) | None => Err(BAD),
        }
    }

    /// The sealed bytes. Each part has its length before it, so different queries, tenants or places have different
    /// bytes.
    fn sealing<Q: Paged>(&self, tenant: &TenantId, query: &Q, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        let identity = query.identity();
        let parts = identity.iter().map(Vec::as_slice);
        for part in [tenant.as_str().as_bytes(), body].into_iter().chain(parts) {
            mac.update(&part.len().to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::{
        Row as _, Timestamp,
        row::{ListSchema, Position},
    };
    use millrace_rows::{Filter, ListQuery, TimeRange};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        list::Listed,
        testing::{BookRow, at, key},
    };

    fn tokens() -> PageTokens {
        PageTokens::of_table("events")
    }

    fn position() -> Position {
        Position { at: at(0), id: key(7).id }
    }

    fn listed(list: &'static ListSchema, value: &str, filter: Option<(&'static str, &str)>) -> Listed {
        let filter = filter.map(|(attribute, value)| Filter { attribute, value: value.into() });
        let (value, times) = (value.to_owned(), TimeRange::default());
        Listed {
            projection: "books",
            query: ListQuery { list, tenant: TenantId::default(), value, filter, times },
        }
    }

    fn of_shelf() -> Listed {
        listed(&BookRow::SCHEMA.lists[0], "a", None)
    }

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let [by_shelf, by_reader] = BookRow::SCHEMA.lists else { panic!("two lists") };
        let lists = [
            of_shelf(),
            Listed { projection: "magazines", ..of_shelf() },
            listed(by_shelf, "b", None),
            listed(by_reader, "a", None),
            listed(by_shelf, "a", Some(("Reader", "john"))),
            listed(by_shelf, "a", Some(("Reader", "jack"))),
            listed(by_shelf, "a", Some(("Title", "john"))),
            listed(by_shelf, "a", Some(("Title", ""))),
        ];
        let times = [(None, None), (Some(0), None), (None, Some(0)), (Some(0), Some(1)), (Some(1), Some(2))];
        let lists = lists.iter().flat_map(|list| {
            times.map(|(since, before)| {
                let mut list = list.clone();
                list.query.times = TimeRange { since: since.map(at), before: before.map(at) };
                list
            })
        });
        let lists: Vec<_> = lists.collect();
        let tenant = TenantId::default();
        for own in &lists {
            let token = tokens().seal(&tenant, own, &position());
            for list in &lists {
                let opened = tokens().open(&tenant, list, &token).ok();
                assert_eq!(opened, (list == own).then(position), "{list:?}");
            }
            for other in ["other", "another"] {
                assert!(tokens().open(&other.parse().unwrap(), own, &token).is_err(), "{other}");
            }
            assert!(PageTokens::of_table("event").open(&tenant, own, &token).is_err());
            assert!(PageTokens::new(b"secret").open(&tenant, own, &token).is_err());
        }
    }

    #[test]
    fn a_changed_token_is_refused_at_every_bit_and_every_length() {
        let tenant = TenantId::default();
        let token = tokens().seal(&tenant, &of_shelf(), &position());
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
            assert!(tokens().open(&tenant, &of_shelf(), &changed).is_err(), "bit {bit}");
        }
        for len in 0..token.len() {
            assert!(tokens().open(&tenant, &of_shelf(), &token[..len]).is_err(), "{len} characters");
        }
        for longer in
            [format!("{token}A"), format!("{token}="), format!("{token}{token}"), format!(" {token}")]
        {
            assert!(tokens().open(&tenant, &of_shelf(), &longer).is_err(), "{longer}");
        }
    }

    #[test]
    fn a_token_of_another_form_is_refused_even_with_a_seal() {
        for form in [FORM - 1, FORM + 1] {
            let body = [vec![form], Listed::write(&position())].concat();
            let seal = tokens().sealing(&TenantId::default(), &of_shelf(), &body).finalize().into_bytes();
            let token = BASE64_URL_SAFE_NO_PAD.encode([&body[..], &seal].concat());
            assert!(tokens().open(&TenantId::default(), &of_shelf(), &token).is_err());
        }
    }

    /// A query of three parts.
    struct Parts([&'static str; 3]);

    impl Paged for Parts {
        type Place = ();

        fn identity(&self) -> Vec<Vec<u8>> {
            self.0.map(Vec::from).into()
        }

        fn write(_: &()) -> Vec<u8> {
            Vec::new()
        }

        fn read(_: &[u8]) -> Option<()> {
            Some(())
        }
    }

    #[test]
    fn what_ends_one_part_of_a_query_does_not_begin_the_next() {
        let tenant = TenantId::default();
        let token = tokens().seal(&tenant, &Parts(["kind", "ab", "c"]), &());
        assert!(tokens().open(&tenant, &Parts(["kind", "ab", "c"]), &token).is_ok());
        for parts in [["kind", "a", "bc"], ["kind", "abc", ""], ["", "kindab", "c"], ["kind", "c", "ab"]] {
            assert!(tokens().open(&tenant, &Parts(parts), &token).is_err(), "{parts:?}");
        }
    }

    #[test]
    fn a_token_fits_its_field() {
        let tenant = "x".repeat(64).parse().unwrap();
        assert!(tokens().seal(&tenant, &of_shelf(), &position()).len() <= 1024);
    }

    proptest! {
        #[test]
        fn every_position_survives_its_token(micros in 0..253_402_300_799_000_000_i64, id in ".{0,50}") {
            let position = Position { at: Timestamp::from_unix_micros(micros), id };
            let token = tokens().seal(&TenantId::default(), &of_shelf(), &position);
            prop_assert_eq!(tokens().open(&TenantId::default(), &of_shelf(), &token), Ok(position));
        }

        #[test]
        fn no_text_is_a_token(text in ".{0,100}") {
            prop_assert!(tokens().open(&TenantId::default(), &of_shelf(), &text).is_err());
        }
    }
}
