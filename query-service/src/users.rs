//! `UserQueryService`.

use futures::stream::BoxStream;
use millrace_domain::{Email, UserId};
use millrace_proto::query::{
    BatchGetUserProfilesRequest, BatchGetUserProfilesResponse, GetUserByEmailRequest, GetUserByEmailResponse,
    GetUserProfileRequest, GetUserProfileResponse, UserProfile, WatchUserProfileRequest,
    WatchUserProfileResponse, user_query_service_server::UserQueryService,
};
use millrace_read_models::{Consistency, ReadOrders, ReadUsers, UserRow};
use millrace_runtime::{Call, Failure, Violations};
use tonic::{Request, Response, Status};

use crate::{
    batch::{self, Batch},
    models::{After, Kind, Models, Row},
    reply::reply,
    view::user_profile,
    watch::{Hub, UserRows},
};

/// Answers queries about users.
#[derive(Debug)]
pub struct Users<U: ReadUsers, O> {
    models: Models<U, O>,
    watched: Hub<UserRows<U>>,
}

impl<U: ReadUsers, O> Users<U, O> {
    /// The service over the read models.
    pub fn new(models: Models<U, O>, watched: Hub<UserRows<U>>) -> Self {
        Self { models, watched }
    }
}

#[tonic::async_trait]
impl<U: ReadUsers, O: ReadOrders> UserQueryService for Users<U, O> {
    async fn get_user_profile(
        &self,
        request: Request<GetUserProfileRequest>,
    ) -> Result<Response<GetUserProfileResponse>, Status> {
        let call = Call::of(&request)?;
        let row = self.by_id(&call, request.into_inner()).await?;
        Ok(reply(GetUserProfileResponse { user_profile: Some(user_profile(row)) }))
    }

    async fn batch_get_user_profiles(
        &self,
        request: Request<BatchGetUserProfilesRequest>,
    ) -> Result<Response<BatchGetUserProfilesResponse>, Status> {
        let call = Call::of(&request)?;
        let Batch { found, missing, unanswered } = self.by_ids(&call, request.into_inner()).await?;
        Ok(reply(BatchGetUserProfilesResponse {
            user_profiles: found,
            missing_user_ids: missing,
            unanswered_user_ids: unanswered,
        }))
    }

    async fn get_user_by_email(
        &self,
        request: Request<GetUserByEmailRequest>,
    ) -> Result<Response<GetUserByEmailResponse>, Status> {
        let call = Call::of(&request)?;
        let row = self.by_email(&call, request.into_inner()).await?;
        Ok(reply(GetUserByEmailResponse { user_profile: Some(user_profile(row)) }))
    }

    type WatchUserProfileStream = BoxStream<'static, Result<WatchUserProfileResponse, Status>>;

    async fn watch_user_profile(
        &self,
        request: Request<WatchUserProfileRequest>,
    ) -> Result<Response<Self::WatchUserProfileStream>, Status> {
        let call = Call::of(&request)?;
        let WatchUserProfileRequest { user_id, seen_version, after } = request.into_inner();
        let place = self.watched.place(&call.tenant)?;
        let row = self.by_id(&call, GetUserProfileRequest { user_id, after }).await?;
        let watch = self.watched.watch(place, (row.tenant.clone(), row.user_id), row);
        let message =
            |row: &UserRow| WatchUserProfileResponse { user_profile: Some(user_profile(row.clone())) };
        Ok(Response::new(watch.messages(seen_version, call.end_of_stream, message)))
    }
}

impl<U: ReadUsers, O: ReadOrders> Users<U, O> {
    async fn by_id(&self, call: &Call, request: GetUserProfileRequest) -> Result<UserRow, Failure> {
        let mut wrong = Violations::default();
        let user_id: Option<UserId> = wrong.field("user_id", request.user_id.parse());
        let after = After::parse(&mut wrong, request.after);
        let user_id = wrong.finish(user_id)?;

        let row = match self.awaited(call, after).await? {
            Some(row) if row.user_id == user_id => Some(row),
            _ => self.models.users.get(&call.tenant, user_id).await?,
        };
        row.ok_or_else(|| Failure::NotFound { resource_type: "user", name: user_id.to_string() })
    }

