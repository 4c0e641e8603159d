//! The judge is told apart from the judged: what breaks a promise is found.

use millrace_domain::{
    AggregateType, CommandDigest, CommandId, EventId, OrderId, Timestamp, UserId,
    order::{Basket, OrderEvent, OrderItem, OrderStatus, Quantity},
    user::UserEvent,
};
use millrace_proto::{
    Envelope,
    command::{CreateUserRequest, UpdateUserProfileRequest},
};
use serde_json::json;
use tonic::Code;
use uuid::Uuid;

use super::*;
use crate::workload::Body;

const ANN: UserId = UserId(Uuid::from_u128(1));
const BOB: UserId = UserId(Uuid::from_u128(2));
const ORDER: OrderId = OrderId(Uuid::from_u128(0x103));

fn at(version: u64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + i64::try_from(version).unwrap())
}

fn stored(
    kind: &AggregateType,
    id: Uuid,
    version: u64,
    event_id: u128,
    event: &impl EventCodec,
) -> StoredEvent {
    let encoded = event.encode();
    let command_id: CommandId = format!("c{event_id}").parse().unwrap();
    let envelope = Envelope {
        event_id: EventId(Uuid::from_u128(event_id)),
        tenant_id: "acme".parse().unwrap(),
        aggregate_type: kind.clone(),
        aggregate_id: id,
        version,
        event_type: encoded.event_type.to_owned(),
        schema_version: encoded.schema_version,
        timestamp: at(version),
        event_data: Some(encoded.data),
        command_id: command_id.clone(),
        correlation_id: "wider".parse().unwrap(),
        causation_id: command_id,
        trace_parent: None,
    };
    StoredEvent { envelope, command_digest: CommandDigest(event_id) }
}

fn created(user_id: UserId, event_id: u128, email: &str) -> StoredEvent {
    let (email, name) = (email.to_owned().try_into().unwrap(), "Ann".to_owned().try_into().unwrap());
    let event = UserEvent::UserCreated { user_id, email, name, created_at: at(1) };
    stored(&User::TYPE, user_id.0, 1, event_id, &event)
}

fn renamed(user_id: UserId, version: u64, event_id: u128, name: &str) -> StoredEvent {
    let name = Some(name.to_owned().try_into().unwrap());
    let event = UserEvent::UserProfileUpdated { user_id, email: None, name, updated_at: at(version) };
    stored(&User::TYPE, user_id.0, version, event_id, &event)
}

fn history() -> Vec<StoredEvent> {
    vec![created(ANN, 1, "Ann@example.com"), renamed(ANN, 2, 2, "Anna"), renamed(ANN, 3, 3, "Anne")]
}

fn wrong(events: Vec<StoredEvent>) -> String {
    format!("{:#}", Truth::of(events).unwrap_err())
}

#[test]
fn a_history_that_breaks_a_promise_is_found() {
    let mut backwards = history();
    backwards.reverse();
    assert_eq!(
        Truth::of(backwards).unwrap(),
        Truth::of(history()).unwrap(),
        "in whatever order they are read"
    );

    let gap = vec![created(ANN, 1, "ann@example.com"), renamed(ANN, 3, 3, "Anne")];
    assert!(wrong(gap).contains("I3"));
    let mut again = history();
    again[2].envelope.command_id = again[1].envelope.command_id.clone();
    assert!(wrong(again).contains("I2"));
    let mut same = history();
    same[2].envelope.event_id = same[1].envelope.event_id;
    assert!(wrong(same).contains("two events have the id"));
    let misfit = vec![created(ANN, 1, "ann@example.com"), renamed(BOB, 2, 2, "Bob")];
    assert!(wrong(misfit).contains("I3"), "the second is of another stream");
    let both = vec![created(ANN, 1, "ann@example.com"), created(BOB, 2, "ANN@example.com")];
    assert!(wrong(both).contains("I6"));
}

/// An errand that asks for the user of [`history`] or for its second event.
fn errand(n: u128, fate: Fate) -> Errand {
    let body = match n {
        1 => Body::CreateUser(CreateUserRequest {
            email: "Ann@example.com".into(),
            name: "Ann".into(),
            ..Default::default()
        }),
        _ => Body::UpdateUser(UpdateUserProfileRequest { name: Some("Anna".into()), ..Default::default() }),
    };
    let (tenant, command_id) = ("acme".parse().unwrap(), format!("c{n}"));
    Errand { tenant, command_id, body, passes_by: false, attempts: 1, fate }
}

fn acknowledged(n: u128, version: u64) -> Errand {
    let reply = Reply {
        aggregate_id: ANN.to_string(),
        version,
        event_id: EventId(Uuid::from_u128(n)).to_string(),
        command_id: format!("c{n}"),
        replayed: false,
    };
    errand(n, Fate::Acknowledged(reply))
}

