//! The four commands: stored events, replies, refusals.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use command_service::{Orders, Users};
use futures::future::join_all;
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache, snapshots};
use millrace_core::{Envelope, EventId};
use millrace_event_store::{AppendError, AppendEvents as _, BLOCK_VERSIONS, Commit, MemoryStore};
use shop::{
    contracts::{command::user_command_service_server::UserCommandService as _, types::OrderStatus},
    user::User,
};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::{Accepted, CONFIG, Lossy, Replica, reason, replica, replica_with, settled, user};

#[tokio::test]
async fn the_recipes_walk_stores_one_event_a_command_with_all_its_metadata() {
    let store = MemoryStore::default();
    let service = replica(&store);
    let mut request = Request::new(user("john.doe@example.com", "cmd-001"));
    request.get_mut().correlation_id = Some("corr-001".into());
    request.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
    let created = service.send_user(request).await.unwrap();
    assert_eq!((created.version, created.replayed, created.command_id.as_str()), (1, false, "cmd-001"));

    let events = store.all();
    let envelope = &events[0].envelope;
    assert_eq!(events.len(), 1);
    assert_eq!(envelope.aggregate_id.to_string(), created.aggregate_id);
    assert_eq!(envelope.event_id.to_string(), created.event_id);
    assert_eq!(envelope.tenant_id.as_str(), "acme");
    assert_eq!((envelope.event_type.as_str(), envelope.schema_version), ("UserCreated", 1));
    assert_eq!(envelope.correlation_id.as_str(), "corr-001");
    assert_eq!(envelope.causation_id.as_str(), "cmd-001");
    assert!(envelope.trace_parent.is_some());
    assert_eq!(envelope.event_data.as_ref().unwrap()["email"], "john.doe@example.com");
}

