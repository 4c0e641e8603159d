//! One command, each attempt at which has a fate of its own.

use std::time::Duration;

use anyhow::ensure;
use aws_config::SdkConfig;
use command_service::Users;
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache, snapshots};
use millrace_event_store::DynamoStore;
use millrace_tests::Replied as _;
use shop::contracts::command::{
    CreateUserRequest, UpdateUserProfileRequest, user_command_service_server::UserCommandService as _,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status};

use crate::dynamo::{Does, Dynamo, Fate, Reasons, Reply, sdk_config};

const HELD: &str = "held@example.com";

const THROTTLED: Fate = Fate { does: Does::Throttle, ..Fate::FINE };
const FAILED: Fate = Fate { does: Does::Fail, ..Fate::FINE };
const DONE_AND_FAILED: Fate = Fate { does: Does::WorkAndFail, ..Fate::FINE };
const CONTENDED: Fate = Fate { does: Does::Contend, ..Fate::FINE };
const MISMATCHED: Fate = Fate { does: Does::Mismatch, ..Fate::FINE };
/// The connection is cut at once, and the request arrives when its sender has had another answer.
const LATE: Fate = Fate { travels: Duration::from_millis(900), reply: Reply::CutAtOnce, ..Fate::FINE };
/// The same where DynamoDB says that it is out of order.
const FAILED_AND_LATE: Fate = Fate { reply: Reply::FailsAtOnce, ..LATE };
/// There is no reply in time, and the request arrives when its call has ended.
const VERY_LATE: Fate = Fate { travels: Duration::from_secs(20), ..Fate::FINE };
/// DynamoDB works on it for longer than its sender waits.
const IN_PROGRESS: Fate = Fate { takes: Duration::from_millis(2_400), ..Fate::FINE };

const FATES: [Fate; 12] = [
    Fate::FINE,
    THROTTLED,
    FAILED,
    DONE_AND_FAILED,
    Fate::LOST,
    Fate::REPLY_LOST,
    LATE,
    FAILED_AND_LATE,
    VERY_LATE,
    IN_PROGRESS,
    CONTENDED,
    MISMATCHED,
];

fn users(store: &DynamoStore) -> Users<DynamoStore> {
    let config = CommandHandlerConfig {
        clock: millrace_server::clock::now,
        jitter: || 1.0,
        snapshot_every: snapshots::EVERY,
    };
    Users(CommandHandler::new(store.clone(), StateCache::new(1 << 20), config))
}

/// The answer to a call: the version, and whether it is a replay.
type Answered = Result<(u64, bool), Status>;

/// Asks for an address, for a new user or for one who is there. The call's number is its correlation id, so that its
/// event names the call.
async fn ask(users: &Users<DynamoStore>, user_id: Option<&str>, email: &str, call: u32) -> Answered {
    let (command_id, correlation_id) = (Some("subject".to_owned()), Some(format!("call-{call}")));
    Ok(match user_id {
        None => {
            let (email, name) = (email.to_owned(), "Bob".to_owned());
            let request = CreateUserRequest { email, name, command_id, correlation_id };
            let reply = users.create_user(Request::new(request)).await?.reply();
            (reply.version, reply.replayed)
        }
        Some(user_id) => {
            let (user_id, email) = (user_id.to_owned(), Some(email.to_owned()));
            let request =
                UpdateUserProfileRequest { user_id, email, command_id, correlation_id, ..Default::default() };
            let reply = users.update_user_profile(Request::new(request)).await?.reply();
            (reply.version, reply.replayed)
        }
    })
}

async fn create(users: &Users<DynamoStore>, email: &str, id: &str) -> String {
    let (email, name, command_id) = (email.to_owned(), "Ann".to_owned(), Some(id.to_owned()));
    let request = CreateUserRequest { email, name, command_id, correlation_id: None };
    users.create_user(Request::new(request)).await.unwrap().reply().aggregate_id
}

