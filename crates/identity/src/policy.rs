//! One answer to "may this subject do this?" for every face.
//!
//! Rules are written in oslo.policy's language and carry the originals' names. Domains register their defaults when the
//! process starts; operators may override any of them by name.

pub mod defaults;
mod parse;

use std::{borrow::Cow, collections::HashMap};

use crate::Subject;

/// How deep rules may refer to rules; deeper is a circle.
const MAX_DEPTH: u32 = 32;

/// Rules that many others refer to, with the meaning of the originals' "new" defaults: a reader reads in its project, a
/// member writes there, an admin may do all.
pub const BASE_RULES: &[(&str, &str)] = &[
    ("admin_required", "role:admin"),
    ("context_is_admin", "role:admin"),
    ("admin_api", "rule:context_is_admin"),
    ("context_is_advsvc", "role:advsvc"),
    ("service_api", "role:service"),
    ("admin_only", "rule:context_is_admin"),
    ("admin_or_owner", "rule:context_is_admin or project_id:%(project_id)s"),
    ("owner", "project_id:%(project_id)s"),
    ("project_admin_api", "role:admin and project_id:%(project_id)s"),
    ("project_manager_api", "role:manager and project_id:%(project_id)s"),
    ("project_member_api", "role:member and project_id:%(project_id)s"),
    ("project_reader_api", "role:reader and project_id:%(project_id)s"),
    (
        "project_manager_or_admin",
        "rule:project_manager_api or rule:context_is_admin",
    ),
    (
        "project_member_or_admin",
        "rule:project_member_api or rule:context_is_admin",
    ),
    (
        "project_reader_or_admin",
        "rule:project_reader_api or rule:context_is_admin",
    ),
    ("system_admin_api", "role:admin and system_scope:all"),
    ("system_reader_api", "role:reader and system_scope:all"),
];

/// A rule, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    Always,
    Never,
    /// The subject has a role; the name may refer to the target.
    Role(Template),
    /// Another rule holds.
    Rule(String),
    /// A credential (or a literal) equals a text that may refer to the target.
    Equals(Left, Template),
    Not(Box<Check>),
    All(Vec<Check>),
    Any(Vec<Check>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    Credential(String),
    Literal(String),
}

/// Text with at most one reference to the target, `%(name)s`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Template {
    Text(String),
    Target(String),
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy rule {name:?}: {reason} in {rule:?}")]
pub struct PolicyError {
    /// The rule's name.
    pub name: String,
    /// Its text.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a rule is asked about: the fields of the thing that `%(field)s` refers to, such as
/// `[("project_id", "p1"), ("user_id", "u1")]`.
pub type Target<'a> = [(&'a str, &'a str)];

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: HashMap<Cow<'static, str>, Check>,
}

impl Policy {
    /// The base rules.
    pub fn new() -> Self {
        let mut policy = Self::default();
        policy.register(BASE_RULES);
        policy
    }

    /// Adds a domain's defaults: name and rule.
    ///
    /// # Panics
    /// When one cannot be read; they are part of the program.
    pub fn register(&mut self, defaults: &[(&'static str, &'static str)]) {
        for (name, rule) in defaults {
            let check = parse::parse(rule).unwrap_or_else(|reason| panic!("policy rule {name:?}: {reason}"));
            self.rules.insert(Cow::Borrowed(*name), check);
        }
    }

    /// Replaces (or adds) one rule by an operator's.
    ///
    /// # Errors
    /// When it cannot be read; the rule stays as it was.
    pub fn set(&mut self, name: &str, rule: &str) -> Result<(), PolicyError> {
        let check = parse::parse(rule);
        let check = check.map_err(|reason| PolicyError {
            name: name.to_owned(),
            rule: rule.to_owned(),
            reason,
        })?;
        self.rules.insert(Cow::Owned(name.to_owned()), check);
        Ok(())
    }

    /// The names of all rules, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.keys().map(AsRef::as_ref)
    }

    /// Whether `subject` may do `rule` to `target`. A rule that nobody registered allows nothing.
    pub fn allows(&self, subject: &Subject, rule: &str, target: &Target<'_>) -> bool {
        self.named(subject, rule, target, MAX_DEPTH)
    }

    fn named(&self, subject: &Subject, rule: &str, target: &Target<'_>, depth: u32) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return false;
        };
        self.rules
            .get(rule)
            .is_some_and(|check| self.holds(check, subject, target, depth))
    }

    fn holds(&self, check: &Check, subject: &Subject, target: &Target<'_>, depth: u32) -> bool {
        match check {
            Check::Always => true,
            Check::Never => false,
            Check::Role(name) => name.with(target).is_some_and(|name| subject.has_role(&name)),
            Check::Rule(name) => self.named(subject, name, target, depth),
            Check::Equals(left, right) => {
                let right = right.with(target);
                let left = match left {
                    Left::Literal(text) => Some(Cow::Borrowed(text.as_str())),
                    Left::Credential(name) => credential(subject, name),
                };
                left.is_some() && left == right
            }
            Check::Not(inner) => !self.holds(inner, subject, target, depth),
            Check::All(checks) => checks.iter().all(|check| self.holds(check, subject, target, depth)),
            Check::Any(checks) => checks.iter().any(|check| self.holds(check, subject, target, depth)),
        }
    }
}

impl Template {
    /// The text, with the target's value in it; none when the target has no such field.
    fn with<'a>(&'a self, target: &'a Target<'_>) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Target(name) => target
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| Cow::Borrowed(*value)),
        }
    }
}

/// A credential of the subject, by the name that oslo.context gives it.
fn credential<'a>(subject: &'a Subject, name: &str) -> Option<Cow<'a, str>> {
    use crate::Scope;
    let text = match (name, &subject.scope) {
        ("user_id", _) => &subject.user.id,
        ("user_domain_id", _) => &subject.user.domain_id,
        ("project_id" | "tenant_id" | "tenant", Scope::Project(project)) => &project.id,
        ("project_domain_id", Scope::Project(project)) => &project.domain_id,
        ("domain_id" | "token.domain.id", Scope::Domain { id, .. }) => id,
        ("token.project.domain.id", Scope::Project(project)) => &project.domain_id,
        ("system_scope", Scope::System) => "all",
        _ => return None,
    };
    Some(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests;
