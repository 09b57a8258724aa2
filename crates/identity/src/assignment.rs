//! Assignments: a user or group has a role on a project, a domain or the whole system.

pub mod effective;
pub mod grants;
pub mod list;
pub mod rules;

use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};

/// The kind of assignments.
#[derive(Debug)]
pub struct Assignment;

/// Who has a role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A user, by id.
    User(String),
    /// Everybody in a group, by id.
    Group(String),
}

/// Where a role holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// A project, by id.
    Project(String),
    /// A domain, by id.
    Domain(String),
    /// The whole deployment.
    System,
}

/// Who has which role where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AssignmentSpec {
    /// Who.
    pub actor: Actor,
    /// Where.
    pub on: On,
    /// Which role, by id.
    pub role_id: String,
    /// Whether it holds in all projects below instead of in the place itself (OS-INHERIT).
    #[serde(default)]
    pub inherited: bool,
}

impl Kind for Assignment {
    const NAME: &'static str = "role-assignments";
    type Spec = AssignmentSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("actor", |r| vec![r.spec.actor.as_text()])
            .on("on", |r| vec![r.spec.on.as_text()])
            .on("role", |r| vec![r.spec.role_id.clone()])
    }
}

impl Assignment {
    /// Where an assignment is stored.
    pub fn key(spec: &AssignmentSpec) -> Key {
        Key::new(Self::NAME, "", "", spec.as_name())
    }
}

impl Actor {
    /// As the index `actor` has it.
    pub fn as_text(&self) -> String {
        match self {
            Self::User(id) => format!("user:{id}"),
            Self::Group(id) => format!("group:{id}"),
        }
    }
}

impl On {
    /// As the index `on` has it.
    pub fn as_text(&self) -> String {
        match self {
            Self::Project(id) => format!("project:{id}"),
            Self::Domain(id) => format!("domain:{id}"),
            Self::System => "system".to_owned(),
        }
    }
}

impl AssignmentSpec {
    /// Everything in one name, so that the same assignment cannot be stored twice.
    pub fn as_name(&self) -> String {
        let inherited = if self.inherited { ".inherited" } else { "" };
        format!(
            "{}.{}.{}{inherited}",
            self.actor.as_text(),
            self.on.as_text(),
            self.role_id
        )
    }
}
