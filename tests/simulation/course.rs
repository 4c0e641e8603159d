//! The course of a simulation: the happenings that a seed selects, and the checks during and after them.

use std::{cell::RefCell, collections::BTreeMap, panic, sync::Once, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_relay::{
    Leases as _,
    leases::{Checkpoint, Lease},
    stream::{Position, Shard},
};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use crate::{
    processes::{Kind, Process, TRUST},
    trouble::{LONGEST_DELAY, Trouble},
    world::World,
};

/// Happenings that must be frequent in a run of many seeds.
pub(crate) const WANTED: [&str; 21] = [
    "a crash at a call",
    "a delivery that is dropped",
    "a gap read",
    "a kill",
    "a late effect",
    "a lost reply",
    "a page of a refill",
    "a poison message",
    "a refused entry",
    "a repeated delivery",
    "a sleep",
    "a slow call",
    "a split",
    "a stream replaced",
    "a termination",
    "a throttled call",
    "an effect twice",
    "an event",
    "an undecodable item",
    "cursors expired",
    "records dropped",
];

/// The number of a simulation's steps.
const STEPS: u32 = 14;

/// How long relays and projectors may take to finish after the last fault.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) struct Ended {
    pub(crate) happened: BTreeMap<&'static str, u64>,
    pub(crate) steps: Vec<String>,
}

/// Runs a seed. A failure prints all its steps.
pub(crate) fn run(seed: u64) -> Ended {
    watch_panics();
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut course = Course::new(seed);
        for _ in 0..STEPS {
            course.step().await;
            course.check();
        }
        course.come_right().await;
        course.world.watch_counter(&shown);
        course.check();
        Ended { happened: course.trouble.happened(), steps: course.trouble.steps() }
    })
}

struct Course {
    trouble: Trouble,
    world: World,
    processes: Vec<Process>,
    started: u32,
}

impl Course {
    fn new(seed: u64) -> Self {
        let trouble = Trouble::new(seed);
        let world = World::new(&trouble);
        let mut course = Self { trouble, world, processes: Vec::new(), started: 0 };
        course.start(Kind::Relay);
        course.start(Kind::Projector);
        course
    }

    fn start(&mut self, kind: Kind) {
        self.started += 1;
        self.processes.push(Process::start(kind, self.started, &self.world, &self.trouble));
    }

    /// Removes a random process, of one kind or of any.
    fn take(&mut self, kind: Option<Kind>) -> Option<Process> {
        self.processes.retain(|process| !process.is_dead());
        let places: Vec<usize> = (0..self.processes.len())
            .filter(|place| kind.is_none_or(|kind| self.processes[*place].kind == kind))
            .collect();
        let count = u64::try_from(places.len()).unwrap();
        if count == 0 {
            return None;
        }
        let place = places[usize::try_from(self.trouble.below(count)).unwrap()];
        Some(self.processes.swap_remove(place))
    }

    fn note(&self, what: &'static str) {
        self.trouble.note(what);
        self.trouble.step(what);
    }

    async fn step(&mut self) {
        sleep(Duration::from_millis(self.trouble.below(3_000))).await;
        // No relay can notice records lost before the first relay of all has a lease.
        let known = !self.world.leases.list().await.unwrap().leases.is_empty();
        match self.trouble.below(24) {
            0..=8 => self.events().await,
            9 => self.start(Kind::Relay),
            10 => self.start(Kind::Projector),
            11..=13 => {
                if let Some(process) = self.take(None) {
                    self.note("a kill");
                    process.kill().await;
                }
            }
            14 => self.terminate().await,
            15..=16 => {
                if let Some(process) = self.take(None) {
                    self.note("a sleep");
                    process.life.sleep(Duration::from_millis(self.trouble.below(30_000)));
                    self.processes.push(process);
                }
            }
            17..=18 => {
                let open = self.world.stream.open_shards();
                let place = self.trouble.below(u64::try_from(open.len()).unwrap());
                self.note("a split");
                self.world.stream.split(&open[usize::try_from(place).unwrap()]);
            }
            19 => {
                self.note("cursors expired");
                self.world.stream.expire_cursors();
            }
            20 => {
                self.world.poison();
                self.trouble.step("a poison message");
            }
            21 if known => {
                self.note("a stream replaced");
                self.world.stream.replace();
            }
            22 if known => {
                self.note("closed shards dropped");
                self.world.stream.drop_closed_shards();
            }
            23 if known => self.outage().await,
            _ => {}
        }
    }

