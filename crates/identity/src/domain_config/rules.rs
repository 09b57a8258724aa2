//! What may be done to the configuration of a domain.

use madang_http::Failure;
use madang_store::{Metadata, Op, Resource, StoreBuilder};
use serde_json::{Map, Value};

use super::{DomainConfig, DomainConfigSpec, Group};
use crate::{Caller, Identity, api::not_found, cascade::remove_all, project::Project};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<DomainConfig>();
    builder.rule::<Project>(|tx, op| {
        let Op::Remove(domain) = op else { return Ok(()) };
        let config = tx.store().get::<DomainConfig>(&DomainConfig::key(domain.name()));
        remove_all(tx, config.into_iter().collect())
    });
}

/// What a request is about: everything, a group, or one option of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part<'a> {
    /// The group.
    pub group: Option<&'a str>,
    /// The option.
    pub option: Option<&'a str>,
}

impl Part<'_> {
    fn words(&self) -> String {
        match (self.group, self.option) {
            (Some(group), Some(option)) => format!("option {option} in group {group}"),
            (Some(group), None) => format!("group {group}"),
            _ => "any options".to_owned(),
        }
    }

    /// Whether there is such a part.
    ///
    /// # Errors
    /// 403 naming what is not supported.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match (self.group, self.option) {
            (Some(group), Some(option)) => check_option(group, option),
            (Some(group), None) => find_group(group).map(|_| ()),
            _ => Ok(()),
        }
    }
}

fn invalid(reason: &str) -> Failure {
    Failure::forbidden(format!("Invalid domain specific configuration: {reason}."))
}

fn find_group(group: &str) -> Result<&'static Group, Failure> {
    let message = format!("Group {group} is not supported for domain specific configurations");
    Group::named(group).ok_or_else(|| invalid(&message))
}

fn check_option(group: &str, option: &str) -> Result<(), Failure> {
    if find_group(group)?.has(option) {
        return Ok(());
    }
    let message = format!("Option {option} in group {group} is not supported for domain specific configurations");
    Err(invalid(&message))
}

/// Whether all that a client wants to set can be set.
fn check(config: &Map<String, Value>) -> Result<(), Failure> {
    if config.is_empty() {
        return Err(invalid("No options specified"));
    }
    for (group, options) in config {
        let Some(options) = options.as_object().filter(|options| !options.is_empty()) else {
            let message =
                format!("The value of group {group} specified in the config should be a dictionary of options");
            return Err(invalid(&message));
        };
        for option in options.keys() {
            check_option(group, option)?;
        }
    }
    Ok(())
}

fn check_domain(identity: &Identity, id: &str) -> Result<(), Failure> {
    let domain = identity.store.get::<Project>(&Project::key(id));
    let domain = domain.filter(|domain| domain.spec.is_domain);
    domain.map(|_| ()).ok_or_else(|| not_found("domain", id))
}

fn missing(domain_id: &str, part: &Part<'_>) -> Failure {
    let what = part.words();
    Failure::not_found(format!(
        "Could not find {what} in domain configuration for domain {domain_id}."
    ))
}

/// What clients may see of a configuration, in the form they get it: groups, or the one option they asked for.
fn seen(config: &Map<String, Value>, part: &Part<'_>) -> Option<Value> {
    let shows = |group: &str, option: &str| Group::named(group).is_some_and(|group| group.shows(option));
    if let (Some(group), Some(option)) = (part.group, part.option) {
        let value = config.get(group)?.get(option).filter(|_| shows(group, option))?;
        return Some(Value::Object(Map::from_iter([(option.to_owned(), value.clone())])));
    }
    let mut groups = Map::new();
    for (name, options) in config {
        if part.group.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let options = options.as_object().into_iter().flatten();
        let options: Map<String, Value> = options
            .filter(|(option, _)| shows(name, option))
            .map(|(option, value)| (option.clone(), value.clone()))
            .collect();
        if !options.is_empty() {
            groups.insert(name.clone(), Value::Object(options));
        }
    }
    (!groups.is_empty()).then_some(Value::Object(groups))
}

/// Replaces the configuration of a domain; also says whether there was none before.
///
/// # Errors
/// 403 for policy and for what cannot be set, 404 for a missing domain.
pub async fn replace(
    identity: &Identity,
    caller: &Caller,
    domain_id: &str,
    config: &Map<String, Value>,
) -> Result<(Value, bool), Failure> {
    caller.enforce("identity:create_domain_config", &[])?;
    check_domain(identity, domain_id)?;
    check(config)?;
    let replaced = identity.store.transact(caller.cause(), |tx| {
        let domain = tx.get::<Project>(&Project::key(domain_id));
        tx.expect(&*domain.ok_or_else(|| not_found("domain", domain_id))?)?;
        let spec = DomainConfigSpec { groups: config.clone() };
        let there = tx.get::<DomainConfig>(&DomainConfig::key(domain_id));
        let is_new = there.is_none();
        match there {
            Some(old) => {
                let mut new = (*old).clone();
                new.spec = spec;
                tx.update(&old, new)?;
            }
            None => _ = tx.create(Resource::<DomainConfig>::new(Metadata::new("", domain_id), spec))?,
        }
        Ok::<_, Failure>(is_new)
    });
    let is_new = replaced.await?;
    let shown = seen(config, &Part::default()).unwrap_or_else(|| Value::Object(Map::new()));
    Ok((shown, is_new))
}

