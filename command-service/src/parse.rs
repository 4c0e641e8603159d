//! From requests to the domain's types: what all commands have in common. Everything that is wrong is collected.

use millrace_domain::{CommandDigest, CommandId, TenantId};
use millrace_runtime::Violations;
use prost::Message;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The namespace of ids that are derived from command ids (RFC 9562, version 5).
const CREATED_BY: Uuid = Uuid::from_u128(0x7c1f_5d0e_2f2b_4a52_9a40_3f6f_8f5a_c0de);

/// The parts of a request that say which command it is.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) command_id: CommandId,
    pub(crate) correlation_id: CommandId,
}

/// Reads the ids of a command. Where the client sent no command id the server makes one.
pub(crate) fn ids(
    wrong: &mut Violations,
    command_id: Option<String>,
    correlation_id: Option<String>,
) -> Option<Ids> {
    let command_id = match command_id {
        Some(text) => wrong.field("command_id", text.parse()),
        None => wrong.field("command_id", Uuid::new_v4().to_string().parse()),
    };
    let correlation_id = correlation_id.map(|text| wrong.field("correlation_id", text.parse()));
    let command_id: CommandId = command_id?;
    let correlation_id = correlation_id.unwrap_or_else(|| Some(command_id.clone()))?;
    Some(Ids { command_id, correlation_id })
}

/// Reads the version that the caller has seen.
pub(crate) fn expected_version(wrong: &mut Violations, version: Option<u64>) -> Option<u64> {
    if version == Some(0) {
        wrong.add("expected_version", "must be at least 1");
    }
    version
}

/// The id of an aggregate that a command creates: the same for every attempt at the command.
pub(crate) fn created_id(tenant: &TenantId, kind: &str, command_id: &CommandId) -> Uuid {
    Uuid::new_v5(&CREATED_BY, format!("{tenant}#{kind}#{command_id}").as_bytes())
}

/// The digest of a request whose command's ids were taken out and whose UUIDs are in lower case. Generated code writes fields in one order only, so equal requests
/// have equal digests; the method's name keeps requests of different kinds apart.
pub(crate) fn digest(method: &str, request: &impl Message) -> CommandDigest {
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    hash.update([0]);
    hash.update(request.encode_to_vec());
    let bytes: [u8; 32] = hash.finalize().into();
    CommandDigest(bytes.into_iter().take(16).fold(0, |number, byte| number << 8 | u128::from(byte)))
}
