//! Logging in: from a proof of who asks to a token.
//!
//! Whatever is wrong with a proof, the answer is the same 401 and takes about as long; the log has the reason.

pub mod api;
pub(crate) mod oauth2;
pub mod receipt;
pub mod render;
pub mod request;
mod totp;

use std::sync::Arc;

use jiff::Timestamp;
use madang_http::Failure;
use madang_store::Resource;
use tracing::info;
use uuid::Uuid;

use crate::{
    FederatedSession, Identity,
    application_credential::ApplicationCredential,
    assignment::{On, effective},
    auth::receipt::Receipt,
    authenticate::no_such_token,
    credential::Credential,
    federation::{self, Known, mapping::engine::Assertion},
    oauth1::{self, AccessToken, signature::Signed},
    project::{Project, domain_of, name_key},
    token::{Claims, Methods, ScopeClaim, validate::Validated},
    trust::{self, Trust},
    user::{User, compliance::is_expired},
};

/// A request for a token.
#[derive(Clone, Debug)]
pub struct Login {
    /// The proofs; all must hold, and for the same user.
    pub proofs: Vec<Proof>,
    /// What the token is to be for.
    pub scope: ScopeRequest,
}

impl Login {
    /// Who it says to be, as far as it says so, for the audit trail: `alice`, or an id.
    fn claimed(&self) -> Option<String> {
        let name = |user: &UserRef| match user {
            UserRef::Id(name) | UserRef::Name(name, _) => name.clone(),
        };
        self.proofs.iter().find_map(|proof| match proof {
            Proof::Password { user, .. } | Proof::Totp { user, .. } => Some(name(user)),
            Proof::ApplicationCredential { credential, .. } => Some(match credential {
                CredentialRef::Id(id) => format!("application credential {id}"),
                CredentialRef::Name(credential, user) => {
                    format!("{} (application credential {credential})", name(user))
                }
            }),
            Proof::OAuth1(signed) => signed
                .get("oauth_consumer_key")
                .map(|consumer| format!("OAuth consumer {consumer}")),
            Proof::Assertion { provider_id, .. } => Some(format!("user of {provider_id}")),
            Proof::Token(_) => None,
        })
    }
}

/// How somebody shows who it is.
#[derive(Clone)]
pub enum Proof {
    /// A user's password.
    Password {
        /// The user.
        user: UserRef,
        /// The password.
        password: String,
    },
    /// A token that still holds.
    Token(String),
    /// An application credential.
    ApplicationCredential {
        /// Which.
        credential: CredentialRef,
        /// Its secret.
        secret: String,
    },
    /// A one-time password.
    Totp {
        /// The user.
        user: UserRef,
        /// The password.
        passcode: String,
    },
    /// The request itself, signed for an OAuth 1.0a access token.
    OAuth1(Signed),
    /// What an identity provider says. Whoever makes this has checked that it was the provider.
    Assertion {
        /// The provider's id.
        provider_id: String,
        /// The protocol's id.
        protocol_id: String,
        /// What it says.
        assertion: Assertion,
    },
}

impl std::fmt::Debug for Proof {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "password of {user:?}"),
            Self::Token(_) => write!(f, "token"),
            Self::Totp { user, .. } => write!(f, "one-time password of {user:?}"),
            Self::ApplicationCredential { credential, .. } => write!(f, "{credential:?}"),
            Self::OAuth1(_) => write!(f, "signed request"),
            Self::Assertion { provider_id, .. } => write!(f, "assertion of {provider_id}"),
        }
    }
}

/// A user as requests name it.
#[derive(Clone, Debug)]
pub enum UserRef {
    /// By id.
    Id(String),
    /// By name within a domain.
    Name(String, DomainRef),
}

