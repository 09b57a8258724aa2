//! The audit trail: who did what, when, from where and with which result, for every write through every face.
//!
//! - The gate of each face (crate `http`) makes an event and hands it to the [`Recorder`], which never waits.
//! - The recorder writes what came together into the [`Book`] in one transaction, at most a quarter of a second later.
//! - The [`Book`] is a database of its own beside the store: only added to, bounded by age and by size.
//! - `/audit/v1/events` ([`api`]) answers admins, and readers of a project about that project.
//!
//! What must always hold: an event holds no body and no secret, and no request waits for the trail.

pub mod api;
mod book;
mod recorder;

pub use book::{Book, BookError, Entry, Filter, Keep, Order};
pub use recorder::Recorder;
