//! Servers from request to end: Nova's API over a real SQLite store, real rules and agents, and simulated hosts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "it/actions.rs"]
mod actions;
#[path = "it/around.rs"]
mod around;
#[path = "it/cloud.rs"]
mod cloud;
#[path = "it/groups.rs"]
mod groups;
#[path = "it/life.rs"]
mod life;
#[path = "it/local_disks.rs"]
mod local_disks;
#[path = "it/microversions.rs"]
mod microversions;
#[path = "it/placing.rs"]
mod placing;
#[path = "it/refusals.rs"]
mod refusals;
#[path = "it/scale.rs"]
mod scale;
#[path = "it/volumes.rs"]
mod volumes;
