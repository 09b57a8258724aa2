//! The verbs of metadata definitions. What a caller may not see does not exist for it.

use std::sync::Arc;

use jiff::Timestamp;
use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Metadata, Op, Resource, StoreBuilder, StoreError, Tx};
use serde_json::{Map, Value};

use super::{Association, Namespace, NamespaceSpec, Part, Sort};
use crate::library::Library;

/// How many objects, properties, tags and associations a namespace holds, each. Glance knows no bound; a namespace is one
/// record here, and the largest that OpenStack ships has some sixty.
const MAX_PARTS: usize = 1000;
/// Where names of namespaces are reserved.
const NAMES: &str = "metadef-namespaces";

type Found = Arc<Resource<Namespace>>;

/// Makes namespaces known to a store that is about to be opened.
pub fn register(builder: &mut StoreBuilder) {
    builder.rule::<Namespace>(admit);
}

/// Names are unique whoever writes them, and follow a change of name.
fn admit(tx: &mut Tx<'_>, op: Op<'_, Namespace>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => tx.reserve(NAMES, &new.spec.namespace, new.metadata.uid),
        Op::Update { old, new } if old.spec.namespace != new.spec.namespace => {
            tx.release(NAMES, &old.spec.namespace);
            tx.reserve(NAMES, &new.spec.namespace, new.metadata.uid)
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(old) => {
            tx.release(NAMES, &old.spec.namespace);
            Ok(())
        }
    }
}

/// Refuses what a rule does not allow to a caller, regardless of any namespace.
pub(super) fn enforce(caller: &Caller, rule: &'static str) -> Result<(), Failure> {
    allowed(caller, rule, caller.subject.project_id().unwrap_or_default(), false)
        .then_some(())
        .ok_or_else(|| not_allowed(rule))
}

fn allowed(caller: &Caller, rule: &'static str, owner: &str, is_public: bool) -> bool {
    let visibility = if is_public { "public" } else { "private" };
    caller.allows(rule, &[("project_id", owner), ("visibility", visibility)])
}

fn not_allowed(rule: &'static str) -> Failure {
    Failure::forbidden(format!("You are not authorized to complete {rule} action.")).because("PolicyNotAuthorized")
}

fn can_see(caller: &Caller, namespace: &Resource<Namespace>) -> bool {
    let spec = &namespace.spec;
    allowed(caller, "get_metadef_namespace", &spec.owner, spec.is_public)
}

/// All namespaces that the caller can see, the newest first.
///
/// # Errors
/// Forbidden.
pub(super) fn list(library: &Library, caller: &Caller) -> Result<Vec<Found>, Failure> {
    enforce(caller, "get_metadef_namespaces")?;
    let cache = library.store.cache::<Namespace>();
    let mut all = if caller.is_admin() {
        cache.all()
    } else {
        let mut own = cache.by("owner", caller.subject.project_id().unwrap_or_default());
        own.extend(cache.by("public", "true"));
        own
    };
    all.retain(|namespace| can_see(caller, namespace));
    all.sort_unstable_by(|a, b| (b.metadata.created, b.name()).cmp(&(a.metadata.created, a.name())));
    all.dedup_by(|a, b| a.name() == b.name());
    Ok(all)
}

/// A namespace that the caller can see and whose parts it may use by `rule`.
///
/// # Errors
/// Not found, forbidden.
pub(super) fn find(library: &Library, caller: &Caller, rule: &'static str, name: &str) -> Result<Found, Failure> {
    let found = library.store.cache::<Namespace>().by("namespace", name);
    let found = found.into_iter().find(|namespace| can_see(caller, namespace));
    let found = found.ok_or_else(|| Failure::not_found(format!("Namespace {name} not found")))?;
    if !allowed(caller, rule, &found.spec.owner, found.spec.is_public) {
        return Err(not_allowed(rule));
    }
    Ok(found)
}

/// Makes a namespace.
///
/// # Errors
/// Forbidden; conflict when the name is taken; exhausted with too many parts.
pub(super) async fn create(library: &Library, caller: &Caller, spec: NamespaceSpec) -> Result<Found, Failure> {
    enforce(caller, "add_metadef_namespace")?;
    within_limits(&spec)?;
    let name = spec.namespace.clone();
    let namespace = Resource::<Namespace>::new(Metadata::with_id(&spec.owner), spec);
    let created = library
        .store
        .transact(caller.cause(), |tx| tx.create(namespace.clone()));
    created.await.map_err(|error| taken(error, &name))
}

/// Changes a namespace or what is in it. `change` may run more than once.
///
/// # Errors
/// As [`find`], and what `change` says; conflict when a new name is taken.
pub(super) async fn change(
    library: &Library,
    caller: &Caller,
    rule: &'static str,
    name: &str,
    mut change: impl FnMut(&mut NamespaceSpec) -> Result<(), Failure>,
) -> Result<Found, Failure> {
    let found = find(library, caller, rule, name)?;
    let mut wanted = name.to_owned();
    let key = found.key();
    let changed = library
        .store
        .modify::<Namespace, Refused>(&key, caller.cause(), |namespace| {
            change(&mut namespace.spec).map_err(Refused::Change)?;
            within_limits(&namespace.spec).map_err(Refused::Change)?;
            wanted.clone_from(&namespace.spec.namespace);
            Ok(())
        });
    changed.await.map_err(|refused| match refused {
        Refused::Change(failure) => failure,
        Refused::Store(error) => taken(error, &wanted),
    })
}

