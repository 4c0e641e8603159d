//! Reads of many rows by their ids.

use std::time::Duration;

use millrace_aws::AwsError;
use millrace_proto::query::ReadAfter;
use prost::Message as _;
use shop::{
    contracts::query::{
        BatchGetOrdersRequest, BatchGetOrdersResponse, BatchGetUserProfilesRequest,
        BatchGetUserProfilesResponse, order_query_service_server::OrderQueryService as _,
        user_query_service_server::UserQueryService as _,
    },
    order::OrderStatus,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};

use crate::support::{
    BAD_AFTER, BatchReply, World, after_order, after_user, bad_after, bad_fields, basket, of_tenant,
    order_id, reason, user_id,
};

const BUYER: u128 = 1 << 100;

async fn orders(
    world: &World,
    ids: &[u128],
    after: Option<ReadAfter>,
) -> Result<BatchGetOrdersResponse, Status> {
    let order_ids = ids.iter().map(|id| order_id(*id).to_string()).collect();
    let request = Request::new(BatchGetOrdersRequest { order_ids, after });
    Ok(world.order_service().batch_get_orders(request).await?.into_inner())
}

async fn users(
    world: &World,
    ids: &[u128],
    after: Option<ReadAfter>,
) -> Result<BatchGetUserProfilesResponse, Status> {
    let user_ids = ids.iter().map(|id| user_id(*id).to_string()).collect();
    let request = Request::new(BatchGetUserProfilesRequest { user_ids, after });
    Ok(world.user_service().batch_get_user_profiles(request).await?.into_inner())
}

/// The numbers of the orders that were found, are missing and were not answered.
fn told(reply: &BatchGetOrdersResponse) -> [Vec<u128>; 3] {
    let number = |id: &String| id.parse::<uuid::Uuid>().unwrap().as_u128();
    [
        reply.orders.iter().map(|order| number(&order.order_id)).collect(),
        reply.missing_order_ids.iter().map(number).collect(),
        reply.unanswered_order_ids.iter().map(number).collect(),
    ]
}

async fn with_orders(ids: impl IntoIterator<Item = u128>) -> World {
    let world = World::default();
    for id in ids {
        world.place(id, BUYER, 0).await;
    }
    world
}

#[tokio::test]
async fn what_is_there_comes_in_the_order_asked_for_and_what_is_not_is_told() {
    let world = with_orders([1, 2, 3]).await;
    let reply = orders(&world, &[3, 9, 1, 8, 2], None).await.unwrap();
    assert_eq!(told(&reply), [vec![3, 1, 2], vec![9, 8], vec![]]);

    world.user(1, 1, "john@example.com").await;
    world.user(2, 1, "jack@example.com").await;
    let reply = users(&world, &[2, 7, 1], None).await.unwrap();
    let emails: Vec<_> = reply.user_profiles.iter().map(|user| user.email.as_str()).collect();
    assert_eq!(emails, ["jack@example.com", "john@example.com"]);
    assert_eq!(reply.missing_user_ids, [user_id(7).to_string()]);
    assert!(reply.unanswered_user_ids.is_empty());

    let none = orders(&world, &[8, 9], None).await.unwrap();
    assert_eq!(told(&none), [vec![], vec![8, 9], vec![]], "no batch is NOT_FOUND");
}

