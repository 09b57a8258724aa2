//! One answer to "may this subject do this?" for every face.
//!
//! Rules are written in oslo.policy's language and carry the originals' names. Domains register their defaults when the
//! process starts; operators may override any of them by name.

pub mod defaults;
mod explain;
mod file;
mod parse;
mod scopes;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

pub use explain::Step;
pub use file::{FileError, LARGEST_FILE};

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

/// All rules: the defaults of every domain, and over them what the operator's file says. Clones share the latter.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: HashMap<Cow<'static, str>, Check>,
    services: HashMap<Cow<'static, str>, &'static str>,
    overrides: Arc<ArcSwap<file::Overrides>>,
}

/// Where a rule is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A domain's default.
    Default,
    /// The operator's file.
    File {
        /// Where it stands, from 1.
        line: usize,
    },
}

/// A rule as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The service whose rule it is; empty for those that all of them refer to and those that only the file has.
    pub service: &'static str,
    /// Its name.
    pub name: String,
    /// The check that holds now.
    pub check: String,
    /// Where that is from.
    pub source: Source,
    /// The default that it stands over.
    pub default: Option<String>,
}

impl Policy {
    /// The base rules.
    pub fn new() -> Self {
        let mut policy = Self::default();
        policy.register(BASE_RULES);
        policy
    }

    /// As [`Policy::register`], noting whose rules they are: `compute`.
    pub fn register_for(&mut self, service: &'static str, defaults: &[(&'static str, &'static str)]) {
        self.register(defaults);
        for (name, _) in defaults {
            self.services.entry(Cow::Borrowed(*name)).or_insert(service);
        }
    }

    /// Takes what an operator's file says in place of what it said before. How many rules it has.
    ///
    /// # Errors
    /// The first mistake, with its line; everything stays as it was.
    pub fn override_with(&self, text: &str) -> Result<usize, FileError> {
        let overrides = file::read(text, self)?;
        let count = overrides.len();
        self.overrides.store(Arc::new(overrides));
        Ok(count)
    }

    /// The names that the operator's file has and no service knows: helpers of its own, or misspelt.
    pub fn unknown_overrides(&self) -> Vec<String> {
        let overrides = self.overrides.load();
        let known = |name: &String| self.rules.contains_key(name.as_str());
        let mut unknown: Vec<String> = overrides.keys().filter(|name| !known(name)).cloned().collect();
        // One that another rule of the file refers to is a helper.
        unknown.retain(|name| {
            !overrides
                .values()
                .any(|rule| rule.check.refers_to().contains(&name.as_str()))
        });
        unknown.sort();
        unknown
    }

    /// Every rule, by service and name.
    pub fn list(&self) -> Vec<Listed> {
        let overrides = self.overrides.load();
        let mut names: Vec<&str> = self.names().chain(overrides.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        let listed = names.into_iter().filter_map(|name| {
            let (check, source) = self.find(name)?;
            Some(Listed {
                service: self.services.get(name).copied().unwrap_or_default(),
                name: name.to_owned(),
                check: check.to_string(),
                default: self
                    .default_of(name)
                    .filter(|_| source != Source::Default)
                    .map(ToString::to_string),
                source,
            })
        });
        let mut listed: Vec<Listed> = listed.collect();
        listed.sort_by_key(|rule| rule.service);
        listed
    }

    fn default_of(&self, name: &str) -> Option<&Check> {
        self.rules.get(name)
    }

    fn find(&self, name: &str) -> Option<(Check, Source)> {
        if let Some(rule) = self.overrides.load().get(name) {
            return Some((rule.check.clone(), Source::File { line: rule.line }));
        }
        Some((self.default_of(name)?.clone(), Source::Default))
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
        scopes::is_for(rule, &subject.scope) && self.named(subject, rule, target, MAX_DEPTH)
    }

    fn named(&self, subject: &Subject, rule: &str, target: &Target<'_>, depth: u32) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return false;
        };
        if let Some(rule) = self.overrides.load().get(rule) {
            return self.holds(&rule.check, subject, target, depth);
        }
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

impl Check {
    /// The names of the rules that it asks.
    fn refers_to(&self) -> Vec<&str> {
        match self {
            Self::Rule(name) => vec![name],
            Self::Not(inner) => inner.refers_to(),
            Self::All(checks) | Self::Any(checks) => checks.iter().flat_map(Self::refers_to).collect(),
            Self::Always | Self::Never | Self::Role(_) | Self::Equals(..) => Vec::new(),
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
