//! `UserCommandService`.

use millrace_domain::{
    Aggregate as _, Email, Label, StreamId, UserId,
    user::{User, UserCommand, UserRefusal},
};
use millrace_event_store::{AppendEvents, Snapshots};
use millrace_proto::command::{
    CreateUserRequest, CreateUserResponse, UpdateUserProfileRequest, UpdateUserProfileResponse,
    user_command_service_server::UserCommandService,
};
use millrace_runtime::{Call, Failure, Violations};
use tonic::{Request, Response, Status};

use crate::{
    handler::{Handler, IntoFailure, Order},
    parse::{created_id, digest, expected_version, ids},
};

/// Serves commands on users.
#[derive(Debug)]
pub struct Users<S> {
    handler: Handler<User, S>,
}

impl<S> Users<S> {
    /// The service over a handler.
    pub fn new(handler: Handler<User, S>) -> Self {
        Self { handler }
    }
}

#[tonic::async_trait]
impl<S: AppendEvents + Snapshots> UserCommandService for Users<S> {
    async fn create_user(
        &self,
        request: Request<CreateUserRequest>,
    ) -> Result<Response<CreateUserResponse>, Status> {
        let order = create(&Call::of(&request)?, request.into_inner())?;
        Ok(Response::new(self.handler.execute(&order).await?.into()))
    }

    async fn update_user_profile(
        &self,
        request: Request<UpdateUserProfileRequest>,
    ) -> Result<Response<UpdateUserProfileResponse>, Status> {
        let order = update(&Call::of(&request)?, request.into_inner())?;
        Ok(Response::new(self.handler.execute(&order).await?.into()))
    }
}

fn create(call: &Call, mut request: CreateUserRequest) -> Result<Order<User>, Failure> {
    let mut wrong = Violations::default();
    let ids = ids(&mut wrong, request.command_id.take(), request.correlation_id.take());
    let digest = digest("CreateUser", &request);
    let email = wrong.field("email", Email::try_from(request.email));
    let name = wrong.field("name", Label::try_from(request.name));
    let (ids, email, name) = wrong.finish((|| Some((ids?, email?, name?)))())?;
    let user_id = UserId(created_id(&call.tenant, User::TYPE.as_str(), &ids.command_id));
    Ok(Order {
        stream: stream(call, user_id),
        command: UserCommand::CreateUser { user_id, email, name },
        creates: true,
        expected_version: None,
        command_id: ids.command_id,
        digest,
        correlation_id: ids.correlation_id,
        trace: call.trace,
    })
}

fn update(call: &Call, mut request: UpdateUserProfileRequest) -> Result<Order<User>, Failure> {
    let mut wrong = Violations::default();
    let ids = ids(&mut wrong, request.command_id.take(), request.correlation_id.take());
    request.user_id.make_ascii_lowercase();
    let digest = digest("UpdateUserProfile", &request);
    let user_id = wrong.field("user_id", request.user_id.parse());
    if request.email.is_none() && request.name.is_none() {
        wrong.add("email", "set email, name or both");
        wrong.add("name", "set email, name or both");
    }
    let email = request.email.and_then(|text| wrong.field("email", Email::try_from(text)));
    let name = request.name.and_then(|text| wrong.field("name", Label::try_from(text)));
    let expected_version = expected_version(&mut wrong, request.expected_version);
    let (ids, user_id) = wrong.finish(ids.zip(user_id))?;
    Ok(Order {
        stream: stream(call, user_id),
        command: UserCommand::UpdateUserProfile { email, name },
        creates: false,
        expected_version,
        command_id: ids.command_id,
        digest,
        correlation_id: ids.correlation_id,
        trace: call.trace,
    })
}

/// The stream of a user of the caller's tenant.
pub(crate) fn stream(call: &Call, user_id: UserId) -> StreamId {
    StreamId { tenant: call.tenant.clone(), aggregate_type: User::TYPE, id: user_id.0 }
}

impl IntoFailure for UserRefusal {
    fn into_failure(self, stream: &StreamId) -> Failure {
        match self {
            Self::NotFound => Failure::NotFound { resource_type: "user", name: stream.id.to_string() },
            // The id of a user comes from the command's id: where there is one already, the id was used before.
            Self::AlreadyExists => Failure::CommandIdReused,
        }
    }
}
