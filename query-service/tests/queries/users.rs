//! Queries about users.

use std::time::Duration;

use crate::support::{
    BAD_AFTER, World, after_order, after_user, at, bad_after, bad_fields, of_tenant, reason, user_id,
};
use millrace_proto::query::ReadAfter;
use shop::{
    contracts::query::{
        GetUserByEmailRequest, GetUserProfileRequest, UserProfile,
        user_query_service_server::UserQueryService as _,
    },
    order::OrderStatus,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

async fn by_id(world: &World, id: u128, after: Option<ReadAfter>) -> Result<UserProfile, Status> {
    let request = GetUserProfileRequest { user_id: user_id(id).to_string(), after };
    let reply = world.user_service().get_user_profile(Request::new(request)).await?;
    Ok(reply.into_inner().user_profile.expect("a profile in every reply"))
}

async fn by_email(world: &World, email: &str, after: Option<ReadAfter>) -> Result<UserProfile, Status> {
    let request = GetUserByEmailRequest { email: email.to_owned(), after };
    let reply = world.user_service().get_user_by_email(Request::new(request)).await?;
    Ok(reply.into_inner().user_profile.expect("a profile in every reply"))
}

#[tokio::test]
async fn a_profile_is_found_by_its_id_and_by_its_address_in_any_case() {
    let world = World::default();
    world.user(1, 1, "John@Example.com").await;
    let profile = by_id(&world, 1, None).await.unwrap();
    assert_eq!(profile.user_id, user_id(1).to_string());
    assert_eq!((profile.email.as_str(), profile.name.as_str()), ("John@Example.com", "John Doe"));
    assert_eq!(profile.version, 1);
    assert_eq!(profile.created_at.map(|time| time.seconds), Some(at(0).unix_micros() / 1_000_000));
    assert_eq!(by_email(&world, "jOHN@eXAMPLE.COM", None).await.unwrap(), profile);
}

#[tokio::test]
async fn who_does_not_exist_is_not_found_and_no_address_is_repeated() {
    let world = World::default();
    let status = by_id(&world, 1, None).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("user", &*user_id(1).to_string())
    );

    let status = by_email(&world, "nobody@example.com", None).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(!format!("{status:?}{:?}", status.get_error_details()).contains("nobody"));
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    let id = GetUserProfileRequest { user_id: user_id(1).to_string(), after: None };
    let email = GetUserByEmailRequest { email: "john@example.com".to_owned(), after: None };
    let service = world.user_service();
    assert_eq!(service.get_user_profile(of_tenant("other", id)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        service.get_user_by_email(of_tenant("other", email)).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_tenant_tells_nothing() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    let request = GetUserProfileRequest { user_id: user_id(1).to_string(), after: after_user(1, 1) };
    let status = world.user_service().get_user_profile(of_tenant("other", request)).await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("READ_MODEL_BEHIND"));
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let request = GetUserProfileRequest { user_id: String::new(), after: bad_after() };
    let status = world.user_service().get_user_profile(Request::new(request)).await.unwrap_err();
    assert_eq!(bad_fields(&status), [&["user_id"], &BAD_AFTER[..]].concat());

    for email in ["", "john", "john@", "jöhn@example.com", &format!("{}@example.com", "j".repeat(254))] {
        let request = GetUserByEmailRequest { email: email.into(), after: bad_after() };
        let status = world.user_service().get_user_by_email(Request::new(request)).await.unwrap_err();
        assert_eq!(bad_fields(&status), [&["email"], &BAD_AFTER[..]].concat(), "{email}");
    }
}

#[tokio::test]
async fn a_row_that_is_fresh_already_costs_one_request() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    by_id(&world, 1, after_user(1, 1)).await.unwrap();
    assert_eq!((world.users.gets(), world.orders.gets()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_query_waits_until_the_row_is_as_new_as_its_token() {
    let world = World::default();
    world.user(1, 1, "old@example.com").await;
    let start = Instant::now();
    let writes = async {
        sleep(Duration::from_millis(300)).await;
        world.user(1, 2, "middle@example.com").await;
        sleep(Duration::from_millis(300)).await;
        world.user(1, 3, "new@example.com").await;
    };
    let (profile, ()) = tokio::join!(by_id(&world, 1, after_user(1, 3)), writes);
    assert_eq!(profile.unwrap().email, "new@example.com");
    let waited = start.elapsed();
    // The longest pause is 256 ms.
    assert!((600..=860).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(world.orders.gets(), 0, "a user is not looked for among orders");
}

#[tokio::test(start_paused = true)]
async fn a_query_waits_for_a_row_that_is_not_there_yet() {
    let world = World::default();
    let writes = async {
        sleep(Duration::from_millis(100)).await;
        world.user(1, 1, "john@example.com").await;
    };
    let (profile, ()) = tokio::join!(by_id(&world, 1, after_user(1, 1)), writes);
    assert_eq!(profile.unwrap().version, 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_wait_ends_after_two_seconds() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    let start = Instant::now();
    let status = by_id(&world, 1, after_user(1, 2)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status).as_deref(), Some("READ_MODEL_BEHIND"));
    assert!(status.get_error_details().retry_info().is_some());
    assert!((2_000..2_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(world.users.gets() < 20, "{} requests", world.users.gets());
}

#[tokio::test(start_paused = true)]
async fn a_query_about_a_user_can_wait_for_an_order() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    world.place(2, 1, 0).await;
    let writes = async {
        sleep(Duration::from_millis(100)).await;
        world.advance(2, 2, OrderStatus::Processing).await;
    };
    let start = Instant::now();
    let (profile, ()) = tokio::join!(by_id(&world, 1, after_order(2, 2)), writes);
    assert_eq!(profile.unwrap().user_id, user_id(1).to_string());
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(world.users.gets(), 1, "an order is not looked for among users");
}

#[tokio::test]
async fn an_address_is_found_before_its_index_shows_it() {
    let world = World::default();
    world.users.rows.hold_index();
    world.user(1, 1, "John@example.com").await;
    assert_eq!(by_email(&world, "john@example.com", None).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(by_email(&world, "john@example.com", after_user(1, 1)).await.unwrap().version, 1);
    let other = by_email(&world, "other@example.com", after_user(1, 1)).await;
    assert_eq!(other.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_address_that_was_given_up_is_not_found_though_its_index_shows_it() {
    let world = World::default();
    world.user(1, 1, "old@example.com").await;
    world.users.rows.hold_index();
    world.user(1, 2, "new@example.com").await;
    assert_eq!(by_email(&world, "old@example.com", None).await.unwrap().version, 1);
    assert_eq!(
        by_email(&world, "old@example.com", after_user(1, 2)).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(by_email(&world, "new@example.com", after_user(1, 2)).await.unwrap().version, 2);
}

#[tokio::test]
async fn an_address_that_changed_hands_is_the_new_holders() {
    let world = World::default();
    world.user(1, 1, "shared@example.com").await;
    world.user(2, 1, "second@example.com").await;
    world.users.rows.hold_index();
    world.user(1, 2, "first@example.com").await;
    world.user(2, 2, "shared@example.com").await;
    let holder = by_email(&world, "shared@example.com", after_user(2, 2)).await.unwrap();
    assert_eq!((holder.user_id, holder.version), (user_id(2).to_string(), 2));
}

#[tokio::test]
async fn the_next_holder_is_found_behind_one_who_is_known_to_have_left_whatever_their_clocks_say() {
    let world = World::default();
    world.user(2, 1, "shared@example.com").await;
    // Changed later by its writer's clock, but has given the address up by now.
    for version in 1..=5 {
        world.user(1, version, "shared@example.com").await;
    }
    world.users.rows.hold_index();
    world.user(1, 6, "first@example.com").await;
    let holder = by_email(&world, "shared@example.com", after_user(1, 6)).await.unwrap();
    assert_eq!(holder.user_id, user_id(2).to_string());
}

/// The index lags behind all three, so its order does not tell the holder.
#[tokio::test]
async fn an_address_that_three_users_passed_on_is_the_last_ones() {
    for ids in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]] {
        let [first, second, third] = ids;
        let world = World::default();
        world.user(first, 1, "shared@example.com").await;
        world.user(second, 1, "second@example.com").await;
        world.user(third, 1, "third@example.com").await;
        world.user(first, 2, "first@example.com").await;
        world.user(second, 2, "shared@example.com").await;
        world.user(second, 3, "second@example.com").await;
        world.user(third, 2, "shared@example.com").await;
        // The index shows the first holder's old version, and the others' versions with the address.
        let behind = World::default();
        behind.user(first, 1, "shared@example.com").await;
        behind.user(second, 1, "shared@example.com").await;
        behind.user(third, 1, "shared@example.com").await;
        behind.users.rows.hold_index();
        behind.users.rows.extend(world.users.typed::<shop::UserProfile>());
        for token in [after_user(first, 2), after_user(second, 3), after_user(third, 2), None] {
            let holder = by_email(&behind, "shared@example.com", token.clone()).await.unwrap();
            assert_eq!(
                (holder.user_id, holder.version),
                (user_id(third).to_string(), 2),
                "{ids:?} {token:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_older_copy_in_the_index_is_replaced_by_the_awaited_one() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    world.users.rows.hold_index();
    world.user(1, 2, "JOHN@example.com").await;
    let profile = by_email(&world, "john@example.com", after_user(1, 2)).await.unwrap();
    assert_eq!((profile.email.as_str(), profile.version), ("JOHN@example.com", 2));
}
