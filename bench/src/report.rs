//! What is told of a run: tables, which are Markdown and can be read in a terminal; charts; and everything as JSON.

mod chart;
pub(crate) mod readme;
mod table;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
pub(crate) use chart::Chart;
pub(crate) use table::Table;

use crate::{
    contender::Kind,
    costs::{Cost, LENGTHS},
    load::{Latency, Speed},
    path::Lag,
    results::Results,
    speeds::{AT_ONE, Ceiling, OVER_GRPC},
};

/// The command that measures everything.
pub(crate) const COMMAND: &str = "cargo run --release --manifest-path bench/Cargo.toml";

/// Where results are, within the repository.
const FOLDER: &str = "bench/results";

/// The top of the repository.
fn top() -> &'static Path {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench)
}

/// The folder of a run's results: one for each day.
pub(crate) fn folder(results: &Results) -> PathBuf {
    top().join(FOLDER).join(&results.date)
}

/// The newest results that were written, judged anew.
fn newest() -> anyhow::Result<Results> {
    let folders = fs::read_dir(top().join(FOLDER))?.map(|folder| anyhow::Ok(folder?.path()));
    let newest =
        folders.collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().context("there are no results")?;
    let json = fs::read_to_string(newest.join("results.json"))?;
    Ok(serde_json::from_str::<Results>(&json)?.judged())
}

/// Tells of the newest results again: after a change of how they are told.
pub(crate) fn again() -> anyhow::Result<()> {
    let results = newest()?;
    tell(&results, &folder(&results))?;
    readme::write(&results)
}

/// Writes all that is told into a folder.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(results)? + "\n")?;
    tell(results, folder)
}

/// Writes what is told of results.
fn tell(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("results.md"), markdown(results))?;
    fs::write(folder.join("dollars.svg"), dollars(results).svg())?;
    fs::write(folder.join("per-core.svg"), per_core(results).svg())?;
    fs::write(folder.join("lag.svg"), lag(results).svg())?;
    Ok(())
}

/// The whole report.
pub(crate) fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "# Measured on {}\n\n`{}` took {:.0} s.\n{}, {} cores, {} GiB; Linux {}; {}; commit {}; load before it began: {}.\n",
        results.date,
        results.command,
        results.took_seconds,
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.rustc,
        machine.commit,
        machine.load_before,
    );
    for (title, words, table) in [
        ("In short", SHORT, short(results)),
        ("Budgets", "", budgets(results)),
        (COSTS_TITLE, COSTS, costs(results)),
        ("Commands a second on the local AWS", SPEEDS, speeds(results)),
        ("How long an answer takes", LATENCIES, latencies(results)),
        ("Sixteen clients on one aggregate", CONTENTION, contention(results)),
        ("The ceiling of the code", CEILINGS, ceilings(&results.ceilings)),
        ("Queries by key", QUERIES, queries(results)),
        ("From a reply until it can be read", LAGS, lags(results)),
        ("Rebuilding", REBUILD, rebuild(results)),
        ("Processes", "", processes(results)),
    ] {
        let _ = write!(text, "\n## {title}\n\n{words}{table}");
        if title == COSTS_TITLE {
            text += &failures(results);
        }
    }
    text += "\n## Where a peer is ahead\n\nTheirs against Millrace's, at so many events.\n\n";
    if results.ahead.is_empty() {
        text += "In nothing that is measured here.\n";
    }
    for ahead in &results.ahead {
        let _ = writeln!(text, "- {ahead}");
    }
    let _ = write!(text, "\nPrices: {}.\n", results.prices);
    text
}

const SHORT: &str = "A warm command on a user of 100 events, and its price on one of 10,000; what one core carries out on an endpoint \
                     that answers at once. RU and WU are DynamoDB's read and write units.\n\n";
