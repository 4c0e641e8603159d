//! The charts of a report.

use super::chart::Chart;
use crate::{contender::Kind, costs::LENGTHS, load::Latency, results::Results, speeds::OVER_GRPC};

/// Dollars by contender and length: a warm command of those that keep something in memory or in snapshots.
pub(super) fn dollars(results: &Results) -> Chart {
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

pub(super) fn per_core(results: &Results) -> Chart {
    let mut chart = Chart::new("Commands a second of one core, on an endpoint that answers at once", "/s");
    for ceiling in &results.ceilings {
        let ours = [Kind::Millrace.name(), OVER_GRPC].contains(&ceiling.contender.as_str());
        chart.group(&ceiling.contender, ours, vec![(String::new(), Some(ceiling.speed.per_core()))]);
    }
    chart
}

pub(super) fn lag(results: &Results) -> Chart {
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