/// A domain as requests name it.
#[derive(Clone, Debug)]
pub enum DomainRef {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// An application credential as requests name it.
#[derive(Clone, Debug)]
pub enum CredentialRef {
    /// By id.
    Id(String),
    /// By name among a user's.
    Name(String, UserRef),
}

/// What a token is to be for.
#[derive(Clone, Debug)]
pub enum ScopeRequest {
    /// Nothing was said: the user's default project where it has one, else unscoped.
    Default,
    /// Nothing.
    Unscoped,
    /// A project by id.
    Project(String),
    /// A project by name within a domain.
    ProjectNamed(String, DomainRef),
    /// A domain.
    Domain(DomainRef),
    /// The whole deployment.
    System,
    /// What a trust gives, by its id.
    Trust(String),
}

/// Who a proof stands for, and what it brings into the token.
struct Proved {
    user: Arc<Resource<User>>,
    method: Methods,
    /// The token that was shown.
    token: Option<Arc<Validated>>,
    credential: Option<Arc<Resource<ApplicationCredential>>>,
    access: Option<Arc<Resource<AccessToken>>>,
    session: Option<FederatedSession>,
    /// Failures to prove it are counted, so success has to be noted, too.
    is_counted: bool,
}

impl Proved {
    fn new(user: Arc<Resource<User>>, method: Methods) -> Self {
        Self {
            user,
            method,
            token: None,
            credential: None,
            access: None,
            session: None,
            is_counted: false,
        }
    }

    fn counted(self) -> Self {
        Self {
            is_counted: true,
            ..self
        }
    }
}

impl Identity {
    /// Gives a token for proofs that hold.
    ///
    /// # Errors
    /// 401 whatever is wrong with the proofs or the scope; 403 for an application credential's token that wants more.
    pub async fn login(&self, login: Login) -> Result<(String, Arc<Validated>), Failure> {
        match self.login_or_receipt(login, None).await? {
            Outcome::Token(token, validated) => Ok((token, validated)),
            Outcome::Receipt(_) => Err(unauthenticated()),
        }
    }

    /// As [`Identity::login`], for clients that can go on with a receipt where a factor is missing. `receipt` is the one
    /// they got before.
    ///
    /// # Errors
    /// As [`Identity::login`].
    pub async fn login_or_receipt(&self, login: Login, receipt: Option<&str>) -> Result<Outcome, Failure> {
        let before = receipt.map(|receipt| self.open_receipt(receipt)).transpose()?;
        let mut proved = Vec::with_capacity(login.proofs.len());
        for proof in &login.proofs {
            let holds = self.prove(proof).await?;
            proved.push(holds.ok_or_else(|| refused(proof, "the proof does not hold"))?);
        }
        let first = proved.first().ok_or_else(unauthenticated)?;
        if proved.iter().any(|other| other.user.name() != first.user.name()) {
            return Err(refused(&login.proofs[0], "the proofs are of different users"));
        }
        let mut methods = all_methods(&proved);
        if let Some((user_id, before)) = &before {
            if user_id != first.user.name() {
                return Err(refused(&login.proofs[0], "the receipt is somebody else's"));
            }
            methods = methods.and(*before);
        }
        if let Some(receipt) = self.receipt(&first.user, methods) {
            info!(user = first.user.name(), "a factor is missing");
            return Ok(Outcome::Receipt(receipt));
        }
        // Not before all factors are proved: who has one must not guess the other forever.
        if proved.iter().any(|proof| proof.is_counted) {
            self.note_login(&first.user, true).await?;
        }
        let mut claims = match &login.scope {
            ScopeRequest::Trust(id) => self.trust_claims(&proved, id).await?,
            scope => self.claims(&proved, scope)?,
        };
        claims.methods = methods;
        let token = self.keys.seal(&claims);
        let validated = self.examine(claims, self.epoch());
        let validated = Arc::new(validated.map_err(|void| refused(&login.proofs[0], &void.to_string()))?);
        self.tokens.insert(token.clone(), Arc::clone(&validated));
        Ok(Outcome::Token(token, validated))
    }

    /// A token for whoever signed a request with an access key, in the key's project.
    ///
    /// # Errors
    /// 401 where its user or project is gone or disabled.
    pub(crate) fn login_with_access_key(
        &self,
        credential: &Resource<Credential>,
    ) -> Result<(String, Arc<Validated>), Failure> {
        let user = self.store.get::<User>(&User::key(&credential.spec.user_id));
        let user = user.filter(|user| self.may_log_in(user)).ok_or_else(unauthenticated)?;
        let project_id = credential.spec.project_id.clone().unwrap_or_default();
        let proved = [Proved::new(user, Methods::EC2_CREDENTIAL)];
        let claims = self.claims(&proved, &ScopeRequest::Project(project_id))?;
        let token = self.keys.seal(&claims);
        let validated = self.examine(claims, self.epoch()).map_err(|void| {
            info!(user = credential.spec.user_id, why = %void, "no token given for an access key");
            unauthenticated()
        })?;
        let validated = Arc::new(validated);
        self.tokens.insert(token.clone(), Arc::clone(&validated));
        Ok((token, validated))
    }

