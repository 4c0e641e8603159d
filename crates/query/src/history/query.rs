//! Queries about the past, in the store's terms.

use std::ops::RangeInclusive;

use millrace_core::{Invalid, StreamId, Timestamp};
use millrace_event_store::{Direction, Moment, Search};
use millrace_proto::query::SortOrder;

use crate::token::Paged;

/// The events of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) stream: StreamId,
    pub(crate) direction: Direction,
}

impl Events {
    /// The versions after the one that was reached.
    pub(crate) fn beyond(&self, reached: Option<u64>) -> RangeInclusive<u64> {
        const NONE: RangeInclusive<u64> = RangeInclusive::new(1, 0);
        match (reached, self.direction) {
            (None, _) => 1..=u64::MAX,
            (Some(version), Direction::OldestFirst) => {
                version.checked_add(1).map_or(NONE, |first| first..=u64::MAX)
            }
            (Some(version), Direction::NewestFirst) => 1..=version.saturating_sub(1),
        }
    }
}

/// A direction, as bytes of a query's identity.
fn name(direction: Direction) -> Vec<u8> {
    match direction {
        Direction::OldestFirst => b"oldest first".to_vec(),
        Direction::NewestFirst => b"newest first".to_vec(),
    }
}

/// The place is the version of the last event.
impl Paged for Events {
    type Place = u64;

    fn identity(&self) -> Vec<Vec<u8>> {
        vec![b"events of aggregate".to_vec(), self.stream.to_string().into(), name(self.direction)]
    }

    fn write(version: &u64) -> Vec<u8> {
        version.to_be_bytes().into()
    }

    fn read(bytes: &[u8]) -> Option<u64> {
        bytes.try_into().map(u64::from_be_bytes).ok()
    }
}

/// A search as its caller asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Searched {
    pub(crate) search: Search,
    /// Whether only settled events are shown, without an end.
    pub(crate) follow: bool,
}

/// The place is that of the last event; `None` while a follower has met none.
impl Paged for Searched {
    type Place = Option<Moment>;

    fn identity(&self) -> Vec<Vec<u8>> {
        let Self { search, follow } = self;
        let time = |time: &Timestamp| time.unix_micros().to_be_bytes().to_vec();
        let mut parts = vec![
            b"events of type".to_vec(),
            search.event_type.clone().into(),
            time(search.times.start()),
            time(search.times.end()),
            name(search.direction),
        ];
        parts.extend(follow.then(|| b"follow".to_vec()));
        parts
    }

