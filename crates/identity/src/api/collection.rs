//! What the collections of Keystone's API have in common: create, list, show, update and delete, in one place.
//!
//! A kind says what it is called, what it looks like and what its bodies must be; simple ones leave the verbs as they
//! are, others point them at their own rules.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::{Key, Kind, Metadata, Resource};
use serde_json::Value;

use super::{Listed, input::Input, many, no_content, not_found, one};
use crate::{Caller, Identity};

/// The schemas of the bodies of `POST` and of `PATCH`.
pub(crate) struct Schemas {
    /// What creates.
    pub(crate) create: Schema,
    /// What changes.
    pub(crate) update: Schema,
}

/// A kind that Keystone's API serves as a collection.
pub(crate) trait Collection: Kind {
    /// One, as bodies and the names of policy rules have it: `region`.
    const ONE: &'static str;
    /// Many, as bodies and the names of policy rules have it: `regions`.
    const MANY: &'static str;
    /// How clients see one.
    type View: Listed + Send;

    /// One as clients see it.
    fn view(identity: &Identity, info: &RequestInfo, resource: &Resource<Self>) -> Self::View;

    /// One as who just made it sees it.
    fn new_view(identity: &Identity, info: &RequestInfo, resource: &Resource<Self>) -> Self::View {
        Self::view(identity, info, resource)
    }

    /// What bodies must be.
    fn schemas() -> &'static Schemas;

    /// What a body asks to be made, with its id where the client chooses it. For kinds that leave [`Collection::create`].
    ///
    /// # Errors
    /// 400 for what does not fit.
    fn spec(input: Input) -> Result<(Option<String>, Self::Spec), Failure>;

    /// Changes what a body asks to be changed. For kinds that leave [`Collection::update`].
    fn apply(spec: &mut Self::Spec, input: Input);

    /// What Keystone's sentences call one.
    fn words() -> String {
        Self::ONE.replace('_', " ")
    }

    /// Whether the filters of a query let one pass.
    fn passes(_query: &Query, _resource: &Resource<Self>) -> bool {
        true
    }

    /// What lists are sorted by, before the id.
    fn order(_resource: &Resource<Self>) -> &str {
        ""
    }

    /// Makes one.
    fn create(
        identity: &Identity,
        caller: &Caller,
        input: Input,
    ) -> impl Future<Output = Result<Arc<Resource<Self>>, Failure>> + Send {
        async move {
            let (id, spec) = Self::spec(input)?;
            create(identity, caller, id, spec).await
        }
    }

    /// Makes one with the id that a client chose.
    fn create_named(
        identity: &Identity,
        caller: &Caller,
        id: String,
        input: Input,
    ) -> impl Future<Output = Result<Arc<Resource<Self>>, Failure>> + Send {
        async move {
            // As Keystone: who may not make any is told so before what is wrong with this one.
            caller.enforce(&format!("identity:create_{}", Self::ONE), &[])?;
            let (_, spec) = Self::spec(input)?;
            create(identity, caller, Some(id), spec).await
        }
    }

    /// One, once policy allows `verb` (`get`, `update`, `delete`) on it.
    fn find(identity: &Identity, caller: &Caller, verb: &str, id: &str) -> Result<Arc<Resource<Self>>, Failure> {
        find(identity, caller, &format!("identity:{verb}_{}", Self::ONE), id)
    }

    /// All that the caller may list, before filters.
    fn list(identity: &Identity, caller: &Caller, _query: &Query) -> Result<Vec<Arc<Resource<Self>>>, Failure> {
        caller.enforce(&format!("identity:list_{}", Self::MANY), &[])?;
        Ok(identity.store.cache::<Self>().all())
    }

    /// Changes one.
    fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        input: Input,
    ) -> impl Future<Output = Result<Arc<Resource<Self>>, Failure>> + Send {
        update(identity, caller, id, input)
    }

    /// Removes one.
    fn delete(identity: &Identity, caller: &Caller, id: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        delete::<Self>(identity, caller, id)
    }
}

/// The routes of a collection at `path`, such as `/regions`.
pub(crate) fn routes<C: Collection>(path: &str) -> Router<Arc<Identity>> {
    Router::new()
        .route(path, get(on_list::<C>).post(on_create::<C>))
        .route(&format!("{path}/{{id}}"), single::<C>())
}

/// As [`routes`], for a collection whose ids clients choose: what is not there is made with `PUT`.
pub(crate) fn named_routes<C: Collection>(path: &str) -> Router<Arc<Identity>> {
    Router::new()
        .route(path, get(on_list::<C>))
        .route(&format!("{path}/{{id}}"), single::<C>().put(on_put::<C>))
}

/// What may be done to one of a collection, for those whose list is special.
pub(crate) fn single<C: Collection>() -> axum::routing::MethodRouter<Arc<Identity>> {
    get(on_show::<C>).patch(on_update::<C>).delete(on_delete::<C>)
}