#[tokio::test]
async fn an_order_moves_along_its_way_and_not_back() {
    let service = replica(&MemoryStore::default());
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let order = service.create_order(&john).await.unwrap().aggregate_id;
    assert_eq!(service.set_status(&order, OrderStatus::Processing).await.unwrap(), 2);
    let refused = service.set_status(&order, OrderStatus::Created).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = refused.get_error_details();
    assert_eq!(details.precondition_failure().unwrap().violations[0].r#type, "ORDER_STATUS");
    assert_eq!(service.set_status(&order, OrderStatus::Shipped).await.unwrap(), 3);
}

#[tokio::test]
async fn an_order_of_nobody_and_a_status_of_nothing_are_refused_and_store_nothing() {
    let store = MemoryStore::default();
    let service = replica(&store);
    let nobody = uuid::Uuid::from_u128(7).to_string();
    assert_eq!(service.create_order(&nobody).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(service.set_status(&nobody, OrderStatus::Shipped).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(service.rename(&nobody, "x", "c").await.unwrap_err().code(), Code::NotFound);
    assert!(store.all().is_empty());
}

#[tokio::test]
async fn twenty_creates_with_one_command_id_are_one_event_and_one_reply() {
    let store = MemoryStore::default();
    let replicas = [replica(&store), replica(&store)];
    let attempts = (0..20).map(|n| replicas[n % 2].create_user(user("john@example.com", "same")));
    let replies: Vec<_> = join_all(attempts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(store.all().len(), 1);
    assert_eq!(replies.iter().filter(|reply| reply.replayed).count(), 19);
    let first = Accepted { replayed: false, ..replies[0].clone() };
    assert!(replies.into_iter().all(|reply| Accepted { replayed: false, ..reply } == first));
}

#[tokio::test]
async fn a_create_is_replayed_however_much_has_happened_since() {
    let store = Lossy::default();
    let service = replica(&store);
    let first = service.create_user(user("john@example.com", "create")).await.unwrap();
    for n in 0..200 {
        service.rename(&first.aggregate_id, "x", &n.to_string()).await.unwrap();
    }
    let replay = Accepted { replayed: true, ..first };
    for answer in [None, Some(AppendError::Contended), Some(AppendError::Conflict { existing: None })] {
        let shown = format!("{answer:?}");
        *store.instead.lock().unwrap() = answer;
        let again = service.create_user(user("john@example.com", "create")).await.unwrap();
        assert_eq!(again, replay, "{shown}");
    }
}

#[tokio::test]
async fn thirty_users_with_one_address_are_one_user() {
    let store = MemoryStore::default();
    let service = replica(&store);
    let ids: Vec<_> = (0..30).map(|n| n.to_string()).collect();
    let replies = join_all(ids.iter().map(|id| service.create_user(user("John@Example.com", id)))).await;
    let refused: Vec<_> = replies.iter().filter_map(|reply| reply.as_ref().err()).collect();
    assert_eq!((refused.len(), store.all().len()), (29, 1));
    assert!(
        refused.iter().all(|status| status.code() == Code::AlreadyExists && reason(status) == "EMAIL_TAKEN")
    );
}

#[tokio::test]
async fn a_command_id_with_another_body_is_refused_on_every_replica() {
    let store = MemoryStore::default();
    let (here, there) = (replica(&store), replica(&store));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    there.rename(&john, "Jack", "b").await.unwrap();
    for service in [&here, &there] {
        let reused = service.create_user(user("other@example.com", "a")).await.unwrap_err();
        assert_eq!((reused.code(), reason(&reused).as_str()), (Code::InvalidArgument, "COMMAND_ID_REUSED"));
        let reused = service.rename(&john, "Joe", "b").await.unwrap_err();
        assert_eq!((reused.code(), reason(&reused).as_str()), (Code::InvalidArgument, "COMMAND_ID_REUSED"));
    }
    assert_eq!(store.all().len(), 2);
}

#[tokio::test]
async fn a_retry_is_recognised_by_a_replica_that_has_an_old_state() {
    let store = MemoryStore::default();
    let (here, there) = (replica(&store), replica(&store));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    here.rename(&john, "Old", "b").await.unwrap();
    assert_eq!(there.rename(&john, "New", "c").await.unwrap(), (3, false));
    assert_eq!(there.rename(&john, "Newer", "d").await.unwrap(), (4, false));
    assert_eq!(here.rename(&john, "New", "c").await.unwrap(), (3, true));
    assert_eq!(store.all().len(), 4);
}

/// In a rollout a retry comes to a replica of the newer release.
#[tokio::test]
async fn a_stream_with_an_event_of_a_newer_release_is_left_to_its_replicas() {
    let newer: [fn(&mut Envelope); 2] =
        [|event| event.event_type = "UserErased".into(), |event| event.schema_version += 1];
    for of_newer_release in newer {
        let store = MemoryStore::default();
        // One that has the state before that event, one that has it from an append, and one that has none.
        let (warm, cold) = (replica(&store), replica(&store));
        let john = warm.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
        warm.rename(&john, "Jack", "b").await.unwrap();
        let mut event = store.all().pop().unwrap();
        event.envelope.version = 3;
        event.envelope.event_id = EventId(Uuid::from_u128(3));
        event.envelope.command_id = "c".parse().unwrap();
        of_newer_release(&mut event.envelope);
        let commit = Commit { events: vec![event], claims: vec![], releases: vec![] };
        store.append(&commit).await.unwrap();

        for refused in [
            warm.rename(&john, "Jane", "d").await.unwrap_err(),
            cold.rename(&john, "Jane", "d").await.unwrap_err(),
            cold.rename(&john, "Jack", "b").await.unwrap_err(),
        ] {
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "NEWER_RELEASE"));
            assert_eq!(refused.get_error_details().error_info().unwrap().metadata["version"], "3");
        }
        // Answers that do not depend on that event.
        assert_eq!(warm.rename(&john, "Jack", "b").await.unwrap(), (2, true));
        assert!(cold.create_user(user("john@example.com", "a")).await.unwrap().replayed);
        assert!(cold.create_order(&john).await.is_ok());
        assert_eq!(store.all().len(), 4, "an order, and no further event of the user");
    }
}

#[tokio::test]
async fn no_refusal_rests_on_an_old_state() {
    let store = MemoryStore::default();
    let (here, there) = (replica(&store), replica(&store));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let order = here.create_order(&john).await.unwrap().aggregate_id;
    there.set_status(&order, OrderStatus::Processing).await.unwrap();
    // `here` still holds CREATED, from which SHIPPED cannot be reached.
    assert_eq!(here.set_status(&order, OrderStatus::Shipped).await.unwrap(), 3);
    // `there` still holds version 2.
    assert_eq!(there.set_status_at(&order, OrderStatus::Delivered, Some(3)).await.unwrap(), 4);
}

#[tokio::test]
async fn an_expected_version_is_never_retried() {
    let store = MemoryStore::default();
    let (here, there) = (replica(&store), replica(&store));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let order = here.create_order(&john).await.unwrap().aggregate_id;
    there.set_status(&order, OrderStatus::Processing).await.unwrap();
    for service in [&here, &there] {
        let stale = service.set_status_at(&order, OrderStatus::Cancelled, Some(1)).await.unwrap_err();
        assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "VERSION_CONFLICT"));
        let details = stale.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["current_version"], "2");
    }
}