#[tokio::test]
async fn an_order_that_is_named_twice_is_answered_once_at_its_first_place() {
    let world = with_orders([0xa, 0xb]).await;
    let (a, b) = (order_id(0xa).to_string(), order_id(0xb).to_string());
    // In capitals it is the same id.
    let order_ids = vec![b.clone(), a.to_uppercase(), b.to_uppercase(), a, b];
    let request = Request::new(BatchGetOrdersRequest { order_ids, after: None });
    let reply = world.order_service().batch_get_orders(request).await.unwrap().into_inner();
    assert_eq!(told(&reply), [vec![0xb, 0xa], vec![], vec![]]);
    assert_eq!(world.orders.gets(), 2, "each is read once");
    let missing = orders(&world, &[9, 9, 9], None).await.unwrap();
    assert_eq!(told(&missing), [vec![], vec![9], vec![]]);
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let world = with_orders([1]).await;
    world.user(1, 1, "john@example.com").await;
    let request = BatchGetOrdersRequest { order_ids: vec![order_id(1).to_string()], after: None };
    let reply =
        world.order_service().batch_get_orders(of_tenant("other", request)).await.unwrap().into_inner();
    assert_eq!(told(&reply), [vec![], vec![1], vec![]]);
    let request = BatchGetUserProfilesRequest { user_ids: vec![user_id(1).to_string()], after: None };
    let reply = world.user_service().batch_get_user_profiles(of_tenant("other", request)).await.unwrap();
    assert_eq!(reply.into_inner().missing_user_ids, [user_id(1).to_string()]);
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let good = order_id(1).to_string();
    let table = [
        (vec![], vec!["ids"]),
        (vec![good.clone(); 101], vec!["ids"]),
        (vec![good.clone(), "7".into(), String::new(), good.clone()], vec!["ids[1]", "ids[2]"]),
        (vec![format!("other#{good}")], vec!["ids[0]"]),
        ([vec![good.clone(); 100], vec!["7".into()]].concat(), vec!["ids", "ids[100]"]),
    ];
    for (ids, bad) in table {
        let named = |of: &str| -> Vec<String> {
            let fields = bad.iter().map(|field| format!("{of}_{field}"));
            fields.chain(BAD_AFTER.map(str::to_owned)).collect()
        };
        let request = Request::new(BatchGetOrdersRequest { order_ids: ids.clone(), after: bad_after() });
        let status = world.order_service().batch_get_orders(request).await.unwrap_err();
        assert_eq!(bad_fields(&status), named("order"), "{ids:?}");
        let request = Request::new(BatchGetUserProfilesRequest { user_ids: ids.clone(), after: bad_after() });
        let status = world.user_service().batch_get_user_profiles(request).await.unwrap_err();
        assert_eq!(bad_fields(&status), named("user"), "{ids:?}");
    }
    let many = vec!["7".to_owned(); 6_000];
    let request = Request::new(BatchGetOrdersRequest { order_ids: many, after: None });
    let status = world.order_service().batch_get_orders(request).await.unwrap_err();
    assert_eq!(bad_fields(&status).len(), 50, "no more than a header holds");
    assert_eq!((world.orders.gets(), world.users.gets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_its_token_and_reads_the_awaited_row_once() {
    let world = with_orders([1, 2]).await;
    let start = Instant::now();
    let writes = async {
        sleep(Duration::from_millis(300)).await;
        world.advance(2, 2, OrderStatus::Processing).await;
    };
    let (reply, ()) = tokio::join!(orders(&world, &[1, 2, 3], after_order(2, 2)), writes);
    let reply = reply.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(told(&reply), [vec![1, 2], vec![3], vec![]]);
    assert_eq!(reply.orders[1].version, 2);
    assert_eq!((world.orders.gets_of(1), world.orders.gets_of(3)), (1, 1));

    let looked = world.orders.gets_of(2);
    let reply = orders(&world, &[2], after_order(2, 2)).await.unwrap();
    assert_eq!((told(&reply), world.orders.gets_of(2)), ([vec![2], vec![], vec![]], looked + 1));

    // The token of a user, in a batch of orders; and of an order, in a batch of users.
    world.user(7, 1, "john@example.com").await;
    let reply = orders(&world, &[1], after_user(7, 1)).await.unwrap();
    assert_eq!(told(&reply), [vec![1], vec![], vec![]]);
    let reply = users(&world, &[7], after_order(2, 2)).await.unwrap();
    assert_eq!(reply.user_profiles.len(), 1);

    let start = Instant::now();
    let behind = orders(&world, &[1, 2], after_order(2, 9)).await.unwrap_err();
    assert_eq!((behind.code(), reason(&behind).as_deref()), (Code::Unavailable, Some("READ_MODEL_BEHIND")));
    assert!((2_000..2_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_aws_leaves_out_is_asked_for_again_with_pauses() {
    let world = with_orders(0..10).await;
    let start = Instant::now();
    world.orders.next_batches([3, 0, 1, 2].map(BatchReply::Answered));
    let ids: Vec<u128> = (0..12).collect();
    let reply = orders(&world, &ids, None).await.unwrap();
    assert_eq!(told(&reply), [(0..10).collect(), vec![10, 11], vec![]]);
    assert_eq!(world.orders.gets(), 12, "nothing is read twice");
    // Four pauses, of up to 12, 24, 48 and 96 ms, and at least half as long.
    let waited = start.elapsed().as_millis();
    assert!((88..=184).contains(&waited), "{waited} ms");
}

#[tokio::test(start_paused = true)]
async fn what_aws_leaves_out_until_the_end_is_told_and_can_be_asked_for_again() {
    let world = with_orders(0..4).await;
    let throttled = || BatchReply::Fails(AwsError::Throttled("too fast".to_owned()));
    let unreachable = || BatchReply::Fails(AwsError::Unreachable("gone".to_owned()));
    for trouble in [throttled, || BatchReply::Answered(0), unreachable] {
        let start = Instant::now();
        let replies = std::iter::repeat_with(trouble).take(100);
        world.orders.next_batches([BatchReply::Answered(3)].into_iter().chain(replies));
        let reply = orders(&world, &[7, 3, 1, 2, 0], None).await.unwrap();
        assert_eq!(told(&reply), [vec![3, 1], vec![7], vec![2, 0]]);
        assert!((2_000..2_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        world.orders.next_batches([]);
        let rest = orders(&world, &[2, 0], None).await.unwrap();
        assert_eq!(told(&rest), [vec![2, 0], vec![], vec![]]);
    }
    // The awaited row suffices for a reply.
    world.orders.next_batches(std::iter::repeat_with(throttled).take(100));
    let reply = orders(&world, &[2, 3], after_order(3, 1)).await.unwrap();
    assert_eq!(told(&reply), [vec![3], vec![], vec![2]]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_told_though_the_request_for_the_rest_hangs() {
    let world = with_orders([1, 2]).await;
    world.orders.next_batches([BatchReply::Answered(1), BatchReply::Hangs]);
    let start = Instant::now();
    let reply = timeout(Duration::from_secs(60), orders(&world, &[1, 2], None)).await.expect("it ends");
    assert_eq!(told(&reply.unwrap()), [vec![1], vec![], vec![2]]);
    assert!((2_000..2_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_which_nothing_is_answered_fails_as_one_row_does() {
    let world = with_orders([1, 2]).await;
    let fails = |error| [BatchReply::Fails(error)];
    let failed = async |world: &World| {
        let status = orders(world, &[1, 2], None).await.unwrap_err();
        (status.code(), reason(&status).unwrap_or_default())
    };
    world.orders.next_batches(fails(AwsError::Throttled("too fast".to_owned())));
    assert_eq!(failed(&world).await, (Code::ResourceExhausted, "THROTTLED".to_owned()));
    world.orders.next_batches(fails(AwsError::Unreachable("gone".to_owned())));
    assert_eq!(failed(&world).await, (Code::Unavailable, "STORAGE_UNREACHABLE".to_owned()));
    world.orders.next_batches(fails(AwsError::Refused("no".to_owned())));
    assert_eq!(failed(&world).await, (Code::Internal, "INTERNAL".to_owned()));
    world.orders.next_batches(vec![BatchReply::Answered(0); 100]);
    assert_eq!(failed(&world).await, (Code::ResourceExhausted, "THROTTLED".to_owned()));
    // A refused request fails the call, even after a part was answered.
    world
        .orders
        .next_batches([BatchReply::Answered(1), BatchReply::Fails(AwsError::Refused("no".to_owned()))]);
    assert_eq!(failed(&world).await.0, Code::Internal);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_no_other_from_being_told() {
    let world = with_orders([1, 2, 3]).await;
    let unreadable = || [BatchReply::Unreadable(order_id(2).0)];
    world.orders.next_batches(unreadable());
    let reply = orders(&world, &[1, 2, 3, 4], None).await.unwrap();
    assert_eq!(told(&reply), [vec![1, 3], vec![4], vec![2]]);
    world.orders.next_batches(unreadable());
    let alone = orders(&world, &[2], None).await.unwrap_err();
    assert_eq!(alone.code(), Code::Internal, "asked for again by itself, it ends");
}

#[tokio::test]
async fn large_orders_that_do_not_fit_are_asked_for_again_until_all_are_told() {
    let world = World::default();
    for n in 0..100 {
        world.place_basket(n, BUYER, 0, basket(&"𒀀".repeat(200), 100)).await;
    }
    let (mut left, mut met, mut replies): (Vec<u128>, Vec<u128>, _) = ((0..100).rev().collect(), vec![], 0);
    while !left.is_empty() {
        let reply = orders(&world, &left, None).await.unwrap();
        let bytes = reply.encoded_len();
        assert!(bytes < 4 << 20 && bytes > 2 << 20 || reply.unanswered_order_ids.is_empty(), "{bytes} bytes");
        let [found, missing, unanswered] = told(&reply);
        assert!(!found.is_empty() && missing.is_empty());
        met.extend(found);
        left = unanswered;
        replies += 1;
    }
    assert_eq!(met, (0..100).rev().collect::<Vec<_>>());
    assert!(replies > 1 && replies < 5, "{replies}");
}
