//! Events of one type, by time.

use millrace_event_store::StoredEvent;
use millrace_proto::{
    query::{
        ReadAfter, RecordedEvent, SearchEventsRequest, SearchEventsResponse, SortOrder,
        history_service_server::HistoryService as _, recorded_event::Payload,
    },
    time_to_proto,
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;
use shop::order::OrderStatus;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    events::{created, is_payload, moved, order, placed, renamed, user, versions},
    support::{
        BAD_AFTER, World, after_order, after_user, at, bad_after, bad_fields, basket, of_tenant, reason,
        token,
    },
};

const OLDEST: i32 = SortOrder::OldestFirst as i32;
const NEWEST: i32 = SortOrder::NewestFirst as i32;

async fn page(world: &World, request: SearchEventsRequest) -> Result<SearchEventsResponse, Status> {
    Ok(world.history_service().search_events(Request::new(request)).await?.into_inner())
}

fn of_type(event_type: &str) -> SearchEventsRequest {
    SearchEventsRequest { event_type: event_type.into(), ..Default::default() }
}

/// Every page; the given action runs between them.
async fn pages(
    world: &World,
    request: SearchEventsRequest,
    mut between: impl AsyncFnMut(usize),
) -> Vec<Vec<RecordedEvent>> {
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = page(world, SearchEventsRequest { page_token, ..request.clone() }).await.unwrap();
        pages.push(page.events);
        assert!(pages.len() < 500, "a search that does not end");
        if page.next_page_token.is_empty() {
            return pages;
        }
        page_token = page.next_page_token;
        between(pages.len()).await;
    }
}

async fn nothing(_: usize) {}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// An event's place among all of its type.
pub(crate) type Place = (i64, String, u64);

pub(crate) fn place(event: &RecordedEvent) -> Place {
    let time = event.time.unwrap();
    let micros = time.seconds * 1_000_000 + i64::from(time.nanos / 1_000);
    (micros - at(0).unix_micros(), event.aggregate_id.clone(), event.version)
}

fn places(events: &[RecordedEvent]) -> Vec<Place> {
    events.iter().map(place).collect()
}

/// The expected result of a search of these events, in order.
fn expected(events: &[StoredEvent], event_type: &str, order: i32) -> Vec<Place> {
    let of_type = events.iter().map(|event| &event.envelope).filter(|event| event.event_type == event_type);
    let place = |event: &millrace_core::Envelope| {
        (event.timestamp.unix_micros() - at(0).unix_micros(), event.aggregate_id.to_string(), event.version)
    };
    let mut places: Vec<_> = of_type.map(place).collect();
    places.sort_unstable();
    if order == NEWEST {
        places.reverse();
    }
    places
}

#[tokio::test]
async fn events_of_a_type_are_found_across_aggregates_by_their_times() {
    let world = World::default();
    for (id, micros) in [(1, 30), (2, 10), (3, 20)] {
        world.append(created(&user(id), micros)).await;
        world.append(renamed(&user(id), 2, micros + 100)).await;
    }
    world.append(placed(&order(4), 15, basket("laptop", 1))).await;
    for (order, times) in [(0, [10, 20, 30]), (OLDEST, [10, 20, 30]), (NEWEST, [30, 20, 10])] {
        let found = page(&world, SearchEventsRequest { order, ..of_type("UserCreated") }).await.unwrap();
        assert_eq!(places(&found.events).iter().map(|place| place.0).collect::<Vec<_>>(), times);
        assert_eq!(found.next_page_token, "");
        for event in &found.events {
            assert!(is_payload(event, "shop.event.v1.UserCreated"), "{event:?}");
            assert_eq!((event.event_type.as_str(), event.command_id.as_str()), ("UserCreated", "command-1"));
        }
    }
    let found = page(&world, of_type("OrderCreated")).await.unwrap();
    assert!(matches!(&found.events[..], [event] if is_payload(event, "shop.event.v1.OrderCreated")));
    for nobodys in ["UserErased", "UserCreate", "A"] {
        assert_eq!(page(&world, of_type(nobodys)).await.unwrap(), SearchEventsResponse::default());
    }
    let foreign = of_tenant("other", of_type("UserCreated"));
    let foreign = world.history_service().search_events(foreign).await.unwrap().into_inner();
    assert_eq!(foreign, SearchEventsResponse::default());
}

