//! Page tokens under attack, over a connection, for each paged query.

use futures::future::BoxFuture;
use millrace_core::{StreamId, TenantId};
use millrace_proto::{
    query::{
        GetHistoryRequest, SearchEventsRequest, SortOrder, history_service_client::HistoryServiceClient,
    },
    time_to_proto,
};
use shop::{
    contracts::{
        query::{
            GetOrdersByStatusRequest, GetOrdersByUserRequest,
            order_query_service_client::OrderQueryServiceClient,
        },
        types,
    },
    order::OrderStatus,
};
use tonic::{Status, transport::Channel};

use crate::{
    events::{self, moved, order, placed, user},
    server::start,
    support::{World, at, bad_fields, basket, moving, of, of_tenant, placing, user_id},
};

/// The tenants with orders, events and pages of them.
const TENANTS: [&str; 2] = ["default", "other"];

/// A client's paged query.
#[derive(Debug, Clone)]
enum Paged {
    OfUser(GetOrdersByUserRequest),
    InStatus(GetOrdersByStatusRequest),
    History(GetHistoryRequest),
    Search(SearchEventsRequest),
}

impl Paged {
    /// Asks for a page; returns the token of the next one.
    fn ask(
        &self,
        channel: &Channel,
        tenant: &'static str,
        token: &str,
    ) -> BoxFuture<'static, Result<String, Status>> {
        let (page_token, page_size) = (token.to_owned(), 1);
        let mut orders = OrderQueryServiceClient::new(channel.clone());
        let mut history = HistoryServiceClient::new(channel.clone());
        match self.clone() {
            Self::OfUser(request) => {
                let request = of_tenant(tenant, GetOrdersByUserRequest { page_token, page_size, ..request });
                Box::pin(
                    async move { Ok(orders.get_orders_by_user(request).await?.into_inner().next_page_token) },
                )
            }
            Self::InStatus(request) => {
                let request =
                    of_tenant(tenant, GetOrdersByStatusRequest { page_token, page_size, ..request });
                Box::pin(async move {
                    Ok(orders.get_orders_by_status(request).await?.into_inner().next_page_token)
                })
            }
            Self::History(request) => {
                let request = of_tenant(tenant, GetHistoryRequest { page_token, page_size, ..request });
                Box::pin(async move { Ok(history.get_history(request).await?.into_inner().next_page_token) })
            }
            Self::Search(request) => {
                let request = of_tenant(tenant, SearchEventsRequest { page_token, page_size, ..request });
                Box::pin(
                    async move { Ok(history.search_events(request).await?.into_inner().next_page_token) },
                )
            }
        }
    }
}

/// Queries, all different, each with more than one page.
fn queries() -> Vec<Paged> {
    let of_user_1 = GetOrdersByUserRequest { user_id: user_id(1).to_string(), ..Default::default() };
    let created = types::OrderStatus::Created.into();
    let processing = types::OrderStatus::Processing.into();
    let (since, until) = (Some(time_to_proto(at(0))), Some(time_to_proto(at(90))));
    let in_created = GetOrdersByStatusRequest { status: created, ..Default::default() };
    let newest = SortOrder::NewestFirst.into();
    let history = |stream: StreamId, order| GetHistoryRequest { order, ..events::of(&stream) };
    let search = SearchEventsRequest { event_type: "UserProfileUpdated".into(), ..Default::default() };
    vec![
        Paged::OfUser(of_user_1.clone()),
        Paged::OfUser(GetOrdersByUserRequest { user_id: user_id(2).to_string(), ..Default::default() }),
        Paged::OfUser(GetOrdersByUserRequest { status: created, ..of_user_1.clone() }),
        Paged::OfUser(GetOrdersByUserRequest { status: processing, ..of_user_1.clone() }),
        Paged::OfUser(GetOrdersByUserRequest { created_since: since, ..of_user_1.clone() }),
        Paged::OfUser(GetOrdersByUserRequest { created_before: until, ..of_user_1 }),
        Paged::InStatus(in_created.clone()),
        Paged::InStatus(GetOrdersByStatusRequest { status: processing, ..Default::default() }),
        Paged::InStatus(GetOrdersByStatusRequest { created_since: since, ..in_created.clone() }),
        Paged::InStatus(GetOrdersByStatusRequest { created_before: until, ..in_created }),
        Paged::History(history(user(1), 0)),
        Paged::History(history(user(1), newest)),
        Paged::History(history(user(2), 0)),
        Paged::History(history(order(1), 0)),
        Paged::Search(search.clone()),
        Paged::Search(SearchEventsRequest { order: newest, ..search.clone() }),
        Paged::Search(SearchEventsRequest { start_time: since, ..search.clone() }),
        Paged::Search(SearchEventsRequest { end_time: until, ..search }),
        Paged::Search(SearchEventsRequest { event_type: "OrderStatusUpdated".into(), ..Default::default() }),
    ]
}

