//! The metrics that the deployables serve, as processes that have worked, against the reference, the alerts, the
//! dashboard and the runbook's queries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use millrace_tests::{
    AwsStack, Replied as _, aws_stack, eventually,
    metrics::Metrics,
    process::{Deployable, Process, log_folder},
};
use serde_json::{Value, json};
use shop::contracts::{
    command::{
        UpdateOrderStatusRequest, order_command_service_client::OrderCommandServiceClient,
        user_command_service_client::UserCommandServiceClient,
    },
    query::{WatchOrderRequest, order_query_service_client::OrderQueryServiceClient},
    types::OrderStatus,
};
use tokio::sync::OnceCell;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    calls::{laptop, user},
    processes::ready,
};

/// Labels that scraping adds (`k8s/components/prometheus/scraping.yaml`).
const OF_SCRAPING: [&str; 3] = ["namespace", "pod", "app_kubernetes_io_name"];

/// The label of a histogram's buckets.
const BUCKET: &str = "le";

/// A metric's labels, each with the values that were seen.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// Metrics by their names.
type Served = BTreeMap<String, Labels>;

/// Each deployable's metrics after it has done some of all its work.
async fn served() -> &'static BTreeMap<Deployable, Served> {
    static SERVED: OnceCell<BTreeMap<Deployable, Served>> = OnceCell::const_new();
    SERVED.get_or_init(serve).await
}

async fn serve() -> BTreeMap<Deployable, Served> {
    let stack = aws_stack().await.unwrap();
    let logs = log_folder("metrics").unwrap();
    let mut running = BTreeMap::new();
    for deployable in Deployable::ALL {
        let log = logs.join(format!("{}.log", deployable.name()));
        running.insert(deployable, ready(deployable.command(&stack), &log).await);
    }
    work(&running[&Deployable::CommandService], &running[&Deployable::QueryService]).await;
    for process in running.values() {
        let mut health = HealthClient::new(process.channel().clone());
        let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        watched.message().await.unwrap().unwrap();
    }
    let guarded = Process::start(guarded(&stack, &logs), &logs.join("guarded.log")).await.unwrap();
    let guarding = eventually("metrics of what guards", async || {
        let metrics = by_name(&guarded.metrics().await.unwrap());
        GUARDING.iter().all(|name| metrics.contains_key(*name)).then_some(metrics)
    });
    let guarding = guarding.await;
    let mut served = BTreeMap::new();
    for (deployable, process) in &running {
        let metrics = eventually("metrics of all work", async || {
            let metrics = by_name(&process.metrics().await.unwrap());
            LAST.iter().all(|(of, name)| of != deployable || metrics.contains_key(*name)).then_some(metrics)
        });
        let mut metrics = metrics.await;
        // All of them guard the port in the same way.
        for name in GUARDING {
            let unguarded = metrics.insert(name.to_owned(), guarding[name].clone());
            assert_eq!(unguarded, None, "{name} where nothing guards");
        }
        served.insert(*deployable, metrics);
    }
    served
}

/// The metrics of TLS and of the authentication of callers.
const GUARDING: [&str; 6] = [
    "callers_total",
    "tls_handshakes_total",
    "tls_reloads_total",
    "tls_files_refused",
    "jwks_reads_total",
    "jwks_keys",
];

/// A process that is guarded by all that there is.
fn guarded(stack: &AwsStack, folder: &Path) -> Command {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    // The public key of RFC 7517, appendix A.1.
    let keys = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }]});
    let files = [
        ("TLS_CERT_FILE", "tls.crt", certified.cert.pem()),
        ("TLS_KEY_FILE", "tls.key", certified.signing_key.serialize_pem()),
        ("JWT_JWKS_FILE", "jwks.json", keys.to_string()),
    ];
    let mut command = Deployable::QueryService.command(stack);
    command.env("JWT_ISSUER", "https://issuer.example").env("JWT_AUDIENCE", "millrace");
    for (variable, name, content) in files {
        fs::write(folder.join(name), content).unwrap();
        command.env(variable, folder.join(name));
    }
    command
}

/// Metrics that appear only after the replies.
const LAST: [(Deployable, &str); 7] = [
    (Deployable::CommandService, "rpc_stream_seconds"),
    (Deployable::Projector, "rpc_stream_seconds"),
    (Deployable::CommandService, "relay_lag_seconds"),
    (Deployable::CommandService, "relay_behind_seconds"),
    (Deployable::Projector, "projector_lag_seconds"),
    (Deployable::Projector, "projector_dead_letter_messages"),
    (Deployable::QueryService, "rpc_stream_seconds"),
];

