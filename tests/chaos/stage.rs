//! The frame of every test: its turn, its length, its seed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_local::StackOptions;
use millrace_testing::random::{Seed, scale};
use millrace_tests::{
    AwsStack, PATIENCE, aws_stack_with,
    fleet::{Crew, Fleet},
    load::{End, Fate, Load, LoadOptions, TrackedCommand},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

/// One test at a time: each has processes enough for the whole machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// The scale from which on the tests run in full length.
const LONG: f64 = 10.0;

/// How a test is to run.
pub(crate) struct Stage {
    /// The test's name.
    pub(crate) name: &'static str,
    /// Whether it is to run in full length.
    pub(crate) long: bool,
    /// The seed of all chance.
    pub(crate) seed: u64,
    _again: Seed,
    begun: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// Waits for the test's turn.
    pub(crate) async fn enter(name: &'static str) -> Self {
        let turn = TURN.lock().await;
        let long = scale() >= LONG;
        let seed = Seed::draw("cargo test -p millrace-tests --test chaos -- --nocapture");
        let stage = Self { name, long, seed: seed.value(), _again: seed, begun: Instant::now(), _turn: turn };
        stage.say(&format!("{}, MILLRACE_TEST_SEED={}", stage.pick("long", "short"), stage.seed));
        stage
    }

    /// The value for the length of the test.
    pub(crate) fn pick<T>(&self, long: T, short: T) -> T {
        if self.long { long } else { short }
    }

    /// Says something about the test.
    pub(crate) fn say(&self, what: &str) {
        println!("{}, after {} s: {what}", self.name, self.begun.elapsed().as_secs());
    }

    /// A stack where messages that a projector took with it are seen again sooner than in production, unless the test
    /// has time for that.
    pub(crate) async fn stack(&self) -> Arc<AwsStack> {
        let options = StackOptions { queue_visibility_seconds: self.pick(30, 6), ..StackOptions::default() };
        Arc::new(aws_stack_with(&options).await.unwrap())
    }

    /// Replicas on a stack, which do not run yet. Their logs are kept under a name.
    pub(crate) async fn fleet(&self, name: &str, stack: &Arc<AwsStack>, crew: Crew) -> Arc<Fleet> {
        // As in production; only shards are looked for more often, and with them leases that are free.
        let mut env = vec![
            ("RELAY_POLL_MS", "250"),
            ("RELAY_DISCOVERY_MS", "1000"),
            ("AWS_ATTEMPT_TIMEOUT_MS", "2000"),
        ];
        env.extend(crew.env);
        let fleet = Fleet::new(name, stack, &Crew { env, ..crew }).await.unwrap();
        self.say(&format!("logs are in {}", fleet.logs().display()));
        Arc::new(fleet)
    }

    /// A load of so many clients. The local AWS does some hundred requests a second, and a command takes about four.
    pub(crate) fn load(&self, clients: usize) -> Arc<Load> {
        let tenants = ["acme", "umbrella", "default"].map(|tenant| tenant.parse().unwrap()).into();
        let (seed, pause) = (self.seed, Duration::from_millis(150));
        let aggregates = self.pick(200, 60);
        Arc::new(Load::new(LoadOptions { seed, clients, tenants, pause, aggregates }))
    }
}

/// Runs a load on a fleet for a while, and something else meanwhile. Commands begun by then are seen through.
pub(crate) async fn run_for<T>(
    load: &Arc<Load>,
    fleet: &Arc<Fleet>,
    time: Duration,
    meanwhile: impl AsyncFnOnce(&End) -> anyhow::Result<T>,
) -> (Vec<TrackedCommand>, T) {
    let end = End::default();
    let clock = async {
        sleep(time).await;
        end.stop.cancel();
        sleep(PATIENCE).await;
        end.give_up.cancel();
        std::future::pending::<()>().await;
    };
    let work = async { tokio::try_join!(load.run(fleet, &end), meanwhile(&end)) };
    tokio::select! {
        done = work => done.unwrap(),
        () = clock => unreachable!("it waits for ever"),
    }
}

/// The fates of commands, in a line.
pub(crate) fn summary(commands: &[TrackedCommand], load: &Load) -> String {
    let count = |is: fn(&Fate) -> bool| commands.iter().filter(|tracked| is(&tracked.fate)).count();
    let attempts: u32 = commands.iter().map(|tracked| tracked.attempts).sum();
    format!(
        "{} commands acknowledged, {} refused, {} with nobody to hear the answer, in {attempts} attempts; {:?}",
        count(|fate| matches!(fate, Fate::Acknowledged(_))),
        count(|fate| matches!(fate, Fate::Refused(_))),
        count(|fate| matches!(fate, Fate::Open)),
        load.tally(),
    )
}
