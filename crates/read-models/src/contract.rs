//! What every read model does, whatever it is kept on: two suites, [`users`] and [`orders`], to run on an
//! implementation. Each fact is shown on a new tenant, so a table may be used more than once. A fact that does not
//! hold panics.

mod audit;
mod lists;
mod many;

use std::{fmt::Debug, future::Future, time::Duration};

use futures::future::join_all;
use millrace_aws::AwsError;
use millrace_domain::{
    CommandId, Email, EventId, Invalid, Label, Money, OrderId, TenantId, Timestamp, UserId,
    order::{Basket, OrderItem, OrderStatus},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    Among, AuditRows, Change, ListPart, OrderChange, OrderList, OrderRow, Placed, Position, Provenance,
    ReadOrders, ReadUsers, Times, UserChange, UserRow, WriteRows, Written,
};

/// How long an index may lag before the suite gives it up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shows every fact about users' profiles.
pub async fn users<S: ReadUsers + AuditRows<UserChange>>(store: &S) {
    a_profile_is_read_as_it_was_written(store).await;
    a_profile_changes_only_at_its_version(store).await;
    a_change_names_only_what_it_sets(store).await;
    a_profile_says_what_made_it(store).await;
    merged_changes_leave_the_row_that_single_ones_leave(store).await;
    flawed_changes_of_users_are_refused_and_leave_no_row(store).await;
    of_writers_at_once_one_applies(store).await;
    an_address_finds_its_holder_in_any_case(store).await;
    an_address_moves_with_its_holder(store).await;
    of_two_holders_the_one_who_changed_last_is_found(store).await;
    users_of_another_tenant_are_not_seen(store).await;
    many::users(store).await;
    audit::users(store).await;
}

/// Shows every fact about order summaries.
pub async fn orders<S: ReadOrders + AuditRows<OrderChange>>(store: &S) {
    an_order_is_read_as_it_was_written(store).await;
    an_order_changes_only_at_its_version(store).await;
    an_order_says_what_made_it(store).await;
    flawed_changes_of_orders_are_refused_and_leave_no_row(store).await;
    orders_of_another_tenant_are_not_seen(store).await;
    lists::orders(store).await;
    many::orders(store).await;
    audit::orders(store).await;
}

// ---------------------------------------------------------------- values

fn tenant() -> TenantId {
    Uuid::new_v4().to_string().parse().expect("a UUID is made of what a tenant is made of")
}

fn valid<T>(value: Result<T, Invalid>) -> T {
    value.expect("the suite's own values are valid")
}

fn email(text: &str) -> Email {
    valid(Email::try_from(text.to_owned()))
}

fn label(text: &str) -> Label {
    valid(Label::try_from(text.to_owned()))
}

/// The time that lies some microseconds after the start of 2026.
fn at(microseconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
}

/// What the event of a version came of, another one each time. Odd versions have a trace, even ones have none.
fn made_by(version: u64) -> Provenance {
    let id = |text: String| -> CommandId { valid(text.parse()) };
    Provenance {
        event_id: EventId(Uuid::new_v4()),
        correlation_id: id(format!("名前 #{version}")),
        causation_id: id(Uuid::new_v4().to_string()),
        trace_parent: (version % 2 == 1)
            .then(|| format!("00-{:032x}-{version:016x}-01", Uuid::new_v4().as_u128())),
    }
}

fn created(tenant: &TenantId, address: &str) -> UserChange {
    UserChange {
        tenant: tenant.clone(),
        user_id: UserId(Uuid::new_v4()),
        from: 0,
        to: 1,
        created_at: Some(at(0)),
        email: Some(email(address)),
        name: Some(label("John")),
        updated_at: at(0),
        provenance: made_by(1),
    }
}

/// A change of the same user that sets nothing yet.
fn next(change: &UserChange) -> UserChange {
    UserChange {
        from: change.to,
        to: change.to + 1,
        created_at: None,
        email: None,
        name: None,
        updated_at: Timestamp::from_unix_micros(change.updated_at.unix_micros() + 1),
        provenance: made_by(change.to + 1),
        ..change.clone()
    }
}

fn basket() -> Basket {
    let price = |units, nanos| valid(Money::new(valid("EUR".parse()), units, nanos));
    let item = |product, pieces: i32, price| OrderItem {
        product: label(product),
        quantity: valid(pieces.try_into()),
        price,
    };
    valid(Basket::new(vec![
        item("名前", 10_000, price(OrderItem::MOST_UNITS, 999_999_999)),
        item("a gift", 1, price(0, 0)),
        item("a screw", 3, price(0, 1)),
        item("a hundred", 1, price(100, 0)),
    ]))
}