/// Two commands, a query that waits for them, and a watch that sees a change.
async fn work(command: &Process, query: &Process) {
    let mut users = UserCommandServiceClient::new(command.channel().clone());
    let mut orders = OrderCommandServiceClient::new(command.channel().clone());
    let mut queries = OrderQueryServiceClient::new(query.channel().clone());
    let john = users.create_user(user("john.doe@example.com")).await.unwrap().reply();
    let order = orders.create_order(laptop(&john.aggregate_id)).await.unwrap().reply();
    let after = order.after();
    let watch = WatchOrderRequest { order_id: order.aggregate_id.clone(), after, ..Default::default() };
    let mut watched = queries.watch_order(watch).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    let change = UpdateOrderStatusRequest {
        order_id: order.aggregate_id,
        status: OrderStatus::Processing.into(),
        ..Default::default()
    };
    orders.update_order_status(change).await.unwrap();
    watched.message().await.unwrap().unwrap();
}

/// Metrics with their labels; a histogram is one.
fn by_name(metrics: &Metrics) -> Served {
    let histograms: BTreeSet<&str> =
        metrics.series().filter_map(|(name, _)| name.strip_suffix("_bucket")).collect();
    let mut all = Served::new();
    for (name, labels) in metrics.series() {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = base.filter(|base| histograms.contains(base)).unwrap_or(name);
        let known = all.entry(name.to_owned()).or_default();
        for (label, value) in labels.into_iter().filter(|(label, _)| *label != BUCKET) {
            known.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
    all
}

fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The reference's table: metrics with the names of their labels, of each deployable.
fn documented() -> BTreeMap<Deployable, BTreeMap<String, BTreeSet<String>>> {
    let page = file("docs/reference/metrics.md");
    let table = page.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut all: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let of: &[Deployable] = match cells[2] {
            "all" => &Deployable::ALL,
            "command" => &[Deployable::CommandService],
            "projector" => &[Deployable::Projector],
            "query" => &[Deployable::QueryService],
            other => panic!("a metric of {other}"),
        };
        for written in cells[1].split('`').skip(1).step_by(2) {
            let (name, labels) = written.split_once('{').unwrap_or((written, ""));
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
            for deployable in of {
                let twice = all.entry(*deployable).or_default().insert(name.to_owned(), labels.clone());
                assert!(twice.is_none(), "{name} is documented twice");
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_served_is_documented_and_every_one_that_is_documented_is_served() {
    let documented = documented();
    for (deployable, served) in served().await {
        let served: BTreeMap<String, BTreeSet<String>> =
            served.iter().map(|(name, labels)| (name.clone(), labels.keys().cloned().collect())).collect();
        let of = deployable.name();
        for (name, labels) in &served {
            assert_eq!(documented[deployable].get(name), Some(labels), "{of} serves {name} and these labels");
        }
        for name in documented[deployable].keys() {
            assert!(served.contains_key(name), "{of} does not serve {name}, which the reference has");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_metric_has_more_series_than_it_should() {
    for (deployable, served) in served().await {
        for (name, labels) in served {
            for (label, values) in labels {
                let of = deployable.name();
                assert!(
                    values.len() <= 24,
                    "{of}: {name} has {} values of {label}: {values:?}",
                    values.len()
                );
            }
        }
    }
}

/// All queries that are written anywhere, with the place of each.
fn written() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let rules = YamlLoader::load_from_str(&file("k8s/components/prometheus/alerts.yaml")).unwrap();
    let list = |yaml: &Yaml| yaml.as_vec().unwrap().clone();
    for rule in list(&rules[0]["spec"]["groups"]).iter().flat_map(|group| list(&group["rules"])) {
        let text = |name: &str| rule[name].as_str().unwrap().to_owned();
        all.push((format!("alert {}", text("alert")), text("expr")));
    }
    let dashboard: Value = serde_json::from_str(&file("k8s/components/prometheus/dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((format!("panel {}", panel["title"]), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    let runbook = file("k8s/RUNBOOK.md");
    let blocks = runbook.split("```promql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    all.extend(blocks.map(|query| ("the runbook".to_owned(), query.to_owned())));
    all
}

/// A label that a query names, with the values that it tells apart.
type Label = (String, Vec<String>);

/// The metrics that a query asks for, with its conditions on their labels.
fn asked(query: &str) -> Vec<(String, Vec<Label>)> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut all = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find('{') {
        let name: String = rest[..at].chars().rev().take_while(|letter| is_of_name(*letter)).collect();
        let end = at + rest[at..].find('}').unwrap_or_else(|| panic!("a selector without an end: {query}"));
        let matchers = rest[at + 1..end].split("\",").map(|matcher| {
            let (label, value) = matcher.split_once('"').unwrap_or_else(|| panic!("{matcher} in {query}"));
            let label: String = label.trim().chars().take_while(|letter| is_of_name(*letter)).collect();
            let value = value.trim_end().trim_end_matches('"');
            let values: Vec<String> = value.split('|').map(str::to_owned).collect();
            let are_plain = values.iter().all(|value| value.chars().all(is_of_name));
            (label, if are_plain { values } else { Vec::new() })
        });
        all.push((name.chars().rev().collect(), matchers.collect()));
        rest = &rest[end + 1..];
    }
    all
}

/// The labels that a query groups by.
fn grouped_by(query: &str) -> Vec<String> {
    let groups = query.split(" by (").skip(1).map(|rest| rest.split(')').next().unwrap());
    groups.flat_map(|group| group.split(',').map(|label| label.trim().to_owned())).collect()
}

/// The metrics of all deployables together.
fn together(served: &BTreeMap<Deployable, Served>) -> Served {
    let mut all = Served::new();
    for (name, labels) in served.values().flatten() {
        let known = all.entry(name.clone()).or_default();
        for (label, values) in labels {
            known.entry(label.clone()).or_default().extend(values.iter().cloned());
        }
    }
    all
}

/// A query's violations, judged by the served metrics.
fn complaints(served: &Served, query: &str) -> Vec<String> {
    let (mut violations, mut labels) = (Vec::new(), BTreeSet::from(OF_SCRAPING));
    let asked = asked(query);
    if asked.is_empty() {
        violations.push("it asks for nothing".to_owned());
    }
    for (name, matchers) in &asked {
        let bucketed = name.strip_suffix("_bucket").filter(|base| served.contains_key(*base));
        labels.extend(bucketed.map(|_| BUCKET));
        let Some(known) = served.get(bucketed.unwrap_or(name)) else {
            violations.push(format!("nobody serves {name}"));
            continue;
        };
        labels.extend(known.keys().map(String::as_str));
        for (label, values) in matchers.iter().filter(|(label, _)| !OF_SCRAPING.contains(&label.as_str())) {
            let Some(seen) = known.get(label) else {
                violations.push(format!("{name} has no label {label}"));
                continue;
            };
            let never = values.iter().filter(|value| !seen.contains(*value));
            violations.extend(never.map(|value| format!("{name} never has {label}={value}")));
        }
    }
    let grouped = grouped_by(query);
    let unknown = grouped.iter().filter(|label| !labels.contains(label.as_str()));
    violations.extend(unknown.map(|label| format!("it groups by {label}, which is no label of its metrics")));
    violations
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_the_dashboard_and_the_runbook_ask_for_what_is_served() {
    let served = together(served().await);
    let written = written();
    assert!(written.len() > 100, "{} queries", written.len());
    for (place, query) in written {
        assert_eq!(complaints(&served, &query), [] as [String; 0], "{place}: {query}");
    }
}

#[test]
fn a_query_for_what_nobody_serves_is_found() {
    let labels = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let served = Served::from([
        ("calls_total".to_owned(), Labels::from([("code".to_owned(), labels(&["Ok", "Internal"]))])),
        ("calls_seconds".to_owned(), Labels::new()),
    ]);
    for good in [
        r#"sum by (namespace, code) (rate(calls_total{namespace="millrace", code=~"Ok|Internal"}[5m])) > 0"#,
        r#"histogram_quantile(0.9, sum by (le) (rate(calls_seconds_bucket{namespace="a"}[5m])))"#,
    ] {
        assert_eq!(complaints(&served, good), [] as [String; 0], "{good}");
    }
    for bad in [
        r#"rate(calls{code="Ok"}[5m])"#,
        r#"rate(calls_total{method="a"}[5m])"#,
        r#"rate(calls_total{code=~"Ok|Lost"}[5m])"#,
        r#"sum by (method) (rate(calls_total{code="Ok"}[5m]))"#,
        "vector(1)",
    ] {
        assert_eq!(complaints(&served, bad).len(), 1, "{bad}");
    }
}

#[test]
fn the_runbook_is_where_the_readme_says() {
    assert!(file("README.md").contains("](k8s/RUNBOOK.md)"));
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/RUNBOOK.md").is_file());
}
