//! States, times and ends of watches, over rows with versions only.

use std::sync::atomic::{AtomicUsize, Ordering};

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_core::{
    StreamId,
    row::{LookupSchema, Position},
};
use millrace_rows::{ListPage, ListQuery, ReadRows, RowBatch};
use serde_json::Map;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::*;
use crate::testing::{BookRow, book, books, key, stored};

const PACE: Pace = Pace { fastest: Duration::from_millis(250), slowest: Duration::from_secs(2) };

/// Longer than it takes to see a change after a silence.
const SOON: Duration = Duration::from_secs(3);

fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}

type All = HashMap<RowKey, Result<u64, AwsError>>;

/// Rows with versions only, and the number of keys of each request.
#[derive(Clone, Default)]
struct Versions {
    rows: Arc<Mutex<All>>,
    /// Rows that AWS leaves out.
    left: Arc<Mutex<Vec<RowKey>>>,
    readings: Arc<Mutex<Vec<usize>>>,
}

impl Versions {
    fn set(&self, key: RowKey, version: Result<u64, AwsError>) {
        self.rows.lock().unwrap().insert(key, version);
    }

    fn hub(&self, watchers: u32) -> Hub {
        let model = Arc::new(ReadModel::new(&books(), self.clone()));
        let hub = Hub::new(model, PACE, TenantLimiter::new(watchers, watchers), CancellationToken::new());
        tokio::spawn(hub.clone().run());
        hub
    }

    fn readings(&self) -> usize {
        self.readings.lock().unwrap().len()
    }
}

fn row(key: &RowKey, version: u64) -> StoredRow {
    // The higher a version, the older: a row's age shows its version.
    let age = i64::try_from(version).unwrap() * 1_000_000;
    let updated_at = Timestamp::from_unix_micros(clock::now().unix_micros() - age);
    StoredRow { key: key.clone(), ..stored(version, &BookRow { updated_at, ..book(1, None) }) }
}

impl ReadRows for Versions {
    async fn get_many(&self, keys: &[RowKey], consistency: Consistency) -> Result<RowBatch, AwsError> {
        assert_eq!(consistency, Consistency::Eventual, "for half the price");
        self.readings.lock().unwrap().push(keys.len());
        let (rows, left) = (self.rows.lock().unwrap(), self.left.lock().unwrap());
        let (left, answered): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| left.contains(key));
        let found = answered.into_iter().filter_map(|key| {
            let version = rows.get(&key)?.clone();
            let row = version.map(|version| row(&key, version));
            Some((key, row))
        });
        Ok(RowBatch { found: found.collect(), left, read_units: 0.0 })
    }

    async fn get(&self, _: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        unimplemented!("a hub reads many rows at once")
    }

    async fn applied_version(&self, _: &StreamId) -> Result<u64, AwsError> {
        unimplemented!("a hub waits for nothing")
    }

    async fn lookup(
        &self,
        _: &'static LookupSchema,
        _: &TenantId,
        _: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        unimplemented!("a hub reads no index")
    }

    async fn page(&self, _: &ListQuery, _: Option<&Position>, _: u16) -> Result<ListPage, AwsError> {
        unimplemented!("a hub reads no index")
    }
}

type Numbers = Messages<u64>;

fn version(book: Versioned<BookRow>) -> u64 {
    book.version
}

fn begin(hub: &Hub, key: RowKey, from: u64) -> Numbers {
    let permit = hub.permit(&TenantId::default()).unwrap();
    hub.watch(permit, row(&key, from)).messages(0, None, version)
}

async fn next_number(sent: &mut Numbers) -> u64 {
    timeout(SOON, sent.next()).await.expect("a state comes soon").unwrap().unwrap()
}

