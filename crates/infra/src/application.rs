//! The application stack: the resources that all projections share.

use crate::{
    InfraError, Stack, alarms, arn,
    error::SPLIT_APPLICATION,
    names, parameters,
    parameters::{WITH_ARCHIVE, value},
    queues, relay,
    template::{Draft, PREFIX, Template, resource, resource_if},
    yaml::{Yaml, arn_of, map, reference, sub},
};

pub(crate) fn template(stack: &Stack) -> Result<Template, InfraError> {
    let mut draft =
        Draft::new("Millrace: event bus, archive, undelivered events and the alarm of the relay.");
    draft.settings(parameters::prefix(stack));
    draft.settings(parameters::event_source(stack));
    draft.settings(parameters::index_shards());
    draft.settings(parameters::archive());
    let relay_alarms = relay::stopped(stack);
    draft.settings(parameters::alarms(!relay_alarms.is_empty()));

    let bus = resource("AWS::Events::EventBus", [("Name", sub(names::bus(PREFIX)))]);
    draft.resource("EventBus", bus);
    draft.resource("EventArchive", archive());
    draft.resource("UndeliveredQueue", queues::letters(&names::undelivered_queue(PREFIX)));
    draft.resource("UndeliveredQueuePolicy", undelivered_policy());
    draft.resource(
        "UndeliveredAlarm",
        alarms::any_message(
            &names::undelivered_queue(PREFIX),
            "Events that the bus could not bring to a queue (\"projector audit --repair\" writes their rows), or items \
             of the event store that no relay could decode.",
            "UndeliveredQueue",
        ),
    );
    draft.resource("UndecodableRule", relay::undecodable());
    relay::count_unconsumed(stack, &mut draft);
    draft.resources(relay_alarms);

    draft.output("AwsRegion", reference("AWS::Region"));
    draft.output("EventBusName", reference("EventBus"));
    draft.output("EventSource", value("EventSource"));
    draft.output("IndexShards", value("IndexShards"));
    draft.output("UndeliveredQueueUrl", reference("UndeliveredQueue"));
    draft.finish("application", SPLIT_APPLICATION)
}

fn archive() -> Yaml {
    resource_if(
        WITH_ARCHIVE,
        "AWS::Events::Archive",
        [
            ("ArchiveName", sub(names::archive(PREFIX))),
            ("SourceArn", arn_of("EventBus")),
            ("RetentionDays", value("ArchiveRetentionDays")),
        ],
    )
}

/// Every rule of the bus may send its undeliverable events, so a new projection changes nothing here.
fn undelivered_policy() -> Yaml {
    let rules = sub(arn::rules(&names::bus(PREFIX)));
    let condition = map([("ArnLike", map([("aws:SourceArn", rules)]))]);
    queues::policy_for_rules("UndeliveredQueue", "OnlyTheRulesSend", condition)
}
