//! From a token to who asks.
//!
//! The outcome is cached by token until anything of identity changes (see [`Identity::epoch`]): then every token is
//! looked at anew, which costs some microseconds each. Whether a token has expired is looked at every time.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use madang_http::Actor;
use madang_store::Resource;

use super::{Claims, ScopeClaim, revocation::Revocation};
use crate::{
    DomainMember, Identity, RoleRef, Scope, Subject,
    application_credential::{ApplicationCredential, rules::roles_now},
    assignment::{
        On,
        effective::{self, Who},
    },
    auth::render,
    federation::{IdentityProvider, shadow},
    oauth1::{self, AccessToken},
    project::{Project, domain_of},
    trust::{self, Trust},
    user::User,
};

/// Why a token is not taken. Clients learn only that it is not; this goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// It is none of ours, or its key is gone.
    #[error("it cannot be opened")]
    Unknown,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// It, or its chain, was revoked.
    #[error("it was revoked")]
    Revoked,
    /// Its user is gone, disabled, or has voided its tokens.
    #[error("its user does not stand for it any more")]
    User,
    /// Its project or domain is gone or disabled.
    #[error("what it is for is gone or disabled")]
    Scope,
    /// No role is left in it.
    #[error("its user has no role there any more")]
    NoRoles,
    /// Its application credential is gone or over.
    #[error("its application credential is gone")]
    Credential,
    /// The identity provider that its user came by is gone or disabled.
    #[error("its identity provider is gone or disabled")]
    Provider,
    /// Its trust is gone or over.
    #[error("its trust is gone")]
    Trust,
}

/// A token that holds.
pub struct Validated {
    /// Who asks.
    pub subject: Arc<Subject>,
    /// What the token says.
    pub claims: Claims,
    /// Who asks, for the access log.
    pub(crate) log: String,
    /// Who asks, for the audit trail.
    pub(crate) actor: Arc<Actor>,
    epoch: u64,
    /// When a provider's word about one of its user's groups ends, which no change in the store tells.
    until: Timestamp,
    with_catalog: OnceLock<Bytes>,
    without_catalog: OnceLock<Bytes>,
}

impl Identity {
    /// Who a token stands for.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn validate(&self, token: &str) -> Result<Arc<Validated>, Void> {
        self.validate_for(token, SignedDuration::ZERO)
    }

    /// As [`Identity::validate`], also taking tokens that expired not longer than the options' window ago: for services
    /// that finish long work begun with a token.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn validate_allowing_expired(&self, token: &str) -> Result<Arc<Validated>, Void> {
        self.validate_for(token, self.options.expired_window)
    }

    fn validate_for(&self, token: &str, window: SignedDuration) -> Result<Arc<Validated>, Void> {
        let now = Timestamp::now();
        let epoch = self.epoch();
        let cached = self
            .tokens
            .get(token)
            .filter(|validated| validated.epoch == epoch && now < validated.until);
        let validated = match cached {
            Some(validated) => validated,
            None => {
                let claims = self.keys.open_token(token).ok_or(Void::Unknown)?;
                let validated = Arc::new(self.examine(claims, epoch)?);
                self.tokens.insert(token.to_owned(), Arc::clone(&validated));
                validated
            }
        };
        if now.duration_since(validated.claims.expires) >= window {
            return Err(Void::Expired);
        }
        Ok(validated)
    }

    /// Holds what a token says against the store.
    pub(crate) fn examine(&self, claims: Claims, epoch: u64) -> Result<Validated, Void> {
        let revoked = |audit| self.store.get::<Revocation>(&Revocation::key(audit)).is_some();
        if revoked(claims.audit) {
            return Err(Void::Revoked);
        }
        let user = self.store.get::<User>(&User::key(&claims.user_id)).ok_or(Void::User)?;
        let user_domain = self
            .store
            .get::<Project>(&Project::key(&user.spec.domain_id))
            .ok_or(Void::User)?;
        let void = |until: Option<Timestamp>| until.is_some_and(|until| claims.issued <= until);
        if !user.spec.enabled || !user_domain.spec.enabled {
            return Err(Void::User);
        }
        if void(user.spec.tokens_void_until) || void(user_domain.spec.tokens_void_until) {
            return Err(Void::Revoked);
        }
        if let Some(session) = &claims.federated {
            let provider = self
                .store
                .get::<IdentityProvider>(&IdentityProvider::key(&session.provider_id));
            if !provider.is_some_and(|provider| provider.spec.enabled) {
                return Err(Void::Provider);
            }
        }
        let (scope, on) = self.scope(&claims)?;
        let roles = match &on {
            Some(on) => self.roles(&claims, on)?,
            None => Vec::new(),
        };
        let subject = Subject {
            user: member(&user.spec.name, user.name(), &user_domain),
            scope,
            roles,
            methods: methods(&claims),
            audit_ids: claims.audit_ids(),
            issued: claims.issued,
            expires: claims.expires,
            application_credential: claims.application_credential.clone(),
            trust: claims.trust.clone(),
            federated: claims.federated.clone(),
        };
        let until = if claims.federated.is_some() {
            Timestamp::MAX
        } else {
            shadow::next_end(&self.store, &claims.user_id)
        };
        let (log, actor) = (in_words(&subject), Arc::new(actor(&subject)));
        let (with_catalog, without_catalog) = (OnceLock::new(), OnceLock::new());
        Ok(Validated {
            subject: Arc::new(subject),
            claims,
            log,
            actor,
            epoch,
            until,
            with_catalog,
            without_catalog,
        })
    }

    /// The scope as it is now, and where its roles are looked for.
    fn scope(&self, claims: &Claims) -> Result<(Scope, Option<On>), Void> {
        let get = |id: &str| {
            self.store
                .get::<Project>(&Project::key(id))
                .filter(|p| p.spec.enabled)
                .ok_or(Void::Scope)
        };
        let holds = |project: &Resource<Project>| {
            let void = project
                .spec
                .tokens_void_until
                .is_some_and(|until| claims.issued <= until);
            if void { Err(Void::Revoked) } else { Ok(()) }
        };
        match &claims.scope {
            ScopeClaim::Receipt => Err(Void::Unknown),
            ScopeClaim::Unscoped => Ok((Scope::Unscoped, None)),
            ScopeClaim::System => Ok((Scope::System, Some(On::System))),
            ScopeClaim::Domain(id) => {
                let domain = get(id)?;
                holds(&domain)?;
                let scope = Scope::Domain {
                    id: id.clone(),
                    name: domain.spec.name.clone(),
                };
                Ok((scope, Some(On::Domain(id.clone()))))
            }
            ScopeClaim::Project(id) => {
                let project = get(id)?;
                let domain = get(domain_of(&project))?;
                holds(&project)?;
                holds(&domain)?;
                let scope = Scope::Project(member(&project.spec.name, project.name(), &domain));
                Ok((scope, Some(On::Project(id.clone()))))
            }
        }
    }

    fn roles(&self, claims: &Claims, on: &On) -> Result<Vec<RoleRef>, Void> {
        if let Some(id) = &claims.trust {
            let roles = self.trusted_roles(id)?;
            return if roles.is_empty() {
                Err(Void::NoRoles)
            } else {
                Ok(roles)
            };
        }
        if let Some(id) = &claims.oauth1 {
            let access = self
                .store
                .get::<AccessToken>(&AccessToken::key(id))
                .ok_or(Void::Credential)?;
            let roles = oauth1::rules::roles_now(&self.store, &access.spec);
            return if roles.is_empty() {
                Err(Void::NoRoles)
            } else {
                Ok(roles)
            };
        }
        let roles = match &claims.application_credential {
            None if claims.federated.is_some() => effective::roles(&self.store, Who::in_session(&claims.user_id), on),
            None => effective::roles(&self.store, &claims.user_id, on),
            Some(id) => {
                let key = ApplicationCredential::key(id);
                let credential = self.store.get::<ApplicationCredential>(&key).ok_or(Void::Credential)?;
                if credential.spec.expires.is_some_and(|end| end <= Timestamp::now()) {
                    return Err(Void::Credential);
                }
                roles_now(&self.store, &credential.spec)
            }
        };
        if roles.is_empty() {
            Err(Void::NoRoles)
        } else {
            Ok(roles)
        }
    }
}

