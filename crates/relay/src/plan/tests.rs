use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_800_000_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(NOW + seconds * 1_000_000)
}

fn lease(shard: &str, owner: Option<&str>, expires_in: i64, checkpoint: Checkpoint) -> Lease {
    Lease {
        shard: ShardId::from(shard),
        owner: owner.map(str::to_owned),
        fence: 1,
        expires_at: at(expires_in),
        progress: Progress { checkpoint, time: at(0) },
    }
}

fn reading() -> Checkpoint {
    Checkpoint::At(Position::TrimHorizon)
}

fn shard(id: &str, parent: Option<&str>) -> Shard {
    Shard { id: ShardId::from(id), parent: parent.map(ShardId::from) }
}

fn plan(owner: &str, shards: &[Shard], table: &LeaseTable, held: &HashSet<ShardId>) -> Plan {
    let config = RelayConfig::new(owner, "millrace");
    let mut sightings = Sightings { seen: HashMap::new(), now: Instant::now() };
    sightings.look(shards, table);
    let (now, listed_at) = (at(0), at(0));
    Plan::of(&View { config: &config, now, shards, listed_at, table, held, sightings: &sightings })
}

fn claimed(plan: &Plan) -> Vec<&str> {
    let mut names: Vec<&str> = plan.claims.iter().map(|claim| claim.lease().shard.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_child_waits_for_a_listed_parent_and_for_no_other() {
    let shards = [shard("p", None), shard("c", Some("p")), shard("d", Some("unlisted"))];
    let unfinished =
        LeaseTable { leases: vec![lease("p", Some("b"), 5, reading())], ..LeaseTable::default() };
    assert_eq!(claimed(&plan("a", &shards, &unfinished, &HashSet::new())), ["d"]);
    let finished =
        LeaseTable { leases: vec![lease("p", None, 0, Checkpoint::ShardEnd)], ..LeaseTable::default() };
    assert_eq!(claimed(&plan("a", &shards, &finished, &HashSet::new())), ["c", "d"]);
}

#[test]
fn only_leases_that_nobody_holds_are_claimed() {
    let table = LeaseTable {
        leases: vec![
            lease("released", None, 5, reading()),
            lease("expired", Some("b"), -1, reading()),
            lease("held", Some("c"), 5, reading()),
            lease("lost-reply", Some("a"), 5, reading()),
            lease("unlisted-finished", None, -5, Checkpoint::ShardEnd),
        ],
        ..LeaseTable::default()
    };
    let shards = [shard("released", None), shard("expired", None), shard("held", None)];
    // Two replicas share four shards.
    assert_eq!(claimed(&plan("a", &shards, &table, &HashSet::new())).len(), 2);
    let alone = LeaseTable {
        leases: table.leases.into_iter().filter(|l| l.shard.as_str() != "held").collect(),
        ..table
    };
    assert_eq!(
        claimed(&plan("a", &shards[..2], &alone, &HashSet::new())),
        ["expired", "lost-reply", "released"]
    );
}

#[test]
fn a_first_lease_is_dated_by_what_is_known() {
    let time = |shards: &[Shard], leases: Vec<Lease>, complete_at: Option<Timestamp>| match &plan(
        "a",
        shards,
        &LeaseTable { leases, complete_at, ..LeaseTable::default() },
        &HashSet::new(),
    )
    .claims[..]
    {
        [.., Claim::Create(lease)] => lease.progress.time,
        other => panic!("{other:?}"),
    };
    let child = [shard("c", Some("p"))];
    let complete = Some(at(-100));
    // The machines that renewed the leases just now may have slept for long.
    let renewed = || vec![lease("p", Some("a"), 8, Checkpoint::ShardEnd)];
    assert_eq!(time(&child, renewed(), complete), at(-100), "when the leases were complete the last time");
    assert_eq!(time(&child, renewed(), Some(at(100))), at(0), "by a clock that runs ahead");
    assert_eq!(
        time(&[shard("x", None)], renewed(), complete),
        before(at(-100), RETENTION),
        "not what was known"
    );
    assert_eq!(time(&child, renewed(), None), before(at(0), RETENTION), "nothing is noted");
    let first = before(at(0), RelayConfig::new("a", "millrace").age_of_first());
    assert_eq!(time(&child, vec![], Some(first)), first, "the first relay of all");
    let long_ago = before(first, Duration::from_secs(100));
    assert_eq!(
        time(&child, vec![], Some(long_ago)),
        before(long_ago, RETENTION),
        "shards that the first relay of all saw may be gone"
    );
}

/// A table with refills 1 and 2, of three segments each, and the leases of some segments.
fn refilling(segments: Vec<Lease>) -> LeaseTable {
    let refill = |number| RefillJob { number, since: at(-100), segments: 3.try_into().unwrap() };
    LeaseTable { refills: vec![refill(2), refill(1)], segments, ..LeaseTable::default() }
}

#[test]
fn segments_of_older_refills_are_taken_first_and_so_many_as_a_replica_reads_at_a_time() {
    let table = refilling(vec![
        lease("refill#1/0/3", None, -5, Checkpoint::ShardEnd),
        lease("refill#1/1/3", Some("vanished"), -5, reading()),
    ]);
    let alone = plan("a", &[], &table, &HashSet::new());
    let taken = claimed(&alone);
    assert_eq!(taken.len(), 4);
    assert_eq!(taken[..2], ["refill#1/1/3", "refill#1/2/3"]);
    let dates = alone.claims.iter().filter(|claim| matches!(claim, Claim::Create(_)));
    assert!(dates.map(|claim| claim.lease().progress.time).all(|time| time == at(-100)));
}

#[test]
fn a_refill_is_deleted_two_days_after_its_last_segment_and_before_its_segments() {
    let done = |shard: &str, expired: i64| lease(shard, None, -expired, Checkpoint::ShardEnd);
    let of_one = |last| vec![done("refill#1/0/3", 200_000), done("refill#1/1/3", 200_000), last];
    let forgotten = |plan: &Plan| plan.forgotten.iter().map(|lease| lease.shard.clone()).collect::<Vec<_>>();
    // Four segments are read, so there is nothing to claim.
    let held: HashSet<_> = ["2/0/3", "2/1/3", "2/2/3"].map(|id| ShardId::from(format!("refill#{id}"))).into();
    let read = || held.iter().map(|segment| lease(segment.as_str(), Some("a"), 5, reading()));
    for (last, expected) in [(200_000, vec![1]), (100_000, vec![])] {
        let mut table = refilling(of_one(done("refill#1/2/3", last)));
        table.segments.extend(read());
        let first = plan("a", &[], &table, &held);
        assert_eq!(first.ended.iter().map(|refill| refill.number).collect::<Vec<_>>(), expected);
        assert_eq!(forgotten(&first), []);
        table.refills.retain(|refill| !first.ended.contains(refill));
        let then = forgotten(&plan("a", &[], &table, &held));
        assert_eq!(then.len(), 3 * expected.len(), "{then:?}");
    }
}

#[test]
fn every_shard_has_a_date_from_its_first_sight_on() {
    let table = LeaseTable {
        leases: vec![
            lease("p", Some("a"), 5, reading()),
            // Finished long ago, and no longer listed.
            lease("o", None, -90_000, Checkpoint::ShardEnd),
        ],
        complete_at: Some(at(-3)),
        replicas: vec![Replica { owner: "b".to_owned(), expires_at: at(5) }],
        ..LeaseTable::default()
    };
    let shards = [shard("p", None), shard("c", Some("p")), shard("g", Some("c"))];
    let plan = plan("a", &shards, &table, &HashSet::from([ShardId::from("p")]));
    assert_eq!(claimed(&plan), [""; 0], "they wait for their parents");
    let noted: Vec<_> =
        plan.noted.iter().map(|lease| (lease.shard.as_str(), lease.owner.as_deref())).collect();
    assert_eq!(noted, [("c", None), ("g", None)]);
    // A grandchild is no older than its parent.
    assert!(
        plan.noted.iter().all(|lease| lease.progress.time == at(-3) && lease.expires_at == at(0)),
        "{noted:?}"
    );
    assert_eq!(plan.forgotten, [], "not before the leases dated by them are written");
}

#[test]
fn what_is_beyond_a_replicas_share_is_dated_too() {
    let table = LeaseTable {
        replicas: vec![Replica { owner: "b".to_owned(), expires_at: at(5) }],
        ..LeaseTable::default()
    };
    let shards = [shard("x", None), shard("y", None)];
    let plan = plan("a", &shards, &table, &HashSet::new());
    assert_eq!((plan.claims.len(), plan.noted.len()), (1, 1));
    assert_ne!(plan.claims[0].lease().shard, plan.noted[0].shard);
}

proptest! {
    #[test]
    fn replicas_that_agree_on_the_world_settle_on_even_shares(replicas in 1_usize..6, count in 0_usize..20) {
        let owners: Vec<String> = (0..replicas).map(|n| format!("r{n}")).collect();
        let shards: Vec<Shard> = (0..count).map(|n| shard(&format!("s{n}"), None)).collect();
        let replicas: Vec<Replica> =
            owners.iter().map(|owner| Replica { owner: owner.clone(), expires_at: at(5) }).collect();
        let mut leases: HashMap<ShardId, Lease> = HashMap::new();
        let held_by = |leases: &HashMap<ShardId, Lease>, owner: &str| -> HashSet<ShardId> {
            leases.values().filter(|l| l.owner.as_deref() == Some(owner)).map(|l| l.shard.clone()).collect()
        };
        let mut changes = 1;
        for round in 0..10 {
            changes = 0;
            for owner in &owners {
                // The first replica is alone at first.
                if round == 0 && *owner != owners[0] {
                    continue;
                }
                let known = if round == 0 { replicas[..1].to_vec() } else { replicas.clone() };
                let table = LeaseTable {
                    leases: leases.values().cloned().collect(),
                    replicas: known,
                    ..LeaseTable::default()
                };
                let plan = plan(owner, &shards, &table, &held_by(&leases, owner));
                changes += plan.claims.len() + plan.surplus.len();
                for claim in plan.claims {
                    let (Claim::Create(mut lease) | Claim::Take(mut lease)) = claim;
                    lease.owner = Some(owner.clone());
                    leases.insert(lease.shard.clone(), lease);
                }
                for shard in plan.surplus {
                    leases.get_mut(&shard).unwrap().owner = None;
                }
            }
        }
        prop_assert_eq!(changes, 0, "they never settle");
        for owner in &owners {
            let held = held_by(&leases, owner).len();
            prop_assert!((count / owners.len()..=count.div_ceil(owners.len())).contains(&held), "{owner}: {held}");
        }
        prop_assert_eq!(leases.values().filter(|l| l.owner.is_some()).count(), count);
    }
}

#[test]
fn the_leases_are_complete_once_every_shard_listed_has_one() {
    let config = RelayConfig::new("a", "millrace");
    let shards = [shard("p", None), shard("c", Some("p"))];
    let noted = |leases: Vec<Lease>, complete_at| {
        let table = LeaseTable { leases, complete_at, ..LeaseTable::default() };
        super::complete_at(&shards, at(5), &table, at(0), &config)
    };
    let (parent, child) = (lease("p", None, 0, Checkpoint::ShardEnd), lease("c", Some("a"), 5, reading()));
    let both = vec![parent.clone(), child];
    let first = before(at(0), config.trust_horizon - Duration::from_secs(600));
    assert_eq!(noted(vec![], None), Some(first), "the first relay of all, from before it read the table");
    assert_eq!(noted(vec![], Some(at(-99))), None, "its leases were deleted");
    assert_eq!(noted(vec![parent], None), None);
    assert_eq!(noted(both.clone(), None), Some(at(5)), "not of all, but the first to note it");
    assert_eq!(noted(both.clone(), Some(at(-5))), Some(at(5)));
    assert_eq!(noted(both, Some(at(-4))), None, "not every replica need write it");
}
