//! From gRPC requests to commands, and from outcomes to replies: the part that all adapters share.
//!
//! [`command_requests!`](millrace_proto::command_requests) says which messages are commands. An adapter's method then
//! parses the message's own fields and no more; every violation of a request is collected.

use millrace_core::{Aggregate, CommandDigest, CommandId, EventCodec, StreamId, TenantId, ids::parse_uuid};
use millrace_event_store::{AppendEvents, Snapshots};
use millrace_proto::{CommandRequest, UpdateRequest, command::CommandResult, query::ReadAfter};
use millrace_server::{Call, Failure, Violations};
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{CommandEnvelope, CommandHandler, CommandOutcome};

/// The namespace of ids that are derived from command ids (RFC 9562, version 5).
const CREATED_BY: Uuid = Uuid::from_u128(0x7c1f_5d0e_2f2b_4a52_9a40_3f6f_8f5a_c0de);

/// The answer of an adapter's method.
pub type Reply<M> = Result<Response<M>, Status>;

/// Answers with a message.
///
/// # Errors
/// None; a method's last line reads better so.
pub fn reply<M>(message: M) -> Reply<M> {
    Ok(Response::new(message))
}

/// The parts that every command has.
struct Parts {
    command_id: CommandId,
    digest: CommandDigest,
    correlation_id: CommandId,
}

/// Reads the parts that every command has. Where the client sent no command id the server makes one.
fn parts<M: CommandRequest>(violations: &mut Violations, message: &mut M) -> Option<Parts> {
    let (command_id, correlation_id) = message.take_ids();
    message.uuids().into_iter().for_each(|uuid| uuid.make_ascii_lowercase());
    let command_id = command_id.unwrap_or_else(|| Uuid::new_v4().to_string());
    let command_id: Option<CommandId> = violations.field("command_id", command_id.parse());
    let correlation_id = correlation_id.map(|text| violations.field("correlation_id", text.parse()));
    let command_id = command_id?;
    let correlation_id = correlation_id.unwrap_or_else(|| Some(command_id.clone()))?;
    Some(Parts { command_id, digest: digest(M::NAME, message), correlation_id })
}

/// The digest of a message whose ids were taken out. Generated code writes fields in one order only, so equal messages
/// have equal digests; the name keeps messages of different commands apart.
fn digest(name: &str, message: &impl Message) -> CommandDigest {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(message.encode_to_vec());
    let bytes: [u8; 32] = hash.finalize().into();
    CommandDigest(bytes.into_iter().take(16).fold(0, |number, byte| number << 8 | u128::from(byte)))
}

/// The id of an aggregate that a command creates: the same for every attempt at the command.
fn created_id(tenant: &TenantId, aggregate_type: &str, command_id: &CommandId) -> Uuid {
    Uuid::new_v5(&CREATED_BY, format!("{tenant}#{aggregate_type}#{command_id}").as_bytes())
}

