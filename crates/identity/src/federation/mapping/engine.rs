//! From what a provider says of somebody to who that is here. Pure.
//!
//! Each rule whose remote requirements all hold gives its local part, with `{0}`, `{1}`, … replaced by the values of the
//! requirements that match by themselves or by a white- or blacklist; those of `any_one_of` and `not_any_of` only decide.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::template::{Filled, fill, only_place};

/// What a provider says of somebody: its claims by their names, each with at least one value.
pub type Assertion = BTreeMap<String, Vec<String>>;

/// Why nobody comes out of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// No rule holds.
    #[error(
        "Could not map any federated user properties to identity values. Check debug logs or the mapping used for \
         additional details."
    )]
    NoRule,
    /// A place in a local rule that no requirement fills.
    #[error("a local rule refers to {{{0}}}, and its remote part has no such match")]
    NoSuchMatch(usize),
    /// Braces that are no place.
    #[error("{0:?} is no template: only {{}}, {{0}}, {{1}}, … are filled in, other braces are doubled")]
    Template(String),
    /// A pattern that is none.
    #[error("{pattern:?} is no pattern: {reason}")]
    Pattern {
        /// As it stands in the rule.
        pattern: String,
        /// What is wrong with it, or why it took too long.
        reason: String,
    },
    /// Groups by name without the domain they are in.
    #[error("Invalid rule: {0}. Both 'groups' and 'domain' keywords must be specified.")]
    NoDomain(String),
    /// Something else that rules of this kind cannot say.
    #[error("Invalid rule: {0}")]
    Rule(String),
}

/// Whether somebody is made up at login, or is a user that is here already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserType {
    /// A shadow of the provider's user.
    #[default]
    Ephemeral,
    /// A user of this cloud.
    Local,
}

/// A domain as rules name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainName {
    /// By id; wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// By name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Who it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MappedUser {
    /// What the provider's user is known by for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Its domain, where that is not the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
    /// Made up, or here already.
    #[serde(default, rename = "type")]
    pub kind: UserType,
}

/// A group by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedGroup {
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: DomainName,
}

/// A role by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleName {
    /// Its name.
    pub name: String,
}

/// A project that is made where it is not there, and what the user is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedProject {
    /// Its name.
    pub name: String,
    /// Its roles.
    pub roles: Vec<RoleName>,
    /// Its domain, where that is not the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
}

/// What comes out of a mapping.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Mapped {
    /// Who it is.
    pub user: MappedUser,
    /// Groups by id, each once.
    pub group_ids: Vec<String>,
    /// Groups by name.
    pub group_names: Vec<NamedGroup>,
    /// Projects.
    pub projects: Vec<MappedProject>,
}

/// Which rules language a mapping is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The first.
    One,
    /// A `domain` beside user and projects is theirs where they say none.
    Two,
    /// Projects also come from a claim, and roles that it does not name any more are taken back.
    Three,
}

impl Version {
    /// `1.0`, `2.0` or `3.0`.
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "1.0" => Some(Self::One),
            "2.0" => Some(Self::Two),
            "3.0" => Some(Self::Three),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Rule {
    local: Vec<Map<String, Value>>,
    remote: Vec<Requirement>,
}

#[derive(Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    claim: String,
    #[serde(default)]
    any_one_of: Option<Vec<Value>>,
    #[serde(default)]
    not_any_of: Option<Vec<Value>>,
    #[serde(default)]
    blacklist: Option<Vec<Value>>,
    #[serde(default)]
    whitelist: Option<Vec<Value>>,
    #[serde(default)]
    regex: bool,
}

/// Who an assertion is about, by the rules of a mapping.
///
/// # Errors
/// When no rule holds, or one cannot be carried out.
pub fn process(version: Version, rules: &Value, assertion: &Assertion) -> Result<Mapped, MappingError> {
    let rules = Vec::<Rule>::deserialize(rules).map_err(|error| MappingError::Rule(error.to_string()))?;
    let mut locals = Vec::new();
    for rule in &rules {
        if let Some(matches) = matches(&rule.remote, assertion)? {
            for local in &rule.local {
                locals.push(Local::fill(version, local, &matches)?);
            }
        }
    }
    transform(version, locals)
}