#[test]
fn an_answer_that_is_not_true_is_found() {
    let truth = Truth::of(history()[..2].to_vec()).unwrap();
    let check = |second: Errand| {
        let checked = truth.check_errands(&[acknowledged(1, 1), second]);
        checked.map_err(|wrong| format!("{wrong:#}"))
    };
    for right in [acknowledged(2, 2), errand(2, Fate::Open)] {
        check(right).unwrap();
    }
    // An attempt before the last one may have done it.
    check(Errand { attempts: 2, ..errand(2, Fate::Refused(Code::Aborted)) }).unwrap();

    assert!(check(errand(2, Fate::Refused(Code::Aborted))).unwrap_err().contains("refused is there"));
    assert!(check(acknowledged(2, 3)).unwrap_err().contains("I1"), "another version");
    let lost = truth.check_errands(&[acknowledged(1, 1), acknowledged(2, 2), acknowledged(4, 3)]);
    assert!(format!("{:#}", lost.unwrap_err()).contains("I1: what was acknowledged is not there"));
    assert!(truth.check_errands(&[acknowledged(1, 1)]).unwrap_err().to_string().contains("nobody sent"));
    let another =
        Body::UpdateUser(UpdateUserProfileRequest { name: Some("Bob".into()), ..Default::default() });
    assert!(check(Errand { body: another, ..acknowledged(2, 2) }).is_err(), "the event says something else");
}

#[test]
fn rows_are_the_folds_of_their_streams() {
    let item = OrderItem {
        product: "pen".to_owned().try_into().unwrap(),
        quantity: Quantity::try_from(2).unwrap(),
        price: millrace_domain::Money::new("USD".parse().unwrap(), 9, 990_000_000).unwrap(),
    };
    let basket = Basket::new(vec![item]).unwrap();
    let placed = OrderEvent::OrderCreated { order_id: ORDER, user_id: ANN, basket, created_at: at(1) };
    let moved = OrderEvent::OrderStatusUpdated {
        order_id: ORDER,
        status: OrderStatus::Processing,
        updated_at: at(2),
    };
    let orders =
        [stored(&Order::TYPE, ORDER.0, 1, 11, &placed), stored(&Order::TYPE, ORDER.0, 2, 12, &moved)];
    let truth = Truth::of(history().into_iter().chain(orders)).unwrap();
    let rows = truth.rows(4).unwrap();

    let key = |id: Uuid| format!("acme#{id}");
    let user = json!({
        "UserId": key(ANN.0), "Email": "Ann@example.com", "EmailKey": "acme#ann@example.com", "Name": "Anne",
        "CreatedAt": at(1).to_string(), "UpdatedAt": at(3).to_string(), "Version": { "N": "3" },
        "EventId": Uuid::from_u128(3), "CorrelationId": "wider", "CausationId": "c3",
    });
    assert_eq!(json!(rows[&(ReadModel::Users, key(ANN.0))]), user);
    let order = json!({
        "OrderId": key(ORDER.0), "UserId": key(ANN.0), "Status": "PROCESSING", "StatusKey": "acme#PROCESSING#3",
        "CreatedKey": format!("{}#{ORDER}", at(1)), "CreatedAt": at(1).to_string(), "UpdatedAt": at(2).to_string(),
        "Items": [{ "Product": "pen", "Quantity": { "N": "2" }, "Price": { "N": "9.99" } }],
        "TotalAmount": { "N": "19.98" }, "Currency": "USD", "Version": { "N": "2" },
        "EventId": Uuid::from_u128(12), "CorrelationId": "wider", "CausationId": "c12",
    });
    assert_eq!(json!(rows[&(ReadModel::Orders, key(ORDER.0))]), order);
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_row_that_is_missing_or_wrong_or_too_many_is_named() {
    let all = Truth::of(history().into_iter().chain([created(BOB, 4, "bob@example.com")])).unwrap();
    let expected = all.rows(4).unwrap();
    assert!(differences(&expected, &expected).is_empty());
    let less = Truth::of(history()).unwrap().rows(4).unwrap();
    assert!(differences(&expected, &less)[0].contains("is missing"));
    assert!(differences(&less, &expected)[0].contains("should not be there"));
    let mut older = Truth::of(history()[..2].to_vec()).unwrap().rows(4).unwrap();
    let named = differences(&less, &older).remove(0);
    assert!(named.contains("Name is Some(String(\"Anna\")), not Some(String(\"Anne\"))"), "{named}");
    let row = older.values_mut().next().unwrap();
    row.insert("TraceParent".to_owned(), json!("another"));
    assert!(differences(&less, &older)[0].contains("TraceParent"), "an attribute too many");
}

#[test]
fn a_row_that_goes_back_or_is_as_it_never_was_is_found() {
    let states = Truth::of(history()).unwrap().states(4).unwrap();
    let rows = |version: usize| Truth::of(history()[..version].to_vec()).unwrap().rows(4).unwrap();
    let watch = |looks: &[Rows]| {
        let mut sightings = Sightings::default();
        let noted = looks.iter().try_for_each(|rows| sightings.note(rows.clone()));
        noted.and_then(|()| sightings.check(&states)).map_err(|wrong| wrong.to_string())
    };
    watch(&[Rows::new(), rows(1), rows(1), rows(3)]).unwrap();
    assert!(watch(&[rows(3), rows(2)]).unwrap_err().contains("from version 3 back to 2"));
    assert!(watch(&[rows(1), Rows::new()]).unwrap_err().contains("is gone"));
    let mut mixed = rows(2);
    let row = mixed.values_mut().next().unwrap();
    row.insert("Name".to_owned(), json!("Anne"));
    assert!(watch(&[mixed]).unwrap_err().contains("as it never was"));
    let nobody = Truth::default().states(4).unwrap();
    let mut sightings = Sightings::default();
    sightings.note(rows(1)).unwrap();
    assert!(sightings.check(&nobody).unwrap_err().to_string().contains("of no stream"));
}
