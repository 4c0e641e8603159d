//! Past states of aggregates.

use millrace_core::{Aggregate, AggregateState, CommittedEvent, Envelope, EventCodec, Timestamp};
use millrace_event_store::StoredEvent;
use millrace_proto::{
    query::{AsOf as AsOfMessage, as_of::Point as AsOf},
    time_to_proto,
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;
use shop::{
    contracts::{
        query::{
            GetOrderAsOfRequest, GetUserProfileAsOfRequest, OrderSummary, UserProfile,
            order_query_service_server::OrderQueryService as _,
            user_query_service_server::UserQueryService as _,
        },
        types,
    },
    order::{Order, OrderStatus},
    user::{User, UserEvent, UserProfileUpdated},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    events::{created, moved, order, placed, renamed, stored, user},
    support::{World, at, bad_fields, basket, of_tenant, order_id, reason, user_id},
};

async fn profile(world: &World, id: u128, as_of: AsOf) -> Result<UserProfile, Status> {
    let as_of = Some(AsOfMessage { point: Some(as_of) });
    let request = GetUserProfileAsOfRequest { user_id: user_id(id).to_string(), as_of };
    let reply = world.user_service().get_user_profile_as_of(Request::new(request)).await?;
    Ok(reply.into_inner().user_profile.expect("a profile in every reply"))
}

async fn summary(world: &World, id: u128, as_of: AsOf) -> Result<OrderSummary, Status> {
    let as_of = Some(AsOfMessage { point: Some(as_of) });
    let request = GetOrderAsOfRequest { order_id: order_id(id).to_string(), as_of };
    let reply = world.order_service().get_order_as_of(Request::new(request)).await?;
    Ok(reply.into_inner().order.expect("an order in every reply"))
}

fn time(micros: i64) -> AsOf {
    AsOf::Time(time_to_proto(at(micros)))
}

/// The fold of a history by the domain's own rules, up to a version.
fn folded<A: Aggregate<Event: EventCodec>>(history: &[StoredEvent], version: u64) -> Option<A> {
    let upto = history.iter().take_while(|event| event.envelope.version <= version);
    let root = upto.fold(AggregateState::<A>::default(), |root, event| {
        let recorded: CommittedEvent<A::Event> =
            millrace_event_store::Entry::from(event.clone()).recorded().unwrap();
        root.apply(&recorded).unwrap()
    });
    root.state().cloned()
}

/// The newest version of this time or an earlier one, by the contract.
fn newest_at(history: &[StoredEvent], time: Timestamp) -> Option<u64> {
    history
        .iter()
        .map(|event| &event.envelope)
        .filter(|event| event.timestamp <= time)
        .map(|e| e.version)
        .max()
}

/// A user's stream after its beginning, with any time for each event: clocks differ.
fn any_user_history() -> impl Strategy<Value = Vec<StoredEvent>> {
    let change = (option::of("[a-z]{1,3}"), option::of("[a-z]{1,3}"), 0..20_i64);
    (0..20_i64, vec(change, 0..12)).prop_map(|(first, changes)| {
        let stream = user(1);
        let changes = (2..).zip(changes).map(|(version, (email, name, micros))| {
            let event = UserEvent::UserProfileUpdated(UserProfileUpdated {
                email: email.map(|text| format!("{text}@example.com").try_into().unwrap()),
                name: name.map(|text| text.try_into().unwrap()),
            });
            stored(&stream, version, micros, &event)
        });
        std::iter::once(created(&stream, first)).chain(changes).collect()
    })
}

/// An order's way through its statuses, each event at any time.
fn any_order_history() -> impl Strategy<Value = Vec<StoredEvent>> {
    let ways: Vec<&[OrderStatus]> = {
        use OrderStatus::*;
        vec![&[], &[Cancelled], &[Processing, Cancelled], &[Processing, Shipped, Delivered, Returned]]
    };
    (select(ways), vec(0..20_i64, 5)).prop_map(|(way, times)| {
        let stream = order(1);
        let moves = (2..)
            .zip(way)
            .zip(&times[1..])
            .map(|((version, status), micros)| moved(&stream, version, *micros, *status));
        std::iter::once(placed(&stream, times[0], basket("laptop", 2))).chain(moves).collect()
    })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

async fn world_of(history: &[StoredEvent]) -> World {
    let world = World::default();
    for event in history {
        world.append(event.clone()).await;
    }
    world
}

fn assert_is(shown: &UserProfile, history: &[StoredEvent], version: u64) {
    let state: User = folded(history, version).expect("it exists");
    let last = &history[usize::try_from(version).unwrap() - 1].envelope;
    assert_eq!(shown.version, version);
    assert_eq!((shown.email.as_str(), shown.name.as_str()), (state.email().as_str(), state.name().as_str()));
    assert_eq!(shown.user_id, user_id(1).to_string());
    assert_eq!(shown.created_at, Some(time_to_proto(history[0].envelope.timestamp)));
    assert_eq!(shown.updated_at, Some(time_to_proto(last.timestamp)));
}

fn assert_is_order(shown: &OrderSummary, history: &[StoredEvent], version: u64) {
    let state: Order = folded(history, version).expect("it exists");
    let last = &history[usize::try_from(version).unwrap() - 1].envelope;
    assert_eq!((shown.version, shown.status), (version, types::OrderStatus::from(state.status()).into()));
    let ids = (shown.order_id.as_str(), shown.user_id.as_str());
    assert_eq!(ids, (&*order_id(1).to_string(), &*user_id(1).to_string()));
    assert_eq!((shown.items.len(), shown.total_amount.as_ref().unwrap().units), (2, 3_999));
    assert_eq!(shown.created_at, Some(time_to_proto(history[0].envelope.timestamp)));
    assert_eq!(shown.updated_at, Some(time_to_proto(last.timestamp)));
}

proptest! {
    #[test]
    fn a_user_as_of_any_version_and_any_time_is_the_fold_of_the_events_up_to_there(history in any_user_history()) {
        run(async {
            let world = world_of(&history).await;
            for event in &history {
                let version = event.envelope.version;
                assert_is(&profile(&world, 1, AsOf::Version(version)).await.unwrap(), &history, version);
            }
            for micros in -1..=20 {
                match newest_at(&history, at(micros)) {
                    Some(version) => assert_is(&profile(&world, 1, time(micros)).await.unwrap(), &history, version),
                    None => assert_eq!(profile(&world, 1, time(micros)).await.unwrap_err().code(), Code::NotFound),
                }
            }
        });
    }

    #[test]
    fn an_order_as_of_any_version_and_any_time_is_the_fold_of_the_events_up_to_there(history in any_order_history()) {
        run(async {
            let world = world_of(&history).await;
            for event in &history {
                let version = event.envelope.version;
                assert_is_order(&summary(&world, 1, AsOf::Version(version)).await.unwrap(), &history, version);
            }
            for micros in -1..=20 {
                match newest_at(&history, at(micros)) {
                    Some(version) => {
                        assert_is_order(&summary(&world, 1, time(micros)).await.unwrap(), &history, version);
                    }
                    None => assert_eq!(summary(&world, 1, time(micros)).await.unwrap_err().code(), Code::NotFound),
                }
            }
        });
    }
}

fn not_found(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap();
    (resource.resource_type.clone(), resource.resource_name.clone())
}

#[tokio::test]
async fn what_was_not_there_is_not_found() {
    let world = World::default();
    world.history(&user(1), 3).await;
    let beyond = profile(&world, 1, AsOf::Version(4)).await.unwrap_err();
    assert_eq!(not_found(&beyond), ("user version".into(), format!("{}@4", user_id(1))));
    let far_beyond = profile(&world, 1, AsOf::Version(u64::MAX)).await.unwrap_err();
    assert_eq!(not_found(&far_beyond).0, "user version");
    let before = profile(&world, 1, time(0)).await.unwrap_err();
    assert_eq!(not_found(&before), ("user".into(), user_id(1).to_string()));
    for as_of in [AsOf::Version(1), time(99)] {
        let nobody = profile(&world, 2, as_of).await.unwrap_err();
        assert_eq!(not_found(&nobody), ("user".into(), user_id(2).to_string()));
        let no_order = summary(&world, 1, as_of).await.unwrap_err();
        assert_eq!(not_found(&no_order), ("order".into(), order_id(1).to_string()), "a user is no order");
        let as_of = Some(AsOfMessage { point: Some(as_of) });
        let request = GetUserProfileAsOfRequest { user_id: user_id(1).to_string(), as_of };
        let foreign = of_tenant("other", request);
        let foreign = world.user_service().get_user_profile_as_of(foreign).await.unwrap_err();
        assert_eq!(not_found(&foreign).0, "user", "another tenant's");
    }
}

/// The version of the event in a failure.
fn unreadable(status: &Status) -> u64 {
    named(status, DAMAGED)
}

/// What no replica can answer, and what one of a newer release can.
const DAMAGED: (Code, &str) = (Code::FailedPrecondition, "EVENT_UNREADABLE");
const NEWER: (Code, &str) = (Code::Unavailable, "NEWER_RELEASE");

/// The version of the event in a failure of a kind.
fn named(status: &Status, (code, why): (Code, &str)) -> u64 {
    assert_eq!((status.code(), reason(status).as_deref()), (code, Some(why)));
    let details = status.get_error_details();
    details.error_info().unwrap().metadata["version"].parse().unwrap()
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_named_where_it_is_in_the_way_and_nowhere_else() {
    let stream = user(1);
    let spoilt = |spoil: &dyn Fn(&mut StoredEvent)| {
        let mut event = renamed(&stream, 3, 3);
        spoil(&mut event);
        event
    };
    let second_birth = StoredEvent {
        envelope: Envelope { version: 3, ..created(&stream, 3).envelope },
        ..created(&stream, 3)
    };
    for (obstacle, kind) in [
        (spoilt(&|event| event.envelope.event_type = "UserErased".into()), NEWER),
        (spoilt(&|event| event.envelope.schema_version = 2), NEWER),
        (
            spoilt(&|event| event.envelope.event_data = json!({"email": "secret"}).as_object().cloned()),
            DAMAGED,
        ),
        (second_birth, DAMAGED),
    ] {
        let history = [
            created(&stream, 1),
            renamed(&stream, 2, 2),
            obstacle,
            renamed(&stream, 4, 4),
            renamed(&stream, 5, 2),
        ];
        let world = world_of(&history).await;
        assert_eq!(profile(&world, 1, AsOf::Version(2)).await.unwrap().version, 2);
        for version in [3, 4, 99] {
            let status = profile(&world, 1, AsOf::Version(version)).await.unwrap_err();
            assert_eq!(named(&status, kind), 3, "as of version {version}");
            assert!(!status.message().contains("secret"), "{status:?}");
        }
        assert_eq!(profile(&world, 1, time(1)).await.unwrap().version, 1);
        // Version 5 has that time, and depends on the third.
        for micros in [2, 3, 4, 99] {
            assert_eq!(named(&profile(&world, 1, time(micros)).await.unwrap_err(), kind), 3, "at {micros}");
        }
    }
}

#[tokio::test]
async fn without_a_later_event_of_its_time_an_unreadable_one_is_in_nobodys_way() {
    let stream = user(1);
    let mut newer = renamed(&stream, 3, 3);
    newer.envelope.schema_version = 2;
    let world = world_of(&[created(&stream, 1), renamed(&stream, 2, 2), newer, renamed(&stream, 4, 4)]).await;
    assert_eq!(profile(&world, 1, time(2)).await.unwrap().version, 2);
    assert_eq!(named(&profile(&world, 1, time(3)).await.unwrap_err(), NEWER), 3);
}

#[tokio::test]
async fn a_missing_event_is_named_where_it_is_in_the_way() {
    let stream = user(1);
    let world = world_of(&[created(&stream, 1), renamed(&stream, 3, 3)]).await;
    assert_eq!(profile(&world, 1, AsOf::Version(1)).await.unwrap().version, 1);
    assert_eq!(not_found(&profile(&world, 1, AsOf::Version(2)).await.unwrap_err()).0, "user version");
    // At any time: the time of the missing event is unknown.
    for as_of in [AsOf::Version(3), time(0), time(1), time(3)] {
        assert_eq!(unreadable(&profile(&world, 1, as_of).await.unwrap_err()), 2, "{as_of:?}");
    }
    let headless = world_of(&[renamed(&stream, 2, 2)]).await;
    assert_eq!(unreadable(&profile(&headless, 1, AsOf::Version(2)).await.unwrap_err()), 1);
}

#[tokio::test]
async fn a_long_history_is_folded_part_by_part() {
    let world = World::default();
    world.history(&user(1), 2_500).await;
    for (as_of, version, requests) in [
        (AsOf::Version(1), 1, 1),
        (AsOf::Version(1_000), 1_000, 1),
        (AsOf::Version(2_500), 2_500, 3),
        (time(7), 7, 3),
    ] {
        let before = world.events.requests();
        assert_eq!(profile(&world, 1, as_of).await.unwrap().version, version);
        let requests_taken = world.events.requests() - before;
        // A full page at the end of the history may be followed by an empty one.
        assert!((requests..=requests + 1).contains(&requests_taken), "{as_of:?}: {requests_taken} requests");
    }
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let as_of = |point| Some(AsOfMessage { point });
    let time = |seconds, nanos| as_of(Some(AsOf::Time(millrace_proto::Timestamp { seconds, nanos })));
    for (as_of, field) in [
        (None, "as_of"),
        (as_of(None), "as_of.point"),
        (as_of(Some(AsOf::Version(0))), "as_of.version"),
        (time(-1, 0), "as_of.time"),
        (time(i64::MAX, 0), "as_of.time"),
        (time(0, -1), "as_of.time"),
        (time(0, i32::MAX), "as_of.time"),
    ] {
        for id in ["", "7", "user#00000000-0000-0000-0000-000000000001"] {
            let request = GetUserProfileAsOfRequest { user_id: id.into(), as_of };
            let status =
                world.user_service().get_user_profile_as_of(Request::new(request)).await.unwrap_err();
            assert_eq!(bad_fields(&status), ["user_id", field], "{as_of:?} {id}");
        }
    }
    let request = GetOrderAsOfRequest { order_id: "7".into(), as_of: None };
    let status = world.order_service().get_order_as_of(Request::new(request)).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["order_id", "as_of"]);
}
