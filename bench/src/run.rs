//! A whole run, one part after the other, so that nothing disturbs a measurement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cli::Options,
    contender::{Kind, choose},
    costs::{self, Bill, Cost, LENGTHS},
    judged::Judged,
    machine::Machine,
    null::Null,
    path::{Lag, Path},
    prices, process, rebuild, report,
    results::Results,
    site::Site,
    speeds::{self, Answered, Contention, Measured},
    user::today,
};

/// The number of rounds. Each contender's best counts.
const ROUNDS: usize = 5;

/// How many clients there are at a time, each with an aggregate of its own.
const CLIENTS: [usize; 3] = [1, 16, 64];

/// The rate at which latencies are measured, which every contender can keep.
const RATE: u32 = 50;

/// The rates at which the whole path is measured.
const RATES: [u32; 3] = [10, 50, 200];

/// Measures everything, tells it, and writes it.
pub(crate) async fn all(options: &Options) -> anyhow::Result<()> {
    let run = Run::new(options);
    let machine = Machine::this();
    run.step("building the deployables");
    choose(options.deployed.as_deref())?;
    run.part("costs");
    let (costs, unindexed) = run.costs().await?;
    let site = Arc::new(Site::new(true).await?);
    run.part("speeds");
    let (speeds, latencies) = run.speeds(&site).await?;
    run.part("contention");
    let contention = run.contention(&site).await?;
    run.part("the ceiling of the code");
    let ceilings = speeds::ceilings(&site, ROUNDS, run.time(1.2), &|words| run.step(words)).await?;
    run.part("queries");
    let null = Null::start()?;
    let direct = site.stack.endpoint();
    let queries = speeds::queries(&site, direct, ROUNDS, run.time(1.2), &|words| run.step(words)).await?;
    let queries_on_null =
        speeds::queries(&site, null.url(), ROUNDS, run.time(1.0), &|words| run.step(words)).await?;
    run.part("processes");
    let started = process::measure(&site, &|words| run.step(words)).await?;
    run.part("the whole path");
    let [idle, loaded, lags @ ..] = Box::pin(run.path()).await?;
    run.part("rebuilding");
    let rebuild = rebuild::measure(run.users_to_rebuild(), 50, &|words| run.step(words)).await?;
    run.bar.finish_and_clear();
    let results = Results {
        date: today(),
        machine,
        command: report::folder::COMMAND.to_owned(),
        took_seconds: run.began.elapsed().as_secs_f64(),
        prices: prices::SOURCE.to_owned(),
        costs,
        unindexed,
        speeds,
        latencies,
        contention,
        ceilings,
        queries,
        queries_on_null,
        idle,
        lags: lags.to_vec(),
        loaded,
        rebuild,
        started,
    };
    let results = Judged::from(results);
    println!("{}", report::markdown(&results));
    let folder = options.out.clone().unwrap_or_else(|| report::folder::of(&results.date));
    report::write(&results, &folder)?;
    println!("Written to {}.", folder.display());
    if options.is_usual() {
        report::write_pages(&results)?;
        println!("docs/measured.md and README.md show it.");
    }
    Ok(())
}

/// Measures the code's capacity, and prints it.
pub(crate) async fn ceiling(options: &Options) -> anyhow::Result<()> {
    let run = Run::new(options);
    run.step("building the deployables");
    choose(options.deployed.as_deref())?;
    let site = Arc::new(Site::new(true).await?);
    let ceilings = speeds::ceilings(&site, ROUNDS, run.time(1.2), &|words| run.step(words)).await?;
    run.bar.finish_and_clear();
    println!("{}", report::tables::ceilings(&ceilings));
    Ok(())
}

struct Run {
    began: Instant,
    bar: ProgressBar,
    length: f64,
}

impl Run {
    fn new(options: &Options) -> Self {
        let kinds = Kind::ALL.len() * LENGTHS.len();
        let fast = Kind::FAST.len() + 1;
        let steps =
            kinds + 2 + fast * (CLIENTS.len() * ROUNDS + 1) + fast + 6 * ROUNDS + 4 * ROUNDS + 3 + 5 + 3;
        let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { began: Instant::now(), bar, length: options.length }
    }

    /// Prints the name of the next part of the run, where nobody sees the bar.
    fn part(&self, words: &str) {
        if self.bar.is_hidden() {
            eprintln!("{:>4.0} s: {words}", self.began.elapsed().as_secs_f64());
        }
    }

    /// Shows the name of the next step.
    fn step(&self, words: &str) {
        self.bar.set_message(words.to_owned());
        self.bar.inc(1);
    }

    /// So many seconds, or the part of them that was asked for.
    fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.length)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of two thousand")]
    fn users_to_rebuild(&self) -> u64 {
        (2_000.0 * self.length).max(1.0) as u64
    }

    /// The cost of commands. On a site of its own: the emulator is slower, the more a table holds.
    async fn costs(&self) -> anyhow::Result<(Vec<Cost>, Option<Bill>)> {
        let site = Site::new(true).await?;
        let mut all = Vec::new();
        for kind in Kind::ALL {
            for length in LENGTHS {
                self.step(&format!("costs of {} on {length} events", kind.name()));
                all.extend(costs::count(&site, kind, length).await?);
            }
        }
        self.step("costs without the index by event type");
        let unindexed = costs::count(&Site::new(false).await?, Kind::Millrace, 1).await?;
        let unindexed = unindexed.into_iter().find(|cost| !cost.cold).and_then(|cost| cost.bill.ok());
        Ok((all, unindexed))
    }

    async fn speeds(&self, site: &Site) -> anyhow::Result<(Vec<Measured>, Vec<Answered>)> {
        let most = CLIENTS.into_iter().max().unwrap_or(1);
        let all = speeds::ready(site, most).await?;
        let mut measured = Vec::new();
        for clients in CLIENTS {
            let step = |words: &str| self.step(words);
            measured.extend(speeds::rounds(&all, clients, ROUNDS, self.time(1.2), &step).await?);
        }
        let step = |words: &str| self.step(words);
        let latencies = speeds::latencies(&all, RATE, self.time(6.0), &step).await?;
        Ok((measured, latencies))
    }

    async fn contention(&self, site: &Site) -> anyhow::Result<Vec<Contention>> {
        let peers = Kind::FAST.into_iter().filter(|kind| *kind != Kind::Floor).map(|kind| (kind, 1));
        let mut all = Vec::new();
        for (kind, replicas) in peers.chain([(Kind::Millrace, 2)]) {
            self.step(&format!("{} clients on one aggregate: {}", speeds::AT_ONE, kind.name()));
            all.push(speeds::contention(site, kind, replicas, self.time(3.0)).await?);
        }
        Ok(all)
    }

    /// The idle path, the loaded one, and the path at each rate.
    async fn path(&self) -> anyhow::Result<[Lag; 5]> {
        let path = Box::pin(Path::new(64)).await?;
        self.step("the whole path, one command after the other");
        let idle = path.idle(100).await?;
        let [slow, middle, fast] = RATES;
        let at = async |rate: u32| {
            self.step(&format!("the whole path at {rate} commands a second"));
            path.at(rate, self.time(10.0)).await
        };
        let (slow, middle, fast) = (at(slow).await?, at(middle).await?, at(fast).await?);
        self.step("the whole path, as fast as can be");
        let loaded = path.loaded(self.time(5.0)).await?;
        Ok([idle, loaded, slow, middle, fast])
    }
}
