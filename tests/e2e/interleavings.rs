//! The stored events and the replies keep the command side's promises for any commands, in any order, under any faults.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::future::join;
use millrace_aws::Aws;
use millrace_event_store::{AppendEvents, DynamoStore, MemoryStore, ReadEvents, Snapshots, Tables};
use millrace_testing::random::{Seed, scale, scaled};
use millrace_tests::{
    Answer, AwsStack, Fault, FaultProxy, Faults, Throttling, aws_stack,
    disturbed::{Disturbed, Weather},
    history::{History, ensure_kept, read_all},
    workload::{Call, Cast, Fleet, Outcome, Plan, Size, any_plan},
};
use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestCaseError, TestRunner},
};
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};
use tonic_types::StatusExt as _;

/// Carries a plan out, and judges its outcome. While the clients are at work there is a storm on the wire, where there
/// is a wire; the number selects its first fault.
async fn check<S>(
    plan: &Plan,
    cast: Arc<Cast>,
    store: Disturbed<S>,
    proxy: Option<(&FaultProxy, usize)>,
) -> anyhow::Result<Vec<Call>>
where
    S: AppendEvents + Snapshots + ReadEvents,
{
    let streams = cast.streams();
    let fleet = Arc::new(Fleet::new(plan, cast, store.clone()).await?);
    let look = async {
        sleep(Duration::from_millis(30)).await;
        read_all(store.inner(), &streams).await
    };
    if let Some((proxy, number)) = proxy {
        disturb(proxy, number, plan.seed);
    }
    let (ran, midway) = join(fleet.run(plan), look).await;
    ran?;
    if let Some((proxy, _)) = proxy {
        proxy.calm();
    }
    store.calm().await;
    let before = read_all(store.inner(), &streams).await?;
    fleet.retry_all().await;
    let after = read_all(store.inner(), &streams).await?;
    // The storm may have hidden events from this read.
    if let Ok(midway) = midway {
        ensure_kept(&midway, &before)?;
    }
    ensure_kept(&before, &after)?;
    let calls = fleet.calls();
    let history = History::of(after, &calls, store.teller())?;
    history.check_answers()?;
    history.check_loads(&store).await?;
    Ok(calls)
}

/// The number of calls by outcome.
type Tally = BTreeMap<String, u64>;

fn count(tally: &mut Tally, calls: &[Call]) {
    for call in calls.iter().filter(|call| call.begun > 0) {
        let outcome = match &call.outcome {
            Outcome::Answered(reply) if reply.replayed => "replayed".to_owned(),
            Outcome::Answered(_) => "answered".to_owned(),
            Outcome::Abandoned => "abandoned".to_owned(),
            Outcome::Failed(status) => {
                let details = status.get_error_details();
                let rule = details.precondition_failure().and_then(|failure| failure.violations.first());
                let rule = rule.map(|violation| violation.r#type.clone());
                let reason = details.error_info().map(|info| info.reason.clone());
                reason.or(rule).unwrap_or_else(|| format!("{:?}", status.code()))
            }
        };
        *tally.entry(outcome).or_default() += 1;
    }
}

/// Checks many plans, and counts the outcomes of their calls.
fn check_all(
    name: &'static str,
    config: ProptestConfig,
    size: Size,
    check: impl Fn(&Plan) -> anyhow::Result<Vec<Call>>,
) -> Tally {
    let seed = Seed::draw("cargo test -p millrace-tests --test e2e -- interleavings");
    let rng_seed = RngSeed::Fixed(seed.value());
    let config = ProptestConfig { source_file: Some(file!()), test_name: Some(name), rng_seed, ..config };
    let tally = RefCell::new(Tally::new());
    let ran = TestRunner::new(config).run(&any_plan(size), |plan| {
        let calls = check(&plan).map_err(|wrong| TestCaseError::fail(format!("{wrong:#}")))?;
        count(&mut tally.borrow_mut(), &calls);
        Ok(())
    });
    if let Err(failed) = ran {
        panic!("{failed}");
    }
    tally.into_inner()
}

/// Everything is in one thread and waits only for a clock that leaps, so a plan always gives the same run.
fn check_in_memory(plan: &Plan, cast: &Arc<Cast>) -> anyhow::Result<Vec<Call>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let memory = MemoryStore::default();
        let store = Disturbed::new(memory.clone(), plan.weather, plan.seed);
        // Where all wait for each other, the clock leaps to the end of this.
        let checked = timeout(Duration::from_secs(3_600), check(plan, cast.clone(), store, None));
        let calls = checked.await.context("somebody waits for ever")??;
        let there = read_all(&memory, &cast.streams()).await?.values().map(Vec::len).sum::<usize>();
        ensure!(there == memory.all().len(), "there are events in streams that nobody asked for");
        Ok(calls)
    })
}

