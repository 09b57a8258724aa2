//! From an assertion to a user: is the provider one of ours, what does the mapping make of it, who is that here.

use std::sync::Arc;

use jiff::SignedDuration;
use madang_http::Failure;
use madang_store::{Cause, Metadata, Resource, Tx};
use serde_json::Map;
use tracing::{debug, warn};

use super::{
    IdentityProvider, Mapping, Protocol,
    mapping::engine::{self, Assertion, DomainName, Mapped, MappedProject, NamedGroup, UserType, Version},
    protocol::no_such_protocol,
    shadow::{self, Visitor},
};
use crate::{
    Identity,
    api::not_found,
    assignment::{Actor, Assignment, AssignmentSpec, On},
    auth::{DomainRef, UserRef},
    group::Group,
    project::{Project, ProjectSpec, name_key},
    role::Role,
    user::User,
};

/// Who an assertion is about.
pub(crate) enum Known {
    /// A shadow, in a session of the provider's.
    Shadow(Arc<Resource<User>>),
    /// A user of this cloud.
    Local(Arc<Resource<User>>),
}

/// An enabled provider.
///
/// # Errors
/// 404 where there is none, 403 where it is disabled.
pub(super) fn enabled_provider(identity: &Identity, id: &str) -> Result<Arc<Resource<IdentityProvider>>, Failure> {
    let provider = identity.store.get::<IdentityProvider>(&IdentityProvider::key(id));
    let provider = provider.ok_or_else(|| not_found("Identity Provider", id))?;
    if provider.spec.enabled {
        Ok(provider)
    } else {
        Err(Failure::forbidden(format!("Identity Provider {id} is disabled")))
    }
}

/// Finds, or makes, the user that an assertion is about.
///
/// # Errors
/// 404 for a provider or protocol that is not there, 403 for a disabled provider and another's assertion, 401 where the
/// mapping gives nobody.
pub(crate) async fn receive(
    identity: &Identity,
    provider_id: &str,
    protocol_id: &str,
    assertion: &Assertion,
) -> Result<Known, Failure> {
    let provider = enabled_provider(identity, provider_id)?;
    let protocol = identity.store.get::<Protocol>(&Protocol::key(provider_id, protocol_id));
    let protocol = protocol.ok_or_else(|| no_such_protocol(provider_id, protocol_id))?;
    check_remote_id(identity, &provider, &protocol, assertion)?;
    let mapping_id = &protocol.spec.mapping_id;
    let mapping = identity.store.get::<Mapping>(&Mapping::key(mapping_id));
    let mapping = mapping.ok_or_else(|| not_found("mapping", mapping_id))?;
    let version = Version::read(&mapping.spec.schema_version).unwrap_or(Version::One);
    let mapped = engine::process(version, &mapping.spec.rules, assertion).map_err(|error| {
        warn!(provider = provider_id, mapping = mapping_id, %error, "an assertion is mapped to nobody");
        Failure::unauthenticated(error.to_string())
    })?;
    debug!(provider = provider_id, ?mapped, "an assertion is mapped");
    match mapped.user.kind {
        UserType::Local => local_user(identity, &mapped).map(Known::Local),
        UserType::Ephemeral => {
            let visit = Visit {
                identity,
                provider: &provider,
                protocol_id,
                mapping_id,
                version,
            };
            visit.receive(&mapped, assertion).await.map(Known::Shadow)
        }
    }
}

/// Whether an assertion is of the provider that it came by.
fn check_remote_id(
    identity: &Identity,
    provider: &Resource<IdentityProvider>,
    protocol: &Resource<Protocol>,
    assertion: &Assertion,
) -> Result<(), Failure> {
    let default = &identity.options.federation.remote_id_attribute;
    let own = protocol.spec.remote_id_attribute.as_ref().filter(|own| !own.is_empty());
    let attribute = own.unwrap_or(default);
    let accepted = &provider.spec.remote_ids;
    if attribute.is_empty() || accepted.is_empty() {
        return Ok(());
    }
    let said = assertion.get(attribute).and_then(|values| values.first());
    let said = said
        .ok_or_else(|| Failure::invalid("Could not find Identity Provider identifier in environment").at(attribute))?;
    if accepted.contains(said) {
        return Ok(());
    }
    warn!(provider = provider.name(), said, "an assertion names another provider");
    Err(Failure::forbidden(
        "Incoming identity provider identifier not included among the accepted identifiers.",
    ))
}