#[tokio::test]
async fn a_range_includes_its_start_and_excludes_its_end() {
    let world = World::default();
    for id in 1..=9 {
        world.append(created(&user(id), i64::try_from(id).unwrap())).await;
    }
    let nanos = |time: i64, nanos| {
        let whole = time_to_proto(at(time));
        Some(millrace_proto::Timestamp { nanos: whole.nanos + nanos, ..whole })
    };
    for (start_time, end_time, found) in [
        (nanos(3, 0), nanos(6, 0), 3..=5),
        (nanos(3, 0), nanos(3, 1), 3..=3),
        (nanos(3, 1), nanos(6, 1), 4..=6),
        (nanos(2, 999), nanos(5, 999), 3..=5),
        (None, nanos(3, 0), 1..=2),
        (nanos(7, 0), None, 7..=9),
        (None, None, 1..=9),
    ] {
        for order in [OLDEST, NEWEST] {
            let request = SearchEventsRequest { start_time, end_time, order, ..of_type("UserCreated") };
            let mut times: Vec<_> =
                places(&page(&world, request).await.unwrap().events).iter().map(|place| place.0).collect();
            times.sort_unstable();
            assert_eq!(times, found.clone().collect::<Vec<_>>(), "{start_time:?} {end_time:?}");
        }
    }
    // There is none between two microseconds.
    let request =
        SearchEventsRequest { start_time: nanos(3, 1), end_time: nanos(3, 2), ..of_type("UserCreated") };
    assert_eq!(page(&world, request).await.unwrap(), SearchEventsResponse::default());
}

#[tokio::test]
async fn an_event_that_cannot_be_read_fails_no_page() {
    let world = World::default();
    let mut newer = created(&user(1), 1);
    newer.envelope.schema_version = 2;
    world.append(newer).await;
    world.append(created(&user(2), 2)).await;
    let found = page(&world, of_type("UserCreated")).await.unwrap().events;
    assert!(matches!(found[0].payload, Some(Payload::Unreadable(_))), "{found:?}");
    assert!(is_payload(&found[1], "shop.event.v1.UserCreated"), "{found:?}");
}

/// Streams of users; many of their events have the same time.
fn any_events() -> impl Strategy<Value = Vec<StoredEvent>> {
    vec(vec(0..4_i64, 1..5), 1..25).prop_map(|streams| {
        let events = (1..).zip(streams).flat_map(|(id, times)| {
            let stream = user(id);
            let event = move |(version, micros): (u64, i64)| match version {
                1 => created(&stream, micros),
                version => renamed(&stream, version, micros),
            };
            (1..).zip(times).map(event)
        });
        events.collect()
    })
}

proptest! {
    #[test]
    fn pages_meet_every_event_once_in_order_while_others_are_appended(
        events in any_events(),
        event_type in select(vec!["UserCreated", "UserProfileUpdated"]),
        order in select(vec![OLDEST, NEWEST]),
        page_size in 1..12_i32,
        appended in vec(0..8_i64, 0..6),
    ) {
        let met = run(async {
            let world = World::default();
            for event in &events {
                world.append(event.clone()).await;
            }
            let mut appended = appended.into_iter();
            let request = SearchEventsRequest { order, page_size, ..of_type(event_type) };
            pages(&world, request, async |_| {
                // A new user at any time, before the place that was reached or behind it.
                if let Some(micros) = appended.next() {
                    let stream = user(1_000 + u128::try_from(micros).unwrap());
                    let _ = world.try_append(created(&stream, micros)).await;
                    let _ = world.try_append(renamed(&stream, 2, micros)).await;
                }
            })
            .await
        });
        prop_assert!(met.iter().all(|page| page.len() <= usize::try_from(page_size).unwrap()));
        let met = places(&met.concat());
        let mut in_order = met.clone();
        in_order.sort_unstable();
        if order == NEWEST {
            in_order.reverse();
        }
        prop_assert_eq!(&met, &in_order, "in order");
        in_order.dedup();
        prop_assert_eq!(met.len(), in_order.len(), "once each");
        let there_from_the_start = expected(&events, event_type, order);
        let rest: Vec<_> = met.into_iter().filter(|place| there_from_the_start.contains(place)).collect();
        prop_assert_eq!(rest, there_from_the_start);
    }

    /// With the token of an event that the index lacks, every page is as from an up-to-date index.
    #[test]
    fn with_a_token_a_search_is_as_if_the_index_did_not_lag(
        events in any_events(),
        seen in 0..3_usize,
        unseen in vec(0..5_i64, 1..4),
        event_type in select(vec!["UserCreated", "UserProfileUpdated"]),
        order in select(vec![OLDEST, NEWEST]),
        page_size in 1..6_i32,
        range in select(vec![None, Some((1, 3))]),
        id in select(vec![0, 500]),
    ) {
        let (with_token, up_to_date) = run(async {
            let world = World::default();
            for event in &events {
                world.append(event.clone()).await;
            }
            let stream = user(id);
            let mut version = 0;
            for micros in vec![2; seen].into_iter().chain(unseen) {
                if usize::try_from(version).unwrap() == seen {
                    world.events.hold_index();
                }
                version += 1;
                let event = if version == 1 { created(&stream, micros) } else { renamed(&stream, version, micros) };
                world.append(event).await;
            }
            let (start_time, end_time) =
                range.map(|(start, end)| (time_to_proto(at(start)), time_to_proto(at(end)))).unzip();
            let request = SearchEventsRequest { order, page_size, start_time, end_time, ..of_type(event_type) };
            let with_token = SearchEventsRequest { after: after_user(id, version), ..request.clone() };
            let with_token = pages(&world, with_token, nothing).await;
            world.events.release_index();
            (with_token, pages(&world, request, nothing).await)
        });
        prop_assert_eq!(with_token, up_to_date);
    }
}

