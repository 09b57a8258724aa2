//! The handlers that every resource has: list, show, create (one or many), change, delete.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, Method, StatusCode, header};
use madang_http::{Failure, Fields, Json, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::{ErrorKind, Kind, Resource, Store, Tx};
use serde_json::{Map, Value};

use super::{
    NetworkApi,
    attribute::{Attribute, Body, STANDARD},
    failure::Stop,
    filter,
};
use crate::{
    rbac::{self, EVERYBODY, Shareable},
    refusal::{self, Missing},
};

/// The most resources that one request creates.
const MAX_BULK: usize = 1000;

/// Who asks, and where it is looked up.
pub(crate) struct Context {
    /// The store.
    pub(crate) store: Store,
    /// The caller.
    pub(crate) caller: Caller,
}

impl Context {
    /// Whether an object of somebody else's is shared with the caller's project by a policy.
    pub(crate) fn is_shared(&self, object: &str) -> bool {
        let project = self.caller.subject.project_id();
        project.is_some_and(|project| rbac::is_shared_with(&self.store, object, project))
    }
}

/// What policy is asked about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whose it is.
    pub(crate) project: String,
    /// Whose the network is that it is on.
    pub(crate) network_project: String,
    /// Whether every project may use it.
    pub(crate) is_shared: bool,
    /// Whether it is, or is on, an external network.
    pub(crate) is_external: bool,
    /// Whether it is (or is to be) the network's own port.
    pub(crate) is_network_device: bool,
}

impl Facts {
    /// Facts of what only belongs to a project.
    pub(crate) fn of(project: &str) -> Self {
        Self {
            project: project.to_owned(),
            ..Self::default()
        }
    }

    /// Requires a rule.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn enforce(&self, caller: &Caller, rule: &str) -> Result<(), Failure> {
        self.with(|target| caller.enforce(rule, target))
    }

    /// Whether a rule holds.
    pub(crate) fn allow(&self, caller: &Caller, rule: &str) -> bool {
        self.with(|target| caller.allows(rule, target))
    }

    /// Calls with the facts as the policy engine takes them.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&madang_identity::Target<'_>) -> T) -> T {
        let word = |flag: bool| if flag { "True" } else { "False" };
        ask(&[
            ("project_id", &self.project),
            ("tenant_id", &self.project),
            ("network:project_id", &self.network_project),
            ("network:tenant_id", &self.network_project),
            ("shared", word(self.is_shared)),
            ("external", word(self.is_external)),
            ("network_device", word(self.is_network_device)),
        ])
    }
}

/// A kind that Neutron's API shows.
pub(crate) trait Exposed: Kind {
    /// Its name in bodies and rules: `security_group`.
    const SINGULAR: &'static str;
    /// The name of a list of it: `security_groups`.
    const PLURAL: &'static str;
    /// What it is when it is missing.
    const MISSING: Missing;
    /// Whether it can be changed.
    const CHANGES: bool = true;
    /// Whether projects with which it is shared are told, when they try to change it, that it is not there.
    const HIDES: bool = false;
    /// Its attributes, besides those that every resource has.
    const ATTRIBUTES: &'static [Attribute];

    /// Whether a page may start behind one that the caller does not see, as lists of Neutron's newer kinds do.
    const HAS_OPEN_MARKERS: bool = false;

    /// What policy is asked about.
    fn facts(context: &Context, resource: &Resource<Self>) -> Facts;

    /// What a list can be filtered by although it is not shown.
    const HIDDEN: &'static [&'static str] = &[];

    /// The value of something hidden.
    fn hidden(_context: &Context, _resource: &Resource<Self>, _name: &str) -> Value {
        Value::Null
    }

    /// How it is shown, all attributes included.
    fn view(context: &Context, resource: &Resource<Self>) -> Map<String, Value>;

    /// Those among which a list looks. Whoever may see one must find it here; policy takes the others out again.
    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        own_or_all(context, query)
    }

    /// Creates one for `project`.
    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop>;

    /// Changes one.
    fn change(
        context: &Context,
        tx: &mut Tx<'_>,
        old: &Resource<Self>,
        body: &Body,
    ) -> Result<Arc<Resource<Self>>, Stop>;

    /// Before a change is answered: waits for what nobody may find half done.
    fn settle(_context: &Context, _old: &Resource<Self>, _new: &Resource<Self>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Deletes one.
    fn remove(_context: &Context, tx: &mut Tx<'_>, resource: &Resource<Self>) -> Result<(), Stop> {
        Ok(tx.delete(resource)?)
    }

    /// Before a list or a creation, makes what every project has from the start.
    fn prepare(_tx: &mut Tx<'_>, _project: &str) -> Result<(), Stop> {
        Ok(())
    }

    /// Whether [`Exposed::prepare`] has something to do.
    fn needs_preparation(_context: &Context, _project: &str) -> bool {
        false
    }
}

