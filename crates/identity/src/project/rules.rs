//! What may be done to projects and domains.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::{ErrorKind, Metadata, Op, Rejection, Resource, Store, StoreBuilder, StoreError, Tx};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Project, ProjectSpec, domain_of, is_immutable, name_key};
use crate::{
    Caller, Identity,
    api::{merge, not_found},
    application_credential::ApplicationCredential,
    assignment::{Assignment, On, effective},
    cascade::remove_all,
    credential::Credential,
    group::Group,
    limit::Model,
    names,
    role::Role,
    trust::Trust,
    user::User,
};

/// Keystone's `max_project_tree_depth`: how many projects stand in a line below a domain.
const MAX_DEPTH: usize = 5;

/// Whether a limit model can be used: a project that is deeper than it allows says that it cannot.
pub(crate) fn check_depth(store: &Store, model: Model) -> Result<(), String> {
    let Some(max) = model.max_depth() else {
        return Ok(());
    };
    let all = store.cache::<Project>().all();
    let deep = all
        .iter()
        .find(|project| effective::ancestors(store, project).len() >= max);
    deep.map_or(Ok(()), |project| {
        Err(format!(
            "project {} is deeper than limit_model = \"{}\" allows, {max} below a domain: use another model",
            project.name(),
            model.name()
        ))
    })
}

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Project>(|tx, op| {
        names::keep_unique(tx, &op, |spec| name_key(&spec.domain_id, &spec.name), describe)?;
        match op {
            Op::Create(_) => Ok(()),
            Op::Update { old, new } => {
                if old.spec.enabled && !new.spec.enabled {
                    new.spec.tokens_void_until = Some(tx.at());
                }
                Ok(())
            }
            Op::Remove(project) => clear(tx, project),
        }
    });
}

fn describe(spec: &ProjectSpec) -> String {
    if spec.is_domain {
        return format!("domain - Duplicate entry found with name {}", spec.name);
    }
    format!(
        "project - Duplicate entry found with name {} at domain ID {}",
        spec.name, spec.domain_id
    )
}

/// What goes with a project or a domain.
fn clear(tx: &mut Tx<'_>, project: &Resource<Project>) -> Result<(), StoreError> {
    let store = tx.store();
    let id = project.name();
    let on = if project.spec.is_domain {
        On::Domain(id.to_owned())
    } else {
        On::Project(id.to_owned())
    };
    remove_all(tx, store.cache::<Assignment>().by("on", &on.as_text()))?;
    remove_all(tx, store.cache::<ApplicationCredential>().by("project", id))?;
    remove_all(tx, store.cache::<Credential>().by("project", id))?;
    remove_all(tx, store.cache::<Trust>().by("project", id))?;
    if !project.spec.is_domain {
        return Ok(());
    }
    remove_all(tx, store.cache::<User>().by("domain", id))?;
    remove_all(tx, store.cache::<Group>().by("domain", id))?;
    remove_all(tx, store.cache::<Role>().by("domain", id))?;
    remove_all(tx, store.cache::<Project>().by("domain", id))?;
    Ok(())
}

/// Creates a project or a domain, with a given id where somebody chose one.
///
/// # Errors
/// 400 for a parent that does not fit, 403 for policy, depth and a disabled parent, 404 for a missing parent, 409 for a
/// taken name.
pub async fn create(
    identity: &Identity,
    caller: &Caller,
    mut spec: ProjectSpec,
    id: Option<Uuid>,
) -> Result<Arc<Resource<Project>>, Failure> {
    if spec.is_domain {
        caller.enforce("identity:create_domain", &[])?;
        if !spec.domain_id.is_empty() || !spec.parent_id.is_empty() {
            return Err(Failure::invalid("cannot create a domain within another domain").at("domain_id"));
        }
    } else {
        place(identity, caller, &mut spec)?;
        caller.enforce(
            "identity:create_project",
            &[("target.project.domain_id", &spec.domain_id)],
        )?;
    }
    let uid = id.unwrap_or_else(Uuid::new_v4);
    let max_depth = identity.options.limit_model.max_depth();
    let max_depth = max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
    let created = identity.store.transact(caller.cause(), |tx| {
        if !spec.is_domain {
            check_parent(tx, &spec, max_depth)?;
        }
        let metadata = Metadata::with_uid(uid, "", uid.simple().to_string());
        Ok::<_, Failure>(tx.create(Resource::new(metadata, spec.clone()))?)
    });
    created.await
}

