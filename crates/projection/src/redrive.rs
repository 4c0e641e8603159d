//! `projector redrive`: sends dead letters back into the queues that they came from.
//!
//! A letter is received, sent, and then deleted, so after a crash it is in one place or in both. Letters that are not
//! selected are received too, since SQS has no other way to read them; they stay hidden until the run ends, so that
//! each is read once, and are then shown again.

mod config;
pub(crate) mod letters;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    io::Write,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use config::Options;
use futures::{StreamExt as _, stream};
use letters::{DeadLetters, Letter, WAIT};
use millrace_aws::Aws;
use millrace_core::{Application, Timestamp};
use millrace_server::{
    clock,
    process::{self, Ended, Unfinished},
};
use tokio::time::Instant;

use crate::{
    config::{HINT, misconfigured},
    labels,
    pace::{Halt, Pace},
    queue::{MAX_MESSAGES, QueueAddress, ReceiptHandle, SqsQueue, Unusable},
};

/// After this many receives in a row without a new letter, the queue counts as read to its end.
const IN_VAIN: u32 = 2;

/// How often the count of unseen letters is read again before it is believed.
const COUNTS: u32 = 5;

/// The most letters that a run leaves, since each is remembered until the end. SQS hides 120,000 at a time (SQS
/// Developer Guide, "Amazon SQS message quotas").
const MAX_LEFT: usize = 20_000;

/// The most reasons that are counted apart. A reason can name a version, so there may be many.
const MAX_REASONS: usize = 100;

/// The interval of progress lines.
const TELLING: Duration = Duration::from_secs(10);

/// How many letters are sent at a time.
const SENT_AT_ONCE: usize = 10;

/// The selection of letters to send back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// The most letters to send.
    pub(crate) max: Option<u64>,
    /// Only letters whose reason contains this text.
    pub(crate) reason: Option<String>,
    /// Send nothing; only report.
    pub(crate) dry_run: bool,
}

/// The result for a queue's dead letters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Letters that were sent back and deleted, or would have been.
    pub(crate) sent: u64,
    /// Letters that were sent back but not deleted. They remain, and will be sent once more.
    pub(crate) undeleted: u64,
    /// Selected letters that the queue refused.
    pub(crate) failed: u64,
    /// Letters outside the selection: of another reason, or another projection.
    pub(crate) others: u64,
    /// Letters that died after the run began: they failed again, or others did.
    pub(crate) newer: u64,
    /// Letters there at the end that were never received, as far as the queue can tell: hidden by another reader, or
    /// new.
    pub(crate) unseen: u64,
    /// The number of selected letters of each reason and number of attempts.
    pub(crate) reasons: BTreeMap<(String, Option<u32>), u64>,
    /// Whether the queue was read to its end, or the most letters were sent.
    pub(crate) complete: bool,
}

/// One queue's dead letters being sent back.
pub(crate) struct Redrive<'a, D> {
    /// The letters.
    pub(crate) letters: &'a D,
    /// The name of the queue's projection, as in dead letters.
    pub(crate) projection: &'static str,
    /// Its label in the report.
    pub(crate) label: &'static str,
    /// The selection of letters.
    pub(crate) selection: &'a Selection,
    /// When the run began.
    pub(crate) began: Timestamp,
    /// The pace of calls, and the signal to end.
    pub(crate) pace: &'a Pace,
}

/// The state of a run.
#[derive(Default)]
struct Memory {
    tally: Tally,
    /// The letters that are left, by id, each with its newest receipt.
    left: HashMap<String, ReceiptHandle>,
    /// The ids of letters that were sent but not deleted.
    undeleted: HashSet<String>,
}