/// What clients may see of the configuration of a domain.
///
/// # Errors
/// 403 for policy and what cannot be set, 404 for what is not set and a missing domain.
pub fn show(identity: &Identity, caller: &Caller, domain_id: &str, part: &Part<'_>) -> Result<Value, Failure> {
    caller.enforce("identity:get_domain_config", &[])?;
    check_domain(identity, domain_id)?;
    part.check()?;
    let config = identity.store.get::<DomainConfig>(&DomainConfig::key(domain_id));
    let shown = config.and_then(|config| seen(&config.spec.groups, part));
    shown.ok_or_else(|| missing(domain_id, part))
}

/// Sets some of the options of a domain. `config` has the form that [`show`] gives for the same part.
///
/// # Errors
/// 403 for policy and what does not fit the part, 404 for a part that is not set yet and a missing domain.
pub async fn update(
    identity: &Identity,
    caller: &Caller,
    domain_id: &str,
    part: &Part<'_>,
    config: Map<String, Value>,
) -> Result<Value, Failure> {
    caller.enforce("identity:update_domain_config", &[])?;
    check_domain(identity, domain_id)?;
    let config = match (part.group, part.option) {
        (Some(group), Some(_)) => Map::from_iter([(group.to_owned(), Value::Object(config))]),
        _ => config,
    };
    check(&config)?;
    part.check()?;
    fits(&config, part)?;
    let updated = identity.store.transact(caller.cause(), |tx| {
        let there = tx.get::<DomainConfig>(&DomainConfig::key(domain_id));
        let now = there
            .as_ref()
            .map(|there| there.spec.groups.clone())
            .unwrap_or_default();
        if !is_set(&now, part) {
            return Err(missing(domain_id, part));
        }
        let mut groups = now;
        for (group, options) in &config {
            let target = groups.entry(group.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let (Some(target), Some(options)) = (target.as_object_mut(), options.as_object()) {
                target.extend(options.clone());
            }
        }
        let spec = DomainConfigSpec { groups: groups.clone() };
        match there {
            Some(old) => {
                let mut new = (*old).clone();
                new.spec = spec;
                tx.update(&old, new)?;
            }
            None => _ = tx.create(Resource::<DomainConfig>::new(Metadata::new("", domain_id), spec))?,
        }
        Ok(groups)
    });
    let groups = updated.await?;
    Ok(seen(&groups, &Part::default()).unwrap_or_else(|| Value::Object(Map::new())))
}

/// A request for a part must have that part and nothing else.
fn fits(config: &Map<String, Value>, part: &Part<'_>) -> Result<(), Failure> {
    let Some(group) = part.group else { return Ok(()) };
    let options = config.get(group).and_then(Value::as_object);
    let Some(options) = options.filter(|_| config.len() == 1) else {
        let message = format!("a request about group {group} has to have that group and no other");
        return Err(invalid(&message));
    };
    match part.option {
        Some(option) if options.len() != 1 || !options.contains_key(option) => {
            let message = format!("a request about option {option} has to have that option and no other");
            Err(invalid(&message))
        }
        _ => Ok(()),
    }
}

fn is_set(config: &Map<String, Value>, part: &Part<'_>) -> bool {
    let Some(group) = part.group else { return true };
    let options = config.get(group).and_then(Value::as_object);
    options.is_some_and(|options| !options.is_empty() && part.option.is_none_or(|option| options.contains_key(option)))
}

/// Takes options of a domain off.
///
/// # Errors
/// 403 for policy and what cannot be set, 404 for what is not set and a missing domain.
pub async fn remove(identity: &Identity, caller: &Caller, domain_id: &str, part: &Part<'_>) -> Result<(), Failure> {
    caller.enforce("identity:delete_domain_config", &[])?;
    check_domain(identity, domain_id)?;
    part.check()?;
    let removed = identity.store.transact(caller.cause(), |tx| {
        let there = tx.get::<DomainConfig>(&DomainConfig::key(domain_id));
        let set = there.as_ref().is_some_and(|there| is_set(&there.spec.groups, part));
        let Some(old) = there.filter(|_| set) else {
            return if part.group.is_none() {
                Ok(())
            } else {
                Err(missing(domain_id, part))
            };
        };
        let mut new = (*old).clone();
        match (part.group, part.option) {
            (Some(group), Some(option)) => {
                let options = new.spec.groups.get_mut(group).and_then(Value::as_object_mut);
                options.and_then(|options| options.shift_remove(option));
            }
            (Some(group), None) => _ = new.spec.groups.shift_remove(group),
            _ => new.spec.groups.clear(),
        }
        if new.spec.groups.is_empty() {
            tx.delete(&old)?;
        } else {
            tx.update(&old, new)?;
        }
        Ok::<_, Failure>(())
    });
    removed.await
}

/// What holds where nothing is set.
///
/// # Errors
/// 403 for policy and for what clients cannot see.
pub fn defaults(caller: &Caller, part: &Part<'_>) -> Result<Value, Failure> {
    caller.enforce("identity:get_domain_config_default", &[])?;
    part.check()?;
    let all = super::GROUPS.iter();
    let all: Map<String, Value> = all
        .map(|group| (group.name.to_owned(), Value::Object(group.defaults())))
        .collect();
    let words = part.words();
    seen(&all, part).ok_or_else(|| invalid(&format!("Reading the default for {words} is not supported")))
}
