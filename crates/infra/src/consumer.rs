//! A consumer of events: a rule of the bus, a queue with dead letters, and their alarms.

use crate::{
    alarms::{QueueAlarm, any_message},
    arn, names,
    parameters::value,
    queues,
    template::{Draft, PREFIX, resource},
    yaml::{Yaml, arn_of, list, map, number, sub, text, texts},
};

/// The stream keeps a day of events that no relay has read, so a rule retries for as long.
const RETRY_SECONDS: u32 = 86_400;
/// The most that EventBridge accepts.
const RETRIES: u32 = 185;

/// A receiver of events from the bus with a queue of its own. Today these are projections.
pub(crate) struct Consumer<'a> {
    /// The words for it in descriptions, such as `the projection order-summaries-v1`.
    pub(crate) title: String,
    /// The name of its queue. The prefix in this and the next is the placeholder.
    pub(crate) queue: String,
    pub(crate) dead_letters: String,
    pub(crate) rule: String,
    /// The aggregate types whose events it receives.
    pub(crate) sources: &'a [String],
}

impl Consumer<'_> {
    /// Adds its rule, its queues and their policies.
    pub(crate) fn add(&self, draft: &mut Draft) {
        draft.resource("Queue", queues::consumed(&self.queue, "DeadLetterQueue"));
        draft.resource("DeadLetterQueue", queues::letters(&self.dead_letters));
        draft.resource("Rule", self.rule());
        let only_the_rule = map([("ArnEquals", map([("aws:SourceArn", arn_of("Rule"))]))]);
        draft.resource("QueuePolicy", queues::policy_for_rules("Queue", "OnlyTheRuleSends", only_the_rule));
        draft.resource("DeadLetterQueuePolicy", queues::policy_for_letters("DeadLetterQueue"));
        draft.resource("DeadLettersAlarm", self.dead_letters_alarm());
        draft.resource("LagAlarm", self.lag_alarm());
        draft.resource("HeldBackAlarm", self.held_back_alarm());
    }

    /// The rule matches on the aggregate's type, so a new type of event changes nothing here.
    fn rule(&self) -> Yaml {
        let pattern = map([
            ("source", list([value("EventSource")])),
            ("detail", map([("AggregateType", texts(self.sources))])),
        ]);
        let undelivered = sub(arn::queue(&names::undelivered_queue(PREFIX)));
        let retry = map([
            ("MaximumEventAgeInSeconds", number(RETRY_SECONDS)),
            ("MaximumRetryAttempts", number(RETRIES)),
        ]);
        let target = map([
            ("Id", text("queue")),
            ("Arn", arn_of("Queue")),
            // Makes the queue a fair one: a tenant that floods it does not delay the messages of the others.
            ("SqsParameters", map([("MessageGroupId", text("$.detail.TenantId"))])),
            ("DeadLetterConfig", map([("Arn", undelivered)])),
            ("RetryPolicy", retry),
        ]);
        resource(
            "AWS::Events::Rule",
            [
                ("Name", sub(&self.rule)),
                ("Description", text(format!("Events to {}.", self.title))),
                ("EventBusName", sub(names::bus(PREFIX))),
                ("EventPattern", pattern),
                ("State", text("ENABLED")),
                ("Targets", list([target])),
            ],
        )
    }

    fn dead_letters_alarm(&self) -> Yaml {
        let description = format!(
            "Messages that {} gave up. \"projector redrive --dry-run\" shows their reasons.",
            self.title
        );
        any_message(&self.dead_letters, &description, "DeadLetterQueue")
    }

    fn lag_alarm(&self) -> Yaml {
        let alarm = QueueAlarm {
            name: format!("{}-lag", self.queue),
            description: &format!(
                "Messages wait too long: {} does not keep up, or does not run.",
                self.title
            ),
            queue: "Queue",
            metric: "ApproximateAgeOfOldestMessage",
            statistic: "Maximum",
            minutes: 5,
            threshold: value("MaxLagSeconds"),
        };
        alarm.resource()
    }

    /// SQS excludes messages that keep coming back from the age of the oldest.
    fn held_back_alarm(&self) -> Yaml {
        let alarm = QueueAlarm {
            name: format!("{}-held-back", self.queue),
            description: &format!(
                "For half an hour, many messages to {} have waited for a newer release, or for a table that throttles.",
                self.title
            ),
            queue: "Queue",
            metric: "ApproximateNumberOfMessagesNotVisible",
            statistic: "Minimum",
            minutes: 30,
            threshold: value("MaxHeldBack"),
        };
        alarm.resource()
    }
}