    async fn prove(&self, proof: &Proof) -> Result<Option<Proved>, Failure> {
        match proof {
            Proof::Password { user, password } => {
                if let Some(proved) = self.prove_by_directory(user, password).await? {
                    return Ok(proved.map(|user| Proved::new(user, Methods::PASSWORD)));
                }
                let user = self.find_user(user);
                let locked = user.as_ref().is_some_and(|user| self.is_locked(user));
                let kept = user.as_ref().and_then(|user| user.spec.password.as_deref());
                let fits = self.passwords.verify(password, kept).await?;
                let user = user.filter(|_| !locked);
                if let Some(user) = user.as_ref().filter(|_| !fits) {
                    self.note_login(user, false).await?;
                }
                let user = user.filter(|user| fits && self.may_log_in(user));
                if let Some(user) = user.as_ref().filter(|user| is_expired(&user.spec, Timestamp::now())) {
                    let id = user.name();
                    let message = format!("The password is expired and needs to be changed for user: {id}.");
                    return Err(Failure::unauthenticated(message));
                }
                Ok(user.map(|user| Proved::new(user, Methods::PASSWORD).counted()))
            }
            Proof::Token(token) => {
                // As Keystone: 404, as for a token that is asked about.
                let token = self.validate(token).map_err(no_such_token)?;
                let user = self.store.get::<User>(&User::key(&token.claims.user_id));
                Ok(user.map(|user| Proved {
                    token: Some(token),
                    ..Proved::new(user, Methods::TOKEN)
                }))
            }
            Proof::ApplicationCredential { credential, secret } => {
                let credential = self.find_credential(credential);
                let kept = credential.as_ref().map(|credential| credential.spec.secret.as_str());
                let fits = self.passwords.verify(secret, kept).await?;
                let credential = credential.filter(|_| fits);
                let user = credential
                    .as_ref()
                    .and_then(|c| self.store.get::<User>(&User::key(&c.spec.user_id)));
                let user = user.filter(|user| self.may_log_in(user));
                Ok(user.map(|user| Proved {
                    credential,
                    ..Proved::new(user, Methods::APPLICATION_CREDENTIAL)
                }))
            }
            Proof::Totp { user, passcode } => {
                let user = self.find_user(user).filter(|user| !self.is_locked(user));
                let Some(user) = user else { return Ok(None) };
                let fits = self.totp_fits(&user, passcode, Timestamp::now());
                if !fits {
                    self.note_login(&user, false).await?;
                }
                Ok((fits && self.may_log_in(&user)).then(|| Proved::new(user, Methods::TOTP).counted()))
            }
            Proof::OAuth1(signed) => {
                let access = oauth1::rules::prove(self, signed);
                let user = access
                    .as_ref()
                    .and_then(|access| self.store.get::<User>(&User::key(&access.spec.user_id)));
                let user = user.filter(|user| self.may_log_in(user));
                Ok(user.map(|user| Proved {
                    access,
                    ..Proved::new(user, Methods::OAUTH1)
                }))
            }
            Proof::Assertion {
                provider_id,
                protocol_id,
                assertion,
            } => {
                let (user, is_shadow) = match federation::receive(self, provider_id, protocol_id, assertion).await? {
                    Known::Shadow(user) => (user, true),
                    Known::Local(user) => (user, false),
                };
                let may = self.may_log_in(&user);
                if may {
                    self.note_login(&user, true).await?;
                }
                let session = is_shadow.then(|| FederatedSession {
                    provider_id: provider_id.clone(),
                    protocol_id: protocol_id.clone(),
                });
                Ok(may.then(|| Proved {
                    session,
                    ..Proved::new(user, Methods::MAPPED)
                }))
            }
        }
    }

    pub(crate) fn may_log_in(&self, user: &Resource<User>) -> bool {
        let domain = self.store.get::<Project>(&Project::key(&user.spec.domain_id));
        user.spec.enabled && !self.is_inactive(user) && domain.is_some_and(|domain| domain.spec.enabled)
    }