/// The routes of a resource at `path`.
pub(crate) fn routes<K: Exposed>(path: &str) -> Router<NetworkApi> {
    let one = get(show::<K>).delete(delete::<K>);
    let one = if K::CHANGES { one.put(update::<K>) } else { one };
    Router::new()
        .route(&format!("/{path}"), get(list::<K>).post(create::<K>))
        .route(&format!("/{path}/{{id}}"), one)
}

/// All resources for who may see all, the project's own for others; those with an id where ids are asked for.
pub(crate) fn own_or_all<K: Kind>(context: &Context, query: &Query) -> Vec<Arc<Resource<K>>> {
    let cache = context.store.cache::<K>();
    if query.has("id") {
        return query.all("id").filter_map(|id| cache.by_name(id)).collect();
    }
    match context.caller.subject.project_id() {
        Some(project) if !context.caller.is_admin() => cache.in_project(project),
        _ => match query.get("project_id").or(query.get("tenant_id")) {
            Some(project) if query.all("project_id").chain(query.all("tenant_id")).count() == 1 => {
                cache.in_project(project)
            }
            _ => cache.all(),
        },
    }
}

/// Adds resources that are not there yet.
pub(crate) fn add_missing<K: Kind>(to: &mut Vec<Arc<Resource<K>>>, more: Vec<Arc<Resource<K>>>) {
    if more.is_empty() {
        return;
    }
    let known: ahash::AHashSet<_> = to.iter().map(|resource| resource.metadata.uid).collect();
    to.extend(
        more.into_iter()
            .filter(|resource| !known.contains(&resource.metadata.uid)),
    );
}

/// Adds what policies share with all projects, and with the caller's.
pub(crate) fn add_shared<K: Kind>(context: &Context, to: &mut Vec<Arc<Resource<K>>>, sort: Shareable) {
    let cache = context.store.cache::<K>();
    for project in [Some(EVERYBODY), context.caller.subject.project_id()]
        .into_iter()
        .flatten()
    {
        let ids = rbac::shared_with(&context.store, project, sort);
        add_missing(to, ids.iter().filter_map(|id| cache.by_name(id)).collect());
    }
}

/// [`own_or_all`], and what is shared with the caller unless ids are asked for: the candidates of what has policies.
pub(crate) fn own_or_shared<K: Kind>(context: &Context, query: &Query, sort: Shareable) -> Vec<Arc<Resource<K>>> {
    let mut found = own_or_all(context, query);
    if !query.has("id") {
        add_shared(context, &mut found, sort);
    }
    found
}

async fn list<K: Exposed>(
    State(api): State<NetworkApi>,
    caller: Caller,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    for project in projects_asked_for(&context, &query) {
        if K::needs_preparation(&context, project) {
            prepare::<K>(&context, project).await?;
        }
    }
    let rule = format!("get_{}", K::SINGULAR);
    let mut found = K::candidates(&context, &query);
    found.retain(|resource| {
        !resource.metadata.is_deleting() && K::facts(&context, resource).allow(&context.caller, &rule)
    });
    let shown = Shown::<K>::new(&context);
    let item = |resource: &Arc<Resource<K>>| {
        let mut item = K::view(&context, resource);
        item.extend(
            K::HIDDEN
                .iter()
                .map(|name| ((*name).to_owned(), K::hidden(&context, resource, name))),
        );
        item
    };
    let items: Vec<_> = found.iter().map(item).collect();
    let hidden_marker = query.get("marker").filter(|_| K::HAS_OPEN_MARKERS).and_then(|marker| {
        let is_seen = found.iter().any(|resource| resource.name() == marker);
        let marker = context.store.cache::<K>().by_name(marker).filter(|_| !is_seen);
        marker.map(|marker| K::view(&context, &marker))
    });
    let names = STANDARD.iter().chain(K::ATTRIBUTES).map(|attribute| attribute.name);
    let names: Vec<_> = names.collect();
    let by_id: ahash::AHashMap<&str, &Arc<Resource<K>>> =
        found.iter().map(|resource| (resource.name(), resource)).collect();
    // Lists are filtered by what is not shown, too, as in Neutron.
    let finish = |item: &mut Map<String, Value>| {
        let id = item.get("id").and_then(Value::as_str).unwrap_or_default();
        if let Some(resource) = by_id.get(id) {
            let resource = Arc::clone(resource);
            shown.strip(&context, &resource, item);
        }
    };
    let listing = filter::Listing {
        collection: K::PLURAL,
        attributes: &names,
        hidden: K::HIDDEN,
        marker: hidden_marker,
        finish: &finish,
    };
    Ok(json(StatusCode::OK, &listing.page(items, &query, &info)?))
}

