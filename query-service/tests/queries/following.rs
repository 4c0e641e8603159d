//! Following the events of a type while clocks differ, commands take their time, and the index lags.

use std::{cell::Cell, time::Duration};

use millrace_core::Timestamp;
use millrace_proto::{
    query::{
        RecordedEvent, SearchEventsRequest, SearchEventsResponse, SortOrder,
        history_service_server::HistoryService as _,
    },
    time_to_proto,
};
use millrace_query::history::Settling;
use proptest::{collection::vec, prelude::*};
use tonic::{Code, Request, Status};

use crate::{
    events::{created, user},
    search::{place, run},
    support::{WATCHING, World, after_user, at, bad_fields, reason},
};

/// Clocks are wrong by so much at most, either way, in milliseconds.
const SKEW: i64 = 5_000;
/// A command ends so long after its time at the latest.
const COMMAND: i64 = 30_000;
/// What is left for the index.
const LAG: i64 = 20_000 - 1;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// A server's clock, in milliseconds.
fn now() -> Timestamp {
    at(NOW.get() * 1_000)
}

fn follow() -> SearchEventsRequest {
    SearchEventsRequest { event_type: "UserCreated".into(), follow: true, ..Default::default() }
}

async fn ask(
    world: &World,
    settle: u64,
    request: SearchEventsRequest,
) -> Result<SearchEventsResponse, Status> {
    let settling = Settling { after: Duration::from_secs(settle), clock: now };
    let service = world.service_over(world.events.clone(), WATCHING).settling(settling);
    Ok(service.history().search_events(Request::new(request)).await?.into_inner())
}

/// An event in the life of a system, in milliseconds.
#[derive(Debug, Clone)]
struct Life {
    /// When its command is decided.
    decided: i64,
    /// The error of the clock that gives it its time.
    skew: i64,
    /// How long after the decision it is stored, and how long after that the index shows it.
    delays: [i64; 2],
}

impl Life {
    fn time(&self) -> i64 {
        (self.decided + self.skew) * 1_000
    }
}

/// The times of the events that a follower meets, who asks after these pauses, each time a server whose clock is wrong by
/// so much; until all that is there can have been shown.
async fn met(lives: &[Life], polls: &[(i64, i64)], page_size: i32, settle: u64) -> Vec<i64> {
    let world = World::default();
    let shown_at = |life: &Life| life.decided + life.delays.iter().sum::<i64>();
    let mut coming: Vec<_> = (1..).zip(lives).collect();
    coming.sort_by_key(|(_, life)| shown_at(life));
    let mut coming = coming.into_iter().peekable();
    let (mut met, mut settled) = (Vec::new(), Vec::new());
    let (mut time, mut page_token) = (0, String::new());
    for (pause, skew) in polls.iter().cycle() {
        time += pause;
        while let Some((id, life)) = coming.next_if(|(_, life)| shown_at(life) <= time) {
            world.append(created(&user(id), life.time())).await;
        }
        NOW.set(time + skew);
        let request = SearchEventsRequest { page_token, page_size, ..follow() };
        let page = ask(&world, settle, request).await.unwrap();
        assert_ne!(page.next_page_token, "", "a range without an end never ends");
        page_token = page.next_page_token;
        let is_empty = page.events.is_empty();
        met.extend(page.events.iter().map(|event: &RecordedEvent| place(event).0));
        settled.push((page.settled_until.unwrap(), met.len()));
        if is_empty && time > 400_000 {
            break;
        }
    }
    for (until, count) in settled {
        let before = |time: &i64| {
            let time = time_to_proto(at(*time));
            (time.seconds, time.nanos) < (until.seconds, until.nanos)
        };
        let all = lives.iter().map(Life::time).filter(before).count();
        assert!(settle < 60 || all <= count, "{count} of {all} events before {until:?} were shown");
    }
    met
}

