//! Application credentials: a secret by which a program acts for a user in one project, with some of the user's roles.

pub mod api;
pub mod rules;

use jiff::Timestamp;
use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};

use crate::project::name_key;

/// The kind of application credentials.
#[derive(Debug)]
pub struct ApplicationCredential;

/// What an application credential is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplicationCredentialSpec {
    /// Unique among the user's.
    pub name: String,
    /// Whose it is.
    pub user_id: String,
    /// The project it is for.
    pub project_id: String,
    /// The secret's hash in PHC form.
    pub secret: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The roles it may use, by id; those that the user no longer has do not count.
    pub role_ids: Vec<String>,
    /// Until when it can be used.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// Whether it may manage application credentials itself.
    #[serde(default)]
    pub unrestricted: bool,
    /// The requests it may be used for, by id; all where there is none.
    #[serde(default)]
    pub access_rule_ids: Vec<String>,
}

impl Kind for ApplicationCredential {
    const NAME: &'static str = "application-credentials";
    type Spec = ApplicationCredentialSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![name_key(&r.spec.user_id, &r.spec.name)])
            .on("user", |r| vec![r.spec.user_id.clone()])
            .on("project", |r| vec![r.spec.project_id.clone()])
    }
}

impl ApplicationCredential {
    /// Where an application credential is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of access rules.
#[derive(Debug)]
pub struct AccessRule;

/// One sort of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessRuleSpec {
    /// Whose it is.
    pub user_id: String,
    /// The service's type: `compute`.
    pub service: String,
    /// The HTTP method.
    pub method: String,
    /// The path below the endpoint; `*` stands for one part, `**` for any rest, `{name}` for one part.
    pub path: String,
}

impl Kind for AccessRule {
    const NAME: &'static str = "access-rules";
    type Spec = AccessRuleSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::new().on("user", |r| vec![r.spec.user_id.clone()])
    }
}

impl AccessRule {
    /// Where an access rule is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
