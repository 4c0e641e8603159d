//! A store with the faults that DynamoDB's clients meet, chosen by a seed. It notes its calls and their faults, so that
//! a test can judge replies by them.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::{StreamId, Timestamp, UniqueKey};
use millrace_event_store::{
    AppendError, AppendEvents, CommandBlock, Commit, Entry, LoadEvents, Replaces, Snapshot, Snapshots,
    StoredEvent,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use shop::user::User;
use tokio::time::sleep;

mod forged;
mod teller;
mod weather;

pub use teller::{Sending, Teller, Told};
use weather::Mishap;
pub use weather::Weather;

thread_local! {
    static CHANCE: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

/// A number between 0 and 1, by the seed of the [`Disturbed`] store that this thread made last.
pub fn chance() -> f64 {
    CHANCE.with_borrow_mut(|rng| rng.random())
}

/// A random time, another one at each call, as with clocks that differ.
pub fn clock() -> Timestamp {
    let microseconds = CHANCE.with_borrow_mut(|rng| rng.random_range(0..1_000_000_000));
    Timestamp::from_unix_micros(1_800_000_000_000_000 + microseconds)
}

/// A store in some weather. Its clones share everything.
#[derive(Clone)]
pub struct Disturbed<S> {
    inner: S,
    sky: Arc<Mutex<Sky>>,
    teller: Teller,
}

struct Sky {
    rng: StdRng,
    weather: Weather,
    /// Snapshots as they once were.
    old: Vec<Snapshot>,
    /// Whether every snapshot is forgotten as soon as it is written.
    forgetful: bool,
    /// The number of late appends that have not ended.
    late: usize,
}

impl Sky {
    /// Draws an event with a chance of so many in a thousand.
    fn draw(&mut self, per_mille: u32) -> bool {
        self.rng.random_range(0..1000) < per_mille
    }
}

impl<S: AppendEvents + Snapshots> Disturbed<S> {
    /// Disturbs a store.
    pub fn new(inner: S, weather: Weather, seed: u64) -> Self {
        CHANCE.set(StdRng::seed_from_u64(seed));
        let sky =
            Sky { rng: StdRng::seed_from_u64(seed), weather, old: Vec::new(), forgetful: false, late: 0 };
        Self { inner, sky: Arc::new(Mutex::new(sky)), teller: Teller::default() }
    }

    /// The record of calls and their faults.
    pub fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The store itself.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// From now on nothing fails. Pages may still be short, and snapshots wrong: that is within the contract.
    pub async fn calm(&self) {
        self.look().weather = Weather::Fair;
        while self.look().late > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// From now on there are no snapshots.
    pub fn forget_snapshots(&self) {
        self.look().forgetful = true;
    }

    /// Appends an event of a history that was before all began, as sent by a call of this number. No event of such a
    /// history lets an address go.
    pub async fn seed(&self, call: usize, event: &StoredEvent) -> Result<(), AppendError> {
        let email = event.envelope.event_data.as_ref().and_then(|data| data.get("email")?.as_str());
        let claim = |email: &str| UniqueKey { scope: User::EMAIL_KEY, value: email.to_lowercase() };
        let claims = email.map(claim).into_iter().collect();
        self.effect(&Commit { events: vec![event.clone()], claims, releases: vec![] }, Some(call)).await
    }

    fn look(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass, so that others come in between.
    async fn pause(&self) {
        let pause = {
            let mut sky = self.look();
            if sky.draw(500) { sky.rng.random_range(1..8) } else { 0 }
        };
        if pause > 0 {
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Waits as long as for a missing reply: longer than another command waits for its turn.
    async fn hang(&self) {
        let seconds = self.look().rng.random_range(1..6);
        sleep(Duration::from_secs(seconds)).await;
    }

    /// Appends, and notes between which times that was.
    async fn effect(&self, commit: &Commit, call: Option<usize>) -> Result<(), AppendError> {
        let ids = || commit.events.iter().map(|event| event.envelope.event_id);
        let sent = self.teller.sends(call, ids());
        let outcome = self.inner.append(commit).await;
        match &outcome {
            Ok(()) => self.teller.stored(ids(), sent),
            Err(AppendError::Conflict { existing: Some(existing) }) => {
                self.teller.seen(existing.envelope.event_id);
            }
            Err(_) => {}
        }
        outcome
    }

    async fn befall(&self, mishap: Mishap, commit: &Commit) -> Result<(), AppendError> {
        let call = Teller::call();
        match mishap {
            Mishap::Unreachable => Err(unreachable().into()),
            Mishap::ReplyLost => {
                let _ = self.effect(commit, call).await;
                Err(unreachable().into())
            }
            Mishap::Late => {
                self.send_late(commit.clone(), call);
                Err(unreachable().into())
            }
            Mishap::Throttled => Err(throttled().into()),
            Mishap::Contended => Err(AppendError::Contended),
            Mishap::Mismatch => Err(AppendError::Conflict { existing: None }),
            Mishap::MismatchAfter => {
                let _ = self.effect(commit, call).await;
                Err(AppendError::Conflict { existing: None })
            }
            Mishap::Twice => {
                let _ = self.effect(commit, call).await;
                self.pause().await;
                self.effect(commit, call).await
            }
            Mishap::Hangs => {
                self.hang().await;
                Err(unreachable().into())
            }
            Mishap::HangsAfter => {
                let _ = self.effect(commit, call).await;
                self.hang().await;
                Err(unreachable().into())
            }
            Mishap::Slow => {
                self.hang().await;
                self.effect(commit, call).await
            }
        }
    }

    fn send_late(&self, commit: Commit, call: Option<usize>) {
        let late = {
            let mut sky = self.look();
            sky.late += 1;
            sky.rng.random_range(0..60)
        };
        let store = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(late)).await;
            let _ = store.effect(&commit, call).await;
            store.look().late -= 1;
        });
    }

    fn mishap(&self) -> Option<Mishap> {
        let mut sky = self.look();
        let mut roll = sky.rng.random_range(0..1000);
        let table = sky.weather.of_appends();
        let met = table.iter().find(|(_, rate)| {
            let met = roll < *rate;
            roll = roll.saturating_sub(*rate);
            met
        });
        met.map(|(mishap, _)| *mishap)
    }

    /// Waits before a read, or fails it.
    async fn before_reading(&self) -> Result<(), AwsError> {
        self.pause().await;
        let roll = self.look().rng.random_range(0..1000);
        let [unreached, throttling, hanging] = self.look().weather.of_reads();
        if roll < unreached {
            return Err(unreachable());
        } else if roll < unreached + throttling {
            return Err(throttled());
        } else if roll < unreached + throttling + hanging {
            self.hang().await;
            return Err(unreachable());
        }
        Ok(())
    }

    /// The entries of a page, of so many: at times as few as the contract allows.
    fn page(&self, entries: usize) -> usize {
        let mut sky = self.look();
        if entries > 1 && sky.draw(250) { sky.rng.random_range(1..=entries) } else { entries }
    }
}

fn unreachable() -> AwsError {
    AwsError::Unreachable("by chance".into())
}

fn throttled() -> AwsError {
    AwsError::Throttled("by chance".into())
}

impl<S: AppendEvents + Snapshots> LoadEvents for Disturbed<S> {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        let read = async {
            self.before_reading().await?;
            self.inner.newest(stream, after, limit).await
        };
        let mut entries = self.teller.told_aws(read.await)?;
        let page = self.page(entries.len());
        entries.drain(..entries.len() - page);
        self.pause().await;
        Ok(entries)
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        let read = async {
            self.before_reading().await?;
            self.inner.between(stream, after, before).await
        };
        let mut entries = self.teller.told_aws(read.await)?;
        entries.truncate(self.page(entries.len()));
        self.pause().await;
        Ok(entries)
    }
}

impl<S: AppendEvents + Snapshots> AppendEvents for Disturbed<S> {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        self.pause().await;
        let mut outcome = match self.mishap() {
            Some(mishap) => self.befall(mishap, commit).await,
            None => self.effect(commit, Teller::call()).await,
        };
        self.pause().await;
        if let Err(AppendError::Conflict { existing }) = &mut outcome
            && self.look().draw(250)
        {
            *existing = None;
        }
        self.teller.told_append(&outcome);
        outcome
    }
}

impl<S: AppendEvents + Snapshots> Snapshots for Disturbed<S> {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        self.before_reading().await.inspect_err(|error| self.teller.told_of_snapshot(error))?;
        let kept = self
            .inner
            .snapshot(stream, schema)
            .await
            .inspect_err(|error| self.teller.told_of_snapshot(error))?;
        self.pause().await;
        Ok(if self.look().forgetful { None } else { self.forge(stream, kept) })
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.before_reading().await?;
        let lost = {
            let mut sky = self.look();
            sky.old.push(snapshot.clone());
            sky.draw(200)
        };
        if lost { Ok(true) } else { self.inner.put_snapshot(snapshot, replaces).await }
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        let read = async {
            self.before_reading().await?;
            self.inner.command_blocks(stream, numbers).await
        };
        let mut blocks = self.teller.told_aws(read.await)?;
        self.pause().await;
        blocks.retain(|_| !self.look().draw(200));
        Ok(blocks)
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.before_reading().await?;
        let lost = self.look().draw(200);
        if lost { Ok(true) } else { self.inner.put_command_block(block, replaces).await }
    }
}

impl<S> fmt::Debug for Disturbed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disturbed")
    }
}