/// Two tenants with the same ids, each with several rows and events of every kind.
async fn world() -> World {
    let world = World::default();
    for tenant in TENANTS {
        let tenant: TenantId = tenant.parse().unwrap();
        for n in 0..12_u128 {
            let buyer = 1 + n % 2;
            let update = placing(n, buyer, i64::try_from(n).unwrap(), basket("laptop", 1));
            world.write(of(&tenant, update)).await;
            if n % 4 < 2 {
                world.write(of(&tenant, moving(n, 2, OrderStatus::Processing))).await;
            }
        }
        let of_tenant = |stream| StreamId { tenant: tenant.clone(), ..stream };
        world.history(&of_tenant(user(1)), 4).await;
        world.history(&of_tenant(user(2)), 4).await;
        let stream = of_tenant(order(1));
        world.append(placed(&stream, 1, basket("laptop", 1))).await;
        for (version, status) in (2..).zip([OrderStatus::Processing, OrderStatus::Shipped]) {
            world.append(moved(&stream, version, 2, status)).await;
        }
    }
    world
}

#[tokio::test]
async fn a_page_token_serves_the_query_and_the_tenant_it_was_made_for_and_no_other() {
    let (channel, _shutdown, _server) = start(&world().await).await;
    let queries = queries();
    let mut tokens = Vec::new();
    for (n, query) in queries.iter().enumerate() {
        for tenant in TENANTS {
            let token = query.ask(&channel, tenant, "").await.unwrap();
            assert!(!token.is_empty(), "{query:?} has one page only");
            tokens.push((n, tenant, token));
        }
    }
    for (of, for_tenant, token) in &tokens {
        for (n, query) in queries.iter().enumerate() {
            for tenant in TENANTS {
                match query.ask(&channel, tenant, token).await {
                    Ok(_) => assert_eq!((n, tenant), (*of, *for_tenant), "{query:?}"),
                    Err(status) => {
                        assert_ne!((n, tenant), (*of, *for_tenant), "{query:?}: {status:?}");
                        assert_eq!(bad_fields(&status), ["page_token"], "{query:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_page_token_that_was_tampered_with_or_cut_is_refused_by_every_query() {
    let (channel, _shutdown, _server) = start(&world().await).await;
    for query in queries() {
        let token = query.ask(&channel, "default", "").await.unwrap();
        let mut bad: Vec<String> = Vec::new();
        for place in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            bad.push(String::from_utf8(changed).unwrap());
            // Cut anywhere but at its beginning: an empty token asks for the first page.
            if place > 0 {
                bad.push(token[..place].to_owned());
            }
        }
        bad.extend([
            format!("{token}A"),
            format!("{token}="),
            format!("{token}\n"),
            format!(" {token}"),
            format!("{token}{token}"),
            token.to_uppercase(),
            token.chars().rev().collect(),
            "💥".to_owned(),
            "\u{0}".to_owned(),
            "A".repeat(1_024),
            "A".repeat(1_025),
        ]);
        for token in bad {
            let status = query.ask(&channel, "default", &token).await.unwrap_err();
            assert_eq!(bad_fields(&status), ["page_token"], "{query:?} {token}");
        }
        query.ask(&channel, "default", &token).await.unwrap();
    }
}