    async fn by_ids(
        &self,
        call: &Call,
        request: BatchGetUserProfilesRequest,
    ) -> Result<Batch<UserProfile>, Failure> {
        let mut wrong = Violations::default();
        let ids: Option<Vec<UserId>> = batch::ids(&mut wrong, "user_ids", &request.user_ids);
        let after = After::parse(&mut wrong, request.after);
        let ids = wrong.finish(ids)?;

        let known = self.awaited(call, after).await?.map(|row| (row.user_id, row));
        let users = &self.models.users;
        // As strongly as one user is read, so that a batch can take the place of many calls.
        let ask = |keys: Vec<_>| async move { users.get_many(&keys, Consistency::Strong).await };
        batch::read(call, &ids, known, ask, user_profile).await
    }

    async fn by_email(&self, call: &Call, request: GetUserByEmailRequest) -> Result<UserRow, Failure> {
        let mut wrong = Violations::default();
        let email = wrong.field("email", Email::try_from(request.email));
        let after = After::parse(&mut wrong, request.after);
        let email = wrong.finish(email)?;

        let awaited = self.awaited(call, after).await?;
        let indexed = self.models.users.by_email(&call.tenant, &email).await?;
        let row = match awaited {
            Some(awaited) => overlay(indexed, awaited, &email),
            None => indexed.into_iter().next(),
        };
        // An address is personal data: it is not repeated.
        row.ok_or_else(|| Failure::NotFound { resource_type: "user", name: String::new() })
    }

    /// The user who was waited for, if it was a user.
    async fn awaited(&self, call: &Call, after: Option<After>) -> Result<Option<UserRow>, Failure> {
        let Some(after) = after else { return Ok(None) };
        match self.models.caught_up(call, after, Kind::User).await? {
            Row::User(row) => Ok(Some(row)),
            Row::Order(_) => Ok(None),
        }
    }
}

/// Who holds an address, by an index that may lag behind a row that was read for certain.
fn overlay(indexed: Vec<UserRow>, certain: UserRow, email: &Email) -> Option<UserRow> {
    let is_same = |row: &UserRow| row.user_id == certain.user_id;
    // The index is read after the row, so it may show the same user newer.
    let newer = indexed.iter().find(|row| is_same(row) && row.version > certain.version);
    if let Some(newer) = newer {
        return Some(newer.clone());
    }
    // If the certain row holds the address, whoever else the index shows had it before; if not, its user had.
    if certain.email.normalised() == email.normalised() {
        return Some(certain);
    }
    indexed.into_iter().find(|row| row.user_id != certain.user_id)
}

#[cfg(test)]
mod tests {
    use millrace_domain::{TenantId, Timestamp};
    use uuid::Uuid;

    use super::*;

    /// The index is read after the row, which may have changed in between.
    #[test]
    fn a_user_whom_the_index_shows_newer_than_the_awaited_row_is_shown_as_the_index_has_it() {
        let email = |text: &str| Email::try_from(text.to_owned()).unwrap();
        let row = |version, text| UserRow {
            tenant: TenantId::default(),
            user_id: UserId(Uuid::from_u128(1)),
            email: email(text),
            name: "John Doe".to_owned().try_into().unwrap(),
            created_at: Timestamp::from_unix_micros(0),
            updated_at: Timestamp::from_unix_micros(0),
            version,
            provenance: None,
        };
        let newer = row(3, "john@example.com");
        for awaited in [row(2, "john@example.com"), row(2, "other@example.com")] {
            let found = overlay(vec![newer.clone()], awaited, &email("john@example.com"));
            assert_eq!(found, Some(newer.clone()));
        }
    }
}
