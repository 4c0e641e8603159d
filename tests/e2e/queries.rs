//! The recipe's validation over gRPC: every query shows a command's effect at once.

use millrace_tests::{Replied as _, TestApp};
use shop::contracts::{
    command::UpdateUserProfileRequest,
    query::{
        GetOrderRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest, GetUserByEmailRequest,
        GetUserProfileRequest,
    },
    types::OrderStatus,
};
use tonic::{Code, Request};

use crate::calls::{At, create_order, create_user, patient, reason, set_status};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_just_set_to_processing_is_seen_at_once_by_every_query() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john.doe@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();
    let order = set_status(&app, &order, OrderStatus::Processing).await.unwrap();
    let (mut users, mut orders) = (app.user_queries(), app.order_queries());

    let request =
        GetOrdersByUserRequest { user_id: john.id.clone(), after: order.after(), ..Default::default() };
    let by_user = orders.get_orders_by_user(patient(request)).await.unwrap().into_inner();
    assert_eq!(by_user.orders.len(), 1);
    let summary = &by_user.orders[0];
    assert_eq!((summary.order_id.as_str(), summary.version), (order.id.as_str(), 2));
    assert_eq!(summary.status(), OrderStatus::Processing);
    assert_eq!(summary.user_id, john.id);
    let total = summary.total_amount.as_ref().unwrap();
    assert_eq!((total.currency_code.as_str(), total.units, total.nanos), ("USD", 999, 990_000_000));
    assert_eq!(summary.items[0].product, "laptop");
    assert!(summary.created_at.unwrap().seconds <= summary.updated_at.unwrap().seconds);

    let request = |status: OrderStatus| GetOrdersByStatusRequest {
        status: status.into(),
        after: order.after(),
        ..Default::default()
    };
    let processing =
        orders.get_orders_by_status(patient(request(OrderStatus::Processing))).await.unwrap().into_inner();
    assert_eq!(processing.orders, by_user.orders);
    let created =
        orders.get_orders_by_status(patient(request(OrderStatus::Created))).await.unwrap().into_inner();
    assert!(created.orders.is_empty(), "it is no longer CREATED");

    let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
    let one = orders.get_order(patient(request)).await.unwrap().into_inner();
    assert_eq!(one.order.as_ref(), Some(summary));

    let request = GetUserProfileRequest { user_id: john.id.clone(), after: john.after() };
    let profile = users.get_user_profile(patient(request)).await.unwrap().into_inner().user_profile.unwrap();
    assert_eq!((profile.email.as_str(), profile.name.as_str()), ("john.doe@example.com", "John Doe"));
    let request = GetUserByEmailRequest { email: "JOHN.DOE@example.com".into(), after: john.after() };
    assert_eq!(
        users.get_user_by_email(patient(request)).await.unwrap().into_inner().user_profile,
        Some(profile)
    );
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_address_is_found_under_the_new_one_only() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "old@example.com").await.unwrap();
    let request = UpdateUserProfileRequest {
        user_id: john.id.clone(),
        email: Some("new@example.com".into()),
        ..Default::default()
    };
    let now = At::from(app.users().update_user_profile(request).await.unwrap().reply());
    let ask = async |email: &str| {
        let request = GetUserByEmailRequest { email: email.into(), after: now.after() };
        app.user_queries().get_user_by_email(patient(request)).await
    };
    assert_eq!(ask("new@example.com").await.unwrap().into_inner().user_profile.unwrap().version, 2);
    assert_eq!(ask("old@example.com").await.unwrap_err().code(), Code::NotFound);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_meet_every_order_once_newest_first() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(create_order(&app, &john).await.unwrap());
    }
    made.reverse();
    // The token makes one order visible; the others' rows are waited for one by one.
    for order in &made {
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        app.order_queries().get_order(patient(request)).await.unwrap();
    }
    for by_status in [false, true] {
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let mut client = app.order_queries();
            let (orders, next) = if by_status {
                let request = GetOrdersByStatusRequest {
                    status: OrderStatus::Created.into(),
                    page_size: 3,
                    page_token,
                    ..Default::default()
                };
                let page = client.get_orders_by_status(patient(request)).await.unwrap().into_inner();
                (page.orders, page.next_page_token)
            } else {
                let request = GetOrdersByUserRequest {
                    user_id: john.id.clone(),
                    page_size: 3,
                    page_token,
                    ..Default::default()
                };
                let page = client.get_orders_by_user(patient(request)).await.unwrap().into_inner();
                (page.orders, page.next_page_token)
            };
            assert!(orders.len() <= 3);
            seen.extend(orders.into_iter().map(|order| order.order_id));
            if next.is_empty() {
                break;
            }
            page_token = next;
        }
        assert!(seen.iter().eq(made.iter().map(|order| &order.id)), "by_status: {by_status}");
    }
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_future_ends_in_read_model_behind() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let after = At { version: 99, ..john.clone() }.after();
    let mut request = Request::new(GetUserProfileRequest { user_id: john.id, after });
    request.set_timeout(std::time::Duration::from_millis(800));
    let behind = app.user_queries().get_user_profile(request).await.unwrap_err();
    assert_eq!((behind.code(), reason(&behind).as_str()), (Code::Unavailable, "READ_MODEL_BEHIND"));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_nothing_of_anothers() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();
    let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
    app.order_queries().get_order(patient(request)).await.unwrap();

    fn as_acme<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
        request
    }
    let (mut users, mut orders) = (app.user_queries(), app.order_queries());
    let request = GetUserProfileRequest { user_id: john.id.clone(), after: None };
    assert_eq!(users.get_user_profile(as_acme(request)).await.unwrap_err().code(), Code::NotFound);
    let request = GetUserByEmailRequest { email: "john@example.com".into(), after: None };
    assert_eq!(users.get_user_by_email(as_acme(request)).await.unwrap_err().code(), Code::NotFound);
    let request = GetOrderRequest { order_id: order.id, after: None };
    assert_eq!(orders.get_order(as_acme(request)).await.unwrap_err().code(), Code::NotFound);
    let request = GetOrdersByUserRequest { user_id: john.id, ..Default::default() };
    assert!(orders.get_orders_by_user(as_acme(request)).await.unwrap().into_inner().orders.is_empty());
    let request = GetOrdersByStatusRequest { status: OrderStatus::Created.into(), ..Default::default() };
    assert!(orders.get_orders_by_status(as_acme(request)).await.unwrap().into_inner().orders.is_empty());
    app.end().await.unwrap();
}