    async fn events(&self) {
        let count = 1 + self.trouble.below(8);
        self.trouble.step(&format!("{count} events"));
        for _ in 0..count {
            self.world.happen().await;
        }
        if self.trouble.draw(200) {
            self.world.store_undecodable();
        }
    }

    async fn terminate(&mut self) {
        if let Some(process) = self.take(None) {
            self.note("a termination");
            process.terminate().await;
        }
    }

    /// An outage of the relays in which the stream drops its records, by age or early. A relay notices an early loss
    /// only after a record: at the start of a shard the stream reports nothing.
    async fn outage(&mut self) {
        while let Some(relay) = self.take(Some(Kind::Relay)) {
            relay.kill().await;
        }
        self.note("records dropped");
        self.events().await;
        if self.has_unread_start().await || self.trouble.draw(500) {
            sleep(TRUST + Duration::from_secs(20)).await;
        }
        self.world.stream.drop_records();
        self.start(Kind::Relay);
    }

    /// Whether a shard has no checkpoint after a record. A shard without a lease counts too, such as a child that
    /// appeared after the last relay was killed.
    async fn has_unread_start(&self) -> bool {
        let leases = self.world.leases.list().await.unwrap().leases;
        let unread = |lease: &Lease| lease.progress.checkpoint == Checkpoint::At(Position::TrimHorizon);
        let noted = |shard: &Shard| leases.iter().any(|lease| lease.shard == shard.id);
        let listed = self.world.stream.listed();
        leases.iter().any(unread) || !listed.iter().all(noted)
    }

    /// Fails at a violation or a panic so far.
    fn check(&self) {
        let mut violations = self.world.violations();
        violations.extend(PANICS.take());
        assert!(violations.is_empty(), "{violations:#?}\n{}", self.trouble.steps().join("\n"));
    }

    /// Ends the faults. Every event must then reach its row, without further events to help, and every process must end
    /// in order.
    async fn come_right(&mut self) {
        self.trouble.calm();
        self.trouble.step("calm");
        self.processes.iter().for_each(|process| process.life.sleep(Duration::ZERO));
        self.start(Kind::Relay);
        self.start(Kind::Projector);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check();
            let missing = self.world.missing().await;
            if missing.is_empty() {
                break;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "still missing: {missing:#?}\n{}", self.trouble.steps().join("\n"));
            sleep(Duration::from_secs(1)).await;
        }
        self.world.watch_dead_letters();
        // Calls sent before the calm have arrived by now.
        sleep(LONGEST_DELAY).await;
        while let Some(process) = self.take(None) {
            let (name, took) = (process.life.name.clone(), process.terminate().await);
            let in_time = took.is_none_or(|took| took <= Duration::from_secs(20));
            assert!(in_time, "{name} took {took:?} to end\n{}", self.trouble.steps().join("\n"));
        }
        let leases = self.world.leases.list().await.unwrap().leases;
        // A lease finished by a relay that then died keeps its owner, and no relay takes it.
        let held = |lease: &&Lease| lease.owner.is_some() && !lease.is_finished();
        let held: Vec<_> = leases.iter().filter(held).collect();
        assert!(held.is_empty(), "not given up: {held:#?}\n{}", self.trouble.steps().join("\n"));
        self.check();
    }
}

thread_local! {
    /// Panics of tasks, which would otherwise end only these tasks.
    static PANICS: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(Some(info.to_string()));
            before(info);
        }));
    });
    PANICS.take();
}