#[tokio::test]
async fn an_event_that_was_just_stored_is_found_before_the_index_shows_it() {
    let world = World::default();
    world.events.hold_index();
    world.append(created(&user(1), 1)).await;
    world.append(placed(&order(2), 2, basket("laptop", 1))).await;
    world.append(moved(&order(2), 2, 3, OrderStatus::Processing)).await;
    let find = async |event_type: &str, after: Option<ReadAfter>| -> Vec<u64> {
        let request = SearchEventsRequest { after, ..of_type(event_type) };
        versions(&page(&world, request).await.unwrap().events)
    };
    assert_eq!(find("UserCreated", None).await, Vec::<u64>::new());
    assert_eq!(find("UserCreated", after_user(1, 1)).await, [1]);
    assert_eq!(find("OrderStatusUpdated", after_order(2, 2)).await, [2]);
    // The event before it is as certain.
    assert_eq!(find("OrderCreated", after_order(2, 2)).await, [1]);
    assert_eq!(
        find("OrderStatusUpdated", after_order(2, 1)).await,
        Vec::<u64>::new(),
        "the token names an older event"
    );
    assert_eq!(
        find("UserCreated", after_order(2, 2)).await,
        Vec::<u64>::new(),
        "an order's event is no user's"
    );
    assert_eq!(find("UserErased", after_order(2, 2)).await, Vec::<u64>::new(), "whatever type is asked for");
}

#[tokio::test]
async fn a_token_costs_one_request_whatever_the_search_is_about() {
    let world = World::default();
    world.append(created(&user(1), 1)).await;
    world.append(placed(&order(2), 2, basket("laptop", 1))).await;
    for event_type in ["UserCreated", "OrderCreated"] {
        for after in [after_user(1, 1), after_order(2, 1)] {
            let before = world.events.requests();
            page(&world, SearchEventsRequest { after: after.clone(), ..of_type(event_type) }).await.unwrap();
            assert_eq!(world.events.requests() - before, 2, "{event_type} after {after:?}");
        }
    }
}

#[tokio::test]
async fn an_event_beyond_what_the_index_could_show_at_once_waits_for_its_page() {
    let world = World::default();
    // Large in the store, and small on the page, since it is unreadable.
    let large = |id, micros| {
        let mut event = created(&user(id), micros);
        event.envelope.schema_version = 2;
        event.envelope.event_data = json!({"text": "x".repeat(300_000)}).as_object().cloned();
        event
    };
    for id in 1..=30 {
        world.append(large(id, i64::try_from(id).unwrap())).await;
    }
    world.events.hold_index();
    world.append(large(99, 99)).await;
    let request = SearchEventsRequest { page_size: 100, after: after_user(99, 1), ..of_type("UserCreated") };
    let pages = pages(&world, request, nothing).await;
    assert!(pages.len() > 1 && pages[0].len() < 30, "{} pages", pages.len());
    let times: Vec<_> = places(&pages.concat()).iter().map(|place| place.0).collect();
    assert_eq!(times, (1..=30).chain([99]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_token_of_an_event_that_is_not_there_is_told_at_once() {
    let world = World::default();
    world.append(created(&user(1), 1)).await;
    for (id, version) in [(1, 2), (1, u64::MAX), (2, 1)] {
        let request = SearchEventsRequest { after: after_user(id, version), ..of_type("UserCreated") };
        let status = page(&world, request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::Unavailable, Some("READ_MODEL_BEHIND"))
        );
    }
    let request = SearchEventsRequest { after: after_user(1, 1), ..of_type("UserCreated") };
    let status = world.history_service().search_events(of_tenant("other", request)).await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("READ_MODEL_BEHIND"), "another tenant's");
    let request = SearchEventsRequest { after: after_order(1, 1), ..of_type("UserCreated") };
    let status = page(&world, request).await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("READ_MODEL_BEHIND"), "a user's id names no order");
    let after = Some(token("invoice", &order(1).id.to_string(), 1));
    let status = page(&world, SearchEventsRequest { after, ..of_type("UserCreated") }).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["after.aggregate_type"]);
}

