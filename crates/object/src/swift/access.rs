//! Who may: those with a role in the project whose account it is, and whomever the owner of a container let in.
//!
//! As Swift's `keystoneauth` decides it, with the one policy of this cloud in the place of lists of roles.

use http::{Method, StatusCode};
use madang_http::Failure;
use madang_identity::{Caller, Scope};

use super::{
    acl::Acl,
    ask::{Ask, refuse},
};
use crate::objects::Container;

/// What all accounts of projects begin with.
pub const PREFIX: &str = "AUTH_";

/// Policy rules and their defaults.
pub const POLICY: &[(&str, &str)] = &[
    (
        "object_store:operate",
        "role:member and project_id:%(project_id)s or role:swiftoperator and project_id:%(project_id)s",
    ),
    ("object_store:read", "role:reader and project_id:%(project_id)s"),
    ("object_store:reseller", "role:ResellerAdmin or rule:context_is_admin"),
];

/// What a request may see of what it may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Let in by the container's owner, or by a signature.
    Guest,
    /// Reads all of the account.
    Reader,
    /// Does what it wants in the account.
    Owner,
    /// Does so in all accounts, and sets their limits.
    Reseller,
}

impl Standing {
    /// Whether it sees and sets what is for owners.
    pub fn is_owner(self) -> bool {
        self >= Self::Owner
    }
}

/// Where whoever asks stands in the account by its roles.
fn by_role(ask: &Ask) -> Option<Standing> {
    let caller = ask.caller.as_ref()?;
    let project = ask.target.account.strip_prefix(PREFIX)?;
    let target = [("project_id", project), ("tenant_id", project)];
    if caller.allows("object_store:reseller", &target) {
        return Some(Standing::Reseller);
    }
    if caller.allows("object_store:operate", &target) {
        return Some(Standing::Owner);
    }
    caller.allows("object_store:read", &target).then_some(Standing::Reader)
}

/// 401 for who is not known, 403 for who is.
pub fn denied(ask: &Ask) -> Failure {
    match ask.caller {
        None => {
            let realm = format!("Swift realm=\"{}\"", ask.target.account);
            let failure = refuse(StatusCode::UNAUTHORIZED, "");
            match http::HeaderValue::try_from(realm) {
                Ok(realm) => failure.with_header(http::header::WWW_AUTHENTICATE, realm),
                Err(_) => failure,
            }
        }
        Some(_) => refuse(StatusCode::FORBIDDEN, ""),
    }
}

/// May it do this to the account?
///
/// # Errors
/// When it may not.
pub fn account(ask: &Ask) -> Result<Standing, Failure> {
    match by_role(ask) {
        Some(Standing::Reader) if !ask.reads() => Err(denied(ask)),
        Some(standing) => Ok(standing),
        None => Err(denied(ask)),
    }
}

/// May it do this to the container? Only a read can be let in by its owner.
///
/// # Errors
/// When it may not.
pub fn container(ask: &Ask, container: Option<&Container>) -> Result<Standing, Failure> {
    if ask.is_signed {
        return Ok(Standing::Guest);
    }
    let list = container
        .filter(|_| ask.reads())
        .and_then(|container| container.header("x-container-read"));
    decide(ask, list, |acl| acl.has_listings())
}

/// May it do this to an object in the container?
///
/// # Errors
/// When it may not.
pub fn object(ask: &Ask, container: Option<&Container>) -> Result<Standing, Failure> {
    object_as(ask, container, &ask.method)
}

/// As [`object`], with another method: a copy reads one object and writes another.
///
/// # Errors
/// When it may not.
pub fn object_as(ask: &Ask, container: Option<&Container>, method: &Method) -> Result<Standing, Failure> {
    if ask.is_signed {
        return Ok(Standing::Guest);
    }
    let reads = method == Method::GET || method == Method::HEAD;
    let name = if reads { "x-container-read" } else { "x-container-write" };
    let list = container.and_then(|container| container.header(name));
    match by_role(ask) {
        Some(Standing::Reader) if !reads => by_list(ask, list, |_| true).ok_or_else(|| denied(ask)),
        Some(standing) => Ok(standing),
        None => by_list(ask, list, |_| true).ok_or_else(|| denied(ask)),
    }
}

fn decide(ask: &Ask, list: Option<&str>, referred: impl Fn(&Acl) -> bool) -> Result<Standing, Failure> {
    match by_role(ask) {
        Some(Standing::Reader) if !ask.reads() => Err(denied(ask)),
        Some(standing) => Ok(standing),
        None => by_list(ask, list, referred).ok_or_else(|| denied(ask)),
    }
}

fn by_list(ask: &Ask, list: Option<&str>, referred: impl Fn(&Acl) -> bool) -> Option<Standing> {
    let acl = Acl::parse(list?);
    let is_let_in = ask
        .caller
        .as_ref()
        .is_some_and(|caller| is_named(caller, &acl, &ask.target.account))
        || (acl.lets_referrer(ask.header("referer")) && referred(&acl));
    is_let_in.then_some(Standing::Guest)
}

/// Whether a list names who asks: as `PROJECT:USER`, with ids, or with names where all are of the default domain; or by a
/// role that it has in this account's project.
fn is_named(caller: &Caller, acl: &Acl, account: &str) -> bool {
    let subject = &caller.subject;
    let (project_id, project_name, is_default) = match &subject.scope {
        Scope::Project(project) => (
            project.id.as_str(),
            project.name.as_str(),
            project.domain_id == "default" && subject.user.domain_id == "default",
        ),
        _ => ("", "", false),
    };
    let mut users = vec![subject.user.id.as_str(), "*"];
    let mut projects = vec![project_id, "*"];
    if is_default {
        users.push(&subject.user.name);
        projects.push(project_name);
    }
    let has_pair = projects
        .iter()
        .filter(|project| !project.is_empty())
        .any(|project| users.iter().any(|user| acl.has(&format!("{project}:{user}"))));
    let is_of_account = account.strip_prefix(PREFIX) == Some(project_id);
    has_pair || (is_of_account && subject.roles.iter().any(|role| acl.has_role(&role.name)))
}
