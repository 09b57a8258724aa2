//! The reconciler runtime: owned tasks, keyed queues, and controllers that make what is match what was asked.
//!
//! ```text
//! cache change ──► key ──► Queue (one of each key, never two at work) ──► reconcile(key) ──► Next
//! slow clock  ──► every key ┘                  ▲── backoff after an error ──┘
//! ```
//! A reconciler gets a key, never a hint; it may run twice without harm.

mod controller;
mod queue;
mod tasks;

pub use controller::{Controller, Next};
pub use queue::{Backoff, Queue, Ticket};
pub use tasks::TaskGroup;
