//! The whole report, in Markdown.

use std::fmt::Write as _;

use super::tables;
use crate::judged::Judged;

/// The whole report.
pub(crate) fn markdown(results: &Judged) -> String {
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
        ("In short", SHORT, tables::short(results)),
        ("Budgets", "", tables::budgets(results)),
        (COSTS_TITLE, COSTS, tables::costs(results)),
        ("Commands a second on the local AWS", SPEEDS, tables::speeds(results)),
        ("How long an answer takes", LATENCIES, tables::latencies(results)),
        ("Sixteen clients on one aggregate", CONTENTION, tables::contention(results)),
        ("The ceiling of the code", CEILINGS, tables::ceilings(&results.ceilings)),
        ("Queries by key", QUERIES, tables::queries(results)),
        ("From a reply until it can be read", LAGS, tables::lags(results)),
        ("Rebuilding", REBUILD, tables::rebuild(results)),
        ("Processes", "", tables::processes(results)),
    ] {
        let _ = write!(text, "\n## {title}\n\n{words}{table}");
        if title == COSTS_TITLE {
            text += &tables::failures(results);
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
