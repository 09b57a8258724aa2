//! `/v3/{projects,domains,system}/…/{users,groups}/…/roles`, and the same below `/v3/OS-INHERIT`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::Method;
use madang_http::{Failure, Query, RequestInfo};

use super::{Actor, AssignmentSpec, On, rules};
use crate::{
    Caller, Identity,
    api::{collection, no_content},
};

type NewActor = fn(String) -> Actor;
type NewPlace = fn(String) -> On;

const ACTORS: [(&str, NewActor); 2] = [("users", Actor::User), ("groups", Actor::Group)];
const PLACES: [(&str, NewPlace); 2] = [("projects", On::Project), ("domains", On::Domain)];

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let mut router = Router::new();
    for (actors, actor) in ACTORS {
        for (places, place) in PLACES {
            let roles = format!("/{places}/{{id}}/{actors}/{{actor_id}}/roles");
            router = with_place(router, &roles, &format!("{roles}/{{role_id}}"), place, actor, false);
            let inherited = format!("/OS-INHERIT{roles}");
            let all = format!("{inherited}/inherited_to_projects");
            router = with_place(
                router,
                &all,
                &format!("{inherited}/{{role_id}}/inherited_to_projects"),
                place,
                actor,
                true,
            );
        }
        router = with_system(router, &format!("/system/{actors}/{{actor_id}}/roles"), actor);
    }
    router
}

fn with_place(
    router: Router<Arc<Identity>>,
    all: &str,
    single: &str,
    place: NewPlace,
    actor: NewActor,
    inherited: bool,
) -> Router<Arc<Identity>> {
    let list = async move |State(identity): State<Arc<Identity>>,
                           caller: Caller,
                           info: RequestInfo,
                           query: Query,
                           Path((id, actor_id)): Path<(String, String)>| {
        list(
            &identity,
            &caller,
            &info,
            &query,
            &actor(actor_id),
            &place(id),
            inherited,
        )
    };
    let act = async move |State(identity): State<Arc<Identity>>,
                          caller: Caller,
                          method: Method,
                          Path((id, actor_id, role_id)): Path<(String, String, String)>| {
        let spec = AssignmentSpec {
            actor: actor(actor_id),
            on: place(id),
            role_id,
            inherited,
        };
        act(&identity, &caller, &method, &spec).await
    };
    router
        .route(all, get(list))
        .route(single, get(act).put(act).delete(act))
}

fn with_system(router: Router<Arc<Identity>>, all: &str, actor: NewActor) -> Router<Arc<Identity>> {
    let list = async move |State(identity): State<Arc<Identity>>,
                           caller: Caller,
                           info: RequestInfo,
                           query: Query,
                           Path(actor_id): Path<String>| {
        list(&identity, &caller, &info, &query, &actor(actor_id), &On::System, false)
    };
    let act = async move |State(identity): State<Arc<Identity>>,
                          caller: Caller,
                          method: Method,
                          Path((actor_id, role_id)): Path<(String, String)>| {
        let spec = AssignmentSpec {
            actor: actor(actor_id),
            on: On::System,
            role_id,
            inherited: false,
        };
        act(&identity, &caller, &method, &spec).await
    };
    router
        .route(all, get(list))
        .route(&format!("{all}/{{role_id}}"), get(act).put(act).delete(act))
}

fn list(
    identity: &Identity,
    caller: &Caller,
    info: &RequestInfo,
    query: &Query,
    actor: &Actor,
    on: &On,
    inherited: bool,
) -> Result<Response, Failure> {
    let roles = rules::granted(identity, caller, actor, on, inherited)?;
    collection::respond(identity, info, query, roles)
}

async fn act(
    identity: &Identity,
    caller: &Caller,
    method: &Method,
    spec: &AssignmentSpec,
) -> Result<Response, Failure> {
    match *method {
        Method::PUT => rules::grant(identity, caller, spec).await?,
        Method::DELETE => rules::revoke(identity, caller, spec).await?,
        _ => rules::check(identity, caller, spec)?,
    }
    Ok(no_content())
}
