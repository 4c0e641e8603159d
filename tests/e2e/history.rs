//! Questions about the past over gRPC, on the local AWS.

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_core::Envelope;
use millrace_event_store::StoredEvent;
use millrace_local::StackOptions;
use millrace_proto::{
    query::{
        GetHistoryRequest, RecordedEvent, SearchEventsRequest, SortOrder, UnreadablePayload,
        recorded_event::Payload, unreadable_payload::Reason,
    },
    time_to_proto,
};
use millrace_tests::{TestApp, aws_stack_with};
use prost::Message as _;
use shop::{
    contracts::{
        event::OrderStatusUpdated,
        query::{GetOrderAsOfRequest, GetOrderRequest, GetUserProfileAsOfRequest, GetUserProfileRequest},
        types::OrderStatus,
    },
    order::Order,
    user::User,
};
use tonic::{Code, Request};

use crate::{
    calls::{
        At, as_of_time, as_of_version, create_order, create_user, history_of, patient, reason, set_status,
    },
    past::{Past, at},
};

async fn history(app: &TestApp, request: GetHistoryRequest) -> Vec<RecordedEvent> {
    app.history().get_history(request).await.unwrap().into_inner().events
}

fn types(events: &[RecordedEvent]) -> Vec<(&str, u64)> {
    events.iter().map(|event| (event.event_type.as_str(), event.version)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_acknowledged_is_in_every_answer_about_the_past_at_once() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john.doe@example.com").await.unwrap();
    assert_eq!(types(&history(&app, history_of::<User>(&john.id)).await), [("UserCreated", 1)]);
    let order = create_order(&app, &john).await.unwrap();
    assert_eq!(types(&history(&app, history_of::<Order>(&order.id)).await), [("OrderCreated", 1)]);
    let find = async |event_type: &str, after: &At| {
        let request =
            SearchEventsRequest { event_type: event_type.into(), after: after.after(), ..Default::default() };
        let found = app.history().search_events(request).await.unwrap().into_inner().events;
        found.into_iter().map(|event| (event.aggregate_id, event.version)).collect::<Vec<_>>()
    };
    for status in [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered] {
        let moved = set_status(&app, &order, status).await.unwrap();
        let events = history(&app, history_of::<Order>(&order.id)).await;
        let last = events.last().unwrap();
        assert_eq!((last.version, last.event_type.as_str()), (moved.version, "OrderStatusUpdated"));
        let Some(Payload::Event(payload)) = &last.payload else { panic!("{last:?}") };
        assert_eq!(payload.type_url, "type.googleapis.com/shop.event.v1.OrderStatusUpdated");
        assert_eq!(OrderStatusUpdated::decode(&*payload.value).unwrap().status(), status);
        let expected: Vec<_> = (2..=moved.version).map(|version| (order.id.clone(), version)).collect();
        assert_eq!(find("OrderStatusUpdated", &moved).await, expected);
        assert_eq!(find("OrderCreated", &moved).await, [(order.id.clone(), 1)]);
    }
    assert_eq!(find("UserCreated", &john).await, [(john.id.clone(), 1)]);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_as_of_its_newest_version_is_what_the_read_model_shows() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john.doe@example.com").await.unwrap();
    let mut order = create_order(&app, &john).await.unwrap();
    let mut shown = Vec::new();
    for status in [None, Some(OrderStatus::Processing), Some(OrderStatus::Shipped)] {
        if let Some(status) = status {
            order = set_status(&app, &order, status).await.unwrap();
        }
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        shown.extend(app.order_queries().get_order(patient(request)).await.unwrap().into_inner().order);
    }
    let as_of = async |as_of| {
        let request = GetOrderAsOfRequest { order_id: order.id.clone(), as_of };
        app.order_queries().get_order_as_of(request).await.map(|reply| reply.into_inner().order.unwrap())
    };
    for row in &shown {
        assert_eq!(as_of(as_of_version(row.version)).await.unwrap(), *row);
        assert_eq!(as_of(as_of_time(row.updated_at.unwrap())).await.unwrap(), *row);
    }
    let beyond = as_of(as_of_version(4)).await.unwrap_err();
    assert_eq!(beyond.code(), Code::NotFound);

    let request = GetUserProfileRequest { user_id: john.id.clone(), after: john.after() };
    let row = app.user_queries().get_user_profile(patient(request)).await.unwrap().into_inner();
    let request = GetUserProfileAsOfRequest { user_id: john.id.clone(), as_of: as_of_version(1) };
    let past = app.user_queries().get_user_profile_as_of(request).await.unwrap().into_inner();
    assert_eq!(past.user_profile, row.user_profile);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_past_is_not_there() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    fn as_acme<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
        request
    }
    let mut client = app.history();
    assert_eq!(
        client.get_history(as_acme(history_of::<User>(&john.id))).await.unwrap_err().code(),
        Code::NotFound
    );
    let request = GetUserProfileAsOfRequest { user_id: john.id.clone(), as_of: as_of_version(1) };
    let past = app.user_queries().get_user_profile_as_of(as_acme(request)).await;
    assert_eq!(past.unwrap_err().code(), Code::NotFound);
    let request =
        |after| SearchEventsRequest { event_type: "UserCreated".into(), after, ..Default::default() };
    let found = client.search_events(as_acme(request(None))).await.unwrap().into_inner();
    assert!(found.events.is_empty());
    let behind = client.search_events(as_acme(request(john.after()))).await.unwrap_err();
    assert_eq!((behind.code(), reason(&behind).as_str()), (Code::Unavailable, "READ_MODEL_BEHIND"));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_without_its_index_a_search_says_so_and_the_rest_works() {
    let options = StackOptions { event_type_index: false, ..StackOptions::default() };
    let app = TestApp::on(aws_stack_with(&options).await.unwrap()).await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    assert_eq!(history(&app, history_of::<User>(&john.id)).await.len(), 1);
    for after in [None, john.after()] {
        let request = SearchEventsRequest { event_type: "UserCreated".into(), after, ..Default::default() };
        let status = app.history().search_events(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "EVENT_TYPE_INDEX_OFF"));
    }
    app.end().await.unwrap();
}

