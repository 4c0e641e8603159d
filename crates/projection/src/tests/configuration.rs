//! Configuration: names by convention, overrides, and settings that do not fit the registration.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;
use millrace_core::{
    Aggregate as _, Application, Change, Projection, ProjectionName, Recorded, RegistrationError,
};
use millrace_server::process::Unfinished;

use super::app::{Counter, CounterCard, Event, app};
use crate::{
    Config,
    config::{Choice, Tables},
    projections::labels,
    queue::QueueAddress,
};

const CARDS: ProjectionName = ProjectionName::new("counter-cards", 1);
const TOTALS: ProjectionName = ProjectionName::new("counter-totals", 1);
const GROUPS: ProjectionName = ProjectionName::new("group-totals", 1);

fn config(args: &[&str]) -> Config {
    Config::try_parse_from(["projector"].iter().chain(args)).unwrap()
}

/// Every table, and every queue, in the order of their projections.
fn names(args: &[&str]) -> (Tables, Vec<String>, Vec<QueueAddress>) {
    let (tables, queues) = config(args).resolve(&app()).unwrap();
    let rows = tables.rows.values().cloned().collect();
    assert!(tables.rows.keys().eq(&[CARDS, TOTALS, GROUPS]) && queues.keys().eq(&[CARDS, TOTALS, GROUPS]));
    (tables, rows, queues.into_values().collect())
}

fn by_name(names: [&str; 3]) -> Vec<QueueAddress> {
    names.map(|name| QueueAddress::Name(name.to_owned())).into()
}

#[test]
fn everything_is_named_from_the_prefix_which_is_the_applications_name() {
    for (args, prefix) in [(&[][..], "counting"), (&["--prefix", "eu-1"], "eu-1")] {
        let (tables, rows, queues) = names(args);
        let expected =
            ["counter-cards", "counter-totals", "group-totals"].map(|n| format!("{prefix}-{n}-v1"));
        assert_eq!(tables.events, format!("{prefix}-events"));
        assert_eq!(rows, expected);
        assert_eq!(queues, by_name(expected.each_ref().map(String::as_str)));
        assert_eq!((tables.shards.read.get(), tables.shards.write.get()), (4, 4));
    }
}

#[test]
fn each_name_can_be_another() {
    let (tables, rows, queues) = names(&[
        "--event-store-table=history",
        "--rows-tables=group-totals@1=the-groups,counter-cards@1=the-cards",
        "--queue-urls",
        "counter-totals@1=https://sqs/1/q",
        "--queue-urls=group-totals@1=https://sqs/1/g?a=b",
        "--index-shards-write=2",
        "--index-shards-read=8",
    ]);
    assert_eq!(tables.events, "history");
    assert_eq!(rows, ["the-cards", "counting-counter-totals-v1", "the-groups"]);
    let url = |url: &str| QueueAddress::Url(url.to_owned());
    assert_eq!(queues[1..], [url("https://sqs/1/q"), url("https://sqs/1/g?a=b")]);
    assert_eq!((tables.shards.read.get(), tables.shards.write.get()), (8, 2));
}

#[test]
fn an_override_of_no_projection_is_refused_with_those_that_there_are() {
    let args = [
        "--rows-tables=counter-cards@2=tab",
        "--queue-urls=totals@1=x",
        "--rows-tables=group-totals@1=one,group-totals@1=two",
        "--index-shards-read=2",
    ];
    let said = config(&args).resolve(&app()).unwrap_err().join("\n");
    for part in [
        "ROWS_TABLES: `counter-cards@2` is no projection of `counting`; registered are: counter-cards@1, \
         counter-totals@1, group-totals@1",
        "QUEUE_URLS: `totals@1` is no",
        "`group-totals@1` is given twice",
        "INDEX_SHARDS_READ is 2 and INDEX_SHARDS_WRITE is 4",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn values_that_are_none_are_refused() {
    for arg in [
        "--prefix=A",
        "--event-store-table=a b",
        "--rows-tables=counter-cards@1=a b",
        "--rows-tables=tab",
        "--queue-urls=counter-cards=x",
        "--index-shards-write=0",
    ] {
        assert!(Config::try_parse_from(["projector", arg]).is_err(), "{arg}");
    }
}

#[test]
fn a_process_whose_settings_do_not_fit_ends_with_2_before_it_begins() {
    let run = |app: Result<Application, RegistrationError>, args: &[&str]| {
        let code = crate::main(app, ["projector"].iter().chain(args).map(OsString::from));
        format!("{code:?}")
    };
    let refused = format!("{:?}", ExitCode::from(2));
    assert_eq!(run(Ok(app()), &["--rows-tables=cards@1=tab"]), refused);
    assert_eq!(run(Ok(app()), &["--rows-tables=tab"]), refused);
    assert_eq!(run(Ok(app()), &["audit", "--segments=0"]), refused);
    assert_eq!(run(Ok(app()), &["redrive", "--max=0"]), refused);
    assert_eq!(run(Err(RegistrationError::Empty("counting")), &[]), refused);
}

/// A second version of the cards, as in a rebuild.
enum NewCards {}

impl Projection for NewCards {
    const NAME: ProjectionName = ProjectionName::new("counter-cards", 2);
    type Aggregate = Counter;
    type Row = CounterCard;

    fn apply(event: &Recorded<Event>) -> Change<CounterCard> {
        CounterCard::apply(event)
    }
}

fn rebuilding() -> Application {
    Application::new("counting")
        .aggregate::<Counter>()
        .projection::<CounterCard>()
        .projection::<NewCards>()
        .build()
        .unwrap()
}

#[test]
fn a_label_is_the_name_unless_several_versions_run() {
    let shown = |app: &Application| labels(app).into_values().collect::<Vec<_>>();
    assert_eq!(shown(&app()), ["counter-cards", "counter-totals", "group-totals"]);
    assert_eq!(shown(&rebuilding()), ["counter-cards@1", "counter-cards@2"]);
    assert_eq!(rebuilding().projections()[1].source, Counter::TYPE);
}

#[test]
fn an_operator_chooses_projections_by_name() {
    let chosen = |app: &Application, named: Option<&str>| {
        let choice = Choice { projection: named.map(str::to_owned) };
        choice.of(app).map(|chosen| chosen.iter().map(|spec| spec.name.to_string()).collect::<Vec<_>>())
    };
    for (named, expected) in [
        (None, &["counter-cards@1", "counter-cards@2"][..]),
        (Some("counter-cards"), &["counter-cards@1", "counter-cards@2"]),
        (Some("counter-cards@2"), &["counter-cards@2"]),
    ] {
        assert_eq!(chosen(&rebuilding(), named).unwrap(), expected);
    }
    let Err(Unfinished::Misconfigured(error)) = chosen(&app(), Some("cards")) else { panic!("chosen") };
    assert!(error.to_string().contains("registered are: counter-cards@1, "), "{error}");
}