/// A list, filtered and sorted.
pub(crate) fn respond<C: Collection>(
    identity: &Identity,
    info: &RequestInfo,
    query: &Query,
    mut found: Vec<Arc<Resource<C>>>,
) -> Result<Response, Failure> {
    found.retain(|resource| C::passes(query, resource));
    found.sort_by(|a, b| (C::order(a), a.name()).cmp(&(C::order(b), b.name())));
    let views = found.iter().map(|resource| C::view(identity, info, resource)).collect();
    many(info, query, C::MANY, views)
}

/// The domain that a list of users or groups is narrowed to (empty where it is not), and what is in it: the one that the
/// query names, else that of the token.
pub(crate) fn in_domain<C: Collection>(
    identity: &Identity,
    caller: &Caller,
    query: &Query,
) -> (String, Vec<Arc<Resource<C>>>) {
    let domain_id = query
        .get("domain_id")
        .or(caller.subject.domain_id())
        .unwrap_or_default();
    let cache = identity.store.cache::<C>();
    let found = if domain_id.is_empty() {
        cache.all()
    } else {
        cache.by("domain", domain_id)
    };
    (domain_id.to_owned(), found)
}

/// Makes one of a simple kind, with a given id where there is one.
///
/// # Errors
/// 403 for policy, 409 for a taken id, what the kind's rule says.
pub(crate) async fn create<C: Collection>(
    identity: &Identity,
    caller: &Caller,
    id: Option<String>,
    spec: C::Spec,
) -> Result<Arc<Resource<C>>, Failure> {
    caller.enforce(&format!("identity:create_{}", C::ONE), &[])?;
    let created = identity.store.transact(caller.cause(), |tx| {
        let mut metadata = Metadata::new("", "");
        metadata.name = id.clone().unwrap_or_else(|| metadata.uid.simple().to_string());
        let key = Key::new(C::NAME, "", "", metadata.name.as_str());
        if tx.get::<C>(&key).is_some() {
            let (what, name) = (C::words(), &metadata.name);
            let message = format!("Conflict occurred attempting to store {what} - Duplicate ID, {name}.");
            return Err(Failure::conflict(message));
        }
        Ok::<_, Failure>(tx.create(Resource::<C>::new(metadata, spec.clone()))?)
    });
    created.await
}

/// One of a simple kind, once policy allows `rule`.
///
/// # Errors
/// 403 for policy, 404.
pub(crate) fn find<C: Collection>(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    id: &str,
) -> Result<Arc<Resource<C>>, Failure> {
    caller.enforce(rule, &[])?;
    let found = identity.store.get::<C>(&Key::new(C::NAME, "", "", id));
    found.ok_or_else(|| not_found(&C::words(), id))
}

/// Changes one of a simple kind.
///
/// # Errors
/// 403 for policy, 404, what the kind's rule says.
pub(crate) async fn update<C: Collection>(
    identity: &Identity,
    caller: &Caller,
    id: &str,
    input: Input,
) -> Result<Arc<Resource<C>>, Failure> {
    let key = C::find(identity, caller, "update", id)?.key();
    let changed = identity.store.modify::<C, Failure>(&key, caller.cause(), |resource| {
        C::apply(&mut resource.spec, input.clone());
        Ok(())
    });
    changed.await
}

/// Removes one, once policy allows it: what a collection without further rules does.
pub(crate) async fn delete<C: Collection>(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
    let key = C::find(identity, caller, "delete", id)?.key();
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let found = tx.get::<C>(&key).ok_or_else(|| not_found(&C::words(), id))?;
        Ok::<_, Failure>(tx.delete(&found)?)
    });
    deleted.await
}

async fn on_create<C: Collection>(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let input = Input::read(&C::schemas().create, body, C::ONE)?;
    let made = C::create(&identity, &caller, input).await?;
    Ok(one(StatusCode::CREATED, C::ONE, &C::new_view(&identity, &info, &made)))
}

async fn on_put<C: Collection>(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let input = Input::read(&C::schemas().create, body, C::ONE)?;
    let made = C::create_named(&identity, &caller, id, input).await?;
    Ok(one(StatusCode::CREATED, C::ONE, &C::new_view(&identity, &info, &made)))
}

pub(crate) async fn on_list<C: Collection>(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let found = C::list(&identity, &caller, &query)?;
    respond::<C>(&identity, &info, &query, found)
}

async fn on_show<C: Collection>(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let found = C::find(&identity, &caller, "get", &id)?;
    Ok(one(StatusCode::OK, C::ONE, &C::view(&identity, &info, &found)))
}

async fn on_update<C: Collection>(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let input = Input::read(&C::schemas().update, body, C::ONE)?;
    let changed = C::update(&identity, &caller, &id, input).await?;
    Ok(one(StatusCode::OK, C::ONE, &C::view(&identity, &info, &changed)))
}

async fn on_delete<C: Collection>(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    C::delete(&identity, &caller, &id).await?;
    Ok(no_content())
}
