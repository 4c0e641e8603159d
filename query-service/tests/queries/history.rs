//! The events of an aggregate.

use millrace_domain::{StreamId, order::OrderStatus};
use millrace_event_store::StoredEvent;
use millrace_proto::{
    codec::time_to_proto,
    query::{
        GetHistoryRequest, GetHistoryResponse, RecordedEvent, SortOrder, UnreadablePayload,
        get_history_request::Aggregate, history_service_server::HistoryService as _, recorded_event::Payload,
        unreadable_payload::Reason,
    },
};
use proptest::{prelude::*, sample::select};
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    events::{created, moved, of_order, of_user, order, placed, renamed, user, versions},
    support::{World, at, bad_fields, basket, of_tenant, order_id, user_id},
};

const OLDEST: i32 = SortOrder::OldestFirst as i32;
const NEWEST: i32 = SortOrder::NewestFirst as i32;

async fn page(world: &World, request: GetHistoryRequest) -> Result<GetHistoryResponse, Status> {
    Ok(world.history_service().get_history(Request::new(request)).await?.into_inner())
}

fn first(aggregate: Aggregate) -> GetHistoryRequest {
    GetHistoryRequest { aggregate: Some(aggregate), ..Default::default() }
}

/// Every page, with what is done between them.
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
    let events = page(&world, first(of_user(1))).await.unwrap().events;
    let [event] = &events[..] else { panic!("{events:?}") };
    let envelope = stored.envelope;
    assert_eq!(event.event_id, envelope.event_id.to_string());
    assert_eq!((event.aggregate_type.as_str(), &*event.aggregate_id), ("user", &*user_id(1).to_string()));
    assert_eq!((event.version, event.event_type.as_str(), event.schema_version), (1, "UserCreated", 1));
    assert_eq!(event.time, Some(time_to_proto(at(5))));
    let ids = [&event.command_id, &event.correlation_id, &event.causation_id];
    assert_eq!(ids, ["command-1", "correlation-1", "causation-1"]);
    assert_eq!(Some(&event.trace_parent), envelope.trace_parent.as_ref());
    let Some(Payload::UserCreated(payload)) = &event.payload else { panic!("{:?}", event.payload) };
    assert_eq!((payload.email.as_str(), payload.name.as_str()), ("john@example.com", "John Doe"));
    assert_eq!((&payload.user_id, payload.created_at), (&event.aggregate_id, event.time));
}

#[tokio::test]
async fn every_event_has_its_own_payload() {
    let world = World::default();
    world.history(&user(1), 2).await;
    world.append(placed(&order(2), 1, basket("laptop", 2))).await;
    world.append(moved(&order(2), 2, 2, OrderStatus::Processing)).await;
    let events = page(&world, first(of_user(1))).await.unwrap().events;
    assert!(matches!(&events[1].payload, Some(Payload::UserProfileUpdated(p)) if p.email.is_none()));
    let events = page(&world, first(of_order(2))).await.unwrap().events;
    assert!(matches!(&events[0].payload, Some(Payload::OrderCreated(p)) if p.items.len() == 2));
    assert!(matches!(&events[1].payload, Some(Payload::OrderStatusUpdated(p)) if p.status == 2));
}

#[tokio::test]
async fn an_aggregate_without_events_is_not_found() {
    let world = World::default();
    world.history(&user(1), 1).await;
    for (aggregate, kind, name) in [
        (of_user(2), "user", user_id(2).to_string()),
        (of_order(2), "order", order_id(2).to_string()),
        // A user's id names no order.
        (of_order(1), "order", order_id(1).to_string()),
    ] {
        let status = page(&world, first(aggregate)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        let details = status.get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), (kind, &*name));
    }
    let foreign = of_tenant("other", first(of_user(1)));
    let status = world.history_service().get_history(foreign).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "another tenant's user");
}