/// Fills in domain and parent where only one of them, or none, was given.
fn place(identity: &Identity, caller: &Caller, spec: &mut ProjectSpec) -> Result<(), Failure> {
    if spec.parent_id.is_empty() {
        if spec.domain_id.is_empty() {
            spec.domain_id = caller.home_domain().to_owned();
        }
        spec.parent_id.clone_from(&spec.domain_id);
        return Ok(());
    }
    let parent = identity.store.get::<Project>(&Project::key(&spec.parent_id));
    let parent = parent.ok_or_else(|| not_found("project", &spec.parent_id))?;
    let domain_id = domain_of(&parent);
    if spec.domain_id.is_empty() {
        spec.domain_id = domain_id.to_owned();
    } else if spec.domain_id != domain_id {
        let message = format!(
            "Cannot create project, the parent ({}) is in domain {domain_id}, but this project specifies domain {}",
            spec.parent_id, spec.domain_id
        );
        return Err(Failure::invalid(message).at("domain_id"));
    }
    Ok(())
}

fn check_parent(tx: &Tx<'_>, spec: &ProjectSpec, max_depth: usize) -> Result<(), Failure> {
    let get = |id: &str| tx.get::<Project>(&Project::key(id));
    let domain = get(&spec.domain_id).filter(|domain| domain.spec.is_domain);
    domain.ok_or_else(|| not_found("domain", &spec.domain_id))?;
    let parent = get(&spec.parent_id).ok_or_else(|| not_found("project", &spec.parent_id))?;
    if parent.spec.is_domain {
        return Ok(());
    }
    let above = effective::ancestors(tx.store(), &parent);
    if above.len() + 1 >= max_depth {
        return Err(Failure::forbidden(format!(
            "Max hierarchy depth reached for {} branch.",
            spec.parent_id
        )));
    }
    let disabled = std::iter::once(&parent)
        .chain(&above)
        .any(|project| !project.spec.enabled);
    if spec.enabled && disabled {
        return Err(Failure::forbidden(format!(
            "cannot create project {}: a parent of it is disabled",
            spec.name
        )));
    }
    Ok(())
}

/// What a client wants changed of a project or a domain; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ProjectChange {
    /// The new name.
    pub name: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// Whether it is to be enabled.
    pub enabled: Option<bool>,
    /// All its tags.
    pub tags: Option<Vec<String>>,
    /// Options to set; `null` takes one off.
    pub options: Map<String, Value>,
    /// What clients keep beside, to set; `null` takes one off.
    pub extra: Map<String, Value>,
}

/// Changes a project or a domain.
///
/// # Errors
/// 403 for policy, an immutable one, disabling one with enabled children or enabling one below a disabled one; 404;
/// 409 for a taken name.
pub async fn update(
    identity: &Identity,
    caller: &Caller,
    id: &str,
    is_domain: bool,
    change: &ProjectChange,
) -> Result<Arc<Resource<Project>>, Failure> {
    let rule = if is_domain {
        "identity:update_domain"
    } else {
        "identity:update_project"
    };
    find(identity, caller, rule, id, is_domain)?;
    let key = Project::key(id);
    let changed = identity
        .store
        .modify::<Project, Failure>(&key, caller.cause(), |project| {
            let unlocks = change
                .options
                .get("immutable")
                .is_some_and(|value| *value != Value::Bool(true));
            if is_immutable(&project.spec.options) && !unlocks {
                return Err(immutable("update", project));
            }
            if let Some(enabled) = change
                .enabled
                .filter(|enabled| *enabled != project.spec.enabled && !project.spec.is_domain)
            {
                check_enabled(identity, project, enabled)?;
            }
            let spec = &mut project.spec;
            spec.name = change.name.clone().unwrap_or_else(|| spec.name.clone());
            spec.description = change.description.clone().unwrap_or_else(|| spec.description.clone());
            spec.enabled = change.enabled.unwrap_or(spec.enabled);
            spec.tags = change.tags.clone().unwrap_or_else(|| spec.tags.clone());
            merge(&mut spec.options, &change.options);
            merge(&mut spec.extra, &change.extra);
            Ok(())
        });
    changed.await
}