/// The caller's own project; for an admin also those that the query names.
fn projects_asked_for<'a>(context: &'a Context, query: &'a Query) -> impl Iterator<Item = &'a str> {
    let named = query
        .all("project_id")
        .chain(query.all("tenant_id"))
        .filter(|project| !project.is_empty());
    let named = named.filter(|_| context.caller.is_admin());
    context.caller.subject.project_id().into_iter().chain(named)
}

async fn prepare<K: Exposed>(context: &Context, project: &str) -> Result<(), Failure> {
    let prepared = context
        .store
        .transact(context.caller.cause(), |tx| K::prepare(tx, project))
        .await;
    Ok(prepared?)
}

async fn show<K: Exposed>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let resource = visible::<K>(&context, &id)?;
    let view = Shown::<K>::new(&context).view(&context, &resource);
    let view = Fields::from(&query).select(&view)?;
    Ok(json(StatusCode::OK, &wrapped(K::SINGULAR, view)))
}

async fn create<K: Exposed>(
    State(api): State<NetworkApi>,
    caller: Caller,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let (bodies, is_bulk) = read_new::<K>(body.0)?;
    let rule = format!("create_{}", K::SINGULAR);
    let mut wanted = Vec::with_capacity(bodies.len());
    for body in bodies {
        let project = body.project(&context.caller)?;
        wanted.push((body, project));
    }
    let made = context.store.transact(context.caller.cause(), |tx| {
        let mut made = Vec::with_capacity(wanted.len());
        for (body, project) in &wanted {
            K::prepare(tx, project)?;
            let resource = K::build(&context, tx, body, project)?;
            let facts = K::facts(&context, &resource);
            facts.enforce(&context.caller, &rule)?;
            facts.with(|target| body.enforce(K::ATTRIBUTES, &context.caller, &rule, target))?;
            made.push(resource);
        }
        Ok::<_, Stop>(made)
    });
    let shown = Shown::<K>::new(&context);
    let made: Vec<_> = made
        .await?
        .iter()
        .map(|made| Value::Object(shown.view(&context, &stored(&context, made))))
        .collect();
    let answer = match (is_bulk, made.into_iter()) {
        (true, made) => wrapped(K::PLURAL, Value::Array(made.collect())),
        (false, mut made) => wrapped(K::SINGULAR, made.next().unwrap_or_default()),
    };
    Ok(json(StatusCode::CREATED, &answer))
}

async fn update<K: Exposed>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let rule = format!("update_{}", K::SINGULAR);
    // What cannot be said of any is refused before it is looked for, as in Neutron.
    let given = member(body.0, K::SINGULAR)?;
    let body = Body::read(K::ATTRIBUTES, &Method::PUT, &given)?;
    let known = visible::<K>(&context, &id)?;
    enforce_or_hide(&context, &known, &rule)?;
    let wanted = wanted_revision(&headers)?;
    let key = known.key();
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<K>(&key).ok_or_else(|| refusal::not_found(K::MISSING, &id))?;
        check_revision(wanted, &old)?;
        let new = K::change(&context, tx, &old, &body)?;
        let facts = K::facts(&context, &new);
        facts.with(|target| body.enforce(K::ATTRIBUTES, &context.caller, &rule, target))?;
        Ok::<_, Stop>(new)
    });
    let changed = changed.await?;
    K::settle(&context, &known, &changed).await;
    let view = Shown::<K>::new(&context).view(&context, &stored(&context, &changed));
    Ok(json(StatusCode::OK, &wrapped(K::SINGULAR, Value::Object(view))))
}

async fn delete<K: Exposed>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let known = visible::<K>(&context, &id)?;
    enforce_or_hide(&context, &known, &format!("delete_{}", K::SINGULAR))?;
    let wanted = wanted_revision(&headers)?;
    let key = known.key();
    let deleted = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<K>(&key).ok_or_else(|| refusal::not_found(K::MISSING, &id))?;
        check_revision(wanted, &old)?;
        K::remove(&context, tx, &old)
    });
    deleted.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Requires a rule of a change. What is hidden from those who may not change it is not there for them.
fn enforce_or_hide<K: Exposed>(context: &Context, known: &Resource<K>, rule: &str) -> Result<(), Failure> {
    match K::facts(context, known).enforce(&context.caller, rule) {
        Err(_) if K::HIDES && context.caller.subject.project_id() != Some(known.project()) => {
            Err(refusal::not_found(K::MISSING, known.name()).into())
        }
        other => other,
    }
}

/// The resource with an id, for who may see it.
///
/// # Errors
/// 404 otherwise.
pub(crate) fn visible<K: Exposed>(context: &Context, id: &str) -> Result<Arc<Resource<K>>, Failure> {
    let found = context
        .store
        .cache::<K>()
        .by_name(id)
        .filter(|resource| !resource.metadata.is_deleting());
    let rule = format!("get_{}", K::SINGULAR);
    let seen = found.filter(|resource| K::facts(context, resource).allow(&context.caller, &rule));
    seen.ok_or_else(|| refusal::not_found(K::MISSING, id).into())
}

