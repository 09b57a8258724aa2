//! Who asks and what they may: users, projects, roles, tokens, policy; Keystone's API.
//!
//! - Resources: [`project`] (and domains), [`user`], [`group`], [`role`], [`assignment`], [`catalog`],
//!   [`application_credential`], [`credential`], [`trust`]; each with its rules and its part of Keystone's API.
//! - [`auth`] gives tokens, [`token`] says what they are worth, [`authenticate`] puts both in front of every face.
//! - [`Policy`] answers what a [`Caller`] may do; every domain registers the defaults of its own rules.

pub mod api;
pub mod application_credential;
pub mod assignment;
pub mod auth;
mod authenticate;
pub mod bootstrap;
mod caller;
mod cascade;
pub mod catalog;
pub mod credential;
pub mod directory;
pub mod domain_config;
pub mod federation;
pub mod group;
mod hmac;
mod identity;
pub mod keys;
pub mod limit;
mod names;
pub mod oauth1;
pub mod password;
pub mod policy;
pub mod policy_document;
pub mod project;
pub mod role;
mod subject;
pub mod token;
pub mod trust;
pub mod user;

pub use api::router;
pub use authenticate::{authenticate, recognize};
pub use bootstrap::{BackDoor, Bootstrap, Bootstrapped, bootstrap, reset_admin};
pub use caller::Caller;
pub use identity::{Identity, IdentityError, Options, register};
pub use policy::{Policy, PolicyError, Target, defaults::POLICY};
pub use subject::{DomainMember, FederatedSession, RoleRef, Scope, Subject};
