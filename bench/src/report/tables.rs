//! The tables of a report.

use super::table::Table;
use crate::{
    contender::Kind,
    costs::Cost,
    judged::Judged,
    load::{Latency, Speed},
    path::Lag,
    results::Results,
    speeds::{AT_ONE, Ceiling, OVER_GRPC},
};

/// A line for each contender: the table of docs/measured.md.
pub(super) fn short(results: &Results) -> Table {
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

pub(super) fn budgets(results: &Judged) -> Table {
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

pub(super) fn costs(results: &Results) -> Table {
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
pub(super) fn failures(results: &Results) -> String {
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

pub(super) fn speeds(results: &Results) -> Table {
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

pub(super) fn latencies(results: &Results) -> Table {
    let mut table = Table::new(&["contender", "commands/s", "p50", "p90", "p99", "worst"]);
    for answered in &results.latencies {
        let asked = format!("{:.0}", answered.latency.asked_per_second);
        let mut row = vec![answered.contender.clone(), asked];
        row.extend(latency(&answered.latency));
        table.row(row);
    }
    table
}

pub(super) fn contention(results: &Results) -> Table {
    let mut table = Table::new(&["contender", "clients", "commands", "refused", "requests a command"]);
    for of in &results.contention {
        let requests = format!("{:.2}", of.requests_a_command);
        let (commands, refused) = (of.commands.to_string(), of.refused.to_string());
        table.row(vec![of.contender.clone(), AT_ONE.to_string(), commands, refused, requests]);
    }
    table
}

/// The contenders' capacities.
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

pub(super) fn queries(results: &Results) -> Table {
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

pub(super) fn lags(results: &Results) -> Table {
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

pub(super) fn rebuild(results: &Results) -> Table {
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

pub(super) fn processes(results: &Results) -> Table {
    let mut table = Table::new(&["deployable", "start to SERVING, s", "idle memory, MiB"]);
    for started in &results.started {
        let (seconds, memory) = (format!("{:.2}", started.seconds), format!("{:.0}", started.idle_mib));
        table.row(vec![started.deployable.clone(), seconds, memory]);
    }
    table
}
