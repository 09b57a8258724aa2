//! `/v3/groups`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use madang_http::{Failure, Query, RequestInfo};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Group, GroupSpec, Membership, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas, in_domain},
        input::{Input, name_schema, schemas},
        links, merge, no_content, passes,
    },
    user::User,
};

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = json!({
        "name": name_schema(64),
        "domain_id": { "type": "string", "pattern": "^[a-zA-Z0-9-]+$", "maxLength": 64 },
        "description": { "type": ["string", "null"] },
    });
    schemas("group", properties, &["name"])
});

/// A group as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    name: String,
    domain_id: String,
    description: String,
    /// Only in the list of a user's groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) membership_expires_at: Option<Option<String>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::routes::<Group>("/groups")
        .route("/groups/{group_id}/users", get(users))
        .route(
            "/groups/{group_id}/users/{user_id}",
            get(check_user).put(add_user).delete(remove_user),
        )
}

impl Collection for Group {
    const ONE: &'static str = "group";
    const MANY: &'static str = "groups";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, group: &Resource<Self>) -> View {
        View {
            id: group.name().to_owned(),
            name: group.spec.name.clone(),
            domain_id: group.spec.domain_id.clone(),
            description: group.spec.description.clone(),
            membership_expires_at: None,
            extra: group.spec.extra.clone(),
            links: links(info, "groups", group.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, GroupSpec), Failure> {
        let spec = GroupSpec {
            name: input.text("name").unwrap_or_default(),
            domain_id: input.text("domain_id").unwrap_or_default(),
            description: input.text("description").unwrap_or_default(),
            extra: input.rest(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut GroupSpec, mut input: Input) {
        input.set("name", &mut spec.name);
        if let Some(description) = input.nullable("description") {
            spec.description = description.unwrap_or_default();
        }
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, group: &Resource<Self>) -> bool {
        passes(query, "name", &group.spec.name)
    }

    fn order(group: &Resource<Self>) -> &str {
        &group.spec.name
    }

    async fn create(identity: &Identity, caller: &Caller, input: Input) -> Result<Arc<Resource<Self>>, Failure> {
        rules::create(identity, caller, Self::spec(input)?.1).await
    }

    fn find(identity: &Identity, caller: &Caller, verb: &str, id: &str) -> Result<Arc<Resource<Self>>, Failure> {
        rules::find(identity, caller, &format!("identity:{verb}_group"), id)
    }

    fn list(identity: &Identity, caller: &Caller, query: &Query) -> Result<Vec<Arc<Resource<Self>>>, Failure> {
        let (domain_id, groups) = in_domain(identity, caller, query);
        caller.enforce("identity:list_groups", &[("target.group.domain_id", &domain_id)])?;
        Ok(groups)
    }

    async fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        mut input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        let now = Self::find(identity, caller, "update", id)?;
        input.keep_domain(&now.spec.domain_id)?;
        identity.check_writable(&now.spec.domain_id)?;
        collection::update(identity, caller, id, input).await
    }

    async fn delete(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
        let now = Self::find(identity, caller, "delete", id)?;
        identity.check_removable(&now.spec.domain_id, id)?;
        collection::delete::<Self>(identity, caller, id).await
    }
}

async fn users(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&identity, &caller, "identity:list_users_in_group", &id)?;
    let memberships = identity.store.cache::<Membership>().by("group", &id);
    let users = memberships
        .iter()
        .filter_map(|m| identity.store.get::<User>(&User::key(&m.spec.user_id)))
        .filter(|user| caller.is_in_sight(&user.spec.domain_id));
    collection::respond(&identity, &info, &query, users.collect())
}

async fn check_user(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((group_id, user_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::check_user(&identity, &caller, &group_id, &user_id)?;
    Ok(no_content())
}

async fn add_user(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((group_id, user_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::add_user(&identity, &caller, &group_id, &user_id).await?;
    Ok(no_content())
}

async fn remove_user(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((group_id, user_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::remove_user(&identity, &caller, &group_id, &user_id).await?;
    Ok(no_content())
}
