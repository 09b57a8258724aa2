//! Volumes from request to bytes: Cinder's API over a real SQLite store, real rules and reconcilers, and real files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "it/api.rs"]
mod api;
#[path = "it/backups.rs"]
mod backups;
#[path = "it/bytes.rs"]
mod bytes;
#[path = "it/cloud.rs"]
mod cloud;
#[path = "it/hands.rs"]
mod hands;