fn local_user(identity: &Identity, mapped: &Mapped) -> Result<Arc<Resource<User>>, Failure> {
    let user = &mapped.user;
    let domain = || match user.domain.clone().unwrap_or_default() {
        DomainName { id: Some(id), .. } => Some(DomainRef::Id(id)),
        DomainName { name: Some(name), .. } => Some(DomainRef::Name(name)),
        DomainName { .. } => None,
    };
    let named = match (&user.id, &user.name) {
        (Some(id), _) => Some(UserRef::Id(id.clone())),
        (None, Some(name)) => domain().map(|domain| UserRef::Name(name.clone(), domain)),
        (None, None) => None,
    };
    let found = named.as_ref().and_then(|named| identity.find_user(named));
    found.ok_or_else(|| {
        warn!(?named, "an assertion is mapped to a local user that is not there");
        Failure::unauthenticated("the mapping names a local user that is not there, or no domain for it")
    })
}

/// A login of somebody whom a provider vouches for.
struct Visit<'a> {
    identity: &'a Identity,
    provider: &'a Resource<IdentityProvider>,
    protocol_id: &'a str,
    mapping_id: &'a str,
    version: Version,
}

impl Visit<'_> {
    async fn receive(&self, mapped: &Mapped, assertion: &Assertion) -> Result<Arc<Resource<User>>, Failure> {
        let store = &self.identity.store;
        let visitor = self.visitor(mapped, assertion)?;
        let roles = self.roles(mapped, &visitor.domain_id)?;
        let default_ttl = self.identity.options.federation.authorization_ttl;
        let ttl = self.provider.spec.authorization_ttl;
        let ttl = ttl.map_or(default_ttl, |minutes| SignedDuration::from_mins(minutes.into()));
        let received = store.transact(Cause::system("federation"), |tx| {
            let user = shadow::receive(tx, self.provider.name(), self.protocol_id, &visitor, ttl)?;
            let mut held = Vec::new();
            for (project, roles) in mapped.projects.iter().zip(&roles) {
                let project_id = self.project(tx, project)?;
                for role_id in roles {
                    held.push(grant(tx, user.name(), &project_id, role_id)?);
                }
            }
            if self.version >= Version::Three {
                take_back(tx, user.name(), &held)?;
            }
            Ok::<_, Failure>(user)
        });
        received.await
    }

    fn visitor(&self, mapped: &Mapped, assertion: &Assertion) -> Result<Visitor, Failure> {
        let user = &mapped.user;
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let remote_user = || assertion.get("REMOTE_USER").and_then(|values| values.first()).cloned();
        let name = filled(&user.name).or_else(remote_user);
        let unique_id = filled(&user.id).or_else(|| name.clone()).ok_or_else(|| {
            Failure::unauthenticated(
                "Could not map user while setting ephemeral user identity. Either mapping rules must specify user \
                 id/name or REMOTE_USER environment variable must be set.",
            )
        })?;
        Ok(Visitor {
            name: name.unwrap_or_else(|| unique_id.clone()),
            unique_id,
            email: filled(&user.email),
            domain_id: self.domain_id(user.domain.as_ref())?,
            group_ids: self.groups(mapped)?,
        })
    }

    /// The domain that a rule names, or the provider's.
    fn domain_id(&self, named: Option<&DomainName>) -> Result<String, Failure> {
        let domain = match named {
            Some(DomainName { id: Some(id), .. }) => DomainRef::Id(id.clone()),
            Some(DomainName { name: Some(name), .. }) => DomainRef::Name(name.clone()),
            _ => return Ok(self.provider.spec.domain_id.clone()),
        };
        let found = self.identity.find_domain(&domain);
        found.map(|domain| domain.name().to_owned()).ok_or_else(|| {
            warn!(
                mapping = self.mapping_id,
                ?domain,
                "a mapping names a domain that is not there"
            );
            Failure::unauthenticated(format!(
                "mapping {} names a domain that is not there or disabled",
                self.mapping_id
            ))
        })
    }

    /// Those by id must be there; of those by name, the ones that are.
    fn groups(&self, mapped: &Mapped) -> Result<Vec<String>, Failure> {
        let store = &self.identity.store;
        let mut ids = mapped.group_ids.clone();
        for id in &ids {
            if store.get::<Group>(&Group::key(id)).is_none() {
                let mapping = self.mapping_id;
                let message = format!("Group {id} returned by mapping {mapping} was not found in the backend.");
                warn!(message);
                return Err(Failure::unauthenticated(message));
            }
        }
        for NamedGroup { name, domain } in &mapped.group_names {
            let domain_id = self.domain_id(Some(domain))?;
            let found = store.cache::<Group>().by("name", &name_key(&domain_id, name));
            match found.first() {
                Some(group) if !ids.iter().any(|id| id == group.name()) => ids.push(group.name().to_owned()),
                Some(_) => {}
                None => debug!(name, domain_id, "a mapping names a group that is not there"),
            }
        }
        Ok(ids)
    }

    /// The ids of the roles of each project. All of them must be there before anything is made.
    fn roles(&self, mapped: &Mapped, user_domain_id: &str) -> Result<Vec<Vec<String>>, Failure> {
        let cache = self.identity.store.cache::<Role>();
        let id_of = |name: &str| {
            let of_domain = || cache.by("name", &name_key(user_domain_id, name));
            let found = cache
                .by("name", &name_key("", name))
                .into_iter()
                .chain(of_domain())
                .next();
            found.map(|role| role.name().to_owned()).ok_or_else(|| {
                warn!(
                    role = name,
                    mapping = self.mapping_id,
                    "a mapping names a role that is not there"
                );
                not_found("role", name)
            })
        };
        let of_project = |project: &MappedProject| project.roles.iter().map(|role| id_of(&role.name)).collect();
        mapped.projects.iter().map(of_project).collect()
    }

    /// The id of a project, made where it is not there.
    fn project(&self, tx: &mut Tx<'_>, project: &MappedProject) -> Result<String, Failure> {
        let domain_id = self.domain_id(project.domain.as_ref())?;
        let staged = tx
            .staged::<Project>()
            .find(|other| other.spec.name == project.name && other.spec.domain_id == domain_id);
        let name = name_key(&domain_id, &project.name);
        let found = staged.or_else(|| tx.store().cache::<Project>().by("name", &name).into_iter().next());
        if let Some(found) = found {
            return Ok(found.name().to_owned());
        }
        let mut metadata = Metadata::new("", "");
        metadata.name = metadata.uid.simple().to_string();
        let spec = ProjectSpec {
            name: project.name.clone(),
            is_domain: false,
            domain_id: domain_id.clone(),
            parent_id: domain_id,
            description: String::new(),
            enabled: true,
            tags: Vec::new(),
            options: Map::new(),
            extra: Map::new(),
            tokens_void_until: None,
        };
        Ok(tx.create(Resource::<Project>::new(metadata, spec))?.name().to_owned())
    }
}

/// Gives a user a role in a project; the assignment.
fn grant(tx: &mut Tx<'_>, user_id: &str, project_id: &str, role_id: &str) -> Result<AssignmentSpec, Failure> {
    let spec = AssignmentSpec {
        actor: Actor::User(user_id.to_owned()),
        on: On::Project(project_id.to_owned()),
        role_id: role_id.to_owned(),
        inherited: false,
    };
    if tx.get::<Assignment>(&Assignment::key(&spec)).is_none() {
        tx.create(Resource::<Assignment>::new(
            Metadata::new("", spec.as_name()),
            spec.clone(),
        ))?;
    }
    Ok(spec)
}

/// Takes a user's roles in projects back, but for these.
fn take_back(tx: &mut Tx<'_>, user_id: &str, but: &[AssignmentSpec]) -> Result<(), Failure> {
    let actor = Actor::User(user_id.to_owned()).as_text();
    for assignment in tx.store().cache::<Assignment>().by("actor", &actor) {
        let spec = &assignment.spec;
        let is_over = matches!(spec.on, On::Project(_)) && !but.contains(spec);
        if let Some(now) = tx.get::<Assignment>(&assignment.key()).filter(|_| is_over) {
            tx.delete(&now)?;
        }
    }
    Ok(())
}
