//! `projector redrive`: dead letters back into the queues that they came from.
//!
//! A letter is received, sent, and then deleted, so that it is in one place or in both whenever the run is cut off. Those
//! that are not to be sent are received too, since SQS has no other way to look at them; they stay hidden until the run
//! ends, so that none is met twice, and are shown again then.

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

/// After how many receivings in a row that brought nothing new a queue counts as seen through.
const IN_VAIN: u32 = 2;

/// How often letters that were counted and not met are counted again before they are believed in.
const COUNTS: u32 = 5;

/// How many letters are left alone at most, since each is remembered until the end. SQS hides 120,000 at a time (SQS
/// Developer Guide, "Amazon SQS message quotas").
const MAX_LEFT: usize = 20_000;

/// How many reasons are told apart at most. A reason can name a version, so there may be many.
const MAX_REASONS: usize = 100;

/// How often it is told how far things are.
const TELLING: Duration = Duration::from_secs(10);

/// How many letters are sent at a time.
const SENT_AT_ONCE: usize = 10;

/// What is to be sent back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// At most so many.
    pub(crate) max: Option<u64>,
    /// Only those whose reason contains this text.
    pub(crate) reason: Option<String>,
    /// None: they are only told of.
    pub(crate) dry_run: bool,
}

/// What became of a queue's dead letters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Those that were sent back and deleted, or would have been.
    pub(crate) sent: u64,
    /// Those that were sent back, and could not be deleted. They are there still, and will be sent once more.
    pub(crate) undeleted: u64,
    /// Those that were to be sent, and the queue did not take.
    pub(crate) failed: u64,
    /// Those that were not asked for: of another reason, or another projection.
    pub(crate) others: u64,
    /// Those that were sent to the dead letters after the run began: they failed again, or others did.
    pub(crate) newer: u64,
    /// Those that were there at the end and had not been met, as far as the queue can tell: hidden by somebody else, or
    /// come later.
    pub(crate) unseen: u64,
    /// How many of those that were asked for there were of each reason and number of attempts.
    pub(crate) reasons: BTreeMap<(String, Option<u32>), u64>,
    /// Whether the queue was seen through, or as many were sent as were asked for.
    pub(crate) complete: bool,
}

/// One queue's dead letters being sent back.
pub(crate) struct Redrive<'a, D> {
    /// The letters.
    pub(crate) letters: &'a D,
    /// The name of the projection whose queue it is, as dead letters have it.
    pub(crate) projection: &'static str,
    /// Its label in the report.
    pub(crate) label: &'static str,
    /// Which of them.
    pub(crate) selection: &'a Selection,
    /// When the run began.
    pub(crate) began: Timestamp,
    /// The pace of calls, and whether to end.
    pub(crate) pace: &'a Pace,
}

/// What is remembered during a run.
#[derive(Default)]
struct Memory {
    tally: Tally,
    /// The letters that are left alone, by id, each with its newest receipt.
    left: HashMap<String, ReceiptHandle>,
    /// The ids of letters that were sent, and are there still.
    undeleted: HashSet<String>,
}

impl<D: DeadLetters> Redrive<'_, D> {
    /// Sends back what is asked for. Whatever ends it, letters that it leaves are shown again, as far as AWS lets it.
    pub(crate) async fn run(&self) -> (Tally, Result<(), Halt>) {
        let mut memory = Memory::default();
        let result = self.send_all(&mut memory).await;
        let left: Vec<_> = memory.left.into_values().collect();
        for receipts in left.chunks(usize::try_from(MAX_MESSAGES).unwrap_or(1)) {
            // Those for whom this fails come back by themselves.
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

    /// How many letters the queue has that were not met. Its counts lag, so they are asked for until they agree, or often
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

    /// Those that are to be sent; and whether any was met that was not known.
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

    /// Sends letters, and deletes those that were sent. A letter that was sent before is only deleted.
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
                    // It comes again, in this run or a later one.
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

    /// Whether nothing is left that was to be sent, as far as is known: one that is newer than the run, or was not met, may
    /// be one of those.
    pub(crate) fn is_done(&self) -> bool {
        self.complete && [self.failed, self.undeleted, self.newer, self.unseen].iter().all(|left| *left == 0)
    }

    /// What a report says of it: a line for each reason, and one of all.
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

/// Sends back what `options` ask for, with the report on standard output.
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