#[test]
fn whatever_happens_to_commands_every_promise_is_kept() {
    let cases = scaled(2_000);
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    let cast = Runtime::new().unwrap().block_on(Cast::of(["acme", "umbrella"]));
    let cast = Arc::new(cast.unwrap());
    let size = Size { commands: 14, steps: 9, one_long_in: 12 };
    let tally = check_all("interleavings::memory", config, size, |plan| check_in_memory(plan, &cast));
    if scale() < 1.0 {
        return;
    }
    // Promises are kept easily where nothing happens.
    for outcome in [
        "answered",
        "replayed",
        "abandoned",
        "COMMAND_ID_REUSED",
        "EMAIL_TAKEN",
        "NotFound",
        "ORDER_STATUS",
        "STORAGE_UNREACHABLE",
        "THROTTLED",
        "USER_EXISTS",
        "VERSION_CONFLICT",
    ] {
        let times = tally.get(outcome).copied().unwrap_or_default();
        assert!(times * 20 > u64::from(cases), "{outcome} came about {times} times in {cases} cases");
    }
}

/// A runtime with threads, and an account.
fn on_a_stack() -> (Runtime, AwsStack) {
    let runtime = Runtime::new().unwrap();
    let stack = runtime.block_on(aws_stack()).unwrap();
    (runtime, stack)
}

fn store_of(stack: &AwsStack, aws: &Aws) -> DynamoStore {
    let tables =
        Tables { events: stack.events(), unique_keys: stack.unique_keys(), snapshots: stack.snapshots() };
    DynamoStore::new(aws.dynamodb(), tables, 4.try_into().ok())
}

/// Few and small: each request takes its time here.
fn few(cases: u32) -> (ProptestConfig, Size) {
    // A failure here depends on timing, and may not come again.
    let config = ProptestConfig {
        cases: scaled(cases),
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Default::default()
    };
    (config, Size { commands: 14, steps: 9, one_long_in: 8 })
}

#[test]
fn on_dynamodb_every_promise_is_kept_too() {
    let (runtime, stack) = on_a_stack();
    let store = store_of(&stack, &runtime.block_on(stack.aws()));
    let (config, size) = few(20);
    let number = Cell::new(0_usize);
    check_all("interleavings::dynamodb", config, size, |plan| {
        number.set(number.get() + 1);
        runtime.block_on(check_apart(plan, number.get(), store.clone(), None))
    });
}

#[test]
fn over_a_broken_wire_every_promise_is_kept_too() {
    let (runtime, stack) = on_a_stack();
    let (proxy, store) = runtime.block_on(async {
        let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
        // Hanging requests are waited for, so the time-out is short.
        let aws = proxy.aws_with(&stack.account, Aws::ATTEMPT_TIMEOUT).await;
        (proxy, store_of(&stack, &aws))
    });
    let (config, size) = few(12);
    let number = Cell::new(0_usize);
    check_all("interleavings::wire", config, size, |plan| {
        let plan = Plan { weather: Weather::Fair, ..plan.clone() };
        number.set(number.get() + 1);
        runtime.block_on(check_apart(&plan, number.get(), store.clone(), Some(&proxy)))
    });
    let injected = proxy.injected();
    for (fault, _) in STORM.into_iter().filter(|_| scale() >= 1.0) {
        assert!(injected.contains_key(&fault.kind()), "{fault:?} is not among {injected:?}");
    }
}

/// The faults of requests, each with its number of a thousand.
const STORM: [(Fault, u16); 11] = [
    (Fault::Delay(LONGEST_DELAY), 60),
    (Fault::DelayAfter(LONGEST_DELAY), 60),
    (Fault::Throttle(Throttling::ProvisionedThroughputExceeded), 60),
    (Fault::ServerError, 30),
    (Fault::ServerErrorAfter, 40),
    (Fault::Reset, 30),
    (Fault::ResetAfter, 60),
    (Fault::Duplicate(Answer::Second), 40),
    (Fault::Hang, 5),
    (Fault::HangAfter, 5),
    (Fault::HangWithin, 5),
];

const LONGEST_DELAY: Duration = Duration::from_millis(30);

/// Storms over a wire: each on its own seed, and begun with another fault, so that ten have had all.
fn disturb(proxy: &FaultProxy, number: usize, seed: u64) {
    let storm =
        STORM.iter().fold(Faults::none(seed), |faults, (fault, rate)| faults.with(fault.kind(), *rate));
    proxy.disturb(storm.delays_up_to(LONGEST_DELAY));
    for operation in ["Query", "PutItem", "TransactWriteItems"] {
        proxy.next(operation, STORM[number % STORM.len()].0);
    }
}

/// Checks a plan with tenants of its own: earlier plans' items are still there.
async fn check_apart(
    plan: &Plan,
    number: usize,
    store: DynamoStore,
    proxy: Option<&FaultProxy>,
) -> anyhow::Result<Vec<Call>> {
    let (acme, umbrella) = (format!("acme-{number}"), format!("umbrella-{number}"));
    let cast = Cast::of([&acme, &umbrella]).await?;
    let store = Disturbed::new(store, plan.weather, plan.seed);
    let checked = timeout(
        Duration::from_secs(300),
        check(plan, Arc::new(cast), store, proxy.map(|proxy| (proxy, number))),
    );
    checked.await.context("somebody waits for ever")?
}