fn placed(tenant: &TenantId, user_id: UserId, created_at: Timestamp) -> OrderChange {
    OrderChange {
        tenant: tenant.clone(),
        order_id: OrderId(Uuid::new_v4()),
        from: 0,
        to: 1,
        placed: Some(Placed { user_id, basket: basket(), created_at }),
        status: OrderStatus::Created,
        updated_at: created_at,
        provenance: made_by(1),
    }
}

fn moved(change: &OrderChange, status: OrderStatus) -> OrderChange {
    OrderChange {
        from: change.to,
        to: change.to + 1,
        placed: None,
        status,
        provenance: made_by(change.to + 1),
        ..change.clone()
    }
}

fn position(change: &OrderChange) -> Position {
    let created_at = change.placed.as_ref().expect("the suite places what it lists").created_at;
    Position { created_at, order_id: change.order_id }
}

// ---------------------------------------------------------------- helpers

async fn apply<C: Change>(store: &impl WriteRows<C>, change: &C) {
    assert_eq!(written(store, change).await, Written::Applied);
}

async fn written<C: Change>(store: &impl WriteRows<C>, change: &C) -> Written {
    store.write(change).await.expect("the store can be reached")
}

/// Waits until an index shows what it should.
async fn eventually<T, F>(expected: T, mut shown: impl FnMut() -> F)
where
    T: PartialEq + Debug,
    F: Future<Output = Result<T, AwsError>>,
{
    let start = Instant::now();
    loop {
        let found = shown().await.expect("the store can be reached");
        if found == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the index shows {found:?} and never {expected:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn ids(rows: &[OrderRow]) -> Vec<OrderId> {
    rows.iter().map(|row| row.order_id).collect()
}

/// All orders in a status.
fn in_status(tenant: &TenantId, status: OrderStatus) -> OrderList {
    OrderList { tenant: tenant.clone(), among: Among::Status(status), created: Times::default() }
}

/// All orders of a user.
fn of_user(tenant: &TenantId, user_id: UserId) -> OrderList {
    let among = Among::User { user_id, status: None };
    OrderList { tenant: tenant.clone(), among, created: Times::default() }
}

// ---------------------------------------------------------------- users

async fn a_profile_is_read_as_it_was_written<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let change = created(&tenant(), "John.Doe+x@Example.com");
    let get = || store.get(&change.tenant, change.user_id);
    assert_eq!(get().await.expect("the store can be reached"), None);
    apply(store, &change).await;
    let row = get().await.expect("the store can be reached").expect("a row after its write");
    assert_eq!((row.tenant, row.user_id), (change.tenant, change.user_id));
    assert_eq!((Some(row.email), Some(row.name)), (change.email, change.name));
    assert_eq!(
        (Some(row.created_at), row.updated_at, row.version),
        (change.created_at, change.updated_at, 1)
    );
    assert_eq!(row.provenance, Some(change.provenance));
}

async fn a_profile_changes_only_at_its_version<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let first = created(&tenant(), "a@example.com");
    let second = UserChange { name: Some(label("Jack")), ..next(&first) };
    let third = UserChange { name: Some(label("Jim")), ..next(&second) };
    assert_eq!(written(store, &second).await, Written::Found(0));
    apply(store, &first).await;
    assert_eq!(written(store, &first).await, Written::Found(1));
    assert_eq!(written(store, &third).await, Written::Found(1));
    apply(store, &second).await;
    apply(store, &third).await;
    for late in [&first, &second, &third] {
        assert_eq!(written(store, late).await, Written::Found(3));
    }
    let row = store.get(&first.tenant, first.user_id).await.expect("the store can be reached");
    assert_eq!(row.map(|row| (row.name, row.version)), Some((label("Jim"), 3)));
}

async fn a_change_names_only_what_it_sets<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let first = created(&tenant(), "a@example.com");
    let second = UserChange { email: Some(email("b@example.com")), ..next(&first) };
    let third = next(&second);
    for change in [&first, &second, &third] {
        apply(store, change).await;
    }
    let row = store.get(&first.tenant, first.user_id).await.expect("the store can be reached");
    let row = row.expect("a row after its write");
    assert_eq!((row.email, row.name), (email("b@example.com"), label("John")));
    assert_eq!((row.created_at, row.updated_at, row.version), (at(0), at(2), 3));
}

async fn a_profile_says_what_made_it<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let first = created(&tenant(), "a@example.com");
    let second = next(&first);
    let third = next(&second);
    assert_eq!(second.provenance.trace_parent, None, "the trace of the first must not remain");
    for change in [&first, &second, &third] {
        apply(store, change).await;
        written(store, &first).await;
        let row = store.get(&first.tenant, first.user_id).await.expect("the store can be reached");
        assert_eq!(row.and_then(|row| row.provenance).as_ref(), Some(&change.provenance));
    }
    let address = email("a@example.com");
    eventually(Some(third.provenance), || async {
        Ok(store.by_email(&first.tenant, &address).await?.pop().and_then(|row| row.provenance))
    })
    .await;
}