const ORDERS: [SortOrder; 2] = [SortOrder::OldestFirst, SortOrder::NewestFirst];

#[tokio::test(flavor = "multi_thread")]
async fn pages_meet_every_event_once_in_order_though_many_are_of_one_time() {
    let app = TestApp::new().await.unwrap();
    let mut stored = Past::of(&app.stack, &app.stack.aws().await);
    // A hundred of one aggregate in one microsecond, and aggregates of every shard among each other.
    let long = stored.user(&[7; 101]).await;
    for n in 0..40 {
        stored.user(&[n % 5, 7, n, 7]).await;
    }
    for order in ORDERS {
        for page_size in [1, 9, 100] {
            let request = GetHistoryRequest { page_size, order: order.into(), ..history_of::<User>(long.id) };
            let mut expected: Vec<u64> = (1..=101).collect();
            if order == SortOrder::NewestFirst {
                expected.reverse();
            }
            let (mut met, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = GetHistoryRequest { page_token, ..request.clone() };
                let page = app.history().get_history(request).await.unwrap().into_inner();
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
                searched(&app, event_type, order, page_size).await,
                expected(&stored.all, event_type, order),
                "{event_type} {order:?} by {page_size}"
            );
        }
    }
    app.end().await.unwrap();
}

type Place = (i64, String, u64);

async fn searched(app: &TestApp, event_type: &str, order: SortOrder, page_size: i32) -> Vec<Place> {
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
            follow: false,
        };
        let page = app.history().search_events(request).await.unwrap().into_inner();
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
    let app = TestApp::new().await.unwrap();
    let stream = Past::of(&app.stack, &app.stack.aws().await).user(&[1, 2, 3, 4]).await;
    let client = app.stack.aws().await.dynamodb();
    let key = AttributeValue::S(stream.to_string());
    client
        .update_item()
        .table_name(app.stack.events())
        .key("AggregateId", key)
        .key("Version", AttributeValue::N("3".into()))
        .update_expression("SET SchemaVersion = :no_number, EventId = :no_id")
        .expression_attribute_values(":no_number", AttributeValue::S("secret".into()))
        .expression_attribute_values(":no_id", AttributeValue::S("secret".into()))
        .send()
        .await
        .unwrap();

    let id = stream.id.to_string();
    let events = history(&app, history_of::<User>(&id)).await;
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let request = SearchEventsRequest { event_type: "UserProfileUpdated".into(), ..Default::default() };
    let found = app.history().search_events(request).await.unwrap().into_inner().events;
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
        let request = GetUserProfileAsOfRequest { user_id: id.clone(), as_of: as_of_version(version) };
        app.user_queries().get_user_profile_as_of(request).await
    };
    assert_eq!(as_of(2).await.unwrap().into_inner().user_profile.unwrap().name, "John 2");
    for version in [3, 4] {
        let status = as_of(version).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "EVENT_UNREADABLE"));
        assert!(status.message().contains("version 3"), "{status:?}");
    }
    app.end().await.unwrap();
}