/// Whether all patterns of rules can be used.
///
/// # Errors
/// For the first that cannot.
pub(super) fn check_patterns(rules: &Value) -> Result<(), MappingError> {
    let rules = Vec::<Rule>::deserialize(rules).map_err(|error| MappingError::Rule(error.to_string()))?;
    for requirement in rules
        .iter()
        .flat_map(|rule| &rule.remote)
        .filter(|requirement| requirement.regex)
    {
        let lists = [
            &requirement.any_one_of,
            &requirement.not_any_of,
            &requirement.blacklist,
            &requirement.whitelist,
        ];
        for text in lists.into_iter().flatten().flatten().filter_map(Value::as_str) {
            pattern(text)?;
        }
    }
    Ok(())
}

/// The values for the places of a rule, where all of its requirements hold.
fn matches(requirements: &[Requirement], assertion: &Assertion) -> Result<Option<Vec<Vec<String>>>, MappingError> {
    let mut found = Vec::new();
    for requirement in requirements {
        let Some(values) = assertion.get(&requirement.claim) else {
            return Ok(None);
        };
        let listed = |list: &[Value]| select(list, values, requirement.regex);
        if let Some(list) = &requirement.any_one_of {
            if !listed(list)?.contains(&true) {
                return Ok(None);
            }
        } else if let Some(list) = &requirement.not_any_of {
            if listed(list)?.contains(&true) {
                return Ok(None);
            }
        } else {
            let kept = match (&requirement.blacklist, &requirement.whitelist) {
                (Some(list), _) => keep(values, &listed(list)?, false),
                (None, Some(list)) => keep(values, &listed(list)?, true),
                (None, None) => values.clone(),
            };
            found.push(kept);
        }
    }
    Ok(Some(found))
}

/// Of each value, whether the list has it.
fn select(list: &[Value], values: &[String], regex: bool) -> Result<Vec<bool>, MappingError> {
    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    if !regex {
        return Ok(values.iter().map(|value| texts.contains(&value.as_str())).collect());
    }
    let patterns = texts.into_iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
    let mut selected = Vec::with_capacity(values.len());
    for value in values {
        let mut is_match = false;
        for pattern in &patterns {
            is_match = is_match
                || pattern
                    .is_match(value)
                    .map_err(|error| unusable(pattern.as_str(), &error))?;
        }
        selected.push(is_match);
    }
    Ok(selected)
}

fn keep(values: &[String], selected: &[bool], wanted: bool) -> Vec<String> {
    let kept = values.iter().zip(selected).filter(|(_, is)| **is == wanted);
    kept.map(|(value, _)| value.clone()).collect()
}

fn pattern(text: &str) -> Result<Regex, MappingError> {
    Regex::new(text).map_err(|error| unusable(text, &error))
}

fn unusable(pattern: &str, error: &fancy_regex::Error) -> MappingError {
    MappingError::Pattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    }
}

/// One local part, filled.
#[derive(Default)]
struct Local {
    user: Option<MappedUser>,
    group_id: Option<String>,
    group: Option<NamedGroup>,
    groups: Option<Vec<String>>,
    group_ids: Vec<String>,
    projects: Option<Vec<MappedProject>>,
    domain: Option<DomainName>,
}

impl Local {
    fn fill(version: Version, local: &Map<String, Value>, matches: &[Vec<String>]) -> Result<Self, MappingError> {
        let mut filled = Self::default();
        for (name, value) in local {
            match name.as_str() {
                "user" => filled.user = Some(typed(fill_all(value, matches)?)?),
                "domain" => filled.domain = Some(typed(fill_all(value, matches)?)?),
                "group" if value.get("id").is_some() => {
                    filled.group_id = fill_all(&value["id"], matches)?.as_str().map(str::to_owned);
                }
                "group" => filled.group = Some(typed(fill_all(value, matches)?)?),
                "groups" => filled.groups = Some(list(value, matches)?),
                "group_ids" => filled.group_ids = list(value, matches)?,
                "projects_json" | "projects" if version == Version::Three && value.is_string() => {
                    let more = from_claim(value, matches)?;
                    filled.projects.get_or_insert_default().extend(more);
                }
                "projects" => {
                    let more: Vec<MappedProject> = typed(fill_all(value, matches)?)?;
                    filled.projects.get_or_insert_default().extend(more);
                }
                other => return Err(MappingError::Rule(format!("{other} is no local property"))),
            }
        }
        Ok(filled)
    }
}

