//! Settings of traces: OpenTelemetry's own variables, where they make sense here (OpenTelemetry, "Environment Variable
//! Specification" and "OTLP Exporter Configuration").

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// The destination of spans, and the sampling of traces.
#[derive(Debug, Clone, Args)]
pub struct TraceSettings {
    /// Where spans are sent by OTLP over gRPC, such as http://collector:4317 [default: nowhere].
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = endpoint)]
    pub otel_exporter_otlp_endpoint: Option<Uri>,

    /// The protocol, of which there is one.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_enum, default_value_t = Protocol::Grpc)]
    pub otel_exporter_otlp_protocol: Protocol,

    /// Headers by which the collector knows the sender: name=value, with commas between them. A secret.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true)]
    pub otel_exporter_otlp_headers: Option<Headers>,

    /// Certificates of the authorities that are trusted for an endpoint of https, in PEM [default: the machine's].
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE")]
    pub otel_exporter_otlp_certificate: Option<PathBuf>,

    /// How long the collector has for its answer, in milliseconds.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub otel_exporter_otlp_timeout: u64,

    /// The name of the process in traces [default: the deployable's name].
    #[arg(long, env = "OTEL_SERVICE_NAME", value_parser = crate::values::non_empty)]
    pub otel_service_name: Option<String>,

    /// Which traces are recorded that begin here. Where a caller sends a traceparent, its flag alone decides.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_enum, default_value_t = Sampler::TraceIdRatio)]
    pub otel_traces_sampler: Sampler,

    /// How many of them, from 0 to 1, where the sampler is parentbased_traceidratio.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = Ratio(0.1))]
    pub otel_traces_sampler_arg: Ratio,
}

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
}

/// The sampling of traces that begin here. Every sampler is parent-based: a caller's decision is never overruled, since
/// half of a trace is of little use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sampler {
    /// All.
    #[value(name = "parentbased_always_on")]
    AlwaysOn,
    /// None.
    #[value(name = "parentbased_always_off")]
    AlwaysOff,
    /// A part.
    #[value(name = "parentbased_traceidratio")]
    TraceIdRatio,
}

/// A part of all, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl FromStr for Ratio {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim().parse().ok().filter(|number| (0.0..=1.0).contains(number));
        number.map(Self).ok_or("must be a number from 0 to 1")
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Headers as they were written. They are secrets, so none is ever shown. Any text is accepted at first, since clap
/// repeats values that it refuses.
#[derive(Clone)]
pub struct Headers(String);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers(…)")
    }
}

impl From<String> for Headers {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Headers {
    fn read(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        for pair in self.0.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let name: HeaderName = name.trim().to_lowercase().parse().ok()?;
            let mut value = HeaderValue::from_bytes(&unescaped(value.trim())?).ok()?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Some(headers)
    }
}

/// A value in which `%20` and the like stand for bytes (W3C Baggage, section 3.3.1.3, to which OpenTelemetry refers).
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(plain)
}

/// Reads the endpoint of the collector.
fn endpoint(text: &str) -> Result<Uri, String> {
    const BAD: &str = "must be the URL of a collector, such as http://collector:4317";
    let url: Uri = text.trim().parse().map_err(|_| BAD.to_owned())?;
    let is_whole = matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some();
    // A name and password in it would be logged.
    let is_plain = url.authority().is_none_or(|authority| !authority.as_str().contains('@'));
    if is_whole && is_plain { Ok(url) } else { Err(BAD.to_owned()) }
}