async fn merged_changes_leave_the_row_that_single_ones_leave<S: ReadUsers + WriteRows<UserChange>>(
    store: &S,
) {
    let first = created(&tenant(), "a@example.com");
    let second = UserChange { email: Some(email("b@example.com")), ..next(&first) };
    let third = UserChange { name: Some(label("Jim")), ..next(&second) };
    let merged = first.clone().then(second.clone()).and_then(|two| two.then(third.clone()));
    let merged = merged.expect("changes that follow each other merge");
    apply(store, &merged).await;
    let other = tenant();
    for change in [first.clone(), second, third] {
        apply(store, &UserChange { tenant: other.clone(), ..change }).await;
    }
    let at_once = store.get(&first.tenant, first.user_id).await.expect("the store can be reached");
    let singly = store.get(&other, first.user_id).await.expect("the store can be reached");
    assert_eq!(at_once.map(|row| UserRow { tenant: other, ..row }), singly);
}

async fn flawed_changes_of_users_are_refused_and_leave_no_row<S: ReadUsers + WriteRows<UserChange>>(
    store: &S,
) {
    let good = created(&tenant(), "a@example.com");
    let flawed = [
        UserChange { created_at: None, ..good.clone() },
        UserChange { email: None, ..good.clone() },
        UserChange { name: None, ..good.clone() },
        UserChange { to: 0, ..good.clone() },
    ];
    for change in flawed {
        assert!(matches!(store.write(&change).await, Err(AwsError::Refused(_))), "{change:?}");
    }
    assert_eq!(store.get(&good.tenant, good.user_id).await.expect("the store can be reached"), None);
    apply(store, &good).await;
    let again = UserChange { created_at: Some(at(9)), ..next(&good) };
    assert!(matches!(store.write(&again).await, Err(AwsError::Refused(_))));
}

async fn of_writers_at_once_one_applies<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let first = created(&tenant(), "a@example.com");
    apply(store, &first).await;
    let second = next(&first);
    let outcomes = join_all((0..8).map(|_| written(store, &second))).await;
    let applied = outcomes.iter().filter(|written| **written == Written::Applied).count();
    let found = outcomes.iter().filter(|written| **written == Written::Found(2)).count();
    assert_eq!((applied, found), (1, 7));
}

async fn an_address_finds_its_holder_in_any_case<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let change = created(&tenant(), "John@Example.com");
    apply(store, &change).await;
    for written in ["John@Example.com", "john@example.com", "JOHN@EXAMPLE.COM"] {
        let address = email(written);
        eventually(Some(change.user_id), || async {
            Ok(store.by_email(&change.tenant, &address).await?.first().map(|row| row.user_id))
        })
        .await;
    }
}

async fn an_address_moves_with_its_holder<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let first = created(&tenant(), "old@example.com");
    apply(store, &first).await;
    apply(store, &UserChange { email: Some(email("new@example.com")), ..next(&first) }).await;
    for (address, version) in [("new@example.com", Some(2)), ("old@example.com", None)] {
        let address = email(address);
        eventually(version, || async {
            Ok(store.by_email(&first.tenant, &address).await?.first().map(|row| row.version))
        })
        .await;
    }
}

async fn of_two_holders_the_one_who_changed_last_is_found<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let tenant = tenant();
    let address = email("contested@example.com");
    // The one who changed last has neither the greatest nor the last id.
    let users = [(2, 1), (1, 2), (3, 0)].map(|(id, changed)| UserChange {
        user_id: UserId(Uuid::from_u128(id)),
        updated_at: at(changed),
        ..created(&tenant, "contested@example.com")
    });
    for user in &users {
        apply(store, user).await;
    }
    eventually(Some(users[1].user_id), || async {
        Ok(store.by_email(&tenant, &address).await?.first().map(|row| row.user_id))
    })
    .await;
}

async fn users_of_another_tenant_are_not_seen<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let ours = created(&tenant(), "a@example.com");
    apply(store, &ours).await;
    let address = email("a@example.com");
    eventually(true, || async { Ok(!store.by_email(&ours.tenant, &address).await?.is_empty()) }).await;
    let other = tenant();
    assert_eq!(store.get(&other, ours.user_id).await.expect("the store can be reached"), None);
    assert_eq!(store.by_email(&other, &address).await.expect("the store can be reached"), []);
    let theirs = UserChange { tenant: other, ..next(&ours) };
    assert_eq!(written(store, &theirs).await, Written::Found(0));
}