impl<A, S> CommandHandler<A, S>
where
    A: Aggregate<Event: EventCodec>,
    S: AppendEvents + Snapshots,
{
    /// Creates an aggregate as a request asks for it. `parse` reads the message's own fields.
    ///
    /// # Errors
    /// As the table of errors says: bad fields, all of them at once; a refusal; AWS.
    pub async fn create<M: CommandRequest>(
        &self,
        request: Request<M>,
        parse: impl FnOnce(M, &mut Violations) -> Option<A::Command>,
    ) -> Result<Option<CommandResult>, Failure> {
        self.send(&self.creation(request, parse)?).await
    }

    /// The creation that a request asks for, without carrying it out: for a command that depends on other aggregates.
    ///
    /// # Errors
    /// Bad fields, all of them at once.
    pub fn creation<M: CommandRequest>(
        &self,
        request: Request<M>,
        parse: impl FnOnce(M, &mut Violations) -> Option<A::Command>,
    ) -> Result<CommandEnvelope<A>, Failure> {
        let call = Call::of(&request)?;
        let (mut message, mut violations) = (request.into_inner(), Violations::default());
        let parts = parts(&mut violations, &mut message);
        let command = parse(message, &mut violations);
        let (Parts { command_id, digest, correlation_id }, command) =
            violations.finish(parts.zip(command))?;
        let id = created_id(&call.tenant, A::TYPE.as_str(), &command_id);
        Ok(CommandEnvelope {
            stream: StreamId { tenant: call.tenant, aggregate_type: A::TYPE, id },
            command,
            creates: true,
            expected_version: None,
            command_id,
            digest,
            correlation_id,
            trace: call.trace,
        })
    }

    /// Updates an aggregate as a request asks for it. `parse` reads the message's own fields.
    ///
    /// # Errors
    /// As [`create`](Self::create) says.
    pub async fn update<M: UpdateRequest>(
        &self,
        request: Request<M>,
        parse: impl FnOnce(M, &mut Violations) -> Option<A::Command>,
    ) -> Result<Option<CommandResult>, Failure> {
        let call = Call::of(&request)?;
        let (mut message, mut violations) = (request.into_inner(), Violations::default());
        let parts = parts(&mut violations, &mut message);
        let id = violations.field(M::ID, parse_uuid(message.id()));
        let expected_version = message.expected_version();
        let command = parse(message, &mut violations);
        if expected_version == Some(0) {
            violations.add("expected_version", "must be at least 1");
        }
        let (Parts { command_id, digest, correlation_id }, (id, command)) =
            violations.finish(parts.zip(id.zip(command)))?;
        let envelope = CommandEnvelope {
            stream: StreamId { tenant: call.tenant, aggregate_type: A::TYPE, id },
            command,
            creates: false,
            expected_version,
            command_id,
            digest,
            correlation_id,
            trace: call.trace,
        };
        self.send(&envelope).await
    }

    /// Carries a command out, for its reply.
    ///
    /// # Errors
    /// A refusal; AWS.
    pub async fn send(&self, envelope: &CommandEnvelope<A>) -> Result<Option<CommandResult>, Failure> {
        let CommandOutcome { aggregate_id, receipt, command_id, replayed } = self.execute(envelope).await?;
        Ok(Some(CommandResult {
            read_after: Some(ReadAfter {
                aggregate_type: A::TYPE.to_string(),
                aggregate_id: aggregate_id.to_string(),
                version: receipt.version,
            }),
            event_id: receipt.event_id.to_string(),
            command_id: command_id.into(),
            replayed,
        }))
    }

    /// Fails where an aggregate of the tenant does not exist: the precondition of another aggregate's command. Whether the
    /// aggregate ceases to exist meanwhile is not looked at.
    ///
    /// # Errors
    /// [`Failure::Precondition`] with the kind that is given; AWS.
    pub async fn require(&self, tenant: &TenantId, id: Uuid, kind: &'static str) -> Result<(), Failure> {
        let stream = StreamId { tenant: tenant.clone(), aggregate_type: A::TYPE, id };
        if self.exists(&stream).await? {
            return Ok(());
        }
        let description = format!("the {} does not exist", A::TYPE);
        Err(Failure::Precondition { kind, subject: id.to_string(), description })
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::Invalid;
    use millrace_event_store::MemoryStore;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::{
        StateCache,
        testing::{CONFIG, Note},
    };

    #[derive(Clone, PartialEq, prost::Message)]
    struct OpenRequest {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(string, optional, tag = "2")]
        command_id: Option<String>,
        #[prost(string, optional, tag = "3")]
        correlation_id: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct WriteRequest {
        #[prost(string, tag = "1")]
        note_id: String,
        #[prost(string, tag = "2")]
        text: String,
        #[prost(uint64, optional, tag = "3")]
        expected_version: Option<u64>,
        #[prost(string, optional, tag = "4")]
        command_id: Option<String>,
        #[prost(string, optional, tag = "5")]
        correlation_id: Option<String>,
    }

    millrace_proto::command_requests! {
        OpenRequest creates ();
        WriteRequest updates note_id;
    }

    fn text(text: String, violations: &mut Violations) -> Option<String> {
        let valid = if text.is_empty() { Err(Invalid("must not be empty")) } else { Ok(text) };
        violations.field("text", valid)
    }

    fn handler(store: &MemoryStore) -> CommandHandler<Note, MemoryStore> {
        CommandHandler::new(store.clone(), StateCache::new(1 << 20), CONFIG)
    }

    #[test]
    fn requests_of_one_body_and_two_kinds_have_two_digests() {
        let body = OpenRequest { text: "one".into(), command_id: None, correlation_id: None };
        assert_ne!(digest("Open", &body), digest("Write", &body));
    }

    async fn open(
        handler: &CommandHandler<Note, MemoryStore>,
        tenant: &'static str,
        command_id: Option<&str>,
    ) -> CommandResult {
        let command_id = command_id.map(str::to_owned);
        let mut request = Request::new(OpenRequest { text: "one".into(), command_id, correlation_id: None });
        request.metadata_mut().insert("x-tenant-id", tenant.parse().unwrap());
        handler.create(request, |message, violations| text(message.text, violations)).await.unwrap().unwrap()
    }

    async fn write(
        handler: &CommandHandler<Note, MemoryStore>,
        request: WriteRequest,
    ) -> Result<CommandResult, Status> {
        let result =
            handler.update(Request::new(request), |message, violations| text(message.text, violations));
        Ok(result.await?.unwrap())
    }

    fn write_request(note_id: &str, text: &str) -> WriteRequest {
        let command_id = Some("write".to_owned());
        WriteRequest { note_id: note_id.to_owned(), text: text.to_owned(), command_id, ..Default::default() }
    }

    #[tokio::test]
    async fn a_creation_has_an_id_of_its_tenant_and_its_command() {
        let store = MemoryStore::default();
        let notes = handler(&store);
        let first = open(&notes, "acme", Some("a")).await;
        let again = open(&notes, "acme", Some("a")).await;
        assert_eq!(again, CommandResult { replayed: true, ..first.clone() });
        let [other_command, other_tenant] =
            [open(&notes, "acme", Some("b")).await, open(&notes, "umbrella", Some("a")).await];
        for other in [other_command, other_tenant] {
            assert_ne!(other.read_after, first.read_after);
        }
        let envelope = store.all().remove(0).envelope;
        let read_after = ReadAfter {
            aggregate_type: "note".to_owned(),
            aggregate_id: envelope.aggregate_id.to_string(),
            version: 1,
        };
        assert_eq!(first.read_after, Some(read_after));
        assert_eq!((first.event_id, first.command_id), (envelope.event_id.to_string(), "a".to_owned()));
    }

    #[tokio::test]
    async fn a_command_without_an_id_gets_one_and_is_its_own_correlation() {
        let store = MemoryStore::default();
        let result = open(&handler(&store), "acme", None).await;
        let envelope = store.all().remove(0).envelope;
        assert_eq!(envelope.command_id.as_str(), result.command_id);
        assert_eq!(
            (&envelope.correlation_id, &envelope.causation_id),
            (&envelope.command_id, &envelope.command_id)
        );
    }

    #[tokio::test]
    async fn a_command_is_the_same_in_either_case_of_its_uuid_and_with_another_correlation() {
        let notes = handler(&MemoryStore::default());
        let id = open(&notes, "default", Some("a")).await.read_after.unwrap().aggregate_id;
        let first = write(&notes, write_request(&id, "two")).await.unwrap();
        let again = WriteRequest {
            correlation_id: Some("another".to_owned()),
            ..write_request(&id.to_uppercase(), "two")
        };
        assert_eq!(write(&notes, again).await.unwrap(), CommandResult { replayed: true, ..first });
        let reused = write(&notes, write_request(&id, "three")).await.unwrap_err();
        assert_eq!(reused.get_error_details().error_info().unwrap().reason, "COMMAND_ID_REUSED");
    }

    #[tokio::test]
    async fn every_violation_is_named_and_nothing_is_sent() {
        let store = MemoryStore::default();
        let request = WriteRequest {
            note_id: "?".to_owned(),
            text: String::new(),
            expected_version: Some(0),
            command_id: Some(String::new()),
            correlation_id: Some("\n".to_owned()),
        };
        let refused = write(&handler(&store), request).await.unwrap_err();
        let details = refused.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["command_id", "correlation_id", "note_id", "text", "expected_version"]);
        assert_eq!((refused.code(), store.requests()), (Code::InvalidArgument, 0));
    }

    #[tokio::test]
    async fn a_missing_aggregate_is_a_precondition_of_the_kind_that_is_asked_for() {
        let notes = handler(&MemoryStore::default());
        let id = open(&notes, "default", Some("a")).await.read_after.unwrap().aggregate_id.parse().unwrap();
        notes.require(&TenantId::default(), id, "NOTE_EXISTS").await.unwrap();
        let missing: Status =
            notes.require(&"acme".parse().unwrap(), id, "NOTE_EXISTS").await.unwrap_err().into();
        let details = missing.get_error_details();
        let violation = &details.precondition_failure().unwrap().violations[0];
        assert_eq!(
            (violation.r#type.as_str(), violation.subject.as_str()),
            ("NOTE_EXISTS", &*id.to_string())
        );
        assert_eq!(violation.description, "the note does not exist");
    }
}
