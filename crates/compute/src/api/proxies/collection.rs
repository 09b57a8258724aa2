//! What the old collections have in common: lists, one of them, its end, and what is made answered; in one place.
//!
//! A collection says what it is called, what one looks like and which there are; most are a project's own.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, request::Parts};
use madang_http::{Failure, Microversion, NextLink, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::{Kind, Resource, Store, StoreError};
use serde_json::{Map, Value, json};

use super::{LAST, refusal};
use crate::api::{ComputeApi, base, enforce, input};

/// Nova's `max_limit`.
const MOST: usize = 1000;

/// Who asks, and what the request says beside its body.
pub(super) struct Asked {
    api: ComputeApi,
    /// Who.
    pub(super) caller: Caller,
    /// In which microversion.
    pub(super) version: Microversion,
    /// With which parameters.
    pub(super) query: Query,
    /// From where.
    pub(super) info: RequestInfo,
}

impl FromRequestParts<ComputeApi> for Asked {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &ComputeApi) -> Result<Self, Failure> {
        let Ok(query) = Query::from_request_parts(parts, api).await;
        let Ok(info) = RequestInfo::from_request_parts(parts, api).await;
        Ok(Self {
            api: api.clone(),
            caller: Caller::from_request_parts(parts, api).await?,
            version: Microversion::from_request_parts(parts, api).await?,
            query,
            info,
        })
    }
}

impl Asked {
    pub(super) fn store(&self) -> &Store {
        &self.api.store
    }

    /// The caller's project; empty where there is none.
    pub(super) fn project(&self) -> &str {
        self.caller.subject.project_id().unwrap_or_default()
    }

    /// Where the service is, as links begin.
    pub(super) fn base(&self) -> String {
        base(&self.info)
    }

    /// Requires a microversion that has it, and that the caller may do `rule` in its own project; says which that is.
    pub(super) fn allowed(&self, rule: &str) -> Result<&str, Failure> {
        input::until(self.version, LAST)?;
        let project = self.caller.project()?;
        enforce(&self.caller, rule, project)?;
        Ok(project)
    }
}

/// A page of a list.
pub(super) struct Found<K: Kind> {
    /// What is on it.
    pub(super) items: Vec<Arc<Resource<K>>>,
    /// Where the next one is, in lists that say so.
    pub(super) next: Option<NextLink>,
}

impl<K: Kind> From<Vec<Arc<Resource<K>>>> for Found<K> {
    fn from(items: Vec<Arc<Resource<K>>>) -> Self {
        Self { items, next: None }
    }
}

/// One of the old collections.
pub(super) trait Collection: Send + 'static {
    /// What it shows.
    type Kind: Kind;
    /// One, as bodies have it: `floating_ip`.
    const ONE: &'static str;
    /// Many, as bodies have it: `floating_ips`.
    const MANY: &'static str;
    /// The answer to a delete.
    const GONE: StatusCode = StatusCode::ACCEPTED;

    /// Requires that the caller may `list`, `show` or `delete`.
    ///
    /// # Errors
    /// 404 for a microversion without it, 403.
    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure>;

    /// What is said where there is none of that id.
    fn missing(id: &str) -> String;

    /// One as clients see it.
    fn view(asked: &Asked, one: &Resource<Self::Kind>) -> Value;

    /// One as plain lists have it.
    fn brief(asked: &Asked, one: &Resource<Self::Kind>) -> Value {
        Self::view(asked, one)
    }

    /// What a list holds: the project's own, the oldest first.
    fn list(asked: &Asked) -> impl Future<Output = Result<Found<Self::Kind>, Failure>> + Send {
        let mut own = own(asked);
        own.reverse();
        async { Ok(own.into()) }
    }

    /// Whether the caller may know of one.
    fn is_seen(asked: &Asked, one: &Resource<Self::Kind>) -> bool {
        asked.caller.can_see(one.project())
    }

    /// Refuses an id that cannot be one.
    ///
    /// # Errors
    /// 400.
    fn check_id(_id: &str) -> Result<(), Failure> {
        Ok(())
    }

    /// Refuses to delete what must stay.
    ///
    /// # Errors
    /// What the collection says.
    fn may_go(_asked: &Asked, _one: &Resource<Self::Kind>) -> Result<(), Failure> {
        Ok(())
    }
}

