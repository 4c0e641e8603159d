//! Replicas that die at any moment: killed, or told to end, and started again.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use rand::{
    RngExt as _, SeedableRng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Entries, Fault, Throttling,
    fleet::{Fleet, Member},
    process::Deployable,
};

/// The longest that an ambush waits for its victim to come.
const AMBUSH: Duration = Duration::from_millis(1500);

/// The longest that calls hang before their caller is killed. An attempt has two seconds; a relay writes a
/// checkpoint every second.
const LONGEST_WAIT: Duration = Duration::from_millis(1900);

/// The shortest spell of failures. No call's retries last as long.
const SHORTEST_SPELL: Duration = Duration::from_millis(1500);

/// The longest that a replica is gone.
const LONGEST_ABSENCE: Duration = Duration::from_millis(1500);

/// The first ambushes: moments on which a promise hangs. An event is read, and the bus has not accepted it; a command is
/// stored and not answered; a message is received, and its row is not written; a part and its sum are written, and the
/// reply is lost; a row is written, and its message is not deleted. The first has to be first: once the publishing
/// replica is gone, none publishes for as long as its lease lives.
const MOMENTS: [Moment; 6] = [
    (Deployable::CommandService, "PutEvents", Fault::Hang),
    (Deployable::CommandService, "TransactWriteItems", Fault::HangAfter),
    (Deployable::Projector, "UpdateItem", Fault::Hang),
    (Deployable::Projector, "TransactWriteItems", Fault::HangAfter),
    (Deployable::Projector, "DeleteMessageBatch", Fault::Hang),
    (Deployable::CommandService, "PutEvents", Fault::Hang),
];

/// The spells that come first: a bus that takes some events and refuses others, and rows that cannot be written while
/// messages can be deleted.
const SPELLS: [Moment; 2] = [
    (Deployable::CommandService, "PutEvents", Fault::RefuseEntries(Entries(0b10_1010_1010))),
    (Deployable::Projector, "UpdateItem", Fault::Reset),
];

/// The number of strikes by kind.
pub type Tally = BTreeMap<&'static str, u64>;

