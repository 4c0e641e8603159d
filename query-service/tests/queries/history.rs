//! The events of an aggregate.

use millrace_core::StreamId;
use millrace_event_store::StoredEvent;
use millrace_proto::{
    query::{
        GetHistoryRequest, GetHistoryResponse, RecordedEvent, SortOrder, UnreadablePayload,
        history_service_server::HistoryService as _, recorded_event::Payload, unreadable_payload::Reason,
    },
    time_to_proto,
};
use proptest::{prelude::*, sample::select};
use prost::Message as _;
use serde_json::json;
use shop::{contracts::event, order::OrderStatus};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    events::{created, moved, of, order, payload, placed, renamed, user, versions},
    support::{World, at, bad_fields, basket, of_tenant, order_id, user_id},
};

const OLDEST: i32 = SortOrder::OldestFirst as i32;
const NEWEST: i32 = SortOrder::NewestFirst as i32;

async fn page(world: &World, request: GetHistoryRequest) -> Result<GetHistoryResponse, Status> {
    Ok(world.history_service().get_history(Request::new(request)).await?.into_inner())
}

/// Every page; the given action runs between them.
async fn pages(
    world: &World,
    request: GetHistoryRequest,
    mut between: impl AsyncFnMut(usize),
) -> Vec<Vec<RecordedEvent>> {
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = page(world, GetHistoryRequest { page_token, ..request.clone() }).await.unwrap();
        pages.push(page.events);
        assert!(pages.len() < 500, "a history that does not end");
        if page.next_page_token.is_empty() {
            return pages;
        }
        page_token = page.next_page_token;
        between(pages.len()).await;
    }
}

async fn nothing(_: usize) {}

#[tokio::test]
async fn an_event_is_shown_with_all_that_is_known_of_it() {
    let world = World::default();
    let stored = created(&user(1), 5);
    world.append(stored.clone()).await;
    let events = page(&world, of(&user(1))).await.unwrap().events;
    let [event] = &events[..] else { panic!("{events:?}") };
    let envelope = stored.envelope;
    assert_eq!(event.event_id, envelope.event_id.to_string());
    assert_eq!((event.aggregate_type.as_str(), &*event.aggregate_id), ("user", &*user_id(1).to_string()));
    assert_eq!((event.version, event.event_type.as_str(), event.schema_version), (1, "UserCreated", 1));
    assert_eq!(event.time, Some(time_to_proto(at(5))));
    let ids = [&event.command_id, &event.correlation_id, &event.causation_id];
    assert_eq!(ids, ["command-1", "correlation-1", "causation-1"]);
    assert_eq!(Some(&event.trace_parent), envelope.trace_parent.as_ref());
    let payload: event::UserCreated = payload(event, "shop.event.v1.UserCreated");
    assert_eq!((payload.email.as_str(), payload.name.as_str()), ("john@example.com", "John Doe"));
}

#[tokio::test]
async fn every_event_has_its_own_payload() {
    let world = World::default();
    world.history(&user(1), 2).await;
    world.append(placed(&order(2), 1, basket("laptop", 2))).await;
    world.append(moved(&order(2), 2, 2, OrderStatus::Processing)).await;
    let events = page(&world, of(&user(1))).await.unwrap().events;
    let updated: event::UserProfileUpdated = payload(&events[1], "shop.event.v1.UserProfileUpdated");
    assert_eq!((updated.email, updated.name.as_deref()), (None, Some("John 2")));
    let events = page(&world, of(&order(2))).await.unwrap().events;
    let created: event::OrderCreated = payload(&events[0], "shop.event.v1.OrderCreated");
    let moved: event::OrderStatusUpdated = payload(&events[1], "shop.event.v1.OrderStatusUpdated");
    assert_eq!((created.items.len(), moved.status), (2, 2));
}

#[tokio::test]
async fn an_aggregate_without_events_is_not_found() {
    let world = World::default();
    world.history(&user(1), 1).await;
    for (stream, kind, name) in [
        (user(2), "user", user_id(2).to_string()),
        (order(2), "order", order_id(2).to_string()),
        // A user's id names no order.
        (order(1), "order", order_id(1).to_string()),
    ] {
        let status = page(&world, of(&stream)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        let details = status.get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), (kind, &*name));
    }
    let foreign = of_tenant("other", of(&user(1)));
    let status = world.history_service().get_history(foreign).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "another tenant's user");
}

