//! The store as a whole: the contract, properties against a model, the typed layer, crashes, a full disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/contract.rs"]
mod contract;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/etcd.rs"]
mod etcd;
#[path = "it/full_disk.rs"]
mod full_disk;
#[path = "it/model.rs"]
mod model;
#[path = "it/sqlite.rs"]
mod sqlite;
#[path = "it/typed.rs"]
mod typed;
#[path = "it/versions.rs"]
mod versions;