impl Identity {
    /// What a trust gives. Both of its users must still be there for it.
    fn trusted_roles(&self, id: &str) -> Result<Vec<RoleRef>, Void> {
        let trust = self
            .store
            .get::<Trust>(&Trust::key(id))
            .filter(|trust| !trust::rules::is_over(&trust.spec));
        let trust = trust.ok_or(Void::Trust)?;
        let enabled = |id: &String| {
            self.store
                .get::<User>(&User::key(id))
                .is_some_and(|user| user.spec.enabled)
        };
        if !trust::rules::holds(&self.store, &trust.spec) {
            return Err(Void::Trust);
        }
        if !enabled(&trust.spec.trustor_user_id) || !enabled(&trust.spec.trustee_user_id) {
            return Err(Void::User);
        }
        Ok(trust::rules::roles_now(&self.store, &trust.spec))
    }
}

impl Validated {
    /// The body of `GET /v3/auth/tokens` about it; made once.
    pub(crate) fn body(&self, identity: &Identity, with_catalog: bool) -> Bytes {
        let cell = if with_catalog {
            &self.with_catalog
        } else {
            &self.without_catalog
        };
        cell.get_or_init(|| render::token_body(identity, self, with_catalog))
            .clone()
    }
}

/// How a token was come by. A login at an identity provider is called as its protocol.
fn methods(claims: &Claims) -> Vec<String> {
    let mut names = claims.methods.names();
    if let Some(session) = &claims.federated {
        for name in names.iter_mut().filter(|name| *name == "mapped") {
            name.clone_from(&session.protocol_id);
        }
    }
    names
}

fn member(name: &str, id: &str, domain: &Resource<Project>) -> DomainMember {
    DomainMember {
        id: id.to_owned(),
        name: name.to_owned(),
        domain_id: domain.name().to_owned(),
        domain_name: domain.spec.name.clone(),
    }
}

fn in_words(subject: &Subject) -> String {
    let user = &subject.user.id;
    match &subject.scope {
        Scope::Unscoped => format!("user {user}"),
        Scope::Project(project) => format!("user {user} project {}", project.id),
        Scope::Domain { id, .. } => format!("user {user} domain {id}"),
        Scope::System => format!("user {user} system"),
    }
}

fn actor(subject: &Subject) -> Actor {
    let project = match &subject.scope {
        Scope::Project(project) => Some(project),
        _ => None,
    };
    Actor {
        user_id: subject.user.id.clone(),
        user_name: subject.user.name.clone(),
        user_domain_id: subject.user.domain_id.clone(),
        project_id: project.map(|project| project.id.clone()),
        project_name: project.map(|project| project.name.clone()),
        domain_id: subject.domain_id().map(str::to_owned),
        system: subject.scope == Scope::System,
        roles: subject.roles.iter().map(|role| role.name.clone()).collect(),
    }
}