    fn claims(&self, proved: &[Proved], scope: &ScopeRequest) -> Result<Claims, Failure> {
        let user = &proved[0].user;
        let shown = proved.iter().find_map(|p| p.token.as_ref());
        let credential = proved.iter().find_map(|p| p.credential.as_ref());
        if let Some(token) = shown {
            may_be_exchanged(&token.claims, scope)?;
        }
        let access = proved.iter().find_map(|p| p.access.as_ref());
        let project_id = credential
            .map(|credential| &credential.spec.project_id)
            .or(access.map(|access| &access.spec.project_id));
        let scope = match project_id {
            Some(_) if !matches!(scope, ScopeRequest::Default) => {
                info!(user = user.name(), "what is for a project cannot ask for another scope");
                return Err(unauthenticated());
            }
            Some(project_id) => ScopeClaim::Project(project_id.clone()),
            // As Keystone: where to, is asked with the token that a provider's user gets first.
            None if shown.is_none()
                && matches!(scope, ScopeRequest::Default)
                && proved.iter().any(|p| p.session.is_some()) =>
            {
                ScopeClaim::Unscoped
            }
            None => self.find_scope(user, scope)?,
        };
        let shown_session = shown.and_then(|token| token.claims.federated.clone());
        let session = proved.iter().find_map(|p| p.session.clone()).or(shown_session);
        let now = now();
        Ok(Claims {
            user_id: user.name().to_owned(),
            scope,
            methods: all_methods(proved),
            audit: Uuid::new_v4(),
            chain: shown.map(|token| token.claims.chain.unwrap_or(token.claims.audit)),
            issued: now,
            expires: shown.map_or(now + self.options.token_lifetime, |token| token.claims.expires),
            application_credential: credential.map(|credential| credential.name().to_owned()),
            trust: None,
            oauth1: access.map(|access| access.name().to_owned()),
            federated: session,
        })
    }

    /// A token for what a trust gives: the trustee proved who it is, and acts as itself or in the trustor's name.
    async fn trust_claims(&self, proved: &[Proved], id: &str) -> Result<Claims, Failure> {
        let trust = self
            .store
            .get::<Trust>(&Trust::key(id))
            .filter(|trust| !trust::rules::is_over(&trust.spec) && trust::rules::holds(&self.store, &trust.spec));
        let trust = trust.filter(|trust| trust.spec.trustee_user_id == proved[0].user.name());
        let trust = trust.ok_or_else(unauthenticated)?;
        let plain = self.claims(proved, &ScopeRequest::Unscoped)?;
        if plain.application_credential.is_some() || plain.oauth1.is_some() {
            return Err(Failure::forbidden(
                "an application credential's token cannot be scoped to anything else",
            ));
        }
        trust::rules::use_once(self, &trust).await?;
        let spec = &trust.spec;
        let user_id = if spec.impersonation {
            &spec.trustor_user_id
        } else {
            &spec.trustee_user_id
        };
        Ok(Claims {
            user_id: user_id.clone(),
            scope: ScopeClaim::Project(spec.project_id.clone()),
            expires: spec.expires.map_or(plain.expires, |end| end.min(plain.expires)),
            issued: now(),
            trust: Some(id.to_owned()),
            ..plain
        })
    }

    fn find_scope(&self, user: &Resource<User>, scope: &ScopeRequest) -> Result<ScopeClaim, Failure> {
        let has_role = |on: On| !effective::roles(&self.store, user.name(), &on).is_empty();
        let found = match scope {
            ScopeRequest::Unscoped | ScopeRequest::Trust(_) => Some(ScopeClaim::Unscoped),
            ScopeRequest::System => Some(ScopeClaim::System),
            ScopeRequest::Project(id) => self
                .usable_project(id)
                .map(|p| ScopeClaim::Project(p.name().to_owned())),
            ScopeRequest::ProjectNamed(name, domain) => self
                .project_named(name, domain)
                .map(|p| ScopeClaim::Project(p.name().to_owned())),
            ScopeRequest::Domain(domain) => self
                .find_domain(domain)
                .map(|d| ScopeClaim::Domain(d.name().to_owned())),
            ScopeRequest::Default => {
                let default = user
                    .spec
                    .default_project_id
                    .as_deref()
                    .and_then(|id| self.usable_project(id));
                let default = default.filter(|project| has_role(On::Project(project.name().to_owned())));
                Some(default.map_or(ScopeClaim::Unscoped, |project| {
                    ScopeClaim::Project(project.name().to_owned())
                }))
            }
        };
        found.ok_or_else(|| {
            info!(user = user.name(), ?scope, "there is no such scope");
            unauthenticated()
        })
    }

