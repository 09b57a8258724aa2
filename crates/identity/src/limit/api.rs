//! `/v3/registered_limits`, `/v3/limits`.

use std::sync::{Arc, LazyLock};

use axum::{Router, extract::State, response::Response, routing::get};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Query, RequestInfo, Schema, json};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Value, json as value};

use super::{Limit, LimitSpec, RegisteredLimit, RegisteredLimitSpec, What, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::{Input, name_schema, resource_schema},
        links, not_found,
    },
    project::Project,
};

static REGISTERED: LazyLock<Schemas> = LazyLock::new(|| Schemas {
    create: batch(
        "registered_limits",
        &registered(),
        &["service_id", "resource_name", "default_limit"],
    ),
    update: closed("registered_limit", registered()),
});
static LIMIT: LazyLock<Schemas> = LazyLock::new(|| {
    let mut item = object(&limit(), &["service_id", "resource_name", "resource_limit"]);
    item["oneOf"] = value!([{ "required": ["project_id"] }, { "required": ["domain_id"] }]);
    Schemas {
        create: batch_of("limits", &item),
        update: closed(
            "limit",
            value!({ "resource_limit": number(), "description": text_or_null() }),
        ),
    }
});

fn number() -> Value {
    value!({ "type": "integer", "minimum": -1, "maximum": i32::MAX })
}

fn text_or_null() -> Value {
    value!({ "type": ["string", "null"] })
}

fn what() -> Value {
    value!({
        "service_id": { "type": "string", "pattern": "^[a-fA-F0-9-]{32,36}$" },
        "region_id": { "type": ["string", "null"], "maxLength": 255 },
        "resource_name": name_schema(255),
        "description": text_or_null(),
    })
}

fn registered() -> Value {
    let mut properties = what();
    properties["default_limit"] = number();
    properties
}

fn limit() -> Value {
    let mut properties = what();
    properties["resource_limit"] = number();
    properties["project_id"] = text_or_null();
    properties["domain_id"] = text_or_null();
    properties
}

fn object(properties: &Value, required: &[&str]) -> Value {
    value!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn batch(name: &str, properties: &Value, required: &[&str]) -> Schema {
    batch_of(name, &object(properties, required))
}

fn batch_of(name: &str, item: &Value) -> Schema {
    let list = value!({ "type": "array", "items": item, "minItems": 1 });
    let body = value!({
        "type": "object", "properties": { name: list }, "required": [name], "additionalProperties": false,
    });
    Schema::new(Form::Keystone, body)
}

fn closed(name: &str, properties: Value) -> Schema {
    let item = value!({ "type": "object", "properties": properties, "additionalProperties": false });
    let body = value!({ "type": "object", "properties": { name: item }, "required": [name] });
    Schema::new(Form::Keystone, body)
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let registered = get(collection::on_list::<RegisteredLimit>).post(create_registered);
    let limits = get(collection::on_list::<Limit>).post(create_limits);
    Router::new()
        .route("/registered_limits", registered)
        .route("/registered_limits/{id}", collection::single::<RegisteredLimit>())
        .route("/limits", limits)
        .route("/limits/model", get(model))
        .route("/limits/{id}", collection::single::<Limit>())
}

/// A registered limit as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct RegisteredView {
    id: String,
    #[serde(flatten)]
    spec: RegisteredLimitSpec,
    links: Links,
}

/// A limit as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    #[serde(flatten)]
    spec: LimitSpec,
    links: Links,
}

impl Listed for RegisteredView {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn read_what(input: &mut Input) -> What {
    What {
        service_id: input.text("service_id").unwrap_or_default(),
        region_id: input.text("region_id"),
        resource_name: input.text("resource_name").unwrap_or_default(),
    }
}

fn read_number(input: &mut Input, name: &str) -> Option<i64> {
    input.take(name).and_then(|number| number.as_i64())
}

/// The filters that both lists have.
fn passes_what(query: &Query, what: &What) -> bool {
    let is = |name: &str, text: &str| query.get(name).is_none_or(|wanted| wanted == text);
    is("service_id", &what.service_id)
        && is("region_id", what.region_id.as_deref().unwrap_or_default())
        && is("resource_name", &what.resource_name)
}

impl Collection for RegisteredLimit {
    const ONE: &'static str = "registered_limit";
    const MANY: &'static str = "registered_limits";
    type View = RegisteredView;