/// Reads of one row that are now newer, now older, as eventually consistent reads may be.
#[tokio::test(start_paused = true)]
async fn a_reading_that_is_older_than_the_one_before_is_not_sent() {
    let rows = Versions::default();
    let mut sent = begin(&rows.hub(1), key(1), 5);
    let mut all = vec![next_number(&mut sent).await];
    for version in [3, 6, 4, 6, 7, 5, 9, 8] {
        rows.set(key(1), Ok(version));
        while let Ok(Some(version)) = timeout(SOON, sent.next()).await {
            all.push(version.unwrap());
        }
    }
    assert_eq!(all, [5, 6, 7, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_callers_token_or_deadline_and_says_which() {
    for (is_token, code) in [(true, Code::Unauthenticated), (false, Code::DeadlineExceeded)] {
        let at = Instant::now() + SOON;
        let end = if is_token { EndOfStream::Token(at) } else { EndOfStream::Deadline(at) };
        let hub = Versions::default().hub(1);
        let watch = hub.watch(hub.permit(&TenantId::default()).unwrap(), row(&key(1), 1));
        let mut sent = watch.messages(0, Some(end), version);
        assert_eq!(sent.next().await.unwrap().unwrap(), 1);
        assert_eq!(sent.next().await.unwrap().unwrap_err().code(), code);
        assert!(sent.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_of_two_tenants_is_two_rows() {
    let rows = Versions::default();
    let of = |tenant: &str| RowKey { tenant: tenant.parse().unwrap(), ..key(1) };
    let hub = rows.hub(2);
    let (mut ours, mut theirs) = (begin(&hub, of("ours"), 1), begin(&hub, of("theirs"), 7));
    assert_eq!((next_number(&mut ours).await, next_number(&mut theirs).await), (1, 7));
    rows.set(of("ours"), Ok(2));
    rows.set(of("theirs"), Ok(7));
    assert_eq!(next_number(&mut ours).await, 2);
    assert!(timeout(SOON, theirs.next()).await.is_err(), "it is not theirs");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_ends_its_own_watches_alone_and_is_asked_for_less_and_less() {
    let rows = Versions::default();
    let hub = rows.hub(3);
    let (mut broken, mut left, mut whole) =
        (begin(&hub, key(1), 1), begin(&hub, key(2), 1), begin(&hub, key(3), 1));
    for sent in [&mut broken, &mut left, &mut whole] {
        assert_eq!(next_number(sent).await, 1);
    }
    rows.set(key(1), Err(AwsError::InvalidResponse("it has no version".to_owned())));
    rows.left.lock().unwrap().push(key(2));
    rows.set(key(3), Ok(1));
    let failed = broken.next().await.unwrap().unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_deref()), (Code::Internal, Some("INTERNAL")));
    let failed = left.next().await.unwrap().unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_deref()), (Code::ResourceExhausted, Some("THROTTLED")));
    assert!(broken.next().await.is_none() && left.next().await.is_none());
    // Ten seconds at four a second were forty.
    assert!((10..=25).contains(&rows.readings()), "{}", rows.readings());

    rows.set(key(3), Ok(2));
    assert_eq!(next_number(&mut whole).await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_a_row_that_could_not_be_read_for_long_is_not_told_of_what_was_before() {
    let rows = Versions::default();
    let hub = rows.hub(2);
    let _before = begin(&hub, key(1), 1);
    rows.set(key(1), Err(AwsError::Unreachable("a test says so".to_owned())));
    sleep(Duration::from_secs(30)).await;
    // The caller has just read it.
    let mut sent = begin(&hub, key(1), 2);
    assert_eq!(next_number(&mut sent).await, 2);
    assert!(timeout(Duration::from_secs(8), sent.next()).await.is_err(), "not before ten seconds");
    rows.set(key(1), Ok(3));
    assert_eq!(next_number(&mut sent).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_succeeds_with_news_begins_the_patience_anew() {
    let rows = Versions::default();
    let mut sent = begin(&rows.hub(1), key(1), 1);
    assert_eq!(next_number(&mut sent).await, 1);
    let unreachable = || Err(AwsError::Unreachable("a test says so".to_owned()));
    rows.set(key(1), unreachable());
    sleep(Duration::from_secs(9)).await;
    rows.set(key(1), Ok(2));
    assert_eq!(next_number(&mut sent).await, 2);
    rows.set(key(1), unreachable());
    assert!(timeout(Duration::from_secs(8), sent.next()).await.is_err(), "not before ten seconds");
}

/// A watcher that joins at any moment makes a row that has just changed one that is read often.
#[tokio::test(start_paused = true)]
async fn a_row_that_somebody_has_seen_change_is_read_often_from_then_on() {
    for moment in 0..8 {
        let rows = Versions::default();
        let hub = rows.hub(2);
        let mut sent = begin(&hub, key(1), 1);
        assert_eq!(next_number(&mut sent).await, 1);
        rows.set(key(1), Ok(1));
        // Long enough that it is read only every two seconds.
        sleep(Duration::from_secs(60) + PACE.fastest * moment).await;
        let _other = begin(&hub, key(1), 2);
        assert_eq!(next_number(&mut sent).await, 2);
        rows.set(key(1), Ok(3));
        let soon = timeout(PACE.fastest * 5 / 2, sent.next()).await.expect("it is read soon");
        assert_eq!(soon.unwrap().unwrap(), 3);
    }
}

#[tokio::test]
async fn a_row_that_two_leave_at_the_same_moment_is_not_watched_any_more() {
    const ROUNDS: usize = 20_000;
    let hub = Versions::default().hub(u32::try_from(2 * ROUNDS).unwrap());
    let watch = |id: usize| {
        let row = row(&key(id.try_into().unwrap()), 1);
        hub.watch(hub.permit(&TenantId::default()).unwrap(), row)
    };
    let watches = [(); 2].map(|()| (0..ROUNDS).map(watch).collect::<Vec<_>>());
    let ready = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for watches in watches {
            let ready = &ready;
            threads.spawn(move || {
                for (round, watch) in watches.into_iter().enumerate() {
                    ready.fetch_add(1, Ordering::SeqCst);
                    // A barrier that waits without sleep, so that both are as close as possible.
                    while ready.load(Ordering::SeqCst) < 2 * (round + 1) {
                        std::hint::spin_loop();
                    }
                    drop(watch);
                }
            });
        }
    });
    assert_eq!(hub.watched_rows(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lag_is_told_of_changes_and_not_of_what_was_there_before() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let rows = Versions::default();
    let mut sent = begin(&rows.hub(1), key(1), 1_000_000);
    assert_eq!(next_number(&mut sent).await, 1_000_000);
    assert!(!shown.render().contains("watch_lag_seconds_count"), "{}", shown.render());
    rows.set(key(1), Ok(1_000_001));
    assert_eq!(next_number(&mut sent).await, 1_000_001);
    let shown = shown.render();
    assert!(shown.contains("watch_lag_seconds_count 1"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_gone_keeps_the_state_that_it_had() {
    let (rows, gone) = (Versions::default(), StoredRow { attributes: Map::new(), ..row(&key(1), 2) });
    let hub = rows.hub(1);
    let mut sent = begin(&hub, key(1), 1);
    assert_eq!(next_number(&mut sent).await, 1);
    hub.look().get_mut(&key(1)).unwrap().read(gone, PACE);
    assert!(timeout(SOON, sent.next()).await.is_err(), "nothing is sent of it");
    rows.set(key(1), Ok(3));
    assert_eq!(next_number(&mut sent).await, 3);
}
