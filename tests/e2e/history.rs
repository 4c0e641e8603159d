//! Questions about the past over gRPC, on the local AWS.

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_event_store::StoredEvent;
use millrace_local::StackOptions;
use millrace_proto::{
    Envelope,
    codec::time_to_proto,
    query::{
        GetHistoryRequest, GetOrderAsOfRequest, GetOrderRequest, GetUserProfileAsOfRequest,
        GetUserProfileRequest, RecordedEvent, SearchEventsRequest, SortOrder, UnreadablePayload,
        get_history_request::Aggregate, get_order_as_of_request, get_user_profile_as_of_request,
        recorded_event::Payload, unreadable_payload::Reason,
    },
    types::OrderStatus,
};
use millrace_tests::{Ground, World};
use tonic::{Code, Request};

use crate::{
    calls::{At, create_order, create_user, patient, reason, set_status},
    past::{Past, at},
};

async fn history(world: &World, aggregate: Aggregate) -> Vec<RecordedEvent> {
    let request = GetHistoryRequest { aggregate: Some(aggregate), ..Default::default() };
    world.history().get_history(request).await.unwrap().into_inner().events
}

fn types(events: &[RecordedEvent]) -> Vec<(&str, u64)> {
    events.iter().map(|event| (event.event_type.as_str(), event.version)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_acknowledged_is_in_every_answer_about_the_past_at_once() {
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john.doe@example.com").await.unwrap();
    assert_eq!(types(&history(&world, Aggregate::UserId(john.id.clone())).await), [("UserCreated", 1)]);
    let order = create_order(&world, &john).await.unwrap();
    assert_eq!(types(&history(&world, Aggregate::OrderId(order.id.clone())).await), [("OrderCreated", 1)]);
    let find = async |event_type: &str, after: &At| {
        let request =
            SearchEventsRequest { event_type: event_type.into(), after: after.after(), ..Default::default() };
        let found = world.history().search_events(request).await.unwrap().into_inner().events;
        found.into_iter().map(|event| (event.aggregate_id, event.version)).collect::<Vec<_>>()
    };
    for status in [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered] {
        let moved = set_status(&world, &order, status).await.unwrap();
        let events = history(&world, Aggregate::OrderId(order.id.clone())).await;
        let last = events.last().unwrap();
        assert_eq!((last.version, last.event_type.as_str()), (moved.version, "OrderStatusUpdated"));
        let Some(Payload::OrderStatusUpdated(payload)) = &last.payload else { panic!("{last:?}") };
        assert_eq!((payload.status(), &payload.order_id), (status, &order.id));
        let expected: Vec<_> = (2..=moved.version).map(|version| (order.id.clone(), version)).collect();
        assert_eq!(find("OrderStatusUpdated", &moved).await, expected);
        assert_eq!(find("OrderCreated", &moved).await, [(order.id.clone(), 1)]);
    }
    assert_eq!(find("UserCreated", &john).await, [(john.id.clone(), 1)]);
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_as_of_its_newest_version_is_what_the_read_model_shows() {
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john.doe@example.com").await.unwrap();
    let mut order = create_order(&world, &john).await.unwrap();
    let mut shown = Vec::new();
    for status in [None, Some(OrderStatus::Processing), Some(OrderStatus::Shipped)] {
        if let Some(status) = status {
            order = set_status(&world, &order, status).await.unwrap();
        }
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        shown.extend(world.order_queries().get_order(patient(request)).await.unwrap().into_inner().order);
    }
    let as_of = async |as_of| {
        let request = GetOrderAsOfRequest { order_id: order.id.clone(), as_of: Some(as_of) };
        world.history().get_order_as_of(request).await.map(|reply| reply.into_inner().order.unwrap())
    };
    for row in &shown {
        assert_eq!(as_of(get_order_as_of_request::AsOf::Version(row.version)).await.unwrap(), *row);
        assert_eq!(as_of(get_order_as_of_request::AsOf::Time(row.updated_at.unwrap())).await.unwrap(), *row);
    }
    let beyond = as_of(get_order_as_of_request::AsOf::Version(4)).await.unwrap_err();
    assert_eq!(beyond.code(), Code::NotFound);

    let request = GetUserProfileRequest { user_id: john.id.clone(), after: john.after() };
    let row = world.user_queries().get_user_profile(patient(request)).await.unwrap().into_inner();
    let as_of = Some(get_user_profile_as_of_request::AsOf::Version(1));
    let request = GetUserProfileAsOfRequest { user_id: john.id.clone(), as_of };
    let past = world.history().get_user_profile_as_of(request).await.unwrap().into_inner();
    assert_eq!(past.user_profile, row.user_profile);
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_past_is_not_there() {
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    fn as_acme<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
        request
    }
    let mut client = world.history();
    let request =
        GetHistoryRequest { aggregate: Some(Aggregate::UserId(john.id.clone())), ..Default::default() };
    assert_eq!(client.get_history(as_acme(request)).await.unwrap_err().code(), Code::NotFound);
    let as_of = Some(get_user_profile_as_of_request::AsOf::Version(1));
    let request = GetUserProfileAsOfRequest { user_id: john.id.clone(), as_of };
    assert_eq!(client.get_user_profile_as_of(as_acme(request)).await.unwrap_err().code(), Code::NotFound);
    let request =
        |after| SearchEventsRequest { event_type: "UserCreated".into(), after, ..Default::default() };
    let found = client.search_events(as_acme(request(None))).await.unwrap().into_inner();
    assert!(found.events.is_empty());
    let behind = client.search_events(as_acme(request(john.after()))).await.unwrap_err();
    assert_eq!((behind.code(), reason(&behind).as_str()), (Code::Unavailable, "READ_MODEL_BEHIND"));
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_without_its_index_a_search_says_so_and_the_rest_works() {
    let options = StackOptions { event_type_index: false, ..StackOptions::default() };
    let world = World::on(Ground::with(&options).await.unwrap()).await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    assert_eq!(history(&world, Aggregate::UserId(john.id.clone())).await.len(), 1);
    for after in [None, john.after()] {
        let request = SearchEventsRequest { event_type: "UserCreated".into(), after, ..Default::default() };
        let status = world.history().search_events(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "EVENT_TYPE_INDEX_OFF"));
    }
    world.end().await.unwrap();
}

const ORDERS: [SortOrder; 2] = [SortOrder::OldestFirst, SortOrder::NewestFirst];

#[tokio::test(flavor = "multi_thread")]
async fn pages_meet_every_event_once_in_order_though_many_are_of_one_time() {
    let world = World::new().await.unwrap();
    let mut stored = Past::of(&world.ground, &world.ground.aws().await);
    // A hundred of one aggregate in one microsecond, and aggregates of every shard among each other.
    let long = stored.user(&[7; 101]).await;
    for n in 0..40 {
        stored.user(&[n % 5, 7, n, 7]).await;
    }
    for order in ORDERS {
        for page_size in [1, 9, 100] {
            let request = GetHistoryRequest {
                aggregate: Some(Aggregate::UserId(long.id.to_string())),
                page_size,
                order: order.into(),
                ..Default::default()
            };
            let mut expected: Vec<u64> = (1..=101).collect();
            if order == SortOrder::NewestFirst {
                expected.reverse();
            }
            let (mut met, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = GetHistoryRequest { page_token, ..request.clone() };
                let page = world.history().get_history(request).await.unwrap().into_inner();
                met.extend(page.events.iter().map(|event| event.version));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(met, expected, "{order:?} by {page_size}");
        }
        for (event_type, page_size) in
            [("UserCreated", 7), ("UserProfileUpdated", 17), ("UserProfileUpdated", 100)]
        {
            assert_eq!(
                searched(&world, event_type, order, page_size).await,
                expected(&stored.all, event_type, order),
                "{event_type} {order:?} by {page_size}"
            );
        }
    }
    world.end().await.unwrap();
}

type Place = (i64, String, u64);

async fn searched(world: &World, event_type: &str, order: SortOrder, page_size: i32) -> Vec<Place> {
    let (mut met, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = SearchEventsRequest {
            event_type: event_type.into(),
            start_time: Some(time_to_proto(at(0))),
            end_time: Some(time_to_proto(at(30))),
            order: order.into(),
            page_size,
            page_token,
            after: None,
        };
        let page = world.history().search_events(request).await.unwrap().into_inner();
        met.extend(page.events.into_iter().map(|event| {
            let micros = i64::from(event.time.unwrap().nanos / 1_000);
            (micros, event.aggregate_id, event.version)
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return met;
        }
    }
}

fn expected(events: &[StoredEvent], event_type: &str, order: SortOrder) -> Vec<Place> {
    let searched = events.iter().map(|event| &event.envelope).filter(|event| event.event_type == event_type);
    let place = |event: &Envelope| {
        (event.timestamp.unix_micros() - at(0).unix_micros(), event.aggregate_id.to_string(), event.version)
    };
    let mut places: Vec<Place> = searched.map(place).filter(|(micros, ..)| *micros < 30).collect();
    places.sort_unstable();
    if order == SortOrder::NewestFirst {
        places.reverse();
    }
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_no_event_is_told_as_damaged_and_is_in_the_way_of_what_rests_on_it() {
    let world = World::new().await.unwrap();
    let stream = Past::of(&world.ground, &world.ground.aws().await).user(&[1, 2, 3, 4]).await;
    let client = world.ground.aws().await.dynamodb();
    let key = AttributeValue::S(stream.to_string());
    client
        .update_item()
        .table_name(world.ground.output("EventStoreTable"))
        .key("AggregateId", key)
        .key("Version", AttributeValue::N("3".into()))
        .update_expression("SET SchemaVersion = :no_number, EventId = :no_id")
        .expression_attribute_values(":no_number", AttributeValue::S("secret".into()))
        .expression_attribute_values(":no_id", AttributeValue::S("secret".into()))
        .send()
        .await
        .unwrap();

    let id = stream.id.to_string();
    let events = history(&world, Aggregate::UserId(id.clone())).await;
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let request = SearchEventsRequest { event_type: "UserProfileUpdated".into(), ..Default::default() };
    let found = world.history().search_events(request).await.unwrap().into_inner().events;
    assert_eq!(found.iter().map(|event| event.version).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(
        (found[1].event_type.as_str(), found[1].time),
        ("UserProfileUpdated", Some(time_to_proto(at(3))))
    );
    for damaged in [&events[2], &found[1]] {
        assert_eq!((damaged.aggregate_type.as_str(), damaged.aggregate_id.as_str()), ("user", id.as_str()));
        let Some(Payload::Unreadable(UnreadablePayload { reason, description })) = &damaged.payload else {
            panic!("{damaged:?}");
        };
        assert_eq!(*reason, i32::from(Reason::Damaged));
        assert!(!description.is_empty() && !description.contains("secret"), "{description}");
    }

    let as_of = async |version| {
        let as_of = Some(get_user_profile_as_of_request::AsOf::Version(version));
        let request = GetUserProfileAsOfRequest { user_id: id.clone(), as_of };
        world.history().get_user_profile_as_of(request).await
    };
    assert_eq!(as_of(2).await.unwrap().into_inner().user_profile.unwrap().name, "John 2");
    for version in [3, 4] {
        let status = as_of(version).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "EVENT_UNREADABLE"));
        assert!(status.message().contains("version 3"), "{status:?}");
    }
    world.end().await.unwrap();
}
