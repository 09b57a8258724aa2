//! Objects from outside: what a crash leaves, and what the faces answer.

#[path = "it/crash.rs"]
mod crash;