#[tokio::test]
async fn without_its_index_a_search_says_so() {
    let world = World::default();
    world.append(created(&user(1), 1)).await;
    world.events.drop_index();
    for after in [None, after_user(1, 1), after_user(1, 9)] {
        let request = SearchEventsRequest { after, ..of_type("UserCreated") };
        let status = page(&world, request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_deref()),
            (Code::Unimplemented, Some("EVENT_TYPE_INDEX_OFF"))
        );
    }
    let status = page(&world, of_type("")).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["event_type"], "bad input is bad input all the same");
}

#[tokio::test]
async fn a_page_of_large_events_fits_into_a_message() {
    let world = World::default();
    for id in 0..100 {
        world.append(placed(&order(id), i64::try_from(id / 7).unwrap(), basket(&"𒀀".repeat(200), 100))).await;
    }
    for order in [OLDEST, NEWEST] {
        let request = SearchEventsRequest { page_size: 100, order, ..of_type("OrderCreated") };
        let pages = pages(&world, request, nothing).await;
        assert!(pages.len() > 1);
        for page in &pages {
            let bytes: usize = page.iter().map(prost::Message::encoded_len).sum();
            assert!(bytes < 4 << 20, "{bytes} bytes");
        }
        let mut met: Vec<_> = pages.concat().into_iter().map(|event| event.aggregate_id).collect();
        met.sort_unstable();
        met.dedup();
        assert_eq!(met.len(), 100);
    }
}

#[tokio::test]
async fn a_token_that_is_not_this_querys_own_is_refused() {
    let world = World::default();
    for id in 1..=3 {
        world.append(created(&user(id), 5)).await;
        world.append(renamed(&user(id), 2, 5)).await;
    }
    let (start_time, end_time) = (Some(time_to_proto(at(1))), Some(time_to_proto(at(9))));
    let request = SearchEventsRequest { start_time, end_time, page_size: 1, ..of_type("UserCreated") };
    let token = page(&world, request.clone()).await.unwrap().next_page_token;
    let mut changed = token.clone().into_bytes();
    changed[9] = if changed[9] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let with =
        |page_token: &str| SearchEventsRequest { page_token: page_token.to_owned(), ..request.clone() };
    let wrong = [
        with(&changed),
        with(&token[..token.len() - 1]),
        with(&format!("{token}A")),
        with("token"),
        with("💥"),
        with(&"x".repeat(1025)),
        SearchEventsRequest { event_type: "UserProfileUpdated".into(), ..with(&token) },
        SearchEventsRequest { start_time: None, ..with(&token) },
        SearchEventsRequest { start_time: Some(time_to_proto(at(2))), ..with(&token) },
        SearchEventsRequest { end_time: None, ..with(&token) },
        SearchEventsRequest { end_time: Some(time_to_proto(at(8))), ..with(&token) },
        SearchEventsRequest { order: NEWEST, ..with(&token) },
    ];
    for request in wrong {
        let status = page(&world, request.clone()).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["page_token"], "{request:?}");
    }
    let foreign = world.history_service().search_events(of_tenant("other", with(&token))).await.unwrap_err();
    assert_eq!(bad_fields(&foreign), ["page_token"], "another tenant");

    // Neither the size of a page nor a read-after token is part of the query.
    let request =
        SearchEventsRequest { page_size: 9, order: OLDEST, after: after_user(1, 1), ..with(&token) };
    assert_eq!(page(&world, request).await.unwrap().events.len(), 2);
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let time = |seconds| Some(millrace_proto::Timestamp { seconds, nanos: 0 });
    for event_type in ["", "user", "User#Created", "User Created", "Üser", &"X".repeat(101)] {
        let request = SearchEventsRequest {
            event_type: event_type.to_owned(),
            start_time: time(-1),
            end_time: time(i64::MIN),
            page_size: 101,
            page_token: "x".repeat(1025),
            order: 3,
            after: bad_after(),
            follow: true,
        };
        let status = page(&world, request).await.unwrap_err();
        let named = bad_fields(&status);
        let fields = ["event_type", "start_time", "end_time", "page_size", "order", "page_token"];
        assert_eq!(named, [&fields[..], &BAD_AFTER].concat(), "{event_type}");
    }
    for (start, end) in [(5, 5), (6, 5), (5, 0)] {
        let request =
            SearchEventsRequest { start_time: time(start), end_time: time(end), ..of_type("UserCreated") };
        let status = page(&world, request).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["end_time"], "{start} {end}");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 1);
    }
}
