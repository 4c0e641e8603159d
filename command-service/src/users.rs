//! `UserCommandService`.

use millrace_command::{AppendEvents, CommandHandler, Reply, Snapshots, reply};
use shop::{
    Email, Label,
    contracts::command::{
        CreateUserRequest, CreateUserResponse, UpdateUserProfileRequest, UpdateUserProfileResponse,
        user_command_service_server::UserCommandService,
    },
    user::{User, UserCommand},
};
use tonic::Request;

/// Commands on users.
#[derive(Debug)]
pub struct Users<S>(pub CommandHandler<User, S>);

#[tonic::async_trait]
impl<S: AppendEvents + Snapshots> UserCommandService for Users<S> {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Reply<CreateUserResponse> {
        let result = self.0.create(request, |message, violations| {
            let email = violations.field("email", Email::try_from(message.email));
            let name = violations.field("name", Label::try_from(message.name));
            Some(UserCommand::CreateUser { email: email?, name: name? })
        });
        reply(CreateUserResponse { result: result.await? })
    }

    async fn update_user_profile(
        &self,
        request: Request<UpdateUserProfileRequest>,
    ) -> Reply<UpdateUserProfileResponse> {
        let result = self.0.update(request, |message, violations| {
            if message.email.is_none() && message.name.is_none() {
                violations.add("email", "set email, name or both");
                violations.add("name", "set email, name or both");
            }
            let email = message.email.and_then(|text| violations.field("email", Email::try_from(text)));
            let name = message.name.and_then(|text| violations.field("name", Label::try_from(text)));
            Some(UserCommand::UpdateUserProfile { email, name })
        });
        reply(UpdateUserProfileResponse { result: result.await? })
    }
}
