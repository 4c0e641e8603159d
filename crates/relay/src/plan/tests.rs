use proptest::prelude::*;

use super::*;
use crate::stream::Sequence;

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
        parent: Parent::None,
        is_unlisted: false,
    }
}

fn reading() -> Checkpoint {
    Checkpoint::At(Position::TrimHorizon)
}

/// A free lease of a shard that was never read.
fn unread(shard: &str, parent: Parent) -> Lease {
    Lease { parent, ..lease(shard, None, -1, reading()) }
}

fn child_of(parent: &str) -> Parent {
    Parent::Shard(ShardId::from(parent))
}

fn of(leases: Vec<Lease>) -> LeaseTable {
    LeaseTable { leases, ..LeaseTable::default() }
}

/// The plan of a replica that has read the same before.
fn plan(owner: &str, table: &LeaseTable, held: &HashSet<ShardId>) -> Plan {
    plan_after(Duration::from_millis(1), owner, table, held)
}

/// The plan of a replica that has read the same so long before.
fn plan_after(age: Duration, owner: &str, table: &LeaseTable, held: &HashSet<ShardId>) -> Plan {
    let config = RelayConfig::new(owner, "millrace");
    let mut sightings = Sightings { seen: HashMap::new(), now: Instant::now() };
    sightings.look(table);
    sightings.now += age;
    Plan::of(&View { config: &config, now: at(0), table, held, sightings: &sightings })
}

impl Claim {
    fn lease(&self) -> &Lease {
        match self {
            Self::Create(lease) | Self::Take(lease) => lease,
        }
    }
}

fn claimed(plan: &Plan) -> Vec<&str> {
    let mut names: Vec<&str> = plan.claims.iter().map(|claim| claim.lease().shard.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_child_waits_for_its_parent_unless_that_is_finished_or_gone() {
    let children =
        || [unread("c", child_of("p")), unread("d", child_of("forgotten")), unread("e", Parent::None)];
    let with = |parent: Lease| {
        let table = of([parent].into_iter().chain(children()).collect());
        claimed(&plan("a", &table, &HashSet::new())).join(" ")
    };
    let parent = || lease("p", Some("a"), 5, reading());
    assert_eq!(with(Lease { owner: Some("p's".to_owned()), ..parent() }), "d e");
    assert_eq!(with(lease("p", None, 0, Checkpoint::ShardEnd)), "c d e");
    assert_eq!(
        with(Lease { is_unlisted: true, ..parent() }),
        "c d e p",
        "it is refilled, and nothing waits for that"
    );
}

#[test]
fn a_child_whose_parent_the_table_lacks_is_read_at_its_second_sight() {
    let table = of(vec![unread("d", child_of("unseen")), unread("e", Parent::None)]);
    let claims = |age, held: &HashSet<ShardId>| claimed(&plan_after(age, "a", &table, held)).join(" ");
    assert_eq!(claims(Duration::ZERO, &HashSet::new()), "e");
    assert_eq!(claims(Duration::from_millis(1), &HashSet::new()), "d e");
}

#[test]
fn a_lease_without_a_parent_of_an_older_release_waits_for_the_looker_unless_it_was_read_already() {
    let begun = Checkpoint::At(Position::After(Sequence("7".to_owned())));
    let table = of(vec![
        unread("new", Parent::Unknown),
        Lease { parent: Parent::Unknown, ..lease("begun", None, -1, begun) },
        Lease { is_unlisted: true, ..unread("gone", Parent::Unknown) },
    ]);
    assert_eq!(claimed(&plan("a", &table, &HashSet::new())), ["begun", "gone"]);
}

#[test]
fn one_replica_looks_and_another_takes_over_when_that_is_gone() {
    let looker = |owner: Option<&str>, expires_in| {
        let lease = lease_of_looker("b", at(expires_in), at(0));
        LeaseTable {
            looker: Some(Lease { owner: owner.map(str::to_owned), ..lease }),
            ..LeaseTable::default()
        }
    };
    let looks = |table: &LeaseTable, held: &[&str]| {
        let held = held.iter().map(|shard| ShardId::from(*shard)).collect();
        plan("a", table, &held).look
    };
    assert!(matches!(looks(&LeaseTable::default(), &[]), Some(Claim::Create(_))), "the first of all");
    assert_eq!(looks(&looker(Some("b"), 5), &[]), None);
    assert!(matches!(looks(&looker(Some("b"), -1), &[]), Some(Claim::Take(_))), "b is gone");
    assert!(matches!(looks(&looker(None, 5), &[]), Some(Claim::Take(_))), "b has given it up");
    assert!(matches!(looks(&looker(Some("a"), 5), &[]), Some(Claim::Take(_))), "the reply was lost");
    assert_eq!(looks(&looker(Some("a"), 5), &[LOOKER]), None);
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
    // Two replicas share four shards.
    assert_eq!(claimed(&plan("a", &table, &HashSet::new())).len(), 2);
    let alone = of(table.leases.into_iter().filter(|l| l.shard.as_str() != "held").collect());
    assert_eq!(claimed(&plan("a", &alone, &HashSet::new())), ["expired", "lost-reply", "released"]);
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
    let alone = plan("a", &table, &HashSet::new());
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
        let first = plan("a", &table, &held);
        assert_eq!(first.ended.iter().map(|refill| refill.number).collect::<Vec<_>>(), expected);
        assert_eq!(forgotten(&first), []);
        table.refills.retain(|refill| !first.ended.contains(refill));
        let then = forgotten(&plan("a", &table, &held));
        assert_eq!(then.len(), 3 * expected.len(), "{then:?}");
    }
}

proptest! {
    #[test]
    fn replicas_that_agree_on_the_world_settle_on_even_shares(replicas in 1_usize..6, count in 0_usize..20) {
        let owners: Vec<String> = (0..replicas).map(|n| format!("r{n}")).collect();
        let replicas: Vec<Replica> =
            owners.iter().map(|owner| Replica { owner: owner.clone(), expires_at: at(5) }).collect();
        let free = (0..count).map(|n| unread(&format!("s{n}"), Parent::None));
        let mut leases: HashMap<ShardId, Lease> = free.map(|lease| (lease.shard.clone(), lease)).collect();
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
                let plan = plan(owner, &table, &held_by(&leases, owner));
                changes += plan.claims.len() + plan.surplus.len();
                for claim in plan.claims {
                    let (Claim::Create(mut lease) | Claim::Take(mut lease)) = claim;
                    (lease.owner, lease.expires_at) = (Some(owner.clone()), at(5));
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
