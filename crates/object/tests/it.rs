//! Objects from outside: what a crash leaves, and what the faces answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "it/crash.rs"]
mod crash;
