//! The typed layer: caches, rules, finalizers, owners, reservations, and what happens when the changes are lost.

#[path = "typed/faulty.rs"]
mod faulty;
#[path = "typed/kinds.rs"]
mod kinds;
#[path = "typed/moments.rs"]
mod moments;
#[path = "typed/owners.rs"]
mod owners;
#[path = "typed/properties.rs"]
mod properties;
#[path = "typed/rules.rs"]
mod rules;
#[path = "typed/scenarios.rs"]
mod scenarios;
