//! Objects: accounts, containers and what is in them, on disks of this machine.
//!
//! [`disk`] keeps entries with bytes, durably and in order; [`key`] says how things are called there; [`listing`] goes
//! through names without reading what is not shown; [`objects`] has the verbs; [`swift`] is Swift's API over them.

pub mod disk;
pub mod key;
pub mod listing;
pub mod objects;
mod stamp;
pub mod swift;

pub use stamp::Stamp;