async fn move_to(users: &Users<DynamoStore>, user_id: &str, email: &str) {
    let (user_id, email, command_id) = (user_id.to_owned(), Some(email.to_owned()), Some("move".to_owned()));
    let request = UpdateUserProfileRequest { user_id, email, command_id, ..Default::default() };
    // While another transaction is at work on the address, it is refused.
    while users.update_user_profile(Request::new(request.clone())).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a caller takes an answer for a refusal of the command, rather than for a failure of which nothing is known.
fn is_refusal(answered: &Answered) -> bool {
    use Code::*;
    let unknown = |code| matches!(code, Unavailable | DeadlineExceeded | Cancelled | Internal | Unknown);
    answered.as_ref().is_err_and(|status| !unknown(status.code()))
}

/// Whether a call's event is stored.
fn is_stored(dynamo: &Dynamo, call: u32) -> bool {
    dynamo.events().iter().any(|event| event["CorrelationId"]["S"] == format!("call-{call}"))
}

/// A command that asks for an address which another user holds, and may let go meanwhile.
#[derive(Debug)]
struct Case {
    /// Whether it creates a user.
    creates: bool,
    /// The fates of its attempts.
    fates: Vec<Fate>,
    /// After how long the holder lets the address go; at 0 before all begins.
    let_go: Option<Duration>,
    /// Whether the SDK tries again by itself.
    retries: bool,
}

impl Case {
    /// Sends the command, waits for all that is on its way, and sends it once more.
    async fn check(&self, config: &SdkConfig) -> anyhow::Result<Answered> {
        let dynamo = Dynamo::default();
        let store = dynamo.store(config, self.retries);
        let (service, other) = (users(&store), users(&dynamo.store(config, true)));
        let holder = create(&other, HELD, "holder").await;
        let bob = if self.creates { None } else { Some(create(&service, "bob@example.com", "bob").await) };
        dynamo.next("call-1", self.fates.iter().copied());
        let let_go = async {
            if let Some(after) = self.let_go.filter(|after| !after.is_zero()) {
                sleep(after).await;
                move_to(&other, &holder, "else@example.com").await;
            }
        };
        if self.let_go == Some(Duration::ZERO) {
            move_to(&other, &holder, "else@example.com").await;
        }
        let (first, ()) = tokio::join!(ask(&service, bob.as_deref(), HELD, 1), let_go);
        dynamo.calm().await;
        let stored = is_stored(&dynamo, 1);
        ensure!(!(is_refusal(&first) && stored), "{first:?}, and yet it was done");
        ensure!(first.is_err() || stored, "{first:?}, and nothing is there");
        // Another replica, with the same id.
        match ask(&other, bob.as_deref(), HELD, 2).await {
            Ok((_, replayed)) => ensure!(replayed == stored, "{first:?}, then replayed is {replayed}"),
            Err(status) => {
                ensure!(!stored, "{first:?}, then {status:?}, and it was done before");
                ensure!(status.code() == Code::AlreadyExists, "{first:?}, then {status:?}");
                ensure!(self.let_go.is_none(), "{first:?}, then {status:?}, and the address is free");
            }
        }
        Ok(first)
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime
        .block_on(async { timeout(Duration::from_secs(3_600), work).await.expect("somebody waits for ever") })
}

fn config() -> SdkConfig {
    Runtime::new().unwrap().block_on(sdk_config())
}

/// Every way in which two attempts can fare, and those in which a third one is throttled.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for first in FATES {
        let rests = FATES.map(|second| vec![second]).into_iter().chain([vec![THROTTLED, THROTTLED]]);
        for fates in rests.map(|rest| [vec![first], rest].concat()) {
            let times =
                [Some(0), Some(300)].into_iter().chain(fates.contains(&VERY_LATE).then_some(Some(9_000)));
            for let_go in times.chain([None]).map(|ms| ms.map(Duration::from_millis)) {
                if let_go.is_none_or(|after| after.is_zero()) {
                    cases.push(Case { creates: false, fates: fates.clone(), let_go, retries: true });
                }
                cases.push(Case { creates: true, fates: fates.clone(), let_go, retries: true });
            }
        }
        for reasons in [Reasons::LastOnly, Reasons::WithoutItem, Reasons::Reversed, Reasons::Missing] {
            let fates = [vec![first], vec![Fate { reasons, ..Fate::FINE }; 16]].concat();
            cases.push(Case {
                creates: true,
                fates,
                let_go: Some(Duration::from_millis(300)),
                retries: true,
            });
        }
        for (creates, let_go) in [(true, None), (false, None), (true, Some(Duration::ZERO))] {
            cases.push(Case { creates, fates: vec![first], let_go, retries: false });
        }
    }
    cases
}

#[test]
fn no_refusal_is_overtaken_by_an_attempt_of_its_own() {
    let config = config();
    let (mut refused, mut wrong) = (0, Vec::new());
    for case in cases() {
        match run(case.check(&config)) {
            Ok(first) => refused += u32::from(is_refusal(&first)),
            Err(error) => wrong.push(format!("{case:?}: {error}")),
        }
    }
    let some = wrong[..wrong.len().min(9)].join("\n");
    assert!(wrong.is_empty(), "{} cases are wrong, such as\n{some}", wrong.len());
    // Promises are kept easily where nothing is refused.
    assert!(refused > 50, "{refused} of the commands were refused");
}

#[test]
fn what_was_answered_at_every_attempt_is_refused_for_certain() {
    let config = config();
    for fates in
        [vec![], vec![THROTTLED, THROTTLED], vec![CONTENDED; 5], vec![MISMATCHED, CONTENDED, THROTTLED]]
    {
        for (creates, retries) in [(true, true), (false, true)] {
            let case = Case { creates, fates: fates.clone(), let_go: None, retries };
            let refused = run(case.check(&config)).unwrap().unwrap_err();
            assert_eq!(refused.code(), Code::AlreadyExists, "{case:?}");
        }
    }
}

#[test]
fn a_retry_is_known_by_its_event_however_the_cancelled_transaction_is_explained() {
    let config = config();
    for creates in [true, false] {
        for reasons in
            [Reasons::All, Reasons::LastOnly, Reasons::WithoutItem, Reasons::Reversed, Reasons::Missing]
        {
            run(async {
                let dynamo = Dynamo::default();
                let store = dynamo.store(&config, true);
                let (service, other) = (users(&store), users(&store));
                let old = if creates { None } else { Some(create(&service, "bob@example.com", "bob").await) };
                // Done by one replica, whose caller does not learn of it. By now the address is another user's.
                ask(&other, old.as_deref(), HELD, 1).await.unwrap();
                let bob = old.clone().unwrap_or_else(|| id_of(&dynamo, 1));
                move_to(&other, &bob, "else@example.com").await;
                create(&other, HELD, "another").await;
                dynamo.next("call-2", vec![Fate { reasons, ..Fate::FINE }; 16]);
                let again = ask(&service, old.as_deref(), HELD, 2).await;
                if reasons == Reasons::Missing {
                    assert_eq!(again.unwrap_err().code(), Code::Internal);
                } else {
                    let version = if creates { 1 } else { 2 };
                    assert_eq!(again.unwrap(), (version, true), "{creates} {reasons:?}");
                }
            });
        }
    }
}

/// The id of the user whom a call has created.
fn id_of(dynamo: &Dynamo, call: u32) -> String {
    let events = dynamo.events();
    let event = events.iter().find(|event| event["CorrelationId"]["S"] == format!("call-{call}")).unwrap();
    event["AggregateId"]["S"].as_str().unwrap().rsplit('#').next().unwrap().to_owned()
}
