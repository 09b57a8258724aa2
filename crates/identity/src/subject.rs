//! Who asks: the outcome of authentication, as every face and rule sees it.

use std::sync::Arc;

use jiff::Timestamp;

/// A role somebody has, by id and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    /// The role's id.
    pub id: String,
    /// The role's name, such as `member`.
    pub name: String,
}

/// Something with an id, a name and a domain: a user or a project.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DomainMember {
    /// Its id.
    pub id: String,
    /// Its name, unique within its domain.
    pub name: String,
    /// Its domain's id.
    pub domain_id: String,
    /// Its domain's name.
    pub domain_name: String,
}

/// Where the subject's roles hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nowhere: the token only proves who it is.
    Unscoped,
    /// In a project.
    Project(DomainMember),
    /// In a domain.
    Domain {
        /// The domain's id.
        id: String,
        /// The domain's name.
        name: String,
    },
    /// In the whole deployment.
    System,
}

/// An authenticated user and what the token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub user: DomainMember,
    /// Where the roles hold.
    pub scope: Scope,
    /// Every role that holds there: assigned to the user or a group, inherited, implied.
    pub roles: Vec<RoleRef>,
    /// How it was proved: `password`, `token`, `application_credential`.
    pub methods: Vec<String>,
    /// The token's audit id, then that of the first token of its chain.
    pub audit_ids: Vec<String>,
    /// When the token was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// The application credential it was issued for.
    pub application_credential: Option<String>,
    /// The trust it was issued for.
    pub trust: Option<String>,
    /// The login at an identity provider that it came from.
    pub federated: Option<FederatedSession>,
}

/// A login at an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedSession {
    /// The provider's id.
    pub provider_id: String,
    /// The protocol's id.
    pub protocol_id: String,
}

impl Subject {
    /// A part of madang itself, for rules that ask who writes. It has no roles and no scope: it does not go through
    /// policy.
    pub fn system(name: &str) -> Arc<Self> {
        Arc::new(Self {
            user: DomainMember {
                id: format!("system:{name}"),
                name: name.to_owned(),
                ..DomainMember::default()
            },
            scope: Scope::System,
            roles: Vec::new(),
            methods: Vec::new(),
            audit_ids: Vec::new(),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
            application_credential: None,
            trust: None,
            federated: None,
        })
    }

    /// The id of the project that the token is for.
    pub fn project_id(&self) -> Option<&str> {
        match &self.scope {
            Scope::Project(project) => Some(&project.id),
            _ => None,
        }
    }

    /// The id of the domain that the token is for.
    pub fn domain_id(&self) -> Option<&str> {
        match &self.scope {
            Scope::Domain { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Whether a role of this name holds. Names are compared without case, as oslo.policy does.
    pub fn has_role(&self, name: &str) -> bool {
        self.roles.iter().any(|role| role.name.eq_ignore_ascii_case(name))
    }
}
