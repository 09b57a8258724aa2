//! Keystone's API as clients use it, over a store in a directory of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "it/assignments.rs"]
mod assignments;
#[path = "it/cloud.rs"]
mod cloud;
#[path = "it/credentials.rs"]
mod credentials;
#[path = "it/crud.rs"]
mod crud;
#[path = "it/delegation.rs"]
mod delegation;
#[path = "it/directory.rs"]
mod directory;
#[path = "it/factors.rs"]
mod factors;
#[path = "it/federation.rs"]
mod federation;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/strangers.rs"]
mod strangers;
#[path = "it/tokens.rs"]
mod tokens;