fn any_life() -> impl Strategy<Value = Life> {
    (0..120_000_i64, -SKEW..=SKEW, 0..=COMMAND, 0..=LAG).prop_map(|(decided, skew, command, lag)| Life {
        decided,
        skew,
        delays: [command, lag],
    })
}

proptest! {
    #[test]
    fn a_follower_meets_every_event_once_and_in_order(
        lives in vec(any_life(), 1..40),
        polls in vec((1..20_000_i64, -SKEW..=SKEW), 1..20),
        page_size in 1..8_i32,
    ) {
        let mut expected: Vec<_> = lives.iter().map(Life::time).collect();
        expected.sort_unstable();
        prop_assert_eq!(run(met(&lives, &polls, page_size, 60)), expected);
    }
}

/// The worst that the default bears; two seconds less are too little.
#[test]
fn the_horizon_is_what_keeps_an_event_from_being_skipped() {
    let late = Life { decided: 10_000, skew: -SKEW, delays: [COMMAND, LAG] };
    let soon = Life { decided: 10_000, skew: 1 - SKEW, delays: [0, 0] };
    let between = (1_000, SKEW);
    for (settle, all) in [(60, true), (58, false), (0, false)] {
        let met = run(met(&[late.clone(), soon.clone()], &[between], 5, settle));
        let (early, later) = (late.time(), soon.time());
        assert_eq!(met, if all { vec![early, later] } else { vec![later] }, "{settle} seconds");
    }
}

#[tokio::test]
async fn a_range_that_ends_is_followed_to_its_end() {
    let world = World::default();
    for (id, millis) in [(1, 1_000), (2, 2_000), (3, 9_000)] {
        world.append(created(&user(id), millis * 1_000)).await;
    }
    let end_time = Some(time_to_proto(at(9_000_000)));
    let request = SearchEventsRequest { end_time, ..follow() };
    let mut page_token = String::new();
    for (now, found, ended) in [(61_000, 0, false), (61_001, 1, false), (68_999, 1, false), (69_000, 0, true)]
    {
        NOW.set(now);
        let page = ask(&world, 60, SearchEventsRequest { page_token, ..request.clone() }).await.unwrap();
        assert_eq!((page.events.len(), page.next_page_token.is_empty()), (found, ended), "{now}");
        assert_eq!(page.settled_until, Some(time_to_proto(at((now - 60_000) * 1_000))));
        page_token = page.next_page_token;
    }
    NOW.set(999_000);
    let page = ask(&world, 60, SearchEventsRequest { page_size: 1, ..request }).await.unwrap();
    assert_eq!(page.settled_until, Some(time_to_proto(at(1_000_000))), "more of that time may follow");
}

#[tokio::test]
async fn an_event_that_proves_the_index_behind_stops_a_follower() {
    let world = World::default();
    world.events.hold_index();
    world.append(created(&user(1), 1_000_000)).await;
    let request = SearchEventsRequest { after: after_user(1, 1), ..follow() };
    NOW.set(61_000);
    assert_eq!(ask(&world, 60, request.clone()).await.unwrap().events, [], "it is not due yet");
    NOW.set(61_001);
    let status = ask(&world, 60, request.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_deref()), (Code::Unavailable, Some("READ_MODEL_BEHIND")));
    world.events.release_index();
    assert_eq!(ask(&world, 60, request).await.unwrap().events.len(), 1);
}

#[tokio::test]
async fn events_are_followed_with_the_oldest_first_only_and_by_their_own_token() {
    let world = World::default();
    let newest = SearchEventsRequest { order: SortOrder::NewestFirst.into(), ..follow() };
    assert_eq!(bad_fields(&ask(&world, 60, newest).await.unwrap_err()), ["follow"]);
    let page_token = ask(&world, 60, follow()).await.unwrap().next_page_token;
    let other = SearchEventsRequest { page_token, follow: false, ..follow() };
    assert_eq!(bad_fields(&ask(&world, 60, other).await.unwrap_err()), ["page_token"]);
}