/// Makes an event unreadable.
type Spoil<'a> = &'a dyn Fn(&mut StoredEvent);

#[tokio::test]
async fn what_cannot_be_read_is_listed_with_the_reason_and_never_with_what_it_says() {
    let world = World::default();
    let stream = user(1);
    let spoilt = |version, spoil: Spoil<'_>| {
        let mut event = renamed(&stream, version, 1);
        spoil(&mut event);
        event
    };
    world.append(created(&stream, 1)).await;
    let spoil: [(Spoil<'_>, Reason); 5] = [
        (&|event| event.envelope.event_type = "UserErased".into(), Reason::UnknownType),
        (&|event| event.envelope.event_type = "OrderCreated".into(), Reason::UnknownType),
        (&|event| event.envelope.schema_version = 2, Reason::NewerSchema),
        (
            &|event| event.envelope.event_data = json!({"name": {"secret": 1}}).as_object().cloned(),
            Reason::Damaged,
        ),
        (
            &|event| event.envelope.event_data = json!({"email": "secret"}).as_object().cloned(),
            Reason::Damaged,
        ),
    ];
    for (version, (spoil, _)) in (2..).zip(&spoil) {
        world.append(spoilt(version, spoil)).await;
    }
    world.append(renamed(&stream, 7, 1)).await;
    let events = page(&world, of(&user(1))).await.unwrap().events;
    assert_eq!(versions(&events), [1, 2, 3, 4, 5, 6, 7]);
    let _: event::UserProfileUpdated = payload(&events[6], "shop.event.v1.UserProfileUpdated");
    for (event, (_, reason)) in events[1..6].iter().zip(&spoil) {
        let Some(Payload::Unreadable(UnreadablePayload { reason: told, description })) = &event.payload
        else {
            panic!("{event:?}");
        };
        assert_eq!(*told, i32::from(*reason), "version {}", event.version);
        assert!(!description.is_empty() && !description.contains("secret"), "{description}");
        assert!(event.command_id.starts_with("command-") && event.time.is_some(), "{event:?}");
    }
}

#[tokio::test]
async fn a_gap_in_a_stream_shows_by_the_versions_around_it() {
    let world = World::default();
    world.append(created(&user(1), 1)).await;
    world.append(renamed(&user(1), 3, 1)).await;
    assert_eq!(versions(&page(&world, of(&user(1))).await.unwrap().events), [1, 3]);
}

#[tokio::test]
async fn a_page_holds_20_events_oldest_first_unless_the_request_says_otherwise() {
    let world = World::default();
    world.history(&user(1), 120).await;
    for (page_size, held) in [(0, 20), (1, 1), (100, 100)] {
        for order in [0, OLDEST, NEWEST] {
            let reply = page(&world, GetHistoryRequest { page_size, order, ..of(&user(1)) }).await.unwrap();
            let expected: Vec<u64> = if order == NEWEST {
                (1..=120).rev().take(held).collect()
            } else {
                (1..=120).take(held).collect()
            };
            assert_eq!((versions(&reply.events), reply.next_page_token.is_empty()), (expected, false));
        }
    }
}

#[tokio::test]
async fn the_last_page_says_so_even_when_it_is_full() {
    let world = World::default();
    world.history(&user(1), 40).await;
    for order in [OLDEST, NEWEST] {
        let request = GetHistoryRequest { page_size: 20, order, ..of(&user(1)) };
        let sizes: Vec<_> = pages(&world, request, nothing).await.iter().map(Vec::len).collect();
        assert_eq!(sizes, [20, 20]);
    }
}

