//! Jobs on DynamoDB.

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::{
        put_item::{PutItemError, builders::PutItemFluentBuilder},
        query::builders::QueryFluentBuilder,
    },
};
use futures::{FutureExt as _, future::BoxFuture};
use millrace_aws::{
    AwsError,
    item::{Item, ItemError, map, number, object, parsed, string, text, whole},
};
use millrace_core::TenantId;

use super::{Job, JobPart, JobStore, Seen, State};

const JOB: &str = "Job";
const PART: &str = "Part";
const OWNER: &str = "Owner";
const FENCE: &str = "Fence";
const BEAT: &str = "Beat";
const STATE: &str = "State";

/// The part that is the job itself.
const WHOLE: &str = "job";

/// What precedes the name of any other part.
const OF_WORK: &str = "part/";

/// The key under which tenants are listed.
const TENANTS: &str = "tenants";

/// The table of jobs. An item is a job (`Job`, `Part` = `job`, `Owner` if it has one, `Fence`, `Beat`, `State`), a part
/// of its work (`Job`, `Part` = `part/<name>`, `Fence`, `State`), or a known tenant (`Job` = `tenants`, `Part` = its name).
#[derive(Debug, Clone)]
pub(crate) struct DynamoJobs {
    client: Client,
    table: String,
}

impl DynamoJobs {
    /// The table called `table`.
    pub(crate) fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }

    fn query(&self, job: &str, condition: &str) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression(format!("#job = :job AND {condition}"))
            .expression_attribute_names("#job", JOB)
            .expression_attribute_names("#part", PART)
            .expression_attribute_values(":job", text(job))
    }

    fn put_item(&self, item: Item) -> PutItemFluentBuilder {
        self.client.put_item().table_name(&self.table).set_item(Some(item))
    }
}

impl JobStore for DynamoJobs {
    fn job<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Job>, AwsError>> {
        async move {
            let query = self.query(name, "#part = :part").expression_attribute_values(":part", text(WHOLE));
            let reply = query.send().await?;
            reply.items().first().map(job_of).transpose().map_err(unreadable)
        }
        .boxed()
    }

    fn parts<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<JobPart>, AwsError>> {
        async move {
            let query = self
                .query(name, "begins_with(#part, :part)")
                .expression_attribute_values(":part", text(OF_WORK));
            let (mut parts, mut from) = (Vec::new(), None);
            loop {
                let reply = query.clone().set_exclusive_start_key(from).send().await?;
                for item in reply.items() {
                    parts.push(part_of(item).map_err(unreadable)?);
                }
                from = reply.last_evaluated_key.filter(|key| !key.is_empty());
                if from.is_none() {
                    return Ok(parts);
                }
            }
        }
        .boxed()
    }

    fn put<'a>(&'a self, job: &'a Job, seen: Seen) -> BoxFuture<'a, Result<bool, AwsError>> {
        async move {
            let put = self.put_item(job_item(job));
            let put = match seen {
                Seen::Nothing => put
                    .condition_expression("attribute_not_exists(#job)")
                    .expression_attribute_names("#job", JOB),
                Seen::Unchanged { fence, beat } => put
                    .condition_expression("#fence = :fence AND #beat = :beat")
                    .expression_attribute_names("#fence", FENCE)
                    .expression_attribute_names("#beat", BEAT)
                    .expression_attribute_values(":fence", number(fence))
                    .expression_attribute_values(":beat", number(beat)),
                Seen::Fence(fence) => put
                    .condition_expression("#fence = :fence")
                    .expression_attribute_names("#fence", FENCE)
                    .expression_attribute_values(":fence", number(fence)),
            };
            held(put.send().await.map(drop))
        }
        .boxed()
    }

    fn put_part<'a>(&'a self, part: &'a JobPart) -> BoxFuture<'a, Result<bool, AwsError>> {
        async move {
            let put = self
                .put_item(part_item(part))
                .condition_expression("attribute_not_exists(#fence) OR #fence <= :fence")
                .expression_attribute_names("#fence", FENCE)
                .expression_attribute_values(":fence", number(part.fence));
            held(put.send().await.map(drop))
        }
        .boxed()
    }

    fn tenants<'a>(&'a self, after: Option<&'a TenantId>) -> BoxFuture<'a, Result<Vec<TenantId>, AwsError>> {
        async move {
            // Nothing precedes a space in a key, and no tenant is one.
            let after = after.map_or_else(|| text(" "), text);
            let query = self.query(TENANTS, "#part > :after").expression_attribute_values(":after", after);
            let reply = query.send().await?;
            reply.items().iter().map(|item| parsed(item, PART).map_err(unreadable)).collect()
        }
        .boxed()
    }

    fn put_tenant<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), AwsError>> {
        async move {
            self.put_item(item([(JOB, text(TENANTS)), (PART, text(tenant))])).send().await?;
            Ok(())
        }
        .boxed()
    }
}

fn item<const N: usize>(attributes: [(&str, aws_sdk_dynamodb::types::AttributeValue); N]) -> Item {
    attributes.map(|(name, value)| (name.to_owned(), value)).into()
}

fn job_item(job: &Job) -> Item {
    let mut item = item([
        (JOB, text(&job.name)),
        (PART, text(WHOLE)),
        (FENCE, number(job.fence)),
        (BEAT, number(job.beat)),
        (STATE, map(&job.state)),
    ]);
    item.extend(job.owner.as_ref().map(|owner| (OWNER.to_owned(), text(owner))));
    item
}

fn job_of(item: &Item) -> Result<Job, ItemError> {
    Ok(Job {
        name: string(item, JOB)?,
        owner: item.contains_key(OWNER).then(|| string(item, OWNER)).transpose()?,
        fence: whole(item, FENCE)?,
        beat: whole(item, BEAT)?,
        state: state(item)?,
    })
}

fn part_item(part: &JobPart) -> Item {
    item([
        (JOB, text(&part.job)),
        (PART, text(format!("{OF_WORK}{}", part.name))),
        (FENCE, number(part.fence)),
        (STATE, map(&part.state)),
    ])
}

fn part_of(item: &Item) -> Result<JobPart, ItemError> {
    let name = string(item, PART)?;
    Ok(JobPart {
        job: string(item, JOB)?,
        name: name.strip_prefix(OF_WORK).unwrap_or(&name).to_owned(),
        fence: whole(item, FENCE)?,
        state: state(item)?,
    })
}

fn state(item: &Item) -> Result<State, ItemError> {
    object(item, STATE)
}

fn unreadable(error: ItemError) -> AwsError {
    AwsError::InvalidResponse(format!("an item of the table of jobs: {error}"))
}

fn held<R>(result: Result<(), SdkError<PutItemError, R>>) -> Result<bool, AwsError>
where
    AwsError: From<SdkError<PutItemError, R>>,
{
    match result {
        Ok(()) => Ok(true),
        Err(error)
            if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_and_its_parts_survive_their_items() {
        let state = json!({ "run": u64::MAX, "open": [{ "due": null }], "began": "2026-11-23T12:00:00Z" });
        let state = state.as_object().unwrap();
        for owner in [None, Some("me".to_owned())] {
            let job = Job { name: "audit".into(), owner, fence: 3, beat: 4, state: state.clone() };
            assert_eq!(job_of(&job_item(&job)), Ok(job));
        }
        let name = "rows/order-summaries@1/3".to_owned();
        let part = JobPart { job: "audit".into(), name, fence: 3, state: state.clone() };
        assert_eq!(part_of(&part_item(&part)), Ok(part));
        assert!(job_of(&Item::new()).is_err());
    }
}
