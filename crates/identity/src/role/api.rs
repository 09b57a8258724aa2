//! `/v3/roles`, and which implies which.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::{Method, StatusCode};
use madang_http::{Failure, Query, RequestInfo, json};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json as value};

use super::{Implication, Role, RoleSpec, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::{Input, id_schema, immutable_schema, name_schema, schemas},
        links, merge, no_content, not_found, passes,
    },
};

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = value!({
        "name": name_schema(255),
        "description": { "type": ["string", "null"] },
        "domain_id": id_schema(),
        "options": immutable_schema(),
    });
    schemas("role", properties, &["name"])
});

/// A role as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    name: String,
    domain_id: Option<String>,
    description: Option<String>,
    options: Map<String, Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn view(info: &RequestInfo, role: &Resource<Role>) -> View {
    let spec = &role.spec;
    View {
        id: role.name().to_owned(),
        name: spec.name.clone(),
        domain_id: Some(spec.domain_id.clone()).filter(|id| !id.is_empty()),
        description: spec.description.clone(),
        options: spec.options.clone(),
        extra: spec.extra.clone(),
        links: links(info, "roles", role.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::routes::<Role>("/roles")
        .route("/roles/{role_id}/implies", get(implied))
        .route(
            "/roles/{role_id}/implies/{implied_id}",
            get(show_implied).put(imply).delete(imply_no_more),
        )
        .route("/role_inferences", get(inferences))
}

impl Collection for Role {
    const ONE: &'static str = "role";
    const MANY: &'static str = "roles";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, role: &Resource<Self>) -> View {
        view(info, role)
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, RoleSpec), Failure> {
        let spec = RoleSpec {
            name: input.text("name").unwrap_or_default(),
            domain_id: input.text("domain_id").unwrap_or_default(),
            description: input.text("description"),
            options: input.object("options"),
            extra: input.rest(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut RoleSpec, mut input: Input) {
        input.set("name", &mut spec.name);
        input.set_nullable("description", &mut spec.description);
        merge(&mut spec.options, &input.object("options"));
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, role: &Resource<Self>) -> bool {
        passes(query, "name", &role.spec.name)
    }

    fn order(role: &Resource<Self>) -> &str {
        &role.spec.name
    }

    async fn create(identity: &Identity, caller: &Caller, input: Input) -> Result<Arc<Resource<Self>>, Failure> {
        rules::create(identity, caller, Self::spec(input)?.1).await
    }

    fn find(identity: &Identity, caller: &Caller, verb: &str, id: &str) -> Result<Arc<Resource<Self>>, Failure> {
        rules::find(identity, caller, verb, id)
    }

    fn list(identity: &Identity, caller: &Caller, query: &Query) -> Result<Vec<Arc<Resource<Self>>>, Failure> {
        let domain_id = query.get("domain_id").unwrap_or_default();
        let rule = if domain_id.is_empty() {
            "identity:list_roles"
        } else {
            "identity:list_domain_roles"
        };
        let own_domain = caller.subject.domain_id().unwrap_or_default();
        caller.enforce(rule, &[("target.domain_id", own_domain)])?;
        Ok(identity.store.cache::<Self>().by("domain", domain_id))
    }

    async fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        mut input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        let now = rules::find(identity, caller, "update", id)?;
        input.keep("domain_id", &now.spec.domain_id)?;
        rules::update(identity, caller, id, input).await
    }

    async fn delete(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
        rules::delete(identity, caller, id).await
    }
}

/// A role in an inference.
#[derive(Serialize)]
struct Brief {
    id: String,
    name: String,
    description: Option<String>,
    links: Links,
}

fn brief(info: &RequestInfo, role: &Resource<Role>) -> Brief {
    Brief {
        id: role.name().to_owned(),
        name: role.spec.name.clone(),
        description: role.spec.description.clone(),
        links: links(info, "roles", role.name()),
    }
}

fn role(identity: &Identity, id: &str) -> Result<Arc<Resource<Role>>, Failure> {
    identity
        .store
        .get::<Role>(&Role::key(id))
        .ok_or_else(|| not_found("role", id))
}

/// The roles that one implies itself, by name.
fn implied_by(identity: &Identity, prior_id: &str) -> Vec<Arc<Resource<Role>>> {
    let implications = identity.store.cache::<Implication>().by("prior", prior_id);
    let mut roles: Vec<_> = implications
        .iter()
        .filter_map(|i| role(identity, &i.spec.implied_id).ok())
        .collect();
    roles.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    roles
}

async fn implied(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(prior_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_implied_roles", &[])?;
    let prior = role(&identity, &prior_id)?;
    let implies: Vec<Brief> = implied_by(&identity, &prior_id)
        .iter()
        .map(|role| brief(&info, role))
        .collect();
    let inference = value!({ "prior_role": brief(&info, &prior), "implies": implies });
    Ok(json(
        StatusCode::OK,
        &value!({ "role_inference": inference, "links": { "self": info.url() } }),
    ))
}

fn inference(identity: &Identity, info: &RequestInfo, prior_id: &str, implied_id: &str) -> Result<Value, Failure> {
    let (prior, implied) = (role(identity, prior_id)?, role(identity, implied_id)?);
    let inference = value!({ "prior_role": brief(info, &prior), "implies": brief(info, &implied) });
    Ok(value!({ "role_inference": inference, "links": { "self": info.url() } }))
}

async fn show_implied(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    method: Method,
    Path((prior_id, implied_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let checks = method == Method::HEAD;
    caller.enforce(
        if checks {
            "identity:check_implied_role"
        } else {
            "identity:get_implied_role"
        },
        &[],
    )?;
    let implication = identity
        .store
        .get::<Implication>(&Implication::key(&prior_id, &implied_id));
    implication.ok_or_else(|| rules::no_implication(&prior_id, &implied_id))?;
    if checks {
        return Ok(no_content());
    }
    Ok(json(
        StatusCode::OK,
        &inference(&identity, &info, &prior_id, &implied_id)?,
    ))
}

async fn imply(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((prior_id, implied_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::imply(&identity, &caller, &prior_id, &implied_id).await?;
    Ok(json(
        StatusCode::CREATED,
        &inference(&identity, &info, &prior_id, &implied_id)?,
    ))
}

async fn imply_no_more(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((prior_id, implied_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::imply_no_more(&identity, &caller, &prior_id, &implied_id).await?;
    Ok(no_content())
}

async fn inferences(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_role_inference_rules", &[])?;
    let mut priors = BTreeMap::new();
    for implication in identity.store.cache::<Implication>().all() {
        if let Ok(prior) = role(&identity, &implication.spec.prior_id) {
            priors.insert(prior.spec.name.clone(), prior);
        }
    }
    let inferences: Vec<Value> = priors
        .values()
        .map(|prior| {
            let implies: Vec<Brief> = implied_by(&identity, prior.name())
                .iter()
                .map(|role| brief(&info, role))
                .collect();
            value!({ "prior_role": brief(&info, prior), "implies": implies })
        })
        .collect();
    Ok(json(
        StatusCode::OK,
        &value!({ "role_inferences": inferences, "links": { "self": info.url() } }),
    ))
}