#[tokio::test]
async fn an_address_that_was_given_up_can_be_taken_and_taken_back() {
    let service = replica(&MemoryStore::default());
    let john = service.create_user(user("old@example.com", "a")).await.unwrap().aggregate_id;
    let jane = service.create_user(user("jane@example.com", "b")).await.unwrap().aggregate_id;
    assert_eq!(service.move_email(&jane, "OLD@example.com").await.unwrap_err().code(), Code::AlreadyExists);
    service.move_email(&john, "new@example.com").await.unwrap();
    service.move_email(&jane, "OLD@example.com").await.unwrap();
    assert_eq!(service.move_email(&john, "old@example.com").await.unwrap_err().code(), Code::AlreadyExists);
    service.move_email(&jane, "jane@example.com").await.unwrap();
    service.move_email(&john, "old@example.com").await.unwrap();
}

#[tokio::test]
async fn a_warm_command_is_one_request_and_a_cold_one_two() {
    let store = MemoryStore::default();
    let warm = replica(&store);
    let john = warm.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let before = store.requests();
    let order = warm.create_order(&john).await.unwrap().aggregate_id;
    assert_eq!(store.requests() - before, 1, "an order of a known user");
    let before = store.requests();
    warm.set_status(&order, OrderStatus::Processing).await.unwrap();
    assert_eq!(store.requests() - before, 1, "a warm update");
    let cold = replica(&store);
    let before = store.requests();
    cold.set_status(&order, OrderStatus::Shipped).await.unwrap();
    assert_eq!(store.requests() - before, 2, "a cold update");
}

#[tokio::test]
async fn a_cache_that_holds_nothing_changes_no_answer() {
    let store = MemoryStore::default();
    let states: StateCache<User> = StateCache::new(0);
    let users = CommandHandler::new(store.clone(), states.clone(), CONFIG);
    let orders = CommandHandler::new(store.clone(), StateCache::new(0), CONFIG);
    let service = Replica { users: Users(users.clone()), orders: Orders { orders, users } };
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    for n in 0..10 {
        service.rename(&john, "x", &n.to_string()).await.unwrap();
    }
    assert_eq!(service.rename(&john, "x", "3").await.unwrap(), (5, true));
    assert_eq!(states.weight(), 0);
}

#[tokio::test]
async fn states_take_no_more_memory_than_they_are_given() {
    let store = MemoryStore::default();
    let bound = 64 * 1024;
    let states: StateCache<User> = StateCache::new(bound);
    let users = Users(CommandHandler::new(store.clone(), states.clone(), CONFIG));
    for n in 0..1_000 {
        // The longest valid ids.
        let id = format!("{n:04}{}", "𝄞".repeat(124));
        users.create_user(Request::new(user(&format!("u{n}@example.com"), &id))).await.unwrap();
    }
    assert!(states.weight() <= bound, "{} bytes", states.weight());
    assert!(states.weight() > bound / 4, "{} bytes: it is of no use", states.weight());
}

