//! What every API face shares: serving, failures and how each original words them, request ids, limits, metrics,
//! health, microversions, paging, filters and JSON bodies.
//!
//! A face is an axum router of a domain, wrapped by its [`Face`]: handlers return `Result<Response, Failure>`, the face
//! renders failures as its original does, and also gives each request its id, its time, its share of the metrics and a
//! line in the access log. The binary nests the wrapped routers and hands them to a [`Server`].
//!
//! ```
//! use axum::{Router, routing::get, response::Response};
//! use madang_http::{Face, Failure, Metrics, Shape, json};
//!
//! async fn show() -> Result<Response, Failure> {
//!     Err(Failure::not_found("Instance 42 could not be found."))
//! }
//! let metrics = Metrics::new();
//! let compute: Router = Face::new("compute", Shape::Nova).wrap(Router::new().route("/servers/{id}", get(show)), &metrics);
//! let everything: Router = Router::new().nest("/compute/v2.1", compute);
//! ```

mod body;
mod face;
mod failure;
mod fields;
mod health;
mod metrics;
mod microversion;
mod paging;
mod query;
mod request;
mod routes;
mod schema;
mod server;
mod sort;
mod tls;
mod trail;
mod version;

pub use body::{Json, json, json_of};
pub use face::{DEFAULT_BODY_BYTES, DEFAULT_TIME, Face, Shape};
pub use failure::{
    Failure, MALFORMED_BODY, NO_SUCH_METHOD, NO_SUCH_ROUTE, TOO_LARGE, UNSUPPORTED_CONTENT_TYPE, write_failure,
};
pub use fields::Fields;
pub use health::Health;
pub use metrics::Metrics;
pub use microversion::{Microversion, Microversions};
pub use paging::{LimitRules, NextLink, Page, PageQuery, ZeroLimit, next_url};
pub use query::{Query, parse_bool};
pub use request::{Peer, RequestInfo, Scheme};
pub use routes::RouteName;
pub use schema::{Form, Format, Schema, python_repr};
pub use server::{Server, ServerError, ServerOptions};
pub use sort::{Direction, SortKeys, SortValue};
pub use tls::{Certificates, TlsError};
pub use trail::{Actor, CLIENT_GONE, Event, Outcome, Recorder, Trail};
pub use version::{Link, VersionDocument};
