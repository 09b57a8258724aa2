//! Collections below a resource whose items are part of it and are kept in it: rules of a policy, forwarded ports of an
//! address. The handlers are written once; what differs is in [`Below`].

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Method, StatusCode};
use madang_http::{Failure, Json, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Map, Value};

use super::{
    NetworkApi,
    attribute::{Attribute, Body},
    failure::Stop,
    filter,
    resource::{Context, Exposed, Facts, member, visible, wrapped},
};
use crate::refusal;

/// One such collection of `P`, of items `T`.
pub(crate) struct Below<P: Exposed, T> {
    /// The path of the collection of parents: `qos/policies`.
    pub(crate) parents: &'static str,
    /// An item's name in bodies: `bandwidth_limit_rule`.
    pub(crate) singular: &'static str,
    /// That of a list of items, and the last part of the path.
    pub(crate) plural: &'static str,
    /// What policy rules are about: `policy_bandwidth_limit_rule` of `create_policy_bandwidth_limit_rule`.
    pub(crate) noun: &'static str,
    /// Whether the rule for creating one is asked before the parent is looked for.
    pub(crate) is_for_any: bool,
    /// What can be said of an item.
    pub(crate) attributes: &'static [Attribute],
    /// The parent's items, which may be those of other collections, too.
    pub(crate) all: fn(&mut P::Spec) -> &mut Vec<T>,
    /// Whether an item is of this collection.
    pub(crate) is_here: fn(&T) -> bool,
    /// An item's id.
    pub(crate) id: fn(&T) -> &str,
    /// How it is shown.
    pub(crate) view: fn(&T) -> Map<String, Value>,
    /// A new item, or a known one with what the request says put over it.
    pub(crate) read: fn(&Context, &Body, Option<&T>) -> Result<T, Stop>,
    /// What is said when it is missing: of a parent, with an id.
    pub(crate) missing: fn(&str, &str) -> Failure,
}

impl<P: Exposed, T: Clone + Send + Sync + 'static> Below<P, T> {
    /// Its routes.
    pub(crate) fn routes(&'static self) -> Router<NetworkApi> {
        let all = format!("/{}/{{id}}/{}", self.parents, self.plural);
        let one = format!("{all}/{{item}}");
        Router::new()
            .route(
                &all,
                get(|api, caller, path, query, info| self.list(api, caller, path, query, info))
                    .post(|api, caller, path, body| self.create(api, caller, path, body)),
            )
            .route(
                &one,
                get(|api, caller, path| self.show(api, caller, path))
                    .put(|api, caller, path, body| self.update(api, caller, path, body))
                    .delete(|api, caller, path| self.delete(api, caller, path)),
            )
    }

    /// The parent, for who may see it and do this with its items.
    fn parent(&self, context: &Context, id: &str, verb: &str) -> Result<Arc<Resource<P>>, Failure> {
        let parent = visible::<P>(context, id)?;
        let rule = format!("{verb}_{}", self.noun);
        Facts::of(parent.project()).enforce(&context.caller, &rule)?;
        Ok(parent)
    }

    fn items(&self, parent: &Resource<P>) -> Vec<T> {
        let mut spec = parent.spec.clone();
        let mut items = std::mem::take((self.all)(&mut spec));
        items.retain(self.is_here);
        items
    }

    fn answer(&self, status: StatusCode, item: &T) -> Response {
        json(status, &wrapped(self.singular, Value::Object((self.view)(item))))
    }

    async fn list(
        &self,
        State(api): State<NetworkApi>,
        caller: Caller,
        Path(id): Path<String>,
        query: Query,
        info: RequestInfo,
    ) -> Result<Response, Failure> {
        let parent = self.parent(&context(api, caller), &id, "get")?;
        let items = self.items(&parent).iter().map(self.view).collect();
        let names: Vec<_> = self.attributes.iter().map(|attribute| attribute.name).collect();
        let page = filter::page(self.plural, items, &names, &[], &query, &info)?;
        Ok(json(StatusCode::OK, &page))
    }

    async fn show(
        &self,
        State(api): State<NetworkApi>,
        caller: Caller,
        Path((id, item)): Path<(String, String)>,
    ) -> Result<Response, Failure> {
        let parent = self.parent(&context(api, caller), &id, "get")?;
        let items = self.items(&parent);
        let found = items.iter().find(|other| (self.id)(other) == item);
        Ok(self.answer(StatusCode::OK, found.ok_or_else(|| (self.missing)(&id, &item))?))
    }

    async fn create(
        &self,
        State(api): State<NetworkApi>,
        caller: Caller,
        Path(id): Path<String>,
        body: Json<Value>,
    ) -> Result<Response, Failure> {
        let context = context(api, caller);
        if self.is_for_any {
            Facts::of("").enforce(&context.caller, &format!("create_{}", self.noun))?;
        }
        let known = self.parent(&context, &id, "create")?;
        let body = Body::read(self.attributes, &Method::POST, &member(body.0, self.singular)?)?;
        let made = (self.read)(&context, &body, None).map_err(Failure::from)?;
        self.change(&context, &known, |items| {
            items.push(made.clone());
            Ok(())
        })
        .await?;
        Ok(self.answer(StatusCode::CREATED, &made))
    }

    async fn update(
        &self,
        State(api): State<NetworkApi>,
        caller: Caller,
        Path((id, item)): Path<(String, String)>,
        body: Json<Value>,
    ) -> Result<Response, Failure> {
        let context = context(api, caller);
        let known = self.parent(&context, &id, "update")?;
        let body = Body::read(self.attributes, &Method::PUT, &member(body.0, self.singular)?)?;
        let changed = self.change(&context, &known, |items| {
            let at = self.position(items, &id, &item)?;
            items[at] = (self.read)(&context, &body, Some(&items[at]))?;
            Ok(items[at].clone())
        });
        Ok(self.answer(StatusCode::OK, &changed.await?))
    }

    async fn delete(
        &self,
        State(api): State<NetworkApi>,
        caller: Caller,
        Path((id, item)): Path<(String, String)>,
    ) -> Result<Response, Failure> {
        let context = context(api, caller);
        let known = self.parent(&context, &id, "delete")?;
        let deleted = self.change(&context, &known, |items| {
            let at = self.position(items, &id, &item)?;
            items.remove(at);
            Ok(())
        });
        deleted.await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    fn position(&self, items: &[T], parent: &str, item: &str) -> Result<usize, Stop> {
        let is_it = |other: &T| (self.is_here)(other) && (self.id)(other) == item;
        let found = items.iter().position(is_it);
        Ok(found.ok_or_else(|| (self.missing)(parent, item))?)
    }

    async fn change<A>(
        &self,
        context: &Context,
        known: &Resource<P>,
        change: impl Fn(&mut Vec<T>) -> Result<A, Stop>,
    ) -> Result<A, Failure> {
        let changed = context.store.transact(context.caller.cause(), |tx| {
            let old = tx.get::<P>(&known.key());
            let old = old.ok_or_else(|| refusal::not_found(P::MISSING, known.name()))?;
            let mut new = (*old).clone();
            let answer = change((self.all)(&mut new.spec))?;
            tx.update(&old, new)?;
            Ok::<_, Stop>(answer)
        });
        Ok(changed.await?)
    }
}

fn context(api: NetworkApi, caller: Caller) -> Context {
    Context {
        store: api.store,
        caller,
    }
}
