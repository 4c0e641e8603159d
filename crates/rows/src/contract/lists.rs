//! Lists, and reading them page by page.

use std::{cmp::Reverse, collections::HashSet};

use millrace_aws::AwsError;
use millrace_core::{TenantId, Timestamp, row::Position};
use uuid::Uuid;

use super::{
    Course, Desk,
    app::{Line, Ticket, Title, lines},
    at, eventually, ids, moved_to, opened_by, tenant,
};
use crate::{AuditRows, Filter, ListQuery, MAX_EXAMINED, TimeRange};

pub(super) async fn all<S: AuditRows>(desk: &Desk<'_, S>) {
    lists_are_newest_first_and_total(desk).await;
    pages_show_every_row_once(desk).await;
    a_range_of_times_includes_its_start_and_excludes_its_end(desk).await;
    a_row_is_listed_under_its_value_alone(desk).await;
    a_filter_compares_values_as_stored(desk).await;
    rows_that_pass_a_filter_are_shown_though_few_of_many_do(desk).await;
    rows_that_are_all_of_one_shard_are_shown(desk).await;
    rows_too_large_for_one_page_are_shown(desk).await;
}

/// An owner's rows, newest first.
struct Owned {
    tenant: TenantId,
    owner: String,
    rows: Vec<(Position, Course)>,
}

impl Owned {
    /// Opens tickets, three at each time.
    async fn new<S: AuditRows>(desk: &Desk<'_, S>, count: i64) -> Self {
        Self::of(desk, (0..count).map(|n| (Uuid::new_v4(), n / 3)), vec![]).await
    }

    async fn of<S: AuditRows>(
        desk: &Desk<'_, S>,
        tickets: impl IntoIterator<Item = (Uuid, i64)>,
        with: Vec<Line>,
    ) -> Self {
        let (tenant, owner) = (tenant(), Uuid::new_v4().to_string());
        let mut rows = Vec::new();
        for (id, time) in tickets {
            let mut course = Course::of(&tenant, id);
            let mut event = opened_by(&owner, "A", time);
            if let super::TicketEvent::Opened { lines, .. } = &mut event {
                lines.clone_from(&with);
            }
            desk.add(&mut course, &event).await;
            rows.push((Position { at: at(time), id: id.to_string() }, course));
        }
        rows.sort_by_key(|(position, _)| Reverse(position.clone()));
        Self { tenant, owner, rows }
    }

    /// The ids of those rows that are chosen.
    fn ids(&self, chosen: impl Fn(&Position) -> bool) -> Vec<String> {
        let chosen = self.rows.iter().filter(|(position, _)| chosen(position));
        chosen.map(|(position, _)| position.id.clone()).collect()
    }

    fn by_owner<S: AuditRows>(&self, desk: &Desk<'_, S>) -> ListQuery {
        desk.query("by-owner", &self.tenant, &self.owner)
    }

    /// The lists that all rows are on: one key of an index, and as many as there are shards.
    fn lists<S: AuditRows>(&self, desk: &Desk<'_, S>) -> [ListQuery; 2] {
        [self.by_owner(desk), desk.query("by-status", &self.tenant, "OPEN")]
    }
}

/// The ids on all pages of a list that follow a place.
async fn all_ids<S: AuditRows>(
    desk: &Desk<'_, S>,
    list: &ListQuery,
    mut before: Option<Position>,
    limit: u16,
) -> Result<Vec<String>, AwsError> {
    let (mut shown, mut seen) = (Vec::new(), HashSet::new());
    loop {
        let page = desk.store.page(list, before.as_ref(), limit).await?;
        assert!(page.rows.len() <= limit.into(), "no more than were asked for");
        let places =
            page.rows.iter().map(|row| row.position(list.list).expect("a row on a list has a place"));
        let places: Vec<_> = places.chain(page.end.clone()).collect();
        assert!(
            places.iter().all(|place| before.as_ref().is_none_or(|before| place < before)),
            "a step back"
        );
        assert!(places.is_sorted_by(|a, b| a >= b), "newest first, down to the end");
        assert!(page.rows.iter().all(|row| list.holds(row)), "what is not on the list");
        assert!(page.rows.iter().all(|row| seen.insert(row.key.clone())), "a row twice");
        shown.extend(ids(&page.rows));
        match page.end {
            Some(end) => before = Some(end),
            None => return Ok(shown),
        }
    }
}