/// Makes an event one that cannot be read.
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
            &|event| event.envelope.event_data = json!({"userId": "secret"}).as_object().cloned(),
            Reason::Damaged,
        ),
    ];
    for (version, (spoil, _)) in (2..).zip(&spoil) {
        world.append(spoilt(version, spoil)).await;
    }
    world.append(renamed(&stream, 7, 1)).await;
    let events = page(&world, first(of_user(1))).await.unwrap().events;
    assert_eq!(versions(&events), [1, 2, 3, 4, 5, 6, 7]);
    assert!(matches!(events[6].payload, Some(Payload::UserProfileUpdated(_))));
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
    assert_eq!(versions(&page(&world, first(of_user(1))).await.unwrap().events), [1, 3]);
}

#[tokio::test]
async fn a_page_holds_20_events_oldest_first_unless_the_request_says_otherwise() {
    let world = World::default();
    world.history(&user(1), 120).await;
    for (page_size, held) in [(0, 20), (1, 1), (100, 100)] {
        for order in [0, OLDEST, NEWEST] {
            let reply =
                page(&world, GetHistoryRequest { page_size, order, ..first(of_user(1)) }).await.unwrap();
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
        let request = GetHistoryRequest { page_size: 20, order, ..first(of_user(1)) };
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
            let request = GetHistoryRequest { page_size, order, ..first(of_user(1)) };
            let pages = pages(&world, request, async |page| {
                // Not for ever: readers of the oldest would never come to the end.
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
        let request = GetHistoryRequest { page_size: 100, order, ..first(of_user(1)) };
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
    assert!(page(&world, first(of_user(1))).await.unwrap().events[1].encoded_len() > 200_000);
}

#[tokio::test]
async fn a_token_that_is_not_this_querys_own_is_refused() {
    let world = World::default();
    for id in [1, 2] {
        world.history(&user(id), 3).await;
    }
    let of_one = GetHistoryRequest { page_size: 1, ..first(of_user(1)) };
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
        GetHistoryRequest { aggregate: Some(of_user(2)), ..with(&token) },
        GetHistoryRequest { aggregate: Some(of_order(1)), ..with(&token) },
        GetHistoryRequest { order: NEWEST, ..with(&token) },
    ];
    for request in wrong {
        let status = page(&world, request.clone()).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["page_token"], "{request:?}");
    }
    let foreign = of_tenant("other", with(&token));
    let status = world.history_service().get_history(foreign).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["page_token"], "another tenant");

    // The size of a page is no part of the query, nor is whether the usual order is named.
    let request = GetHistoryRequest { page_size: 100, order: OLDEST, ..with(&token) };
    assert_eq!(versions(&page(&world, request).await.unwrap().events), [2, 3]);
}

/// Ids of which none is one, and some would be something else as part of a key.
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
    let bad = |aggregate, page_size, order| GetHistoryRequest {
        aggregate,
        page_size,
        page_token: "x".repeat(1025),
        order,
    };
    let rest = ["page_size", "order", "page_token"];
    let status = page(&world, bad(None, -1, 3)).await.unwrap_err();
    assert_eq!(bad_fields(&status), [&["aggregate"], &rest[..]].concat());
    for id in HOSTILE {
        let status = page(&world, bad(Some(Aggregate::UserId(id.into())), 101, -1)).await.unwrap_err();
        assert_eq!(bad_fields(&status), [&["user_id"], &rest[..]].concat(), "{id}");
        let status =
            page(&world, bad(Some(Aggregate::OrderId(id.into())), i32::MIN, i32::MAX)).await.unwrap_err();
        assert_eq!(bad_fields(&status), [&["order_id"], &rest[..]].concat(), "{id}");
    }
}

#[tokio::test]
async fn a_page_costs_one_request() {
    let world = World::default();
    let stream: StreamId = user(1);
    world.history(&stream, 300).await;
    for (page_size, order) in [(1, OLDEST), (100, OLDEST), (100, NEWEST)] {
        let before = world.events.requests();
        page(&world, GetHistoryRequest { page_size, order, ..first(of_user(1)) }).await.unwrap();
        assert_eq!(world.events.requests() - before, 1);
    }
}