/// How a replica is struck.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// It is killed in the middle of its work.
    Kill,
    /// It is killed while it waits for the answers to calls, which took effect or did not.
    Ambush { operation: &'static str, fault: Fault, waits: Duration },
    /// It lives, and for a while all its calls of an operation fail, with all their retries.
    Spell { operation: &'static str, fault: Fault, lasts: Duration },
    /// It is told to end.
    Terminate,
}

/// Kills a replica of the command service or the projector again and again, `every` so often, until it is to `stop`; now
/// and then another one is told to end, or has a spell of failures. Each is started again soon after. Returns how many
/// strikes of each kind there were, once all that were struck are there again.
///
/// The seed decides the replica, the time and the kind of each strike.
pub async fn unleash(
    fleet: &Arc<Fleet>,
    seed: u64,
    every: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<Tally> {
    let mut chaos_monkey = ChaosMonkey::new(fleet, seed);
    // The spells come first, and nobody is killed meanwhile: a relay that takes over publishes the last second again,
    // which would hide a lost event.
    stop.run_until_cancelled(sleep(every)).await;
    chaos_monkey.habits.look(fleet);
    for (deployable, operation, fault) in SPELLS {
        for victim in chaos_monkey.callers(deployable, operation) {
            chaos_monkey.strike(victim, Strike::Spell { operation, fault, lasts: SHORTEST_SPELL });
        }
    }
    while stop.run_until_cancelled(sleep(every)).await.is_some() {
        fleet.note_metrics().await;
        while let Some(done) = chaos_monkey.strikes.try_join_next() {
            chaos_monkey.over(done??);
        }
        chaos_monkey.habits.look(fleet);
        let further = match chaos_monkey.rng.random_range(0..6) {
            0 => chaos_monkey.victim().map(|victim| (victim, Strike::Terminate)),
            1..4 => chaos_monkey.spell(),
            _ => None,
        };
        further.into_iter().for_each(|(victim, strike)| chaos_monkey.strike(victim, strike));
        let kill = chaos_monkey.moment().or_else(|| chaos_monkey.kill());
        kill.into_iter().for_each(|(victim, strike)| chaos_monkey.strike(victim, strike));
    }
    while let Some(done) = chaos_monkey.strikes.join_next().await {
        chaos_monkey.over(done??);
    }
    Ok(chaos_monkey.tally)
}

/// A deployable, an operation that it calls, and the fault that the call meets.
type Moment = (Deployable, &'static str, Fault);

struct ChaosMonkey {
    fleet: Arc<Fleet>,
    rng: StdRng,
    moments: Vec<Moment>,
    habits: Habits,
    strikes: JoinSet<anyhow::Result<(usize, &'static str)>>,
    /// The replicas that are being struck.
    struck: HashSet<usize>,
    tally: Tally,
}

impl ChaosMonkey {
    fn new(fleet: &Arc<Fleet>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut moments = MOMENTS;
        moments[1..].shuffle(&mut rng);
        Self {
            fleet: fleet.clone(),
            rng,
            moments: moments.into(),
            habits: Habits::of(fleet),
            strikes: JoinSet::new(),
            struck: HashSet::new(),
            tally: Tally::new(),
        }
    }

    fn strike(&mut self, victim: usize, strike: Strike) {
        let gone = self.rng.random_range(Duration::ZERO..LONGEST_ABSENCE);
        self.struck.insert(victim);
        let fleet = self.fleet.clone();
        self.strikes.spawn(async move { Ok((victim, fleet.members()[victim].suffer(strike, gone).await?)) });
    }

    fn over(&mut self, (victim, how): (usize, &'static str)) {
        self.struck.remove(&victim);
        *self.tally.entry(how).or_default() += 1;
    }

    /// The replicas that may be struck.
    fn free(&self) -> Vec<usize> {
        let members = self.fleet.members();
        let may = |n: &usize| members[*n].deployable != Deployable::QueryService && !self.struck.contains(n);
        (0..members.len()).filter(may).collect()
    }

    fn victim(&mut self) -> Option<usize> {
        self.free().choose(&mut self.rng).copied()
    }

    /// The replicas that may be struck and lately called an operation.
    fn callers(&self, deployable: Deployable, operation: &str) -> Vec<usize> {
        let mut callers = self.free();
        let members = self.fleet.members();
        callers.retain(|n| members[*n].deployable == deployable && self.habits.calls(*n, operation));
        callers
    }

    /// The next of the first moments that a replica can meet.
    fn moment(&mut self) -> Option<(usize, Strike)> {
        let at_hand = |(deployable, operation, _): &Moment| !self.callers(*deployable, operation).is_empty();
        let place = self.moments.iter().position(at_hand)?;
        let (deployable, operation, fault) = self.moments.remove(place);
        let victim = *self.callers(deployable, operation).choose(&mut self.rng)?;
        Some((victim, Strike::Ambush { operation, fault, waits: LONGEST_WAIT }))
    }

    /// A spell of failures for a replica.
    fn spell(&mut self) -> Option<(usize, Strike)> {
        let lasts = self.rng.random_range(SHORTEST_SPELL..2 * SHORTEST_SPELL);
        let faults = [
            Fault::Throttle(Throttling::ProvisionedThroughputExceeded),
            Fault::ServerError,
            Fault::ServerErrorAfter,
            Fault::Reset,
            Fault::ResetAfter,
            Fault::RefuseEntries(Entries(self.rng.random())),
            Fault::RefuseEntriesAfter(Entries(self.rng.random())),
        ];
        let victim = self.victim()?;
        let operations = self.operations(victim);
        let (operation, fault) = (*operations.choose(&mut self.rng)?, *faults.choose(&mut self.rng)?);
        Some((victim, Strike::Spell { operation, fault, lasts }))
    }

    /// Operations that a replica lately called; the more often, the more depends on them.
    fn operations(&self, member: usize) -> Vec<&'static str> {
        let operations: &[&str] = match self.fleet.members()[member].deployable {
            // Only one of them reads the stream, and few are that one when they are struck.
            Deployable::CommandService if self.habits.calls(member, "PutEvents") => {
                &["PutEvents", "PutEvents", "UpdateItem", "GetRecords"]
            }
            Deployable::CommandService => &["PutItem", "TransactWriteItems", "Query"],
            Deployable::Projector => {
                &["UpdateItem", "TransactWriteItems", "ReceiveMessage", "DeleteMessageBatch", "Query"]
            }
            Deployable::QueryService => &[],
        };
        operations.iter().copied().filter(|operation| self.habits.calls(member, operation)).collect()
    }

    /// A replica to be killed, and the way.
    fn kill(&mut self) -> Option<(usize, Strike)> {
        let victim = self.victim()?;
        let operations = self.operations(victim);
        let rng = &mut self.rng;
        let fault = if rng.random_ratio(2, 3) { Fault::Hang } else { Fault::HangAfter };
        let waits = rng.random_range(Duration::ZERO..LONGEST_WAIT);
        let by_ambush = rng.random_ratio(2, 3);
        let strike = match operations.choose(rng).copied() {
            Some(operation) if by_ambush => Strike::Ambush { operation, fault, waits },
            Some(_) | None => Strike::Kill,
        };
        Some((victim, strike))
    }
}

/// Each replica's calls: only some have a shard of the stream to read.
struct Habits {
    counts: Vec<BTreeMap<String, u64>>,
    lately: Vec<HashSet<String>>,
}

impl Habits {
    fn of(fleet: &Fleet) -> Self {
        let counts: Vec<_> = fleet.members().iter().map(counts).collect();
        let lately = vec![HashSet::new(); counts.len()];
        Self { counts, lately }
    }

    /// Counts again: a replica's recent calls are those since the last count.
    fn look(&mut self, fleet: &Fleet) {
        for (n, member) in fleet.members().iter().enumerate() {
            let before = std::mem::replace(&mut self.counts[n], counts(member));
            let grown =
                self.counts[n].iter().filter(|(operation, count)| before.get(*operation) != Some(*count));
            self.lately[n] = grown.map(|(operation, _)| operation.clone()).collect();
        }
    }

    /// Whether a replica lately called an operation.
    fn calls(&self, member: usize, operation: &str) -> bool {
        self.lately[member].contains(operation)
    }
}

/// How often a replica called which operation.
fn counts(member: &Member) -> BTreeMap<String, u64> {
    let traffic = member.proxy.traffic().into_iter();
    traffic.map(|(operation, traffic)| (operation, traffic.requests)).collect()
}

impl Member {
    /// Is struck, is gone for a while, and is there again. Returns the kind of the strike.
    async fn suffer(&self, strike: Strike, gone: Duration) -> anyhow::Result<&'static str> {
        // A rollout may be replacing it.
        let _turn = self.turn().await;
        let how = match strike {
            Strike::Kill => {
                self.kill();
                "killed"
            }
            Strike::Ambush { operation, fault, waits } => {
                let mut ambush = self.proxy.lie_in_wait(operation, fault);
                let how = match timeout(AMBUSH, ambush.met()).await {
                    Ok(()) => {
                        sleep(waits).await;
                        "killed during a call"
                    }
                    Err(_) => "killed",
                };
                self.kill();
                how
            }
            Strike::Spell { operation, fault, lasts } => {
                let _fails = self.proxy.lie_in_wait(operation, fault);
                sleep(lasts).await;
                return Ok("beset by failures");
            }
            Strike::Terminate => {
                self.terminate().await?;
                "told to end"
            }
        };
        sleep(gone).await;
        self.start().await?;
        Ok(how)
    }
}