// ---------------------------------------------------------------- orders

async fn an_order_is_read_as_it_was_written<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let user_id = UserId(Uuid::new_v4());
    let change = placed(&tenant(), user_id, at(123_456));
    let get = || store.get(&change.tenant, change.order_id);
    assert_eq!(get().await.expect("the store can be reached"), None);
    apply(store, &change).await;
    let expected = OrderRow {
        tenant: change.tenant.clone(),
        order_id: change.order_id,
        user_id,
        basket: basket(),
        status: OrderStatus::Created,
        created_at: at(123_456),
        updated_at: at(123_456),
        version: 1,
        provenance: Some(change.provenance.clone()),
    };
    assert_eq!(get().await.expect("the store can be reached"), Some(expected.clone()));
    let change = OrderChange { updated_at: at(7), ..moved(&change, OrderStatus::Cancelled) };
    apply(store, &change).await;
    let expected = OrderRow {
        status: OrderStatus::Cancelled,
        updated_at: at(7),
        version: 2,
        provenance: Some(change.provenance.clone()),
        ..expected
    };
    assert_eq!(get().await.expect("the store can be reached"), Some(expected));
}

async fn an_order_changes_only_at_its_version<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let first = placed(&tenant(), UserId(Uuid::new_v4()), at(0));
    let second = moved(&first, OrderStatus::Processing);
    let third = moved(&second, OrderStatus::Shipped);
    assert_eq!(written(store, &second).await, Written::Found(0));
    apply(store, &first).await;
    assert_eq!(written(store, &first).await, Written::Found(1));
    assert_eq!(written(store, &third).await, Written::Found(1));
    apply(store, &second.clone().then(third).expect("changes that follow each other merge")).await;
    assert_eq!(written(store, &second).await, Written::Found(3));
    let row = store.get(&first.tenant, first.order_id).await.expect("the store can be reached");
    assert_eq!(row.map(|row| (row.status, row.version)), Some((OrderStatus::Shipped, 3)));
}

async fn an_order_says_what_made_it<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let first = placed(&tenant(), UserId(Uuid::new_v4()), at(0));
    let second = moved(&first, OrderStatus::Processing);
    let third = moved(&second, OrderStatus::Shipped);
    assert_eq!(second.provenance.trace_parent, None, "the trace of the first must not remain");
    for change in [&first, &second, &third] {
        apply(store, change).await;
        written(store, &first).await;
        let row = store.get(&first.tenant, first.order_id).await.expect("the store can be reached");
        assert_eq!(row.and_then(|row| row.provenance).as_ref(), Some(&change.provenance));
    }
    eventually(Some(third.provenance), || async {
        let shipped = in_status(&first.tenant, OrderStatus::Shipped);
        Ok(store.part(&shipped, None, 9).await?.rows.into_iter().find_map(|row| row.provenance))
    })
    .await;
}

async fn flawed_changes_of_orders_are_refused_and_leave_no_row<S: ReadOrders + WriteRows<OrderChange>>(
    store: &S,
) {
    let good = placed(&tenant(), UserId(Uuid::new_v4()), at(0));
    for change in [OrderChange { placed: None, ..good.clone() }, OrderChange { to: 0, ..good.clone() }] {
        assert!(matches!(store.write(&change).await, Err(AwsError::Refused(_))), "{change:?}");
    }
    assert_eq!(store.get(&good.tenant, good.order_id).await.expect("the store can be reached"), None);
    apply(store, &good).await;
    let again = OrderChange { placed: good.placed.clone(), ..moved(&good, OrderStatus::Processing) };
    assert!(matches!(store.write(&again).await, Err(AwsError::Refused(_))));
}

async fn orders_of_another_tenant_are_not_seen<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let user_id = UserId(Uuid::new_v4());
    let ours = placed(&tenant(), user_id, at(0));
    apply(store, &ours).await;
    let created = |tenant: &TenantId| in_status(tenant, OrderStatus::Created);
    eventually(vec![ours.order_id], || async {
        Ok(ids(&store.part(&created(&ours.tenant), None, 9).await?.rows))
    })
    .await;
    let other = tenant();
    assert_eq!(store.get(&other, ours.order_id).await.expect("the store can be reached"), None);
    for list in [of_user(&other, user_id), created(&other)] {
        let part = store.part(&list, None, 9).await.expect("the store can be reached");
        assert_eq!(part, ListPart::default());
    }
    let theirs = OrderChange { tenant: other, ..moved(&ours, OrderStatus::Cancelled) };
    assert_eq!(written(store, &theirs).await, Written::Found(0));
}