    fn usable_project(&self, id: &str) -> Option<Arc<Resource<Project>>> {
        let project = self.store.get::<Project>(&Project::key(id))?;
        let domain = self.store.get::<Project>(&Project::key(domain_of(&project)))?;
        (!project.spec.is_domain && project.spec.enabled && domain.spec.enabled).then_some(project)
    }

    fn project_named(&self, name: &str, domain: &DomainRef) -> Option<Arc<Resource<Project>>> {
        let domain = self.find_domain(domain)?;
        let found = self.store.cache::<Project>().by("name", &name_key(domain.name(), name));
        self.usable_project(found.first()?.name())
    }

    /// An enabled domain.
    pub(crate) fn find_domain(&self, domain: &DomainRef) -> Option<Arc<Resource<Project>>> {
        let found = match domain {
            DomainRef::Id(id) => self.store.get::<Project>(&Project::key(id)),
            DomainRef::Name(name) => self
                .store
                .cache::<Project>()
                .by("name", &name_key("", name))
                .into_iter()
                .next(),
        };
        found.filter(|domain| domain.spec.is_domain && domain.spec.enabled)
    }

    pub(crate) fn find_user(&self, user: &UserRef) -> Option<Arc<Resource<User>>> {
        match user {
            UserRef::Id(id) => self.store.get::<User>(&User::key(id)),
            UserRef::Name(name, domain) => {
                let domain = self.find_domain(domain)?;
                self.store
                    .cache::<User>()
                    .by("name", &name_key(domain.name(), name))
                    .into_iter()
                    .next()
            }
        }
    }

    fn find_credential(&self, credential: &CredentialRef) -> Option<Arc<Resource<ApplicationCredential>>> {
        match credential {
            CredentialRef::Id(id) => self.store.get::<ApplicationCredential>(&ApplicationCredential::key(id)),
            CredentialRef::Name(name, user) => {
                let user = self.find_user(user)?;
                let all = self.store.cache::<ApplicationCredential>().by("user", user.name());
                all.into_iter().find(|credential| credential.spec.name == *name)
            }
        }
    }
}

/// What a login came to.
pub enum Outcome {
    /// A token, and what it says.
    Token(String, Arc<Validated>),
    /// A factor is missing.
    Receipt(Receipt),
}

/// Whether another token can be had for this one: what was given to act for somebody gives no more than it says.
fn may_be_exchanged(claims: &Claims, scope: &ScopeRequest) -> Result<(), Failure> {
    let is_delegated = claims.trust.is_some()
        || claims.oauth1.is_some()
        || claims.application_credential.is_some()
        || claims.methods.has(Methods::EC2_CREDENTIAL);
    if is_delegated {
        return Err(Failure::forbidden(
            "Using a delegated token to create another token is not allowed.",
        ));
    }
    let is_narrow = matches!(
        scope,
        ScopeRequest::Project(_) | ScopeRequest::ProjectNamed(..) | ScopeRequest::Domain(_)
    );
    if claims.scope == ScopeClaim::System && is_narrow {
        return Err(Failure::forbidden(
            "Using a system-scoped token to create a project-scoped or domain-scoped token is not allowed.",
        ));
    }
    Ok(())
}

/// Everything that was proved, also by who got the token that was shown.
fn all_methods(proved: &[Proved]) -> Methods {
    proved.iter().fold(Methods::default(), |all, proof| {
        let before = proof
            .token
            .as_ref()
            .map(|token| token.claims.methods)
            .unwrap_or_default();
        all.and(proof.method).and(before)
    })
}

/// To the microsecond, which is what tokens keep.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// What every failed proof is answered with.
pub(crate) fn unauthenticated() -> Failure {
    Failure::unauthenticated("The request you have made requires authentication.")
}

fn refused(proof: &Proof, why: &str) -> Failure {
    info!(?proof, why, "no token given");
    unauthenticated()
}
