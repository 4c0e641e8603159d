//! The budgets that Millrace was built to, each held against a measurement of the same run.

use serde::Serialize;

use crate::{contender::Kind, load::as_f64, results::Results, speeds::OVER_GRPC};

/// A budget.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Budget {
    pub(crate) what: String,
    pub(crate) budget: String,
    pub(crate) measured: String,
    /// The measurement as a part of the most allowed (or the least required as a part of the measurement): met up to 1.
    pub(crate) ratio: f64,
    pub(crate) met: bool,
}

/// At most so much.
fn at_most(what: &str, limit: f64, measured: f64, unit: &str) -> Budget {
    Budget {
        what: what.to_owned(),
        budget: format!("at most {limit} {unit}"),
        measured: format!("{measured:.2} {unit}"),
        ratio: measured / limit,
        met: measured <= limit,
    }
}

/// At least such a part of the floor.
fn of_floor(what: &str, part: f64, measured: f64, floor: f64) -> Budget {
    let reached = measured / floor;
    Budget {
        what: what.to_owned(),
        budget: format!("at least {part} of the floor"),
        measured: format!("{reached:.2} of the floor: {measured:.0}/s, floor {floor:.0}/s"),
        ratio: part / reached,
        met: reached >= part,
    }
}

/// All of them.
pub(crate) fn all(results: &Results) -> Vec<Budget> {
    let mut budgets = Vec::new();
    of_costs(results, &mut budgets);
    of_speed(results, &mut budgets);
    of_path(results, &mut budgets);
    for started in &results.started {
        let name = &started.deployable;
        budgets.push(at_most(&format!("{name}: start to SERVING"), 0.5, started.seconds, "s"));
        budgets.push(at_most(&format!("{name}: idle memory"), 40.0, started.idle_mib, "MiB"));
    }
    budgets
}

fn of_costs(results: &Results, budgets: &mut Vec<Budget>) {
    let name = Kind::Millrace.name();
    if let Some(warm) = results.bill(name, 1, false) {
        // Sixteen commands bring a short stream to its first snapshot, of 2 WU at most.
        let sent = warm.operations.get("Query").copied().unwrap_or(0.0) + warm.read_units;
        budgets.push(at_most("warm command, one event: requests", 1.0625, warm.requests, "requests"));
        budgets.push(at_most("warm command, one event: reads", 0.0, sent, "reads"));
        budgets.push(at_most("write units of a small event, with its index", 2.125, warm.write_units, "WU"));
    }
    if let Some(warm) = &results.unindexed {
        budgets.push(at_most("write units of a small event, without", 1.125, warm.write_units, "WU"));
    }
    if let Some(cold) = results.bill(name, 100, true) {
        budgets.push(at_most("cold command, 100 events", 3.0, cold.requests, "requests"));
    }
    if let Some(cold) = results.bill(name, 10_000, true) {
        budgets.push(at_most("cold command, 10,000 events", 3.0, cold.requests, "requests"));
        budgets.push(at_most("cold command, 10,000 events: read", 64.0, cold.bytes_read / 1024.0, "KB"));
    }
    for contention in results.contention.iter().filter(|c| c.contender.starts_with(name)) {
        let what = format!("16 clients on one aggregate ({})", contention.contender);
        budgets.push(at_most(&what, 2.0, contention.requests_a_command, "requests a command"));
    }
}

fn of_speed(results: &Results, budgets: &mut Vec<Budget>) {
    let (name, floor) = (Kind::Millrace.name(), Kind::Floor.name());
    let rate = |contender: &str| results.speed(contender, 64).map(|of| of.speed.per_second);
    for contender in [name, OVER_GRPC] {
        if let Some((measured, floor)) = rate(contender).zip(rate(floor)) {
            budgets.push(of_floor(
                &format!("commands/s, 64 aggregates ({contender})"),
                0.85,
                measured,
                floor,
            ));
        }
        let cpu = |contender: &str| results.ceiling(contender).map(|of| of.speed.own_cpu_micros());
        if let Some((measured, floor)) = cpu(contender).zip(cpu(floor)) {
            let what = format!("processor time a command ({contender})");
            let mut budget = at_most(&what, 1.5, measured / floor, "of the floor's");
            budget.measured =
                format!("{:.2} of the floor's: {measured:.0} µs, floor {floor:.0} µs", measured / floor);
            budgets.push(budget);
        }
    }
    if let [bare, query] = results.queries.as_slice() {
        let (measured, floor) = (query.speed.per_second, bare.speed.per_second);
        budgets.push(of_floor("GetUserProfile/s", 0.85, measured, floor));
    }
}

fn of_path(results: &Results, budgets: &mut Vec<Budget>) {
    let idle = &results.idle.lag;
    budgets.push(at_most("from reply to readable, idle stack: p50", 100.0, idle.p50, "ms"));
    budgets.push(at_most("from reply to readable, idle stack: p99", 300.0, idle.p99, "ms"));
    let loaded = &results.loaded;
    let what = format!("projector, loaded with {} events", as_f64(loaded.lag.answers));
    budgets.push(at_most(&what, 1.25, loaded.projector_requests(), "requests an event"));
}
