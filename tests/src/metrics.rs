//! A process's metrics, read from its port.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// The longest that a process may take to show its metrics.
const METRICS_PATIENCE: Duration = Duration::from_secs(5);

/// The same just before a process is killed, when the wait must be short.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// More than they ever take, in bytes.
const MOST: usize = 8 << 20;

/// The value of every series, by its name and labels as they were shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// The metrics at an address, as host and port.
    pub async fn of(address: &str) -> anyhow::Result<Self> {
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let text = async {
            let reply = client.get(format!("http://{address}/metrics").parse()?).await?;
            ensure!(reply.status().is_success(), "the metrics are answered with {}", reply.status());
            let body = Limited::new(reply.into_body(), MOST).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            Ok(String::from_utf8(body.into())?)
        };
        Ok(Self::parse(&timeout(METRICS_PATIENCE, text).await.context("no metrics in time")??))
    }

    /// The text of the metrics at an address, read without waiting for anything else in this process.
    pub fn text_now(address: &str) -> io::Result<String> {
        let address = address.parse().map_err(io::Error::other)?;
        let mut connection = TcpStream::connect_timeout(&address, IMPATIENCE)?;
        connection.set_read_timeout(Some(IMPATIENCE))?;
        // HTTP/1.0: the answer ends with the connection.
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        connection.take(MOST as u64).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Reads Prometheus' text format, version 0.0.4. Millrace's own metrics have no times.
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// Every series: its name, and its labels.
    pub fn series(&self) -> impl Iterator<Item = (&str, BTreeMap<&str, &str>)> {
        self.0.keys().map(|series| {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // No value of ours needs escapes.
            let labels = labels.trim_end_matches('}').split("\",");
            let labels = labels.filter_map(|label| label.split_once("=\""));
            (name, labels.map(|(name, value)| (name, value.trim_end_matches('"'))).collect())
        })
    }

    /// The sum over a metric's series with this value of a label.
    pub fn sum_of(&self, name: &str, (label, value): (&str, &str)) -> f64 {
        let series = self.series().zip(self.0.values());
        let meant = series.filter(|((of, labels), _)| *of == name && labels.get(label) == Some(&value));
        meant.map(|(_, number)| number).sum()
    }

    /// The sum over all labels of a metric; 0 where there is none of that name.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = |series: &str| series.split('{').next() == Some(name);
        self.0.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_are_summed_up() {
        let text = "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{a=\"x y\"} 2\n\
                    calls_total{a=\"{\"} 3\n\ncalls_total_of_another 100\nready 1\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("calls_total"), 5.0);
        assert_eq!(metrics.sum_of("calls_total", ("a", "x y")), 2.0);
        assert_eq!(metrics.sum_of("calls_total", ("b", "x y")), 0.0);
        assert_eq!(metrics.sum("ready"), 1.0);
        assert_eq!(metrics.sum("calls"), 0.0);
    }

    #[test]
    fn a_series_has_a_name_and_labels() {
        let metrics = Metrics::parse("calls_total{method=\"/a/B\",code=\"Ok\"} 2\nready 1\n");
        let series: Vec<_> = metrics.series().collect();
        assert_eq!(series[0], ("calls_total", BTreeMap::from([("method", "/a/B"), ("code", "Ok")])));
        assert_eq!(series[1], ("ready", BTreeMap::new()));
    }
}