const COSTS_TITLE: &str = "What a command costs";
const COSTS: &str = "Renaming a user: averages over one period of snapshots. The floor and the recipe's item have no more \
                     than they need. RU and WU are DynamoDB's read and write units; the recipe and Millrace pay 1 WU for \
                     an index by event type, which the others do not have.\n\n";
const SPEEDS: &str = "The emulator has one processor and is the bottleneck; what carries over are ratios, and processor \
                      time. Of five rounds the most calls a second, and the least processor time for one, since whatever \
                      else runs only adds to it. Of each peer the way that is the fastest for many events. Over gRPC \
                      the service runs without its relay, and with the allocator that it is deployed with, where all \
                      others have the C library's: with that one they would take a fifth less processor time. It has one worker \
                      thread, as it is deployed, and all others have one for each core; its link-time optimisation it \
                      lacks, as all do. Users are young: a warm command does the same on an old one.\n\n";
const LATENCIES: &str = "By the clock, 64 users in turn, each answer's time counted from when its call was due, in \
                         milliseconds.\n\n";
const CONTENTION: &str = "Each client asks again as soon as it has its answer. Refused are commands whose caller would have \
                          to try again: the peers do not do so by themselves. That none is lost is a test (`tests/e2e/contention.rs`).\n\n";
const CEILINGS: &str = "64 clients on an endpoint that answers at once, a process of its own. Allocations are counted on \
                        one thread. `esa` refuses an endpoint that remembers nothing; `cqrs-es` and the recipe find an \
                        empty stream there, so they have nothing to fold.\n\n";
const QUERIES: &str = "16 clients; the floor is GetItem by the SDK as it comes.\n\n";
const LAGS: &str = "All three deployables, as processes, on one machine with the emulator. Relay and projector: requests an event; \
                    while there are few, polls have the greater part in them, which are of time (locally a shard is read \
                    50 times a second). The emulator looks ten times a second whether a queue has something for one who waits, \
                    which is most of the lag. The last row's worst is how long after the last reply all could be read.\n\n";
const REBUILD: &str = "`projector audit --repair` on empty read models against four readers who scan the events and do \
                       nothing with them.\n\n";

/// A line for each contender: what README shows.
fn short(results: &Results) -> Table {
    let mut table = Table::new(&[
        "",
        "requests",
        "RU",
        "WU",
        "$ a million",
        "on 10,000 events",
        "commands/s a core",
        "allocations",
    ]);
    let kinds = Kind::ALL.map(|kind| (kind.name(), kind.name()));
    for (name, counted_as) in kinds.into_iter().chain([(OVER_GRPC, Kind::Millrace.name())]) {
        let mut row = vec![name.to_owned()];
        if let Some(bill) = results.bill(counted_as, 100, false) {
            let units = [bill.requests, bill.read_units, bill.write_units, bill.dollars_a_million];
            row.extend(units.map(|number| format!("{number:.2}")));
        }
        let long = results.bill(counted_as, 10_000, false);
        row.push(long.map_or("fails".to_owned(), |bill| format!("{:.2}", bill.dollars_a_million)));
        let ceiling = results.ceiling(name);
        row.push(ceiling.map_or("–".to_owned(), |ceiling| format!("{:.0}", ceiling.speed.per_core())));
        let allocations = ceiling.and_then(|ceiling| ceiling.allocations);
        row.push(allocations.map_or("–".to_owned(), |of| format!("{:.0}", of.count)));
        table.row(row);
    }
    table
}

fn budgets(results: &Results) -> Table {
    let mut table = Table::new(&["what", "budget", "measured", "ratio", "met"]);
    for budget in &results.budgets {
        let ratio = if budget.ratio.is_finite() { format!("{:.2}", budget.ratio) } else { "0".to_owned() };
        let met = if budget.met { "yes" } else { "**no**" };
        table.row(vec![
            budget.what.clone(),
            budget.budget.clone(),
            budget.measured.clone(),
            ratio,
            met.to_owned(),
        ]);
    }
    table
}