    fn view(_: &Identity, info: &RequestInfo, registered: &Resource<Self>) -> RegisteredView {
        RegisteredView {
            id: registered.name().to_owned(),
            spec: registered.spec.clone(),
            links: links(info, "registered_limits", registered.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &REGISTERED
    }

    fn spec(mut input: Input) -> Result<(Option<String>, RegisteredLimitSpec), Failure> {
        let spec = RegisteredLimitSpec {
            what: read_what(&mut input),
            default_limit: read_number(&mut input, "default_limit").unwrap_or_default(),
            description: input.text("description"),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut RegisteredLimitSpec, mut input: Input) {
        input.set("service_id", &mut spec.what.service_id);
        input.set_nullable("region_id", &mut spec.what.region_id);
        input.set("resource_name", &mut spec.what.resource_name);
        input.set_nullable("description", &mut spec.description);
        if let Some(number) = read_number(&mut input, "default_limit") {
            spec.default_limit = number;
        }
    }

    fn passes(query: &Query, registered: &Resource<Self>) -> bool {
        passes_what(query, &registered.spec.what)
    }
}

impl Collection for Limit {
    const ONE: &'static str = "limit";
    const MANY: &'static str = "limits";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, limit: &Resource<Self>) -> View {
        View {
            id: limit.name().to_owned(),
            spec: limit.spec.clone(),
            links: links(info, "limits", limit.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &LIMIT
    }

    fn spec(mut input: Input) -> Result<(Option<String>, LimitSpec), Failure> {
        let spec = LimitSpec {
            what: read_what(&mut input),
            project_id: input.text("project_id"),
            domain_id: input.text("domain_id"),
            resource_limit: read_number(&mut input, "resource_limit").unwrap_or_default(),
            description: input.text("description"),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut LimitSpec, mut input: Input) {
        input.set_nullable("description", &mut spec.description);
        if let Some(number) = read_number(&mut input, "resource_limit") {
            spec.resource_limit = number;
        }
    }

    fn passes(query: &Query, limit: &Resource<Self>) -> bool {
        let is = |name: &str, is: &Option<String>| query.get(name).is_none_or(|wanted| is.as_deref() == Some(wanted));
        passes_what(query, &limit.spec.what)
            && is("project_id", &limit.spec.project_id)
            && is("domain_id", &limit.spec.domain_id)
    }

    /// Everybody sees its own; who may see it is asked before whether it is there.
    fn find(identity: &Identity, caller: &Caller, verb: &str, id: &str) -> Result<Arc<Resource<Self>>, Failure> {
        let limit = identity.store.get::<Self>(&Self::key(id));
        let missing = || not_found("limit for", id);
        if verb != "get" && limit.is_none() {
            return Err(missing());
        }
        let project_id = limit.as_ref().and_then(|limit| limit.spec.project_id.clone());
        let project = project_id
            .as_deref()
            .and_then(|id| identity.store.get::<Project>(&Project::key(id)));
        let domain_id = limit.as_ref().and_then(|limit| limit.spec.domain_id.clone());
        let mut target = Vec::new();
        if let Some(id) = &project_id {
            target.push(("target.limit.project_id", id.as_str()));
        }
        if let Some(project) = &project {
            target.push(("target.limit.project.domain_id", project.spec.domain_id.as_str()));
        }
        if let Some(id) = &domain_id {
            target.push(("target.limit.domain.id", id.as_str()));
        }
        caller.enforce(&format!("identity:{verb}_limit"), &target)?;
        limit.ok_or_else(missing)
    }

    /// Administrators and services see all, the others what is their domain's or their project's.
    fn list(identity: &Identity, caller: &Caller, _: &Query) -> Result<Vec<Arc<Resource<Self>>>, Failure> {
        caller.enforce("identity:list_limits", &[])?;
        let subject = &caller.subject;
        let mut limits = identity.store.cache::<Self>().all();
        let sees_all =
            subject.scope == crate::Scope::System || subject.has_role("admin") || subject.has_role("service");
        if !sees_all {
            limits.retain(|limit| is_own(identity, caller, &limit.spec));
        }
        Ok(limits)
    }

    async fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        let key = Self::find(identity, caller, "update", id)?.key();
        let changed = identity.store.modify::<Self, Failure>(&key, caller.cause(), |limit| {
            Self::apply(&mut limit.spec, input.clone());
            rules::check_model(identity, &limit.spec, &[])
        });
        changed.await
    }
}

fn is_own(identity: &Identity, caller: &Caller, limit: &LimitSpec) -> bool {
    let project = limit.project_id.as_deref();
    if let Some(own) = caller.subject.domain_id() {
        let project = project.and_then(|id| identity.store.get::<Project>(&Project::key(id)));
        return limit.domain_id.as_deref() == Some(own) || project.is_some_and(|p| p.spec.domain_id == own);
    }
    project.is_some() && project == caller.subject.project_id()
}

/// The resources of a body such as `{"limits": [{…}]}`.
fn specs<C: Collection>(body: &Value) -> Result<Vec<C::Spec>, Failure> {
    C::schemas().create.check(body)?;
    let items = body[C::MANY].as_array().into_iter().flatten();
    let open = resource_schema(C::ONE, value!({}), &[]);
    let read = |item: &Value| Ok(C::spec(Input::read(&open, value!({ C::ONE: item }), C::ONE)?)?.1);
    items.map(read).collect()
}

fn answer<C: Collection>(identity: &Identity, info: &RequestInfo, made: &[Arc<Resource<C>>]) -> Response {
    let views: Vec<_> = made.iter().map(|resource| C::view(identity, info, resource)).collect();
    json(StatusCode::CREATED, &value!({ C::MANY: views }))
}

async fn create_registered(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let specs = specs::<RegisteredLimit>(&body)?;
    let made = rules::register_limits(&identity, &caller, &specs).await?;
    Ok(answer(&identity, &info, &made))
}

async fn create_limits(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let made = rules::limit(&identity, &caller, specs::<Limit>(&body)?).await?;
    Ok(answer(&identity, &info, &made))
}

async fn model(State(identity): State<Arc<Identity>>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("identity:get_limit_model", &[])?;
    let model = identity.options.limit_model;
    let model = value!({ "name": model.name(), "description": model.description() });
    Ok(json(StatusCode::OK, &value!({ "model": model })))
}
