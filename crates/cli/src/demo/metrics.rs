//! The counters of a deployable, as Prometheus would read them.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// One line of a metrics page.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    /// With its braces; empty where there are none.
    pub(super) labels: String,
    pub(super) value: f64,
}

/// Reads a metrics page.
pub(super) async fn read(address: &str) -> anyhow::Result<Vec<Sample>> {
    let page = timeout(PATIENCE, get(address)).await;
    let page = page.context("the deadline passed").flatten();
    Ok(samples(&page.with_context(|| format!("cannot read http://{address}/metrics"))?))
}

/// The sum of all samples of that name.
pub(super) fn sum(samples: &[Sample], name: &str) -> f64 {
    samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

/// A GET of HTTP/1.0, whose reply ends where the connection does: all that it takes here.
async fn get(address: &str) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await?;
    let (head, body) = reply.split_once("\r\n\r\n").context("not an HTTP reply")?;
    anyhow::ensure!(head.split(' ').nth(1) == Some("200"), "{}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

fn samples(page: &str) -> Vec<Sample> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_at(series.find('{').unwrap_or(series.len()));
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_names_labels_and_values() {
        let page = "# HELP a b\n# TYPE a counter\na 3\n\nb_total{x=\"y z\"} 1.5\nb_total{x=\"w\"} 2\n";
        let read = samples(page);
        assert_eq!(read.len(), 3);
        assert_eq!(read[1], Sample { name: "b_total".into(), labels: "{x=\"y z\"}".into(), value: 1.5 });
        assert_eq!((sum(&read, "a"), sum(&read, "b_total"), sum(&read, "c")), (3.0, 3.5, 0.0));
    }
}