fn costs(results: &Results) -> Table {
    let mut table =
        Table::new(&["contender", "events", "", "requests", "bytes read", "RU", "WU", "$ a million"]);
    for Cost { contender, length, cold, bill } in &results.costs {
        let warmth = if *cold { "cold" } else { "warm" };
        let mut row = vec![contender.clone(), length.to_string(), warmth.to_owned()];
        match bill {
            Ok(bill) => row.extend([
                format!("{:.2}", bill.requests),
                format!("{:.0}", bill.bytes_read),
                format!("{:.1}", bill.read_units),
                format!("{:.2}", bill.write_units),
                format!("{:.2}", bill.dollars_a_million),
            ]),
            Err(_) => row.extend(["fails", "–", "–", "–", "–"].map(str::to_owned)),
        }
        table.row(row);
    }
    table
}

/// Why some commands could not be counted.
fn failures(results: &Results) -> String {
    let failed = results.costs.iter().filter(|cost| cost.cold).filter_map(|cost| {
        let reason = cost.bill.as_ref().err()?;
        Some(format!("\n{} on {} events: {reason}.\n", cost.contender, cost.length))
    });
    failed.collect()
}

fn speed(speed: &Speed) -> [String; 4] {
    let service = speed.service_cpu_micros.map_or("–".to_owned(), |micros| format!("{micros:.0}"));
    let own = format!("{:.0}", speed.cpu_micros);
    [format!("{:.0}", speed.per_second), own, service, format!("{:.0}", speed.per_core())]
}

const OF_SPEED: [&str; 4] = ["calls/s", "µs CPU here", "µs CPU service", "calls/s a core"];

fn speeds(results: &Results) -> Table {
    let mut table = Table::new(&[&["contender", "aggregates"], &OF_SPEED[..]].concat());
    for measured in &results.speeds {
        let mut row = vec![measured.contender.clone(), measured.clients.to_string()];
        row.extend(speed(&measured.speed));
        table.row(row);
    }
    table
}

fn latency(latency: &Latency) -> [String; 4] {
    [latency.p50, latency.p90, latency.p99, latency.worst].map(|millis| format!("{millis:.1}"))
}

fn latencies(results: &Results) -> Table {
    let mut table = Table::new(&["contender", "commands/s", "p50", "p90", "p99", "worst"]);
    for answered in &results.latencies {
        let asked = format!("{:.0}", answered.latency.asked_per_second);
        let mut row = vec![answered.contender.clone(), asked];
        row.extend(latency(&answered.latency));
        table.row(row);
    }
    table
}

fn contention(results: &Results) -> Table {
    let mut table = Table::new(&["contender", "clients", "commands", "refused", "requests a command"]);
    for of in &results.contention {
        let requests = format!("{:.2}", of.requests_a_command);
        let (commands, refused) = (of.commands.to_string(), of.refused.to_string());
        table.row(vec![of.contender.clone(), AT_ONE.to_string(), commands, refused, requests]);
    }
    table
}

/// What contenders are capable of.
pub(crate) fn ceilings(all: &[Ceiling]) -> Table {
    let columns = ["allocations", "bytes allocated", "memory, MiB"];
    let mut table = Table::new(&[&["contender"], &OF_SPEED[..], &columns].concat());
    for ceiling in all {
        let mut row = vec![ceiling.contender.clone()];
        row.extend(speed(&ceiling.speed));
        let (count, bytes) = ceiling.allocations.map_or(("–".to_owned(), "–".to_owned()), |of| {
            (format!("{:.0}", of.count), format!("{:.0}", of.bytes))
        });
        let memory = ceiling.memory_mib.map_or("–".to_owned(), |mib| format!("{mib:.0}"));
        row.extend([count, bytes, memory]);
        table.row(row);
    }
    table
}