fn typed<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, MappingError> {
    T::deserialize(&value).map_err(|error| MappingError::Rule(format!("{value}: {error}")))
}

/// Every text in a value, filled.
fn fill_all(value: &Value, matches: &[Vec<String>]) -> Result<Value, MappingError> {
    Ok(match value {
        Value::String(template) => Value::String(fill(template, matches)?.into_text()),
        Value::Array(items) => items
            .iter()
            .map(|item| fill_all(item, matches))
            .collect::<Result<_, _>>()?,
        Value::Object(members) => {
            let filled = members
                .iter()
                .map(|(name, value)| Ok((name.clone(), fill_all(value, matches)?)));
            Value::Object(filled.collect::<Result<_, MappingError>>()?)
        }
        other => other.clone(),
    })
}

fn list(value: &Value, matches: &[Vec<String>]) -> Result<Vec<String>, MappingError> {
    let template = value
        .as_str()
        .ok_or_else(|| MappingError::Rule(format!("{value} is no text")))?;
    Ok(fill(template, matches)?.into_list())
}

/// Projects that a claim lists as JSON.
fn from_claim(value: &Value, matches: &[Vec<String>]) -> Result<Vec<MappedProject>, MappingError> {
    let template = value.as_str().unwrap_or_default();
    if only_place(template).is_none() && template.parse::<usize>().is_err() {
        return Err(MappingError::Rule(format!("{template} is not a place such as {{0}}")));
    }
    let place = if template.starts_with('{') {
        template.to_owned()
    } else {
        format!("{{{template}}}")
    };
    let mut projects = Vec::new();
    for text in match fill(&place, matches)? {
        Filled::Text(text) => vec![text],
        Filled::List(texts) => texts,
    } {
        let read = |error: serde_json::Error| MappingError::Rule(format!("{text} does not list projects: {error}"));
        if text.trim_start().starts_with('[') {
            projects.extend(serde_json::from_str::<Vec<MappedProject>>(&text).map_err(read)?);
        } else {
            projects.push(serde_json::from_str(&text).map_err(read)?);
        }
    }
    Ok(projects)
}

/// All local parts together. The first user counts, groups add up, of projects the last list.
fn transform(version: Version, locals: Vec<Local>) -> Result<Mapped, MappingError> {
    let mut mapped = Mapped::default();
    let mut user: Option<MappedUser> = None;
    let last = locals.last().ok_or(MappingError::NoRule)?;
    let default_domain = last.domain.clone().filter(|_| version >= Version::Two);
    for local in locals {
        user = user.or(local.user);
        mapped.group_names.extend(local.group);
        for id in local.group_id.into_iter().chain(local.group_ids) {
            if !mapped.group_ids.contains(&id) {
                mapped.group_ids.push(id);
            }
        }
        for name in local.groups.into_iter().flatten() {
            mapped.group_names.push(named_group(name, local.domain.as_ref())?);
        }
        if let Some(mut projects) = local.projects {
            for project in projects.iter_mut().filter(|_| version >= Version::Two) {
                project.domain = project.domain.take().or_else(|| local.domain.clone());
            }
            mapped.projects = projects;
        }
    }
    let mut user = user.unwrap_or_default();
    user.domain = user.domain.or(default_domain);
    mapped.user = user;
    Ok(mapped)
}

/// A group of a list: its name, or `JSON:{"name": …, "domain": …}`.
fn named_group(text: String, domain: Option<&DomainName>) -> Result<NamedGroup, MappingError> {
    match text.strip_prefix("JSON:") {
        Some(object) => serde_json::from_str(object).map_err(|_| MappingError::NoDomain(text.clone())),
        None => Ok(NamedGroup {
            domain: domain.cloned().ok_or_else(|| MappingError::NoDomain(text.clone()))?,
            name: text,
        }),
    }
}