impl<D: DeadLetters> Redrive<'_, D> {
    /// Sends the selected letters back. However the run ends, the letters it leaves are shown again, if AWS allows it.
    pub(crate) async fn run(&self) -> (Tally, Result<(), Halt>) {
        let mut memory = Memory::default();
        let result = self.send_all(&mut memory).await;
        let left: Vec<_> = memory.left.into_values().collect();
        for receipts in left.chunks(usize::try_from(MAX_MESSAGES).unwrap_or(1)) {
            // Letters for which this fails become visible by themselves.
            self.letters.show(receipts).await;
        }
        memory.tally.undeleted = u64::try_from(memory.undeleted.len()).unwrap_or(u64::MAX);
        (memory.tally, result)
    }

    async fn send_all(&self, memory: &mut Memory) -> Result<(), Halt> {
        let (mut in_vain, mut told) = (0, Instant::now());
        while in_vain < IN_VAIN && !self.is_enough(memory) {
            if memory.left.len() >= MAX_LEFT {
                return Ok(());
            }
            let letters = self.pace.call("receiving dead letters", || self.letters.receive()).await?;
            let (chosen, news) = self.choose(letters, memory);
            in_vain = if news { 0 } else { in_vain + 1 };
            self.send(chosen, memory).await?;
            if told.elapsed() >= TELLING {
                told = Instant::now();
                let (sent, left) = (memory.tally.sent, memory.left.len());
                let _ = writeln!(std::io::stderr(), "redrive: {}: {sent} sent, {left} left", self.label);
            }
        }
        memory.tally.complete = true;
        if !self.is_enough(memory) {
            memory.tally.unseen = self.count_unseen(memory).await?;
        }
        Ok(())
    }

    /// The number of letters that were never received. SQS's counts lag, so they are read until they agree, or often
    /// enough.
    async fn count_unseen(&self, memory: &Memory) -> Result<u64, Halt> {
        let met = u64::try_from(memory.left.len() + memory.undeleted.len()).unwrap_or(u64::MAX);
        let mut counts = 0;
        loop {
            let count = self.pace.call("counting dead letters", || self.letters.count()).await?;
            counts += 1;
            if count <= met || counts == COUNTS {
                return Ok(count.saturating_sub(met));
            }
            self.pace.pause(counts).await?;
        }
    }

    fn is_enough(&self, memory: &Memory) -> bool {
        self.selection.max.is_some_and(|max| memory.tally.sent + memory.tally.failed >= max)
    }

    /// The selected letters; and whether any letter was new.
    fn choose(&self, letters: Vec<Letter>, memory: &mut Memory) -> (Vec<Letter>, bool) {
        let (mut chosen, mut news) = (Vec::new(), false);
        for letter in letters {
            if memory.undeleted.contains(&letter.id) {
                chosen.push(letter);
                continue;
            }
            let known = memory.left.insert(letter.id.clone(), letter.receipt.clone()).is_some();
            let newer = letter.sent_at.is_some_and(|sent_at| sent_at > self.began);
            if known {
                continue;
            }
            news = true;
            if newer {
                memory.tally.newer += 1;
            } else if !self.is_asked_for(&letter) {
                memory.tally.others += 1;
            } else if self.is_room_for(chosen.len(), memory) {
                memory.tally.meet(&letter);
                if self.selection.dry_run {
                    memory.tally.sent += 1;
                } else {
                    memory.left.remove(&letter.id);
                    chosen.push(letter);
                }
            }
        }
        (chosen, news)
    }

    fn is_asked_for(&self, letter: &Letter) -> bool {
        let reason = letter.reason.as_deref().unwrap_or_default();
        self.selection.reason.as_ref().is_none_or(|wanted| reason.contains(wanted.as_str()))
            && letter.projection.as_ref().is_none_or(|projection| projection == self.projection)
    }

    fn is_room_for(&self, chosen: usize, memory: &Memory) -> bool {
        let chosen = u64::try_from(chosen + memory.undeleted.len()).unwrap_or(u64::MAX);
        self.selection.max.is_none_or(|max| memory.tally.sent + memory.tally.failed + chosen < max)
    }

    /// Sends letters, and deletes them. A letter that was sent before is only deleted.
    async fn send(&self, letters: Vec<Letter>, memory: &mut Memory) -> Result<(), Halt> {
        let undeleted = &memory.undeleted;
        let sending = stream::iter(&letters).map(|letter| async move {
            if undeleted.contains(&letter.id) {
                return (letter, Ok(()));
            }
            (letter, self.pace.call("sending a letter back", || self.letters.send_back(letter)).await)
        });
        let outcomes: Vec<_> = sending.buffer_unordered(SENT_AT_ONCE).collect().await;
        let (mut sent, mut failure) = (Vec::new(), None);
        for (letter, outcome) in outcomes {
            match outcome {
                Ok(()) => sent.push(letter),
                Err(halt) => {
                    memory.tally.failed += 1;
                    memory.left.insert(letter.id.clone(), letter.receipt.clone());
                    failure = Some(halt);
                }
            }
        }
        if !sent.is_empty() {
            let receipts: Vec<_> = sent.iter().map(|letter| letter.receipt.clone()).collect();
            let deleted = self.letters.delete(&receipts).await;
            for (letter, deleted) in sent.into_iter().zip(deleted) {
                match deleted {
                    Ok(()) => {
                        memory.undeleted.remove(&letter.id);
                        memory.tally.sent += 1;
                    }
                    // The letter comes again, in this run or a later one.
                    Err(error) => {
                        tracing::warn!(%error, "a dead letter was sent back and could not be deleted");
                        memory.undeleted.insert(letter.id.clone());
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

impl Tally {
    fn meet(&mut self, letter: &Letter) {
        let reason =
            letter.reason.clone().unwrap_or_else(|| "not known: moved by the queue itself".to_owned());
        let mut kind = (reason, letter.attempts);
        if self.reasons.len() >= MAX_REASONS && !self.reasons.contains_key(&kind) {
            kind = ("others".to_owned(), None);
        }
        *self.reasons.entry(kind).or_default() += 1;
    }

    /// Whether no selected letter is left, as far as is known: a letter that is newer than the run, or was never
    /// received, may be one.
    pub(crate) fn is_done(&self) -> bool {
        self.complete && [self.failed, self.undeleted, self.newer, self.unseen].iter().all(|left| *left == 0)
    }

    /// The report: a line for each reason, and a total.
    pub(crate) fn lines(&self, projection: &str, dry_run: bool) -> Vec<String> {
        let reasons = self.reasons.iter().map(|((reason, attempts), count)| {
            let attempts = attempts.map_or_else(|| "unknown".to_owned(), |attempts| attempts.to_string());
            let reason = serde_json::Value::from(reason.as_str());
            format!("REASON projection={projection} count={count} attempts={attempts} reason={reason}")
        });
        let Self { sent, undeleted, failed, others, newer, unseen, complete, reasons: _ } = self;
        let complete = if *complete { "yes" } else { "no" };
        let verb = if dry_run { "would_send" } else { "sent" };
        let summary = format!(
            "SUMMARY projection={projection} complete={complete} {verb}={sent} failed={failed} \
             undeleted={undeleted} others={others} newer={newer} unseen={unseen}"
        );
        reasons.chain([summary]).collect()
    }
}

/// Sends back the letters that `options` select, with the report on standard output.
async fn run(app: &Application, options: Options, aws: &Aws, pace: Pace) -> Result<Ended, Unfinished> {
    let began = clock::now();
    let chosen = options.choice.of(app)?;
    let queues = options.queues.resolve(app, &options.prefix).map_err(misconfigured)?;
    let labels = labels(app);
    let selection = Selection { max: options.max, reason: options.reason, dry_run: options.dry_run };
    let mut ended = Ended::Well;
    for name in chosen.iter().map(|spec| spec.name) {
        let letters = &open(aws, &queues[&name], &pace).await?;
        let (projection, label) = (name.name, labels[&name]);
        let redrive = Redrive { letters, projection, label, selection: &selection, began, pace: &pace };
        let (tally, result) = redrive.run().await;
        let mut text = tally.lines(label, options.dry_run).join("\n");
        text.push('\n');
        let printed = std::io::stdout().write_all(text.as_bytes());
        result.and(printed.map_err(Halt::Report)).map_err(incomplete)?;
        if !tally.is_done() {
            ended = Ended::Left;
        }
    }
    Ok(ended)
}

async fn open(aws: &Aws, address: &QueueAddress, pace: &Pace) -> Result<SqsQueue, Unfinished> {
    let opened = pace.call("opening a queue", || async {
        match SqsQueue::open(aws, address, WAIT).await {
            Err(Unusable::Aws(_, error)) => Err(error),
            opened => Ok(opened),
        }
    });
    let opened = opened.await.with_context(|| format!("the queue {address} cannot be used"));
    opened.map_err(Unfinished::Incomplete)?.map_err(|error| Unfinished::Misconfigured(error.into()))
}

fn incomplete(halt: Halt) -> Unfinished {
    Unfinished::Incomplete(anyhow::Error::new(halt).context("the redrive was not completed"))
}

/// The redrive as a process: its options from `args`, of which the first is the program's name, and the environment.
pub(crate) fn main(app: Application, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::command(args, HINT, |options: Options, stop| async move {
        let aws = options.aws.access().await.map_err(|error| Unfinished::Misconfigured(error.into()))?;
        run(&app, options, &aws, Pace::new(stop, None, rand::random)).await
    })
}
