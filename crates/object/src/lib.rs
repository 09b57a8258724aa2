//! Objects: accounts, containers and what is in them, on disks of this machine.
//!
//! [`disk`] keeps entries with bytes, durably and in order; [`key`] says how things are called there; [`listing`] goes
//! through names without reading what is not shown.

pub mod disk;
pub mod key;
pub mod listing;
mod stamp;

pub use stamp::Stamp;
