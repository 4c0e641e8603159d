//! The cost of questions about the past on AWS: requests, bytes, read units. Run with `--nocapture` to see the table.

use std::{collections::BTreeMap, fmt::Write as _};

use millrace_proto::{
    query::{
        AsOf, GetHistoryRequest, SearchEventsRequest, SortOrder, history_service_server::HistoryService as _,
    },
    time_to_proto,
};
use millrace_tests::{AwsStack, FaultProxy, Traffic, aws_stack};
use shop::{
    contracts::query::{GetUserProfileAsOfRequest, user_query_service_server::UserQueryService as _},
    user::User,
};
use tonic::Request;

use crate::{
    calls::{after, as_of_time, as_of_version, history_of},
    past::{Past, at},
    replica::{QueryReplica, SHARDS},
};

/// A service without a port, so that nothing else is counted, over a wire that meters.
struct Metered {
    proxy: FaultProxy,
    service: QueryReplica,
    notes: Vec<Note>,
}

/// A call's cost, and the cost that is allowed.
struct Note {
    what: String,
    used: Traffic,
    expected: (u64, f64),
}

impl Metered {
    async fn new(stack: &AwsStack) -> Self {
        let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
        let service = QueryReplica::new(stack, &proxy.aws(&stack.account).await);
        Self { proxy, service, notes: Vec::new() }
    }

    /// Notes the traffic since the last note: so many queries, and nothing else, for so many read units.
    fn note(&mut self, what: &str, queries: u64, read_units: f64) {
        let mut traffic: BTreeMap<String, Traffic> = self.proxy.take();
        let used = traffic.remove("Query").unwrap_or_default();
        assert!(traffic.is_empty(), "{what}: {traffic:?}");
        self.notes.push(Note { what: what.to_owned(), used, expected: (queries, read_units) });
    }

    /// Prints the notes, and compares them with the expected costs.
    fn settle(&self) {
        let mut table = format!("\n{:<52} {:>8} {:>12} {:>7}\n", "", "queries", "bytes read", "RU");
        for Note { what, used, .. } in &self.notes {
            let (queries, bytes, read_units) = (used.requests, used.response_bytes, used.read_units);
            writeln!(table, "{what:<52} {queries:>8} {bytes:>12} {read_units:>7.1}").unwrap();
        }
        println!("{table}");
        for Note { what, used, expected } in &self.notes {
            assert_eq!((used.requests, used.read_units), *expected, "{what}: queries and read units");
        }
    }

    async fn events(&self, id: &str, page_size: i32, order: SortOrder) -> usize {
        let request = GetHistoryRequest { page_size, order: order.into(), ..history_of::<User>(id) };
        self.service.history.get_history(Request::new(request)).await.unwrap().into_inner().events.len()
    }

    async fn version(&self, id: &str, as_of: Option<AsOf>) -> u64 {
        let request = GetUserProfileAsOfRequest { user_id: id.to_owned(), as_of };
        let reply = self.service.users.get_user_profile_as_of(Request::new(request)).await.unwrap();
        reply.into_inner().user_profile.unwrap().version
    }

    async fn search(&self, request: SearchEventsRequest) -> (usize, String) {
        let reply = self.service.history.search_events(Request::new(request)).await.unwrap().into_inner();
        (reply.events.len(), reply.next_page_token)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_about_the_past_costs_what_the_architecture_says() {
    let stack = aws_stack().await.unwrap();
    let mut past = Past::of(&stack, &stack.aws().await);
    let one = past.user(&[0]).await.id.to_string();
    let long: Vec<i64> = (1..=3_000).collect();
    let long = past.user(&long).await.id.to_string();
    // More of them in each shard than a page holds.
    for n in 0..440 {
        past.user(&[10 * n]).await;
    }
    let mut metered = Metered::new(&stack).await;
    for _ in 0..2 {
        // The second time shows that nothing is kept from the first.
        assert_eq!(metered.events(&one, 20, SortOrder::OldestFirst).await, 1);
        metered.note("GetHistory, 1 event", 1, 1.0);
    }
    assert_eq!(metered.events(&long, 20, SortOrder::NewestFirst).await, 20);
    metered.note("GetHistory, a page of 20", 1, 3.0);
    assert_eq!(metered.events(&long, 100, SortOrder::OldestFirst).await, 100);
    metered.note("GetHistory, a page of 100", 1, 14.0);

    for (version, queries, read_units) in [(1, 1, 1.0), (100, 1, 14.0), (1_000, 1, 132.0), (3_000, 3, 398.0)]
    {
        assert_eq!(metered.version(&long, as_of_version(version)).await, version);
        metered.note(&format!("GetUserProfileAsOf version {version}"), queries, read_units);
    }
    assert_eq!(metered.version(&long, as_of_time(time_to_proto(at(7)))).await, 7);
    metered.note("GetUserProfileAsOf a time, of 3,000 events", 4, 399.0);

    let search = SearchEventsRequest { event_type: "UserCreated".into(), ..Default::default() };
    let (found, page_token) = metered.search(search.clone()).await;
    assert_eq!(found, 20);
    metered.note("SearchEvents, a page of 20", SHARDS.get().into(), 6.0);
    assert_eq!(metered.search(SearchEventsRequest { page_token, ..search.clone() }).await.0, 20);
    metered.note("SearchEvents, its next page", SHARDS.get().into(), 8.0);
    let after = after::<User>(one, 1);
    assert_eq!(metered.search(SearchEventsRequest { after, ..search.clone() }).await.0, 20);
    metered.note("SearchEvents, a page of 20, with a token", u64::from(SHARDS.get()) + 1, 7.0);
    assert_eq!(metered.search(SearchEventsRequest { page_size: 100, ..search }).await.0, 100);
    metered.note("SearchEvents, a page of 100", SHARDS.get().into(), 28.0);
    metered.settle();
}
