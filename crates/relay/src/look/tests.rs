use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + seconds * 1_000_000)
}

fn shard(id: &str, parent: Option<&str>) -> Shard {
    Shard { id: ShardId::from(id), parent: parent.map(ShardId::from) }
}

fn lease(id: &str, parent: Parent, checkpoint: Checkpoint) -> Lease {
    let lease = first_lease(&shard(id, None), true, None, at(0));
    Lease { parent, progress: Progress { checkpoint, ..lease.progress.clone() }, ..lease }
}

fn finished(id: &str) -> Lease {
    lease(id, Parent::None, Checkpoint::ShardEnd)
}

fn reading(id: &str) -> Lease {
    lease(id, Parent::None, Checkpoint::At(Position::TrimHorizon))
}

fn look(shards: &[Shard], table: &LeaseTable, missing: &[&str]) -> Look {
    let config = RelayConfig::new("a", "millrace");
    let missing = missing.iter().map(|shard| ShardId::from(*shard)).collect();
    Look::of(&Sight { config: &config, now: at(0), shards, listed_at: at(0), table, missing: &missing })
}

#[test]
fn a_first_lease_is_dated_by_what_is_known() {
    let time = |shards: &[Shard], leases: Vec<Lease>, complete_at: Option<Timestamp>| {
        let table = LeaseTable { leases, complete_at, ..LeaseTable::default() };
        look(shards, &table, &[]).created.pop().unwrap().progress.time
    };
    let child = [shard("c", Some("p"))];
    let complete = Some(at(-100));
    let known = || vec![finished("p")];
    assert_eq!(time(&child, known(), complete), at(-100), "when the leases were complete the last time");
    assert_eq!(time(&child, known(), Some(at(100))), at(0), "by a clock that runs ahead");
    assert_eq!(
        time(&[shard("x", None)], known(), complete),
        before(at(-100), RETENTION),
        "not what was known"
    );
    assert_eq!(time(&child, known(), None), before(at(0), RETENTION), "nothing is noted");
    let first = before(at(0), RelayConfig::new("a", "millrace").age_of_first());
    assert_eq!(time(&child, vec![], Some(first)), first, "the first relay of all");
    let long_ago = before(first, Duration::from_secs(100));
    assert_eq!(
        time(&child, vec![], Some(long_ago)),
        before(long_ago, RETENTION),
        "shards that the first relay of all saw may be gone"
    );
}

#[test]
fn every_shard_has_a_date_from_its_first_sight_on() {
    // Finished long ago, and no longer listed.
    let old = Lease { expires_at: at(-200_000), ..finished("o") };
    let leases = vec![reading("p"), old.clone()];
    let mut table = LeaseTable { leases, complete_at: Some(at(-3)), ..LeaseTable::default() };
    let shards = [shard("p", None), shard("c", Some("p")), shard("g", Some("c"))];
    let Look { created, forgotten, .. } = look(&shards, &table, &[]);
    let parents: Vec<_> = created.iter().map(|lease| lease.parent.to_text()).collect();
    assert_eq!(parents, [Some("p"), Some("c")]);
    // A grandchild is no older than its parent.
    assert!(
        created.iter().all(|lease| lease.progress.time == at(-3) && lease.owner.is_none()),
        "{created:?}"
    );
    assert_eq!(forgotten, [], "not before the leases dated by them are written");
    table.leases.extend(created);
    assert_eq!(look(&shards, &table, &[]).forgotten, [old]);
}

#[test]
fn a_lease_gets_the_parent_that_an_older_release_did_not_write() {
    let unknown = |id: &str| Lease { parent: Parent::Unknown, ..reading(id) };
    let table = LeaseTable { leases: vec![unknown("p"), unknown("c")], ..LeaseTable::default() };
    let shards = [shard("p", None), shard("c", Some("p"))];
    let corrected = look(&shards, &table, &[]).corrected;
    assert_eq!(corrected, [reading("p"), Lease { parent: Parent::of(&shards[1]), ..reading("c") }]);
    let table = LeaseTable { leases: corrected, ..table };
    assert_eq!(look(&shards, &table, &[]), Look::default());
}

#[test]
fn an_unfinished_shard_is_unlisted_once_two_listings_in_a_row_have_not_had_it() {
    let mut table = LeaseTable { leases: vec![reading("gone"), finished("old")], ..LeaseTable::default() };
    let first = look(&[], &table, &[]);
    assert_eq!((first.corrected.len(), first.missing.len()), (0, 1), "it may have been listed too early");
    let second = look(&[], &table, &["gone"]).corrected;
    assert_eq!(second, [Lease { is_unlisted: true, ..reading("gone") }]);
    table.leases = second;
    assert_eq!(look(&[], &table, &["gone"]).corrected, [], "another looker leaves it so");
    assert_eq!(look(&[shard("gone", None)], &table, &[]).corrected, [reading("gone")], "it is listed again");
}

#[test]
fn replicas_ask_for_children_in_turns() {
    let mut replicas: Vec<Children> = (0..20).map(|_| Children::new()).collect();
    let mut turns = Vec::new();
    for (place, replica) in replicas.iter_mut().enumerate() {
        replica.place = (place, 20);
        turns.push(replica.turn(at(0)).as_millis());
    }
    turns.sort_unstable();
    assert!(turns.windows(2).all(|pair| pair[1] - pair[0] == TURN.as_millis()), "{turns:?}");
    assert!(turns[19] < 20 * TURN.as_millis(), "{turns:?}");
    replicas[0].place = (3, AT_ONCE);
    assert_eq!(replicas[0].turn(at(0)), Duration::ZERO, "few do not wait");
}

#[test]
fn leases_are_written_parents_first() {
    let of = |id, parent: Option<&str>| {
        lease(id, parent.map_or(Parent::None, |parent| Parent::Shard(parent.into())), Checkpoint::ShardEnd)
    };
    let written = |leases: Vec<Lease>| -> Vec<Vec<String>> {
        let names = |generation: Vec<Lease>| generation.iter().map(|lease| lease.shard.to_string()).collect();
        generations(leases).into_iter().map(names).collect()
    };
    let family = vec![of("g", Some("c")), of("c", Some("p")), of("p", Some("older")), of("d", Some("p"))];
    assert_eq!(written(family), [vec!["p"], vec!["c", "d"], vec!["g"]]);
    assert_eq!(written(vec![of("a", Some("b")), of("b", Some("a"))]), [["a", "b"]], "nonsense ends too");
}