proptest! {
    #[test]
    fn pages_meet_every_event_once_in_order_while_others_are_appended(
        length in 1..80_u64,
        page_size in 1..20_i32,
        newest_first in any::<bool>(),
        appended in select(vec![0, 1, 3]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (met, total) = runtime.block_on(async {
            let world = World::default();
            let stream = user(1);
            world.history(&stream, length).await;
            let mut total = length;
            let order = if newest_first { NEWEST } else { OLDEST };
            let request = GetHistoryRequest { page_size, order, ..of(&user(1)) };
            let pages = pages(&world, request, async |page| {
                // A bounded number: readers of the oldest would never come to the end.
                for _ in 0..if page < 20 { appended } else { 0 } {
                    total += 1;
                    world.append(renamed(&stream, total, 0)).await;
                }
            })
            .await;
            (versions(&pages.concat()), total)
        });
        let expected: Vec<u64> =
            if newest_first { (1..=length).rev().collect() } else { (1..=total).collect() };
        prop_assert_eq!(met, expected);
    }
}

#[tokio::test]
async fn a_page_of_large_events_fits_into_a_message() {
    let world = World::default();
    world.append(created(&user(1), 1)).await;
    for version in 2..=60 {
        let mut large = renamed(&user(1), version, 1);
        large.envelope.event_type = "X".repeat(200_000);
        world.append(large).await;
    }
    for order in [OLDEST, NEWEST] {
        let request = GetHistoryRequest { page_size: 100, order, ..of(&user(1)) };
        let pages = pages(&world, request, nothing).await;
        assert!(pages.len() > 2, "{} pages", pages.len());
        for page in &pages {
            let bytes: usize = page.iter().map(prost::Message::encoded_len).sum();
            assert!(bytes < 4 << 20, "{bytes} bytes");
        }
        let mut met = versions(&pages.concat());
        met.sort_unstable();
        assert_eq!(met, (1..=60).collect::<Vec<_>>());
    }
    assert!(page(&world, of(&user(1))).await.unwrap().events[1].encoded_len() > 200_000);
}

#[tokio::test]
async fn a_token_that_is_not_this_querys_own_is_refused() {
    let world = World::default();
    for id in [1, 2] {
        world.history(&user(id), 3).await;
    }
    let of_one = GetHistoryRequest { page_size: 1, ..of(&user(1)) };
    let token = page(&world, of_one.clone()).await.unwrap().next_page_token;
    let mut changed = token.clone().into_bytes();
    changed[9] = if changed[9] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let with = |page_token: &str| GetHistoryRequest { page_token: page_token.to_owned(), ..of_one.clone() };
    let wrong = [
        with(&changed),
        with(&token[..token.len() - 1]),
        with(&format!("{token}A")),
        with("token"),
        with("💥"),
        with(&"x".repeat(1025)),
        GetHistoryRequest { aggregate_id: user_id(2).to_string(), ..with(&token) },
        GetHistoryRequest { aggregate_type: "order".to_owned(), ..with(&token) },
        GetHistoryRequest { order: NEWEST, ..with(&token) },
    ];
    for request in wrong {
        let status = page(&world, request.clone()).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["page_token"], "{request:?}");
    }
    let foreign = of_tenant("other", with(&token));
    let status = world.history_service().get_history(foreign).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["page_token"], "another tenant");

    // The query is the same with another page size, and with the default order named or not.
    let request = GetHistoryRequest { page_size: 100, order: OLDEST, ..with(&token) };
    assert_eq!(versions(&page(&world, request).await.unwrap().events), [2, 3]);
}

/// Invalid ids; some would have a meaning as part of a key.
const HOSTILE: [&str; 7] = [
    "",
    "7",
    "user#00000000-0000-0000-0000-000000000001",
    "00000000-0000-0000-0000-000000000001#1",
    "{00000000-0000-0000-0000-00000000000}",
    "00000000000000000000000000000001",
    "\u{0}0000000-0000-0000-0000-000000000001",
];

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let bad = |aggregate_type: &str, aggregate_id: &str, page_size, order| GetHistoryRequest {
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        page_size,
        page_token: "x".repeat(1025),
        order,
    };
    let rest = ["aggregate_id", "page_size", "order", "page_token"];
    for id in HOSTILE {
        let status = page(&world, bad("order", id, i32::MIN, i32::MAX)).await.unwrap_err();
        assert_eq!(bad_fields(&status), rest, "{id}");
        // No guess at the intended type.
        for unknown in ["", "User", "users", "invoice", "user#", "user\u{0}", &"x".repeat(100)] {
            let status = page(&world, bad(unknown, id, 101, -1)).await.unwrap_err();
            assert_eq!(bad_fields(&status), [&["aggregate_type"], &rest[..]].concat(), "{unknown} {id}");
        }
    }
}

#[tokio::test]
async fn a_page_costs_one_request() {
    let world = World::default();
    let stream: StreamId = user(1);
    world.history(&stream, 300).await;
    for (page_size, order) in [(1, OLDEST), (100, OLDEST), (100, NEWEST)] {
        let before = world.events.requests();
        page(&world, GetHistoryRequest { page_size, order, ..of(&user(1)) }).await.unwrap();
        assert_eq!(world.events.requests() - before, 1);
    }
}
