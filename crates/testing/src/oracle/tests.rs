//! Tests of the oracle itself: it finds every broken promise.

use std::collections::BTreeMap;

use millrace_core::{
    Aggregate, AggregateType, AggregatingProjection, Application, Change, Envelope, EvolveError, Patch,
    Projection, ProjectionName, Recorded, Rejection, Row, Timestamp, UniqueKey, row::StoredRow,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::{aggregate_id, assert_codec, given, history, project, recorded, stream_of, time_of};

millrace_core::uuid_id! {
    /// An account.
    pub struct AccountId;
}

/// An account with a number that it alone has.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    number: u64,
    branch: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AccountEvent {
    Opened(Opened),
    Moved(Moved),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opened {
    number: u64,
    branch: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moved {
    branch: String,
}

#[derive(Debug, PartialEq)]
pub(crate) enum AccountError {
    Unknown,
}

impl From<AccountError> for Rejection {
    fn from(_: AccountError) -> Self {
        Self::NotFound
    }
}

impl Aggregate for Account {
    const TYPE: AggregateType = AggregateType::new("account");
    const STATE_SCHEMA: u32 = 1;
    type Command = AccountEvent;
    type Event = AccountEvent;
    type Error = AccountError;

    fn decide(
        state: Option<&Self>,
        command: &AccountEvent,
        _: Timestamp,
    ) -> Result<Vec<AccountEvent>, AccountError> {
        match (state, command) {
            (None, AccountEvent::Moved(_)) => Err(AccountError::Unknown),
            (None | Some(_), event) => Ok(vec![event.clone()]),
        }
    }

    fn evolve(state: Option<Self>, event: &AccountEvent) -> Result<Self, EvolveError> {
        match (state, event.clone()) {
            (None, AccountEvent::Opened(Opened { number, branch })) => Ok(Self { number, branch }),
            (Some(account), AccountEvent::Moved(Moved { branch })) => Ok(Self { branch, ..account }),
            (Some(_), AccountEvent::Opened(_)) => Err(EvolveError("an account is opened once")),
            (None, AccountEvent::Moved(_)) => Err(EvolveError("an account is opened before it moves")),
        }
    }

    fn unique_keys(&self) -> Vec<UniqueKey> {
        vec![UniqueKey { scope: "account.number", value: self.number.to_string() }]
    }
}

millrace_proto::json_event_codec! {
    AccountEvent { Opened = 1, Moved = 1 }
}

/// An account as queries show it.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "account", key = account_id, lookup(name = "by-branch", by = branch))]
pub(crate) struct AccountRow {
    account_id: AccountId,
    branch: String,
}

impl Projection for AccountRow {
    const NAME: ProjectionName = ProjectionName::new("accounts", 1);
    type Aggregate = Account;
    type Row = Self;

    fn apply(event: &Recorded<AccountEvent>) -> Change<Self> {
        match &event.event {
            AccountEvent::Opened(Opened { branch, .. }) => {
                Change::Put(Self { account_id: event.aggregate_id(), branch: branch.clone() })
            }
            AccountEvent::Moved(Moved { branch }) => {
                Change::Update(Patch::new().set(Self::BRANCH, branch.clone()))
            }
        }
    }
}

/// The numbers of all accounts of a branch, added up. The branch is named by the number of its letters, as an id of rows
/// is to be read.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "branch", key = branch)]
pub(crate) struct Branch {
    branch: AccountId,
    accounts: u64,
    sum: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct BranchPart {
    branch: AccountId,
    number: u64,
}

fn branch(name: &str) -> AccountId {
    aggregate_id(name.len() as u128)
}

impl AggregatingProjection for Branch {
    const NAME: ProjectionName = ProjectionName::new("branches", 1);
    type Aggregate = Account;
    type Row = Self;
    type Part = BranchPart;

    fn part(part: Option<BranchPart>, event: &Recorded<AccountEvent>) -> Option<BranchPart> {
        match (&event.event, part) {
            (AccountEvent::Opened(Opened { number, branch: name }), _) => {
                Some(BranchPart { branch: branch(name), number: *number })
            }
            (AccountEvent::Moved(Moved { branch: name }), part) => {
                part.map(|part| BranchPart { branch: branch(name), ..part })
            }
        }
    }

    fn row_of(part: &BranchPart) -> AccountId {
        part.branch
    }

    fn fold(
        row: Option<Self>,
        id: &AccountId,
        before: Option<&BranchPart>,
        after: Option<&BranchPart>,
    ) -> Self {
        let mut row = row.unwrap_or(Self { branch: *id, accounts: 0, sum: 0 });
        if let Some(part) = before {
            (row.accounts, row.sum) = (row.accounts - 1, row.sum - part.number);
        }
        if let Some(part) = after {
            (row.accounts, row.sum) = (row.accounts + 1, row.sum + part.number);
        }
        row
    }
}

pub(crate) fn bank() -> Application {
    Application::new("bank")
        .aggregate::<Account>()
        .projection::<AccountRow>()
        .aggregating_projection::<Branch>()
        .build()
        .unwrap()
}

pub(crate) fn opened(number: u64, branch: &str) -> AccountEvent {
    AccountEvent::Opened(Opened { number, branch: branch.to_owned() })
}

pub(crate) fn moved(branch: &str) -> AccountEvent {
    AccountEvent::Moved(Moved { branch: branch.to_owned() })
}

fn ann() -> Vec<Envelope> {
    history(&stream_of::<Account>(1), &[opened(7, "A"), moved("BB"), moved("A")])
}

fn bob() -> Vec<Envelope> {
    history(&stream_of::<Account>(2), &[opened(5, "A")])
}

fn oracle(events: Vec<Envelope>) -> Oracle {
    Oracle::new(&bank(), events).unwrap()
}

fn violation(events: Vec<Envelope>) -> String {
    Oracle::new(&bank(), events).unwrap_err().to_string()
}

/// Rows as a store would have them that is right.
fn found(oracle: &Oracle) -> FoundRows {
    let rows = oracle.rows().unwrap().into_iter();
    let row = |place: RowPlace, row: ExpectedRow| {
        let (version, provenance) = (*row.versions.end(), row.provenances.last().cloned());
        (place.clone(), StoredRow { key: place.key, version, attributes: row.attributes, provenance })
    };
    rows.map(|(place, expected)| row(place, expected)).collect()
}

#[test]
fn events_are_stored_as_they_are() {
    assert_codec(&[opened(7, "A"), moved("B")]);
}

#[test]
#[should_panic(expected = "no example of the event type Moved")]
fn a_codec_without_an_example_of_each_type_is_not_tested() {
    assert_codec(&[opened(7, "A")]);
}

#[test]
fn rules_are_told_apart() {
    given::<Account>(&[]).when(opened(7, "A")).then(&[opened(7, "A")]);
    given::<Account>(&[opened(7, "A")]).when(moved("B")).then(&[moved("B")]);
    given::<Account>(&[]).when(moved("B")).then_error(AccountError::Unknown);
}

#[test]
#[should_panic(expected = "event 2 of the history does not fit")]
fn a_history_that_cannot_be_is_no_given() {
    given::<Account>(&[opened(7, "A"), opened(7, "A")]);
}

#[test]
#[should_panic(expected = "`decide` yields what `evolve` refuses: an account is opened once")]
fn a_decision_that_evolve_refuses_is_found() {
    given::<Account>(&[opened(7, "A")]).when(opened(7, "A")).then(&[opened(7, "A")]);
}

#[test]
fn projections_of_all_kinds_make_their_rows() {
    let row = |name: &str| Some(AccountRow { account_id: aggregate_id(1), branch: name.to_owned() });
    project::<AccountRow, _>(&[opened(7, "A")]).then(row("A"));
    project::<AccountRow, _>(&[opened(7, "A"), moved("BB")]).then(row("BB"));
    let sum = |name: &str, accounts, sum| Branch { branch: branch(name), accounts, sum };
    project::<Branch, _>(&[opened(7, "A")])
        .and(&[opened(5, "A"), moved("BB"), moved("A")])
        .and(&[opened(3, "BB")])
        .then_rows(&[sum("A", 2, 12), sum("BB", 1, 3)]);
}

#[test]
fn a_history_that_breaks_a_promise_is_found() {
    let mut backwards = ann();
    backwards.reverse();
    assert_eq!(oracle(backwards), oracle(ann()), "in whatever order they are read");

    assert!(violation(vec![ann().remove(0), ann().remove(2)]).contains("I3"), "a gap");
    let mut again = ann();
    again[2].command_id = again[0].command_id.clone();
    assert!(violation(again).contains("I2"), "a command that was done before another one");
    let mut same = ann();
    same[2].event_id = same[1].event_id;
    assert!(violation(same).contains("two events have the id"));
    let mut misfit = ann();
    misfit.splice(1..2, [recorded(&stream_of::<Account>(1), 2, time_of(2), &opened(9, "A"))]);
    assert!(violation(misfit).contains("opened once"));
    let both = [ann(), history(&stream_of::<Account>(2), &[opened(7, "C")])].concat();
    assert!(violation(both).contains("I6"));
    let mut stranger = bob();
    stranger[0].aggregate_type = AggregateType::new("stranger");
    assert!(violation(stranger).contains("no registered aggregate"));
}

#[test]
fn two_events_of_one_command_are_one_command() {
    let mut events = ann();
    events[1].command_id = events[0].command_id.clone();
    assert_eq!(oracle(events).events().count(), 3);
}

#[test]
fn a_row_that_is_missing_wrong_or_too_many_is_named() {
    let all = oracle([ann(), bob()].concat());
    let (expected, right) = (all.rows().unwrap(), found(&all));
    assert_eq!(expected.len(), 6, "two accounts, two branches, two parts");
    assert_eq!(differences(&expected, &right), [] as [String; 0]);
    for place in expected.keys() {
        let differences_with = |change: &dyn Fn(&mut StoredRow)| {
            let mut rows = right.clone();
            rows.entry(place.clone()).and_modify(change);
            differences(&expected, &rows).join("\n")
        };
        let mut less = right.clone();
        less.remove(place);
        let is_left = expected[place].may_be_missing();
        assert_eq!(differences(&expected, &less).len(), usize::from(!is_left), "{place:?}");
        let mut fewer = expected.clone();
        fewer.remove(place);
        assert!(differences(&fewer, &right)[0].contains("should not be there"), "{place:?}");
        assert!(differences_with(&|row| row.version += 1).contains("the version is"), "{place:?}");
        assert!(
            differences_with(&|row| row.provenance = None).contains("the provenance is None"),
            "{place:?}"
        );
        let more = |row: &mut StoredRow| drop(row.attributes.insert("More".to_owned(), json!(1)));
        assert!(differences_with(&more).contains("More is Some(Number(1)), not None"), "{place:?}");
        let fewer = |row: &mut StoredRow| row.attributes.clear();
        assert!(is_left || differences_with(&fewer).contains("is None, not Some"), "{place:?}");
    }
}

#[test]
fn a_row_that_goes_back_or_is_as_it_never_was_is_found() {
    let states = oracle(ann()).states().unwrap();
    let is_account = |place: &RowPlace| place.projection == AccountRow::NAME;
    let rows = |version: usize| -> FoundRows {
        let rows = found(&oracle(ann()[..version].to_vec()));
        rows.into_iter().filter(|(place, _)| is_account(place)).collect()
    };
    let watch = |looks: &[FoundRows]| {
        let mut sightings = Sightings::default();
        let noted = looks.iter().try_for_each(|rows| sightings.note(rows.clone()));
        noted.and_then(|()| sightings.check(&states)).map_err(|violation| violation.to_string())
    };
    watch(&[FoundRows::new(), rows(1), rows(1), rows(3)]).unwrap();
    assert!(watch(&[rows(3), rows(2)]).unwrap_err().contains("from version 3 back to 2"));
    assert!(watch(&[rows(1), FoundRows::new()]).unwrap_err().contains("is gone"));
    let mut mixed = rows(2);
    mixed.values_mut().for_each(|row| row.attributes = rows(1).values().next().unwrap().attributes.clone());
    assert!(watch(&[mixed]).unwrap_err().contains("as it never was"));
    let mut sightings = Sightings::default();
    sightings.note(rows(1)).unwrap();
    assert!(sightings.check(&BTreeMap::new()).unwrap_err().to_string().contains("of no stream"));
    let sums = |version: usize| -> FoundRows {
        let rows = found(&oracle(ann()[..version].to_vec()));
        rows.into_iter().filter(|(place, _)| !is_account(place) && !place.is_part).collect()
    };
    watch(&[sums(1), sums(3)]).unwrap();
    let mut back = sums(3);
    back.values_mut().for_each(|row| row.version = 1);
    assert!(watch(&[sums(3), back]).unwrap_err().contains("back to 1"), "a sum's version only rises");
}
