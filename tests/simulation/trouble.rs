//! Random faults of calls.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use millrace_aws::AwsError;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// After this time a sent call has taken effect, or never will.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(12);

/// The fates of calls and their frequencies in thousandths. Other calls are only delayed.
const FATES: [(Fate, u32); 8] = [
    (Fate::Throttled, 25),
    (Fate::Unreachable, 15),
    (Fate::ReplyLost, 20),
    (Fate::Twice, 15),
    (Fate::Late, 10),
    (Fate::Slow, 10),
    (Fate::CrashBefore, 3),
    (Fate::CrashAfter, 3),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The call has no effect.
    Throttled,
    /// The call has no effect, but its caller cannot know that.
    Unreachable,
    /// The call takes effect, and the caller gets no reply.
    ReplyLost,
    /// The call takes effect twice, and the caller gets the second reply.
    Twice,
    /// The caller is told that AWS cannot be reached, and the call takes effect later.
    Late,
    /// The request and the reply each take seconds.
    Slow,
    /// The process dies before the effect.
    CrashBefore,
    /// The process dies after the effect, before the reply.
    CrashAfter,
}

/// The randomness of a simulation, and a count of its events. Clones share it.
#[derive(Clone)]
pub(crate) struct Trouble(Arc<Mutex<State>>);

struct State {
    rng: StdRng,
    calm: bool,
    happened: BTreeMap<&'static str, u64>,
    steps: Vec<String>,
    began: Instant,
}

impl Trouble {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            calm: false,
            happened: BTreeMap::new(),
            steps: Vec::new(),
            began: Instant::now(),
        })))
    }

    fn look(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Ends all faults.
    pub(crate) fn calm(&self) {
        self.look().calm = true;
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.look().calm
    }

    /// A random number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.look().rng.random_range(0..end)
    }

    /// True with a probability of `per_mille` thousandths.
    pub(crate) fn draw(&self, per_mille: u32) -> bool {
        self.look().rng.random_range(0..1_000) < per_mille
    }

    /// Counts a happening.
    pub(crate) fn note(&self, what: &'static str) {
        *self.look().happened.entry(what).or_default() += 1;
    }

    /// Logs a step, for comparing runs and reading failures.
    pub(crate) fn step(&self, step: &str) {
        let mut state = self.look();
        let at = state.began.elapsed();
        state.steps.push(format!("{at:>12.3?} {step}"));
    }

    pub(crate) fn happened(&self) -> BTreeMap<&'static str, u64> {
        self.look().happened.clone()
    }

    pub(crate) fn steps(&self) -> Vec<String> {
        self.look().steps.clone()
    }

    fn fate(&self) -> Option<Fate> {
        let mut state = self.look();
        if state.calm {
            return None;
        }
        let mut roll = state.rng.random_range(0..1_000);
        let fate = FATES.iter().find(|(_, rate)| {
            let met = roll < *rate;
            roll = roll.saturating_sub(*rate);
            met
        });
        fate.map(|(fate, _)| *fate)
    }
}

/// The life of a process, through which it calls the world.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) name: Arc<str>,
    pub(crate) trouble: Trouble,
    /// Cancelled to make the process die at once.
    pub(crate) death: CancellationToken,
    /// The time until which the process's machine sleeps.
    asleep: Arc<watch::Sender<Instant>>,
}

impl Life {
    pub(crate) fn new(name: &str, trouble: &Trouble) -> Self {
        Self {
            name: name.into(),
            trouble: trouble.clone(),
            death: CancellationToken::new(),
            asleep: Arc::new(watch::Sender::new(Instant::now())),
        }
    }

    /// Puts the machine to sleep: for this time no call goes out, and no reply comes in.
    pub(crate) fn sleep(&self, duration: Duration) {
        self.asleep.send_replace(Instant::now() + duration);
    }

    async fn wake(&self) {
        let mut asleep = self.asleep.subscribe();
        loop {
            let until = *asleep.borrow_and_update();
            tokio::select! {
                biased;
                Ok(()) = asleep.changed() => {}
                () = sleep_until(until) => return,
            }
        }
    }

    /// Makes the process die. The call never returns, so its caller is dropped with the process.
    async fn die(&self, call: &str) {
        self.trouble.note("a crash at a call");
        self.trouble.step(&format!("{} dies at {call}", self.name));
        self.death.cancel();
        pending().await
    }

    /// Calls the world. The call's fate decides whether `effect` runs not at all, once, or twice.
    pub(crate) async fn call<T, E, F>(
        &self,
        call: &'static str,
        effect: impl Fn() -> F + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send,
        E: From<AwsError> + Send,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let fate = self.trouble.fate();
        if let Some(fate) = fate {
            self.trouble.step(&format!("{} {call}: {fate:?}", self.name));
        }
        let slow = if fate == Some(Fate::Slow) { 4_000 } else { 15 };
        self.pause(slow).await;
        let unreachable = || Err(AwsError::Unreachable("by chance".to_owned()).into());
        let reply = match fate {
            None => effect().await,
            Some(Fate::Slow) => {
                self.trouble.note("a slow call");
                effect().await
            }
            Some(Fate::Throttled) => {
                self.trouble.note("a throttled call");
                Err(AwsError::Throttled("by chance".to_owned()).into())
            }
            Some(Fate::Unreachable) => unreachable(),
            Some(Fate::ReplyLost) => {
                let _ = effect().await;
                self.trouble.note("a lost reply");
                unreachable()
            }
            Some(Fate::Twice) => {
                let _ = effect().await;
                self.pause(15).await;
                self.trouble.note("an effect twice");
                effect().await
            }
            Some(Fate::Late) => {
                let late = self.trouble.below(LONGEST_DELAY.as_secs() * 1_000);
                self.trouble.note("a late effect");
                // A request on its way arrives even if its process dies.
                tokio::spawn(async move {
                    sleep(Duration::from_millis(late)).await;
                    let _ = effect().await;
                });
                unreachable()
            }
            Some(Fate::CrashBefore) => {
                self.die(call).await;
                unreachable()
            }
            Some(Fate::CrashAfter) => {
                let _ = effect().await;
                self.die(call).await;
                unreachable()
            }
        };
        self.pause(slow).await;
        reply
    }

    async fn pause(&self, millis: u64) {
        let millis = self.trouble.below(millis);
        sleep(Duration::from_millis(millis)).await;
        self.wake().await;
    }
}
