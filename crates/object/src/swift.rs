//! Swift's API, version 1, over the verbs: accounts, containers, objects, and all that Swift's middleware adds.

pub mod access;
mod account;
mod acl;
mod ask;
mod bulk;
mod container;
mod cors;
mod describe;
mod formpost;
mod info;
mod large;
mod listing;
mod object;
mod parts;
mod put;
mod ranges;
mod slo;
mod staticweb;
mod symlink;
mod tempurl;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use http::{HeaderValue, Method, StatusCode, header};
use madang_http::{Face, Failure, Metrics, RequestInfo, Shape, json};
use madang_identity::Caller;

pub use access::POLICY;

use crate::{Stamp, objects::Objects, swift::ask::Ask};

/// How this face presents itself.
const FACE: Face = Face::new("object-store", Shape::Swift);

/// What handlers work with.
#[derive(Clone)]
pub struct SwiftApi {
    /// The objects.
    pub objects: Objects,
}

/// The router, to be nested at `/object-store`. `recognize` tells who asks, where somebody says so; what needs to be known
/// of them is decided here, since a container may be for everybody.
pub fn router(api: SwiftApi, metrics: &Metrics, recognize: impl FnOnce(Router) -> Router) -> Router {
    let routes = Router::new()
        .route("/v1/{account}", methods())
        .route("/v1/{account}/", methods())
        .route("/v1/{account}/{container}", methods())
        .route("/v1/{account}/{container}/", methods())
        .route("/v1/{account}/{container}/{*object}", methods())
        .with_state(api);
    let all = recognize(routes)
        .merge(about())
        .layer(middleware::from_fn(name_transaction));
    FACE.wrap(all, metrics)
}

/// What clients ask for at the root of the server, wherever the face is.
pub fn root(metrics: &Metrics) -> Router {
    let routes = Router::new()
        .route("/info", get(async || json(StatusCode::OK, &info::info())))
        .layer(middleware::from_fn(name_transaction));
    FACE.wrap(routes, metrics)
}

fn about() -> Router {
    Router::new()
        .route("/", get(async || json(StatusCode::OK, &info::info())))
        .route("/info", get(async || json(StatusCode::OK, &info::info())))
        .route("/healthcheck", get(async || plain("text/plain", "OK")))
        .route(
            "/crossdomain.xml",
            get(async || plain("application/xml", info::CROSS_DOMAIN)),
        )
}

fn plain(content_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// All methods by name, so that each is known as a route; `COPY` has none.
fn methods() -> MethodRouter<SwiftApi> {
    get(serve)
        .head(serve)
        .put(serve)
        .post(serve)
        .delete(serve)
        .options(serve)
        .fallback(serve)
}

/// Gives each answer the id that Swift's clients look for, and the type that it has where nothing says another.
async fn name_transaction(info: RequestInfo, request: Request, next: Next) -> Response {
    let hexadecimal: String = info.id().chars().filter(char::is_ascii_hexdigit).skip(1).collect();
    let id = format!("tx{:.21}-{:010x}", hexadecimal, Stamp::now().seconds());
    let mut response = next.run(request).await;
    // A failure gets its own when it is put into words.
    let is_failure = response.extensions().get::<std::sync::Arc<Failure>>().is_some();
    let headers = response.headers_mut();
    if !is_failure && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=UTF-8"),
        );
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert("x-trans-id", id);
    }
    response
}

async fn serve(State(api): State<SwiftApi>, info: RequestInfo, request: Request) -> Response {
    let ask = match Ask::of(api, info, &request) {
        Ok(ask) => ask,
        Err(failure) => return failure.into_response(),
    };
    if ask.target.object.is_empty() && ask.target.container.is_empty() && ask.method == Method::OPTIONS {
        return cors::options(&ask).await.into_response();
    }
    let mut ask = ask;
    let answered = answer(&mut ask, request.into_body()).await;
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    if ask.is_signed {
        tempurl::finish(&ask, &mut response);
    }
    if ask.method != Method::OPTIONS {
        cors::finish(&ask, response.headers_mut()).await;
    }
    response
}

async fn answer(ask: &mut Ask, body: Body) -> Result<Response, Failure> {
    if ask.method == Method::OPTIONS {
        return cors::options(ask).await;
    }
    if tempurl::is_meant(ask) {
        tempurl::check(ask).await?;
    }
    if formpost::is_meant(ask) && !ask.is_signed {
        return formpost::answer(ask, body).await;
    }
    let is_write = ask.method == Method::POST || ask.method == Method::DELETE;
    if ask.query.has("bulk-delete") && is_write {
        known(ask)?;
        return bulk::delete(ask, body).await;
    }
    if let Some(kind) = ask.query.get("extract-archive").filter(|_| ask.method == Method::PUT) {
        known(ask)?;
        return bulk::extract(ask, kind, body).await;
    }
    match (ask.target.container.is_empty(), ask.target.object.is_empty()) {
        (true, _) => account::answer(ask).await,
        (false, true) => container::answer(ask).await,
        (false, false) => object::answer(ask, body).await,
    }
}

/// Bulk requests answer 200 and say inside what was refused; strangers are told at once.
fn known(ask: &Ask) -> Result<&Caller, Failure> {
    match &ask.caller {
        Some(caller) => Ok(caller),
        None => Err(access::denied(ask)),
    }
}

/// The path below which clients find an account, in a catalog's words.
pub const CATALOG_PATH: &str = "/v1/AUTH_$(project_id)s";