/// A project's own, the newest first.
pub(super) fn own<K: Kind>(asked: &Asked) -> Vec<Arc<Resource<K>>> {
    let mut own = asked.store().cache::<K>().in_project(asked.project());
    own.sort_unstable_by_key(|one| std::cmp::Reverse((one.metadata.created, one.metadata.uid)));
    own
}

/// The part of a list that `offset` and `limit` ask for; a limit of 0 is none.
pub(super) fn part<T>(mut items: Vec<T>, query: &Query) -> Result<Vec<T>, Failure> {
    let number = |name: &str| match query.get(name) {
        None => Ok(0),
        Some(said) => said.parse::<usize>().map_err(|_| {
            let message = format!("Invalid input for query parameters {name}. Value: {said}.");
            Failure::invalid(message).at(name)
        }),
    };
    let (offset, limit) = (number("offset")?, number("limit")?);
    items.drain(..offset.min(items.len()));
    items.truncate(if limit == 0 { MOST } else { limit.min(MOST) });
    Ok(items)
}

/// One, if the caller may know of it.
pub(super) fn find<C: Collection>(asked: &Asked, id: &str) -> Result<Arc<Resource<C::Kind>>, Failure> {
    C::check_id(id)?;
    let found = asked.store().cache::<C::Kind>().by_name(id);
    let found = found.filter(|one| C::is_seen(asked, one));
    found.ok_or_else(|| Failure::not_found(C::missing(id)))
}

/// The answer that is one of them.
pub(super) fn one<C: Collection>(asked: &Asked, one: &Resource<C::Kind>) -> Response {
    json(StatusCode::OK, &json!({ C::ONE: C::view(asked, one) }))
}

/// Makes one, with nothing beside it.
pub(super) async fn make<K: Kind>(asked: &Asked, wanted: Resource<K>) -> Result<Arc<Resource<K>>, StoreError> {
    let made = asked
        .store()
        .transact(asked.caller.cause(), |tx| tx.create(wanted.clone()));
    made.await
}

fn many<C: Collection>(found: &Found<C::Kind>, view: impl Fn(&Resource<C::Kind>) -> Value) -> Response {
    let shown: Vec<Value> = found.items.iter().map(|one| view(one)).collect();
    let mut body = Map::from_iter([(C::MANY.to_owned(), json!(shown))]);
    if let Some(next) = &found.next {
        body.insert(format!("{}_links", C::MANY), json!([next]));
    }
    json(StatusCode::OK, &body)
}

/// `GET` of a collection.
pub(super) async fn on_list<C: Collection>(asked: Asked) -> Result<Response, Failure> {
    C::allow(&asked, "list")?;
    let found = C::list(&asked).await?;
    Ok(many::<C>(&found, |one| C::brief(&asked, one)))
}

/// `GET` of a collection's `detail`.
pub(super) async fn on_detail<C: Collection>(asked: Asked) -> Result<Response, Failure> {
    C::allow(&asked, "list")?;
    let found = C::list(&asked).await?;
    Ok(many::<C>(&found, |one| C::view(&asked, one)))
}

/// `GET` of one.
pub(super) async fn on_show<C: Collection>(asked: Asked, Path(id): Path<String>) -> Result<Response, Failure> {
    C::allow(&asked, "show")?;
    Ok(one::<C>(&asked, &*find::<C>(&asked, &id)?))
}

/// `DELETE` of one.
pub(super) async fn on_delete<C: Collection>(asked: Asked, Path(id): Path<String>) -> Result<Response, Failure> {
    C::allow(&asked, "delete")?;
    let found = find::<C>(&asked, &id)?;
    C::may_go(&asked, &found)?;
    let key = found.key();
    let store = asked.store();
    let gone = store.transact::<(), StoreError>(asked.caller.cause(), |tx| match tx.get::<C::Kind>(&key) {
        Some(one) => tx.delete(&one),
        None => Ok(()),
    });
    gone.await.map_err(refusal)?;
    Ok(C::GONE.into_response())
}
