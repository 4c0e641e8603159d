//! `UserQueryService`.

use millrace_query::{Batch, Messages, Reply, Rows, accept, reply};
use shop::{
    Email, UserProfile,
    contracts::query::{user_query_service_server::UserQueryService, *},
};
use tonic::Request;

/// Answers queries about users.
#[derive(Debug, Clone)]
pub struct Users(pub Rows<UserProfile>);

#[tonic::async_trait]
impl UserQueryService for Users {
    type WatchUserProfileStream = Messages<WatchUserProfileResponse>;

    async fn get_user_profile(
        &self,
        request: Request<GetUserProfileRequest>,
    ) -> Reply<GetUserProfileResponse> {
        let (call, asked) = accept(request)?;
        let user = self.0.get(&call, ("user_id", &asked.user_id), asked.after).await?;
        reply(GetUserProfileResponse { user_profile: Some(user.into()) })
    }

    async fn batch_get_user_profiles(
        &self,
        request: Request<BatchGetUserProfilesRequest>,
    ) -> Reply<BatchGetUserProfilesResponse> {
        let (call, asked) = accept(request)?;
        let Batch { found, missing, unanswered } =
            self.0.batch(&call, ("user_ids", &asked.user_ids), asked.after).await?;
        reply(BatchGetUserProfilesResponse {
            user_profiles: found,
            missing_user_ids: missing,
            unanswered_user_ids: unanswered,
        })
    }

    async fn get_user_by_email(
        &self,
        request: Request<GetUserByEmailRequest>,
    ) -> Reply<GetUserByEmailResponse> {
        let (call, asked) = accept(request)?;
        let email = ("email", Email::try_from(asked.email));
        let user = self.0.lookup(&call, UserProfile::BY_EMAIL, email, asked.after).await?;
        reply(GetUserByEmailResponse { user_profile: Some(user.into()) })
    }

    async fn watch_user_profile(
        &self,
        request: Request<WatchUserProfileRequest>,
    ) -> Reply<Self::WatchUserProfileStream> {
        let (call, asked) = accept(request)?;
        let message = |user| WatchUserProfileResponse { user_profile: Some(user) };
        self.0.watch(&call, ("user_id", &asked.user_id), asked.seen_version, asked.after, message).await
    }

    async fn get_user_profile_as_of(
        &self,
        request: Request<GetUserProfileAsOfRequest>,
    ) -> Reply<GetUserProfileAsOfResponse> {
        let (call, asked) = accept(request)?;
        let user = self.0.as_of(&call, ("user_id", &asked.user_id), asked.as_of).await?;
        reply(GetUserProfileAsOfResponse { user_profile: Some(user.into()) })
    }
}