#[tokio::test]
async fn an_append_that_meets_itself_is_no_conflict() {
    let store = Lossy { losses: Arc::new(1.into()), resends: true, ..Lossy::default() };
    let service = replica(&store);
    let john = service.create_user(user("john@example.com", "a")).await.unwrap();
    assert!(!john.replayed);
    store.losses.store(1, Ordering::SeqCst);
    assert_eq!(service.rename(&john.aggregate_id, "Jack", "b").await.unwrap(), (2, false));
    assert_eq!(store.inner.all().len(), 2);
}

#[tokio::test]
async fn a_first_reply_is_no_replay_even_where_a_commit_took_effect_unnoticed() {
    // It took effect, and the answer is that another transaction was under way: the commit's own first attempt.
    let store = Lossy { unnoticed: Arc::new(1.into()), ..Lossy::default() };
    let reply = replica(&store).create_user(user("john@example.com", "a")).await.unwrap();
    assert!(!reply.replayed);
    assert_eq!(store.inner.all().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_so_are_the_waits_between_them() {
    // No jitter: no wait. All of it: the longest waits.
    for (jitter, least, most) in [(0.0, 0, 0), (1.0, 16 * 5, 16 * 40)] {
        let store = Lossy::default();
        let jitter: fn() -> f64 = if jitter == 0.0 { || 0.0 } else { || 1.0 };
        let service = replica_with(&store, CommandHandlerConfig { jitter, ..CONFIG });
        let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
        store.busy.store(1_000, Ordering::SeqCst);
        let begin = tokio::time::Instant::now();
        let refused = service.rename(&john, "Jack", "b").await.unwrap_err();
        let waited = begin.elapsed().as_millis();
        assert!((least..=most).contains(&waited), "{waited} ms of the clock that stands still otherwise");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "VERSION_CONFLICT"));
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["current_version"], "1");
        assert_eq!(store.busy.load(Ordering::SeqCst), 1_000 - 16);
        store.busy.store(0, Ordering::SeqCst);
        assert_eq!(service.rename(&john, "Jack", "b").await.unwrap(), (2, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_attempt_that_took_effect_unnoticed_is_no_conflict() {
    let store = Lossy::default();
    let service = replica(&store);
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    store.busy.store(15, Ordering::SeqCst);
    store.unnoticed.store(1, Ordering::SeqCst);
    assert_eq!(service.rename(&john, "Jack", "b").await.unwrap(), (2, false));
    assert_eq!(store.inner.all().len(), 2);
}

#[tokio::test]
async fn an_id_is_the_same_in_either_case() {
    let service = replica(&MemoryStore::default());
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    assert_eq!(service.rename(&john, "Jack", "b").await.unwrap(), (2, false));
    assert_eq!(service.rename(&john.to_uppercase(), "Jack", "b").await.unwrap(), (2, true));
}

#[tokio::test]
async fn a_client_that_lost_a_reply_gets_it_by_sending_again() {
    let store = Lossy { losses: Arc::new(1.into()), ..Lossy::default() };
    let service = replica(&store);
    let lost = service.create_user(user("john@example.com", "a")).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    let john = service.create_user(user("john@example.com", "a")).await.unwrap();
    assert!(john.replayed);
    store.losses.store(1, Ordering::SeqCst);
    assert_eq!(service.rename(&john.aggregate_id, "Jack", "b").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(service.rename(&john.aggregate_id, "Jack", "b").await.unwrap(), (2, true));
    assert_eq!(store.inner.all().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_on_one_aggregate_lose_nothing() {
    let store = MemoryStore::default();
    let replicas = Arc::new([replica(&store), replica(&store), replica(&store)]);
    let john = replicas[0].create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let clients = (0..16).map(|client| {
        let (replicas, john) = (replicas.clone(), john.clone());
        tokio::spawn(async move {
            let mut done = 0;
            for n in 0..100 {
                match replicas[client % 3].rename(&john, "x", &format!("{client}-{n}")).await {
                    Ok((_, replayed)) => {
                        assert!(!replayed);
                        done += 1;
                    }
                    Err(status) => assert_eq!(
                        (status.code(), reason(&status).as_str()),
                        (Code::Aborted, "VERSION_CONFLICT")
                    ),
                }
            }
            done
        })
    });
    let done: usize = join_all(clients).await.into_iter().map(Result::unwrap).sum();
    let versions: Vec<_> = store.all().iter().map(|event| event.envelope.version).collect();
    assert_eq!(versions.len(), done + 1);
    assert!(versions.into_iter().eq(1..=u64::try_from(done).unwrap() + 1), "no gaps");
}

#[tokio::test(start_paused = true)]
async fn commands_on_one_aggregate_from_within_a_process_do_not_meet() {
    let store = Lossy { latency: Duration::from_millis(5), ..Lossy::default() };
    let service = replica(&store);
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let before = store.inner.requests();
    let clients = (0..16).map(async |client| {
        for n in 0..100 {
            let (_, replayed) = service.rename(&john, "x", &format!("{client}-{n}")).await.unwrap();
            assert!(!replayed);
        }
    });
    join_all(clients).await;
    assert_eq!(store.inner.all().len(), 1_601);
    // And behind the replies the snapshots, and the blocks of the commands, which all have the same time.
    settled().await;
    let behind = 1_600 / snapshots::EVERY.get() + 1_600 / BLOCK_VERSIONS;
    assert_eq!(store.inner.requests() - before, 1_600 + behind);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_long_is_shed_and_costs_no_request() {
    let store = Lossy { latency: Duration::from_millis(100), ..Lossy::default() };
    let service = replica(&store);
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    let ids: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let replies = join_all(ids.iter().map(|id| service.rename(&john, "x", id))).await;
    let (done, shed): (Vec<_>, Vec<_>) = replies.into_iter().partition(Result::is_ok);
    // Five seconds' worth.
    assert!((48..=52).contains(&done.len()), "{}", done.len());
    for status in shed.into_iter().map(Result::unwrap_err) {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
        assert!(status.get_error_details().retry_info().is_some());
    }
    assert_eq!(store.inner.all().len(), 1 + done.len());
    assert_eq!(service.rename(&john, "x", "later").await.unwrap().0, 2 + done.len() as u64);
}

#[tokio::test]
async fn hits_misses_conflicts_and_snapshots_are_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::default();
    let (here, there) = (replica(&store), replica(&store));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    for n in 2..=160 {
        here.rename(&john, "x", &n.to_string()).await.unwrap();
    }
    settled().await;
    there.rename(&john, "x", "b").await.unwrap();
    here.rename(&john, "x", "c").await.unwrap();
    let counted = handle.render();
    for line in [
        "state_cache_total{outcome=\"hit\"} 160",
        "state_cache_total{outcome=\"miss\"} 1",
        "command_conflicts_total 1",
        "snapshot_reads_total{outcome=\"read\"} 1",
        "snapshot_writes_total{outcome=\"written\"} 10",
    ] {
        assert!(counted.lines().any(|counted| counted == line), "{line} is not in\n{counted}");
    }
}

#[tokio::test]
async fn tenants_do_not_meet() {
    let store = MemoryStore::default();
    let service = replica(&store);
    let mut replies = Vec::new();
    for tenant in ["acme", "umbrella"] {
        let mut request = Request::new(user("john@example.com", "same"));
        request.metadata_mut().insert("x-tenant-id", tenant.parse().unwrap());
        replies.push(service.send_user(request).await.unwrap());
    }
    assert_ne!(replies[0].aggregate_id, replies[1].aggregate_id);
    // The default tenant has neither.
    assert_eq!(service.rename(&replies[0].aggregate_id, "x", "c").await.unwrap_err().code(), Code::NotFound);
}