fn queries(results: &Results) -> Table {
    let mut table = Table::new(&[&["contender", "endpoint"], &OF_SPEED[..]].concat());
    for (endpoint, all) in [("local AWS", &results.queries), ("null", &results.queries_on_null)] {
        for measured in all {
            let mut row = vec![measured.contender.clone(), endpoint.to_owned()];
            row.extend(speed(&measured.speed));
            table.row(row);
        }
    }
    table
}

fn lags(results: &Results) -> Table {
    let mut table = Table::new(&["commands", "done/s", "p50", "p90", "p99", "worst", "relay", "projector"]);
    let mut row = |what: String, of: &Lag, times: [String; 4]| {
        let requests = [of.relay_requests(), of.projector_requests()].map(|n| format!("{n:.2}"));
        let done = format!("{:.0}", of.lag.per_second);
        table.row([vec![what, done], times.to_vec(), requests.to_vec()].concat());
    };
    row("one after the other".to_owned(), &results.idle, latency(&results.idle.lag));
    for lag in &results.lags {
        row(format!("{:.0}/s", lag.lag.asked_per_second), lag, latency(&lag.lag));
    }
    let unknown = ["–", "–", "–"].map(str::to_owned);
    let [p50, p90, p99] = unknown;
    let caught_up = format!("{:.1}", results.loaded.lag.worst);
    row("16 clients, as fast as can be".to_owned(), &results.loaded, [p50, p90, p99, caught_up]);
    table
}

fn rebuild(results: &Results) -> Table {
    let of = &results.rebuild;
    let mut table = Table::new(&["", "events", "rows", "seconds", "events/s"]);
    let mut row = |what: &str, rows: String, seconds: f64, per_second: f64| {
        let (seconds, per_second) = (format!("{seconds:.1}"), format!("{per_second:.0}"));
        table.row(vec![what.to_owned(), of.events.to_string(), rows, seconds, per_second]);
    };
    row("bare parallel scan", "–".to_owned(), of.scan_seconds, of.scanned_per_second());
    row("audit --repair", of.rows.to_string(), of.rebuild_seconds, of.per_second());
    table
}

fn processes(results: &Results) -> Table {
    let mut table = Table::new(&["deployable", "start to SERVING, s", "idle memory, MiB"]);
    for started in &results.started {
        let (seconds, memory) = (format!("{:.2}", started.seconds), format!("{:.0}", started.idle_mib));
        table.row(vec![started.deployable.clone(), seconds, memory]);
    }
    table
}

/// Dollars by contender and length: a warm command of those that keep something in memory or in snapshots.
fn dollars(results: &Results) -> Chart {
    let mut chart =
        Chart::new("Dollars for a million commands, by events of the aggregate", "$").cut_beyond(5.0);
    for kind in Kind::ALL {
        let bars = LENGTHS.map(|length| {
            let bill = results.bill(kind.name(), length, false);
            (format!("{length}"), bill.map(|bill| bill.dollars_a_million))
        });
        chart.group(kind.name(), kind == Kind::Millrace, bars.to_vec());
    }
    chart
}

fn per_core(results: &Results) -> Chart {
    let mut chart = Chart::new("Commands a second of one core, on an endpoint that answers at once", "/s");
    for ceiling in &results.ceilings {
        let ours = [Kind::Millrace.name(), OVER_GRPC].contains(&ceiling.contender.as_str());
        chart.group(&ceiling.contender, ours, vec![(String::new(), Some(ceiling.speed.per_core()))]);
    }
    chart
}

fn lag(results: &Results) -> Chart {
    let mut chart = Chart::new("From a command's reply until a query shows it", "ms");
    let bars = |lag: &Latency| {
        vec![
            ("p50".to_owned(), Some(lag.p50)),
            ("p90".to_owned(), Some(lag.p90)),
            ("p99".to_owned(), Some(lag.p99)),
        ]
    };
    chart.group("one by one", true, bars(&results.idle.lag));
    for lag in &results.lags {
        chart.group(&format!("{:.0} commands/s", lag.lag.asked_per_second), true, bars(&lag.lag));
    }
    chart
}