impl TraceSettings {
    /// The conflicts between values, each in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let is_https = |url: &Uri| url.scheme_str() == Some("https");
        let in_vain = self.otel_exporter_otlp_certificate.is_some()
            && !self.otel_exporter_otlp_endpoint.as_ref().is_some_and(is_https);
        let in_vain = in_vain.then(|| {
            "OTEL_EXPORTER_OTLP_CERTIFICATE is for an OTEL_EXPORTER_OTLP_ENDPOINT of https".to_owned()
        });
        self.headers().err().map(str::to_owned).into_iter().chain(in_vain).collect()
    }

    /// The headers for the collector.
    pub(super) fn headers(&self) -> Result<HeaderMap, &'static str> {
        let Some(headers) = &self.otel_exporter_otlp_headers else { return Ok(HeaderMap::new()) };
        headers.read().ok_or("OTEL_EXPORTER_OTLP_HEADERS must be name=value, with commas between them")
    }

    /// The collector's time to answer.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.otel_exporter_otlp_timeout)
    }

    /// The part of the traces beginning here that is recorded.
    pub(super) fn ratio(&self) -> f64 {
        match self.otel_traces_sampler {
            Sampler::AlwaysOn => 1.0,
            Sampler::AlwaysOff => 0.0,
            Sampler::TraceIdRatio => self.otel_traces_sampler_arg.0,
        }
    }

    /// The authorities to trust, if a file holds them.
    pub(super) fn authorities(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(file) = &self.otel_exporter_otlp_certificate else { return Ok(None) };
        let read = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Ok(Some(read))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Config {
        #[command(flatten)]
        traces: TraceSettings,
    }

    fn read(args: &[&str]) -> Result<TraceSettings, String> {
        let args = std::iter::once("program").chain(args.iter().copied());
        Config::try_parse_from(args).map(|config| config.traces).map_err(|error| error.to_string())
    }

    #[test]
    fn by_default_nothing_is_sent_and_a_tenth_would_be() {
        let settings = read(&[]).unwrap();
        assert!(settings.otel_exporter_otlp_endpoint.is_none());
        assert!((settings.ratio() - 0.1).abs() < f64::EPSILON);
    }

    #[test]
    fn samplers_have_their_names_by_the_standard_and_no_other_protocol_is_taken() {
        for (args, ratio) in [
            (&["--otel-traces-sampler=parentbased_always_on"][..], 1.0),
            (&["--otel-traces-sampler=parentbased_always_off"], 0.0),
            (&["--otel-traces-sampler=parentbased_traceidratio", "--otel-traces-sampler-arg=0.5"], 0.5),
            (&["--otel-traces-sampler=parentbased_always_on", "--otel-traces-sampler-arg=0"], 1.0),
        ] {
            assert!((read(args).unwrap().ratio() - ratio).abs() < f64::EPSILON, "{args:?}");
        }
        for wrong in [
            "--otel-traces-sampler=always_on",
            "--otel-traces-sampler-arg=2",
            "--otel-traces-sampler-arg=NaN",
            "--otel-exporter-otlp-protocol=http/protobuf",
        ] {
            assert!(read(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_without_secrets() {
        for good in ["http://collector:4317", "https://otlp.example", "http://[::1]:4317/"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "collector:4317", "ftp://collector", "http://", "http://me:secret@collector"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_are_read_and_never_shown_even_where_they_are_wrong() {
        let flag = |text: &str| read(&[&format!("--otel-exporter-otlp-headers={text}")]).unwrap();
        let headers = flag("Authorization=Bearer%20abc, x-team = a=b ,").headers().unwrap();
        assert_eq!(headers["authorization"], "Bearer abc");
        assert_eq!(headers["x-team"], "a=b");
        for secret in ["secret", "a secret=c", "secret=%zz", "a=secret%2"] {
            let settings = flag(secret);
            let problems = settings.problems();
            assert!(
                problems.len() == 1
                    && !problems[0].contains("secret")
                    && !format!("{settings:?}").contains("secret")
            );
        }
    }

    #[test]
    fn authorities_are_for_an_endpoint_of_https() {
        let file = "--otel-exporter-otlp-certificate=ca.pem";
        for (endpoint, wrong) in [("http://collector", 1), ("https://collector", 0)] {
            let endpoint = format!("--otel-exporter-otlp-endpoint={endpoint}");
            assert_eq!(read(&[file, &endpoint]).unwrap().problems().len(), wrong);
        }
        assert_eq!(read(&[file]).unwrap().problems().len(), 1);
    }
}