fn check_enabled(identity: &Identity, project: &Resource<Project>, enabled: bool) -> Result<(), Failure> {
    let id = project.name();
    if enabled {
        let above = effective::ancestors(&identity.store, project);
        if above.iter().any(|parent| !parent.spec.enabled) {
            return Err(Failure::forbidden(format!(
                "Cannot enable project {id} since it has disabled parents"
            )));
        }
    } else if effective::descendants(&identity.store, id)
        .iter()
        .any(|child| child.spec.enabled)
    {
        let message = format!("Cannot disable project {id} since its subtree contains enabled projects.");
        return Err(Failure::forbidden(message));
    }
    Ok(())
}

/// Removes a project, or a disabled domain with all that is in it.
///
/// # Errors
/// 403 for policy, a project with children, an enabled domain and an immutable one; 404.
pub async fn delete(identity: &Identity, caller: &Caller, id: &str, is_domain: bool) -> Result<(), Failure> {
    let rule = if is_domain {
        "identity:delete_domain"
    } else {
        "identity:delete_project"
    };
    find(identity, caller, rule, id, is_domain)?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let project = tx
            .get::<Project>(&Project::key(id))
            .ok_or_else(|| not_found("project", id))?;
        if is_immutable(&project.spec.options) {
            return Err(immutable("delete", &project));
        }
        if project.spec.is_domain && project.spec.enabled {
            let message = "Cannot delete a domain that is enabled, please disable it first.";
            return Err(Failure::forbidden(message));
        }
        if !project.spec.is_domain && identity.store.cache::<Project>().count_by("parent", id) > 0 {
            let message = format!(
                "Cannot delete the project {id} since it is not a leaf in the hierarchy. Use the cascade option if you \
                 want to delete a whole subtree."
            );
            return Err(Failure::forbidden(message));
        }
        tx.delete(&project)?;
        forget_default(tx, id)
    });
    deleted.await
}

/// Users whose default project it was have none now.
fn forget_default(tx: &mut Tx<'_>, id: &str) -> Result<(), Failure> {
    let all = tx.store().cache::<User>().by("default_project", id);
    for user in all {
        if let Some(user) = tx.get::<User>(&user.key()) {
            let mut changed = (*user).clone();
            changed.spec.default_project_id = None;
            tx.update(&user, changed)?;
        }
    }
    Ok(())
}

/// A project (or, where `is_domain`, a domain), once policy allows `rule` on it.
///
/// # Errors
/// 403 for policy, also where there is none and the caller may not see any; 404.
pub fn find(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    id: &str,
    is_domain: bool,
) -> Result<Arc<Resource<Project>>, Failure> {
    let project = identity
        .store
        .get::<Project>(&Project::key(id))
        .filter(|p| !is_domain || p.spec.is_domain);
    // As Keystone: that a domain is not there is said before who asks is looked at, but not to who wants to see it.
    if is_domain && project.is_none() && rule != "identity:get_domain" {
        return Err(not_found("domain", id));
    }
    let domain_id = project
        .as_ref()
        .map_or("None", |p| if p.spec.is_domain { "None" } else { &p.spec.domain_id });
    let mut target = vec![("target.project.domain_id", domain_id), ("target.project.id", id)];
    if is_domain {
        target.push(("target.domain.id", id));
    }
    caller.enforce(rule, &target)?;
    project.ok_or_else(|| not_found(if is_domain { "domain" } else { "project" }, id))
}

fn immutable(verb: &str, project: &Resource<Project>) -> Failure {
    let what = if project.spec.is_domain { "domain" } else { "project" };
    refuse_immutable(verb, what, project.name())
}

/// Keystone's answer to a change of something that has the option `immutable`.
pub(crate) fn refuse_immutable(verb: &str, what: &str, id: &str) -> Failure {
    let message = format!(
        "Cannot {verb} immutable {what} with id {id}. Set resource option 'immutable' to false before trying again."
    );
    Rejection::new(ErrorKind::Forbidden, "ResourceIsImmutable", message).into()
}
