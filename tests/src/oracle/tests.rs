//! Tests of the oracle itself: it finds each broken promise.

use millrace_core::{Aggregate as _, Envelope, StreamId, row::RowKey};
use millrace_testing::{oracle::RowPlace, recorded, time_of};
use serde_json::{Value, json};
use shop::{
    contracts::command::{CreateUserRequest, UpdateUserProfileRequest},
    order::Order,
    user::{User, UserCreated, UserEvent, UserProfileUpdated},
};
use tonic::Code;
use uuid::Uuid;

use super::*;
use crate::{ORDERS, TOTALS, USERS, lives, shop, workload::Body};

const ANN: Uuid = Uuid::from_u128(1);
const ORDER: Uuid = Uuid::from_u128(0x103);

fn ann() -> StreamId {
    StreamId { tenant: "acme".parse().unwrap(), aggregate_type: User::TYPE, id: ANN }
}

fn order() -> StreamId {
    StreamId { aggregate_type: Order::TYPE, id: ORDER, ..ann() }
}

fn renamed(version: u64, name: &str) -> Envelope {
    let name = Some(name.to_owned().try_into().unwrap());
    let event = UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name });
    recorded(&ann(), version, time_of(version), &event)
}

fn history() -> Vec<Envelope> {
    let (email, name) = ("Ann@example.com".to_owned(), "Ann".to_owned());
    let created = UserCreated { email: email.try_into().unwrap(), name: name.try_into().unwrap() };
    let created = recorded(&ann(), 1, time_of(1), &UserEvent::UserCreated(created));
    vec![created, renamed(2, "Anna"), renamed(3, "Anne")]
}

fn oracle(events: impl IntoIterator<Item = Envelope>) -> Oracle {
    Oracle::new(&shop(), events).unwrap()
}

/// A command that asks for the user of [`history`] or for its second event.
fn tracked(n: u64, fate: Fate) -> TrackedCommand {
    let body = match n {
        1 => Body::CreateUser(CreateUserRequest {
            email: "Ann@example.com".into(),
            name: "Ann".into(),
            ..Default::default()
        }),
        _ => Body::UpdateUser(UpdateUserProfileRequest { name: Some("Anna".into()), ..Default::default() }),
    };
    let (tenant, command_id) = ("acme".parse().unwrap(), format!("command-{n}"));
    TrackedCommand { tenant, command_id, body, passes_by: false, attempts: 1, fate }
}

fn acknowledged(n: u64, version: u64) -> TrackedCommand {
    let reply = Reply {
        aggregate_type: "user".to_owned(),
        aggregate_id: ANN.to_string(),
        version,
        event_id: Uuid::new_v5(&ANN, format!("acme#user#{n}").as_bytes()).to_string(),
        command_id: format!("command-{n}"),
        replayed: false,
    };
    tracked(n, Fate::Acknowledged(reply))
}

#[test]
fn an_answer_that_is_not_true_is_found() {
    let oracle = oracle(history()[..2].to_vec());
    let check = |second: TrackedCommand| {
        let checked = check_commands(&oracle, &[acknowledged(1, 1), second]);
        checked.map_err(|violation| format!("{violation:#}"))
    };
    for right in [acknowledged(2, 2), tracked(2, Fate::Open)] {
        check(right).unwrap();
    }
    // An attempt before the last one may have done it.
    check(TrackedCommand { attempts: 2, ..tracked(2, Fate::Refused(Code::Aborted)) }).unwrap();

    assert!(check(tracked(2, Fate::Refused(Code::Aborted))).unwrap_err().contains("refused is there"));
    assert!(check(acknowledged(2, 3)).unwrap_err().contains("I1"), "another version");
    let mut elsewhere = acknowledged(2, 2);
    if let Fate::Acknowledged(reply) = &mut elsewhere.fate {
        reply.aggregate_type = "order".to_owned();
    }
    assert!(check(elsewhere).unwrap_err().contains("another aggregate"));
    let lost = check_commands(&oracle, &[acknowledged(1, 1), acknowledged(2, 2), acknowledged(4, 3)]);
    assert!(format!("{:#}", lost.unwrap_err()).contains("I1: what was acknowledged is not there"));
    let alone = check_commands(&oracle, &[acknowledged(1, 1)]).unwrap_err();
    assert!(alone.to_string().contains("nobody sent"));
    let another =
        Body::UpdateUser(UpdateUserProfileRequest { name: Some("Bob".into()), ..Default::default() });
    let says_else = TrackedCommand { body: another, ..acknowledged(2, 2) };
    assert!(check(says_else).is_err(), "the event says something else");
}

/// The items of the shop's tables, attribute by attribute: a change here is a change of the stored form.
#[test]
fn rows_are_stored_in_this_form() {
    let orders = (1..=2).map(|version| lives::order_event(&order(), version, time_of(version)));
    let oracle = oracle(history().into_iter().chain(orders.map(|event| event.envelope)));
    let items = oracle.items(4).unwrap();
    let item = |projection, id: &str, is_part| -> Value {
        let key = RowKey { tenant: "acme".parse().unwrap(), id: id.to_owned() };
        json!(items[&RowPlace { projection, key, is_part }].attributes)
    };
    let (created, updated) = (time_of(1).to_string(), time_of(3).to_string());
    let user = json!({
        "Email": "Ann@example.com", "ByEmailKey": "acme#ann@example.com", "Name": "Anne",
        "CreatedAt": created, "UpdatedAt": updated,
    });
    let mut found = item(USERS, &ANN.to_string(), false);
    // The order of a look-up is the row's own affair.
    found.as_object_mut().unwrap().retain(|name, _| !name.ends_with("Position"));
    assert_eq!(found, user);
    let buyer = lives::buyer(&order());
    let price = json!(shop::Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap());
    let basket = json!({ "Items": [{ "Product": "Ann 1", "Quantity": 1, "Price": price }], "Total": price });
    let summary = json!({
        "UserId": buyer, "Status": "PROCESSING", "Basket": basket,
        "ByStatusKey": "acme#PROCESSING#3", "ByUserKey": format!("acme#{buyer}"),
        "CreatedAtPosition": format!("{created}#{ORDER}"), "CreatedAt": created,
        "UpdatedAt": time_of(2).to_string(),
    });
    assert_eq!(item(ORDERS, &ORDER.to_string(), false), summary);
    let totals = json!({
        "Orders": 1, "Cancelled": 0, "Spent": { "USD": "999990000000" }, "LastOrderAt": created, "Parts": 1,
    });
    assert_eq!(item(TOTALS, &buyer.to_string(), false), totals);
    let part = json!({
        "Target": format!("acme#{buyer}"),
        "Part": { "UserId": buyer, "Total": price, "PlacedAt": created, "IsCancelled": false },
    });
    assert_eq!(item(TOTALS, &ORDER.to_string(), true), part);
    assert_eq!(items.len(), 4);
}