    fn write(place: &Option<Moment>) -> Vec<u8> {
        let Some(Moment { at, stream, version }) = place else { return Vec::new() };
        let stream = stream.to_string();
        [&at.unix_micros().to_be_bytes()[..], &version.to_be_bytes(), stream.as_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Option<Moment>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let (at, rest) = bytes.split_first_chunk()?;
        let (version, stream) = rest.split_first_chunk()?;
        Some(Some(Moment {
            at: Timestamp::from_unix_micros(i64::from_be_bytes(*at)),
            stream: std::str::from_utf8(stream).ok()?.parse().ok()?,
            version: u64::from_be_bytes(*version),
        }))
    }
}

/// Reads an order of events; by default the oldest come first.
pub(crate) fn direction(number: i32) -> Result<Direction, Invalid> {
    match SortOrder::try_from(number) {
        Ok(SortOrder::Unspecified | SortOrder::OldestFirst) => Ok(Direction::OldestFirst),
        Ok(SortOrder::NewestFirst) => Ok(Direction::NewestFirst),
        Err(_) => Err(Invalid("must be an order that the contract defines")),
    }
}

/// Reads the name of an event type: at most 100 letters and digits, the first a capital letter. So it cannot hold a
/// separator of keys.
pub(crate) fn event_type(name: String) -> Result<String, Invalid> {
    let begins = name.starts_with(|first: char| first.is_ascii_uppercase());
    if begins && name.len() <= 100 && name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(name)
    } else {
        Err(Invalid("must be at most 100 letters and digits, beginning with a capital letter"))
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::{AggregateType, TenantId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::token::PageTokens;

    fn stream(id: u128) -> StreamId {
        let kind = AggregateType::new("user");
        StreamId { tenant: TenantId::default(), aggregate_type: kind, id: Uuid::from_u128(id) }
    }

    fn search() -> Search {
        Search {
            tenant: TenantId::default(),
            event_type: "UserCreated".to_owned(),
            times: Timestamp::from_unix_micros(1)..=Timestamp::from_unix_micros(9),
            direction: Direction::OldestFirst,
            beyond: None,
        }
    }

    fn searched() -> Searched {
        Searched { search: search(), follow: false }
    }

    #[test]
    fn a_token_is_good_for_its_own_query_in_its_own_order_only() {
        let (tokens, tenant) = (PageTokens::new(b"key"), TenantId::default());
        let events = Events { stream: stream(1), direction: Direction::OldestFirst };
        let token = tokens.seal(&tenant, &events, &7);
        assert_eq!(tokens.open(&tenant, &events, &token), Ok(7));
        let order = StreamId { aggregate_type: AggregateType::new("order"), ..stream(1) };
        for other in [
            Events { direction: Direction::NewestFirst, ..events.clone() },
            Events { stream: stream(2), ..events.clone() },
            Events { stream: order, ..events.clone() },
        ] {
            assert!(tokens.open(&tenant, &other, &token).is_err(), "{other:?}");
        }
        assert!(tokens.open(&"acme".parse().unwrap(), &events, &token).is_err());
        assert!(tokens.open(&tenant, &searched(), &token).is_err());

        let moment = Moment { at: Timestamp::from_unix_micros(5), stream: stream(1), version: 3 };
        let following = Searched { follow: true, ..searched() };
        let of = |search| Searched { search, follow: false };
        for place in [Some(moment), None] {
            let token = tokens.seal(&tenant, &searched(), &place);
            assert_eq!(tokens.open(&tenant, &searched(), &token), Ok(place.clone()));
            assert!(tokens.open(&tenant, &following, &token).is_err());
            let token = tokens.seal(&tenant, &following, &place);
            assert_eq!(tokens.open(&tenant, &following, &token), Ok(place));
            assert!(tokens.open(&tenant, &searched(), &token).is_err());
        }
        let token = tokens.seal(&tenant, &searched(), &None);
        for other in [
            Search { direction: Direction::NewestFirst, ..search() },
            Search { event_type: "UserCreate".to_owned(), ..search() },
            Search { times: Timestamp::from_unix_micros(2)..=Timestamp::from_unix_micros(9), ..search() },
            Search { times: Timestamp::from_unix_micros(1)..=Timestamp::from_unix_micros(8), ..search() },
        ] {
            assert!(tokens.open(&tenant, &of(other.clone()), &token).is_err(), "{other:?}");
        }
        assert!(tokens.open(&"acme".parse().unwrap(), &searched(), &token).is_err());
        assert!(tokens.open(&tenant, &events, &token).is_err());
    }

    #[test]
    fn nothing_lies_beyond_the_ends() {
        let events = |direction| Events { stream: stream(1), direction };
        assert!(events(Direction::OldestFirst).beyond(Some(u64::MAX)).is_empty());
        for version in [0, 1] {
            assert!(events(Direction::NewestFirst).beyond(Some(version)).is_empty());
        }
        assert_eq!(events(Direction::NewestFirst).beyond(Some(3)), 1..=2);
        assert_eq!(events(Direction::OldestFirst).beyond(Some(3)), 4..=u64::MAX);
    }

    #[test]
    fn an_event_type_cannot_hold_what_joins_keys() {
        for good in ["UserCreated", "A", "A1b2", &"A".repeat(100)] {
            assert_eq!(event_type(good.to_owned()).as_deref(), Ok(good));
        }
        for bad in ["", "userCreated", "1A", "User#Created", "User Created", "Üser", "A\n", &"A".repeat(101)]
        {
            assert!(event_type(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_place_survives_its_bytes(at in 0..253_402_300_799_000_000_i64, id in any::<u128>(), version in any::<u64>()) {
            let place = Moment { at: Timestamp::from_unix_micros(at), stream: stream(id), version };
            let place = Some(place);
            prop_assert_eq!(Searched::read(&Searched::write(&place)), Some(place));
            prop_assert_eq!(Events::read(&Events::write(&version)), Some(version));
        }

        #[test]
        fn no_bytes_make_a_reader_of_places_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Searched::read(&bytes), Events::read(&bytes));
        }
    }
}
