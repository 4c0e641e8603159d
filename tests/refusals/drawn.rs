//! Any workload on any network.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use aws_config::SdkConfig;
use millrace_testing::random::{Seed, scale, scaled};
use millrace_tests::{
    disturbed::{Disturbed, Weather},
    history::{History, read_all},
    workload::{Call, Cast, Fleet, Outcome, Plan, Size, any_plan},
};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tonic::Code;

use crate::dynamo::{Dynamo, sdk_config};

/// Carries a plan out, and judges the result.
async fn check(plan: &Plan, cast: Arc<Cast>, config: &SdkConfig) -> anyhow::Result<Vec<Call>> {
    let dynamo = Dynamo::default();
    let store = dynamo.store(config, !plan.seed.is_multiple_of(4));
    let store = Disturbed::new(store, Weather::Fair, plan.seed);
    let streams = cast.streams();
    let fleet = Arc::new(Fleet::new(plan, cast, store.clone()).await?);
    dynamo.disturb(plan.seed);
    fleet.run(plan).await?;
    dynamo.calm().await;
    fleet.retry_all().await;
    let calls = fleet.calls();
    History::of(read_all(store.inner(), &streams).await?, &calls, store.teller())?.check_answers()?;
    Ok(calls)
}

#[test]
fn whatever_the_network_does_what_was_refused_is_not_done() {
    let cases = scaled(80);
    let seed = Seed::draw("cargo test -p millrace-tests --test refusals");
    let (cast, config) = Runtime::new()
        .unwrap()
        .block_on(async { (Arc::new(Cast::of(["acme", "umbrella"]).await.unwrap()), sdk_config().await) });
    let size = Size { commands: 14, steps: 9, one_long_in: 12 };
    let tally = RefCell::new(BTreeMap::<i32, u32>::new());
    let told = Config {
        cases,
        source_file: Some(file!()),
        test_name: Some("refusals::drawn"),
        max_shrink_iters: 400,
        rng_seed: RngSeed::Fixed(seed.value()),
        ..Config::default()
    };
    let ran = TestRunner::new(told).run(&any_plan(size), |plan| {
        // One thread, and a clock that leaps: a case depends on its plan alone.
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let checked = runtime.block_on(async {
            let checked = timeout(Duration::from_secs(7_200), check(&plan, cast.clone(), &config));
            checked.await.context("somebody waits for ever")?
        });
        let calls = checked.map_err(|wrong| TestCaseError::fail(format!("{wrong:#}")))?;
        for call in calls.iter().filter(|call| call.begun > 0) {
            if let Outcome::Failed(status) = &call.outcome {
                *tally.borrow_mut().entry(i32::from(status.code())).or_default() += 1;
            }
        }
        Ok(())
    });
    if let Err(failed) = ran {
        panic!("{failed}");
    }
    if scale() < 1.0 {
        return;
    }
    // Promises are kept easily where nothing is refused, and where nothing fails.
    let tally = tally.into_inner();
    use Code::{Aborted, AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted, Unavailable};
    for code in [Aborted, AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted, Unavailable] {
        let times = tally.get(&i32::from(code)).copied().unwrap_or_default();
        assert!(times * 20 > cases, "{code:?} came {times} times in {cases} cases");
    }
}