/// Waits until all pages of a list hold these rows, with any page size.
async fn listed<S: AuditRows>(desk: &Desk<'_, S>, list: &ListQuery, expected: Vec<String>) {
    for limit in [100, 7, 1] {
        eventually(expected.clone(), || all_ids(desk, list, None, limit)).await;
    }
}

async fn lists_are_newest_first_and_total<S: AuditRows>(desk: &Desk<'_, S>) {
    let owned = Owned::new(desk, 23).await;
    let expected = owned.ids(|_| true);
    for list in owned.lists(desk) {
        listed(desk, &list, expected.clone()).await;
        let rest = async |before, limit| {
            all_ids(desk, &list, Some(before), limit).await.expect("the store can be reached")
        };
        for (reached, (position, _)) in (1..).zip(&owned.rows) {
            assert_eq!(rest(position.clone(), 4).await, expected[reached..]);
        }
        // A place without a row, at the time of the first two rows.
        let nowhere = Position { id: Uuid::max().to_string(), ..owned.rows[0].0.clone() };
        assert_eq!(rest(nowhere, 100).await, expected);
    }
    listed(desk, &desk.query("by-owner", &owned.tenant, "nobody"), vec![]).await;
}

async fn pages_show_every_row_once<S: AuditRows>(desk: &Desk<'_, S>) {
    let owned = Owned::new(desk, 60).await;
    let expected = owned.ids(|_| true);
    for list in owned.lists(desk) {
        for limit in [2, 3, 10, 59, 60, 61] {
            eventually(expected.clone(), || all_ids(desk, &list, None, limit)).await;
        }
    }
}

async fn a_range_of_times_includes_its_start_and_excludes_its_end<S: AuditRows>(desk: &Desk<'_, S>) {
    // The lowest and highest ids, at each time. Other tenants may have the same ids: lists are read by tenant.
    let tickets = (0..4_u32).flat_map(|n| {
        let id = u128::from(n);
        [(Uuid::from_u128(id), n.into()), (Uuid::from_u128(u128::MAX - id), n.into())]
    });
    let owned = Owned::of(desk, tickets, vec![]).await;
    for list in owned.lists(desk) {
        listed(desk, &list, owned.ids(|_| true)).await;
        for since in [None, Some(0), Some(1), Some(3), Some(4)] {
            for before in [None, Some(0), Some(1), Some(3), Some(4)] {
                let times = TimeRange { since: since.map(at), before: before.map(at) };
                let within = |time: Timestamp| times.contains(time);
                let chosen = owned.ids(|position| within(position.at));
                listed(desk, &ListQuery { times, ..list.clone() }, chosen).await;
            }
        }
    }
}

async fn a_row_is_listed_under_its_value_alone<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut owned = Owned::new(desk, 1).await;
    let by_owner = owned.by_owner(desk);
    desk.add(&mut owned.rows[0].1, &moved_to("DONE", 1)).await;
    for status in ["OPEN", "BUSY", "DONE"] {
        let expected = if status == "DONE" { owned.ids(|_| true) } else { vec![] };
        let filtered = ListQuery { filter: by_status(status), ..by_owner.clone() };
        for list in [desk.query("by-status", &owned.tenant, status), filtered] {
            listed(desk, &list, expected.clone()).await;
        }
    }
}

fn by_status(status: &str) -> Option<Filter> {
    Filter::by(Ticket::STATUS, &status.to_owned())
}

