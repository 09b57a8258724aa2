//! Networks through the store's rules and through Neutron's API, on a real SQLite store.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "it/api.rs"]
mod api;
#[path = "it/cloud.rs"]
mod cloud;
#[path = "it/isolation.rs"]
mod isolation;
#[path = "it/pools.rs"]
mod pools;
#[path = "it/refusals.rs"]
mod refusals;
#[path = "it/rules.rs"]
mod rules;
#[path = "it/service.rs"]
mod service;
#[path = "it/sharing.rs"]
mod sharing;
#[path = "it/trunks.rs"]
mod trunks;