/// As the store has it by now: with its revision, which what a transaction staged does not know.
pub(crate) fn stored<K: Kind>(context: &Context, staged: &Arc<Resource<K>>) -> Arc<Resource<K>> {
    context
        .store
        .get::<K>(&staged.key())
        .unwrap_or_else(|| Arc::clone(staged))
}

/// Which attributes are not for a caller.
pub(crate) struct Shown<K> {
    restricted: Vec<(&'static str, String)>,
    kind: std::marker::PhantomData<K>,
}

impl<K: Exposed> Shown<K> {
    /// Those that are for some only; whether this caller is among them is asked per resource.
    pub(crate) fn new(context: &Context) -> Self {
        let rules = K::ATTRIBUTES.iter().filter(|attribute| attribute.restricted);
        let rules = rules.map(|attribute| (attribute.name, format!("get_{}:{}", K::SINGULAR, attribute.name)));
        // Admins see everything: no need to ask each time.
        let restricted = if context.caller.is_admin() {
            Vec::new()
        } else {
            rules.collect()
        };
        Self {
            restricted,
            kind: std::marker::PhantomData,
        }
    }

    /// A resource without what the caller may not see.
    pub(crate) fn view(&self, context: &Context, resource: &Resource<K>) -> Map<String, Value> {
        let mut view = K::view(context, resource);
        self.strip(context, resource, &mut view);
        view
    }

    /// Takes away what the caller may not see.
    fn strip(&self, context: &Context, resource: &Resource<K>, view: &mut Map<String, Value>) {
        if self.restricted.is_empty() {
            return;
        }
        let facts = K::facts(context, resource);
        for (name, rule) in &self.restricted {
            if view.contains_key(*name) && !facts.allow(&context.caller, rule) {
                view.shift_remove(*name);
            }
        }
    }
}

/// `{"network": …}`.
pub(crate) fn wrapped(name: &str, value: Value) -> Value {
    let mut outer = Map::with_capacity(1);
    outer.insert(name.to_owned(), value);
    Value::Object(outer)
}

/// The attributes under the resource's name.
///
/// # Errors
/// 400 where they are not there.
pub(crate) fn member(body: Value, name: &str) -> Result<Map<String, Value>, Failure> {
    let Value::Object(mut body) = body else {
        return Err(Failure::invalid("Resource body required"));
    };
    match body.shift_remove(name) {
        Some(Value::Object(members)) => Ok(members),
        Some(other) => {
            Err(Failure::invalid(format!("{} is not a dictionary", super::convert::quoted(&other))).at(name))
        }
        None => Err(Failure::invalid(format!("Unable to find '{name}' in request body")).at(name)),
    }
}

fn read_new<K: Exposed>(body: Value) -> Result<(Vec<Body>, bool), Failure> {
    let bulk = body.get(K::PLURAL).and_then(Value::as_array);
    let Some(items) = bulk else {
        let given = member(body, K::SINGULAR)?;
        return Ok((vec![Body::read(K::ATTRIBUTES, &Method::POST, &given)?], false));
    };
    if items.is_empty() {
        return Err(Failure::invalid("Resources required"));
    }
    if items.len() > MAX_BULK {
        return Err(Failure::invalid(format!(
            "{} {} in one request are too many, {MAX_BULK} is the most",
            items.len(),
            K::PLURAL
        )));
    }
    let read = |item: &Value| {
        // Neutron takes both `[{…}]` and `[{"network": {…}}]`.
        let given = item.get(K::SINGULAR).unwrap_or(item).as_object();
        let given = given.ok_or_else(|| Failure::invalid(format!("Invalid input for {}", K::PLURAL)).at(K::PLURAL))?;
        Body::read(K::ATTRIBUTES, &Method::POST, given)
    };
    Ok((items.iter().map(read).collect::<Result<_, _>>()?, true))
}

/// `If-Match: revision_number=7`.
fn wanted_revision(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().strip_prefix("revision_number=")?.parse().ok());
    let bad = || Failure::invalid("Invalid value for If-Match: revision_number=<number> is expected");
    number.map(Some).ok_or_else(bad)
}

fn check_revision<K: Kind>(wanted: Option<u64>, resource: &Resource<K>) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if wanted != resource.revision.0 => {
            let message = format!("Constrained to {wanted}, but current revision is {}", resource.revision);
            let failure = Failure::new(ErrorKind::Conflict, message).because("RevisionNumberConstraintFailed");
            Err(failure.with_status(StatusCode::PRECONDITION_FAILED))
        }
        _ => Ok(()),
    }
}