async fn a_filter_compares_values_as_stored<S: AuditRows>(desk: &Desk<'_, S>) {
    let owned = Owned::of(desk, [(Uuid::new_v4(), 7)], lines()).await;
    let title = |title: &str| Filter::by(Ticket::TITLE, &Title(title.to_owned()));
    let table = [
        // An index has it in lower case.
        (title("A"), true),
        (title("a"), false),
        (Filter::by(Ticket::OPENED_AT, &at(7)), true),
        (Filter::by(Ticket::OPENED_AT, &at(8)), false),
        (Filter::by(Ticket::LINES, &lines()), true),
        (Filter::by(Ticket::LINES, &lines()[1..].to_vec()), false),
        (Filter::by(Ticket::LABEL, &Some("A".to_owned())), false),
    ];
    for (filter, passes) in table {
        assert!(filter.is_some(), "a value that rows store");
        let list = ListQuery { filter, ..owned.by_owner(desk) };
        listed(desk, &list, owned.ids(|_| passes)).await;
    }
    assert_eq!(Filter::by(Ticket::LABEL, &None), None, "no row stores an absent value");
}

async fn rows_that_pass_a_filter_are_shown_though_few_of_many_do<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut owned = Owned::new(desk, i64::from(MAX_EXAMINED) + 60).await;
    let last = owned.rows.len() - 2;
    for n in [1, last] {
        desk.add(&mut owned.rows[n].1, &moved_to("DONE", 1)).await;
    }
    let (newest, oldest) = (owned.rows[1].0.clone(), owned.rows[last].0.clone());
    let list = |status| ListQuery { filter: by_status(status), ..owned.by_owner(desk) };
    listed(desk, &list("DONE"), vec![newest.id.clone(), oldest.id.clone()]).await;
    let page = desk.store.page(&list("DONE"), None, 20).await.expect("the store can be reached");
    assert_eq!(ids(&page.rows), [newest.id.as_str()], "no more than so many are looked at");
    assert_eq!(page.end.as_ref(), Some(&owned.rows[usize::from(MAX_EXAMINED) - 1].0));
    // A page may even be empty.
    let none = desk.store.page(&list("BUSY"), None, 20).await.expect("the store can be reached");
    assert!(none.rows.is_empty() && none.end.is_some());
    let others = owned.ids(|position| *position != newest && *position != oldest);
    let open = list("OPEN");
    eventually(others, || all_ids(desk, &open, None, 90)).await;
}

async fn rows_that_are_all_of_one_shard_are_shown<S: AuditRows>(desk: &Desk<'_, S>) {
    // Multiples of every number of shards up to ten; a few of another one.
    for stray in [0, 1, 9] {
        let ticket = |n: i64| {
            let id = Uuid::new_v4().as_u128() / 5_040 * 5_040 + u128::from(n < stray);
            (Uuid::from_u128(id), n * 7 % 45)
        };
        let owned = Owned::of(desk, (0..45).map(ticket), vec![]).await;
        for list in owned.lists(desk) {
            listed(desk, &list, owned.ids(|_| true)).await;
            for limit in [20, 44, 45, 46] {
                eventually(owned.ids(|_| true), || all_ids(desk, &list, None, limit)).await;
            }
        }
    }
}

async fn rows_too_large_for_one_page_are_shown<S: AuditRows>(desk: &Desk<'_, S>) {
    // Some 80 KB a row, of which 1 MB holds a dozen.
    let line = Line { text: "𒀀".repeat(1_000), count: 1, weight: 0.5, hint: None };
    let tickets = (0..60).map(|n| (Uuid::new_v4(), n));
    let owned = Owned::of(desk, tickets, vec![line; 20]).await;
    for list in owned.lists(desk) {
        eventually(owned.ids(|_| true), || all_ids(desk, &list, None, 100)).await;
        // Within a range of times, too, page after page.
        let times = TimeRange { since: Some(at(3)), before: Some(at(57)) };
        let list = ListQuery { times, ..list };
        eventually(owned.ids(|position| times.contains(position.at)), || all_ids(desk, &list, None, 100))
            .await;
    }
}