enum Refused {
    Change(Failure),
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn taken(error: StoreError, name: &str) -> Failure {
    match error {
        StoreError::Exists { .. } => {
            Failure::conflict(format!("The metadata definition namespace={name} already exists."))
        }
        other => other.into(),
    }
}

fn within_limits(spec: &NamespaceSpec) -> Result<(), Failure> {
    let counts = [
        ("objects", spec.objects.len()),
        ("properties", spec.properties.len()),
        ("tags", spec.tags.len()),
        ("resource_type_associations", spec.resource_types.len()),
    ];
    match counts.into_iter().find(|(_, count)| *count > MAX_PARTS) {
        Some((what, count)) => {
            Err(Failure::exhausted(format!("a namespace has at most {MAX_PARTS} {what}, not {count}")).at(what))
        }
        None => Ok(()),
    }
}

/// Deletes a namespace and everything in it.
///
/// # Errors
/// As [`find`]; forbidden when it is protected.
pub(super) async fn delete(library: &Library, caller: &Caller, name: &str) -> Result<(), Failure> {
    let found = find(library, caller, "delete_metadef_namespace", name)?;
    let key = found.key();
    let deleted = library.store.transact::<(), Failure>(caller.cause(), |tx| {
        let Some(namespace) = tx.get::<Namespace>(&key) else {
            return Ok(());
        };
        refuse_protected(&namespace.spec, "namespace", name)?;
        Ok(tx.delete(&namespace)?)
    });
    deleted.await
}

/// Nothing of a protected namespace goes.
pub(super) fn refuse_protected(spec: &NamespaceSpec, what: &str, name: &str) -> Result<(), Failure> {
    if spec.is_protected {
        let message = format!("Metadata definition {what} {name} is protected and cannot be deleted.");
        return Err(Failure::forbidden(message));
    }
    Ok(())
}

/// Puts a part into a namespace.
///
/// # Errors
/// Conflict when there is one of the name.
pub(super) fn insert(
    spec: &mut NamespaceSpec,
    sort: Sort,
    name: &str,
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<(), Failure> {
    let parts = sort.of(spec);
    // Tags differ by more than their case. Source: Glance, "metadata tag names are case insensitive".
    let is_taken = match sort {
        Sort::Tag => parts.keys().any(|other| other.eq_ignore_ascii_case(name)),
        Sort::Object | Sort::Property => parts.contains_key(name),
    };
    if is_taken {
        let (word, namespace) = (sort.word(), &spec.namespace);
        let message = format!("A metadata definition {word} with name={name} already exists in namespace={namespace}.");
        return Err(Failure::conflict(message));
    }
    let part = Part {
        body: body.clone(),
        created: now,
        updated: now,
    };
    sort.of_mut(spec).insert(name.to_owned(), part);
    Ok(())
}

/// Replaces a part, maybe under another name.
///
/// # Errors
/// Not found; conflict when the new name is taken.
pub(super) fn replace(
    spec: &mut NamespaceSpec,
    sort: Sort,
    name: &str,
    (new_name, body): (&str, &Map<String, Value>),
    now: Timestamp,
) -> Result<(), Failure> {
    let index = sort.of(spec).get_index_of(name);
    let index = index.ok_or_else(|| no_part(sort, name, &spec.namespace))?;
    let old = sort.of_mut(spec).shift_remove_index(index);
    insert(spec, sort, new_name, body, now)?;
    let parts = sort.of_mut(spec);
    parts.move_index(parts.len() - 1, index);
    if let (Some((_, old)), Some(part)) = (old, parts.get_mut(new_name)) {
        part.created = old.created;
    }
    Ok(())
}

/// Takes a part out.
///
/// # Errors
/// Not found; forbidden when the namespace is protected.
pub(super) fn remove(spec: &mut NamespaceSpec, sort: Sort, name: &str) -> Result<(), Failure> {
    refuse_protected(spec, sort.word(), name)?;
    let removed = sort.of_mut(spec).shift_remove(name);
    removed.map(drop).ok_or_else(|| no_part(sort, name, &spec.namespace))
}

/// The answer to a part that is not there.
pub(super) fn no_part(sort: Sort, name: &str, namespace: &str) -> Failure {
    let word = sort.word();
    Failure::not_found(format!(
        "The metadata definition {word} with name={name} was not found in namespace={namespace}."
    ))
}

/// Says what a namespace is for.
///
/// # Errors
/// Conflict when it was said already.
pub(super) fn associate(spec: &mut NamespaceSpec, association: Association) -> Result<(), Failure> {
    let (name, namespace) = (&association.name, &spec.namespace);
    if spec.resource_types.iter().any(|other| other.name == *name) {
        return Err(Failure::conflict(format!(
            "The metadata definition resource-type association of resource-type={name} to namespace={namespace} \
             already exists."
        )));
    }
    spec.resource_types.push(association);
    Ok(())
}

/// Takes that back.
///
/// # Errors
/// Not found; forbidden when the namespace is protected.
pub(super) fn dissociate(spec: &mut NamespaceSpec, name: &str) -> Result<(), Failure> {
    refuse_protected(spec, "resource-type-association", name)?;
    let before = spec.resource_types.len();
    spec.resource_types.retain(|association| association.name != name);
    if spec.resource_types.len() == before {
        return Err(Failure::not_found(format!(
            "Failed to find resource type {name} to delete"
        )));
    }
    Ok(())
}
