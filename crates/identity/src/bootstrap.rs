//! What a cloud begins with: a domain, two projects, two users, the roles, a region.
//!
//! Running it again adds what is missing and changes nothing that is there: what an operator removed on purpose, such
//! as the demo user, comes back only where the cloud is new.

mod reset;

use std::sync::Arc;

pub use reset::{BackDoor, reset_admin};

use madang_http::Failure;
use madang_store::{Cause, Kind, Metadata, Resource, Store, Tx};
use serde_json::Map;
use tracing::info;
use uuid::Uuid;

use crate::{
    Identity,
    assignment::{Actor, Assignment, AssignmentSpec, On},
    catalog::{Region, RegionSpec},
    password,
    project::{Project, ProjectSpec, name_key},
    role::{Implication, ImplicationSpec, Role, RoleSpec},
    user::{User, UserSpec},
};

/// The id of the domain that clients assume where nothing is said.
pub const DEFAULT_DOMAIN: &str = "default";

/// Each implies the next.
const ROLE_CHAIN: [&str; 4] = ["admin", "manager", "member", "reader"];
/// Roles that stand alone.
const OTHER_ROLES: [&str; 1] = ["service"];

/// What to begin with.
#[derive(Clone, Default)]
pub struct Bootstrap {
    /// The name of the region.
    pub region: String,
    /// The admin's password where it is new; one is made up where there is none.
    pub admin_password: Option<String>,
    /// The demo user's password where it is new; one is made up where there is none.
    pub demo_password: Option<String>,
}

impl Bootstrap {
    /// The region that clients assume, and passwords made up. To be sure that a password is not lost with the process,
    /// make it with [`password::generate`], keep it in a file, and give it here.
    pub fn new() -> Self {
        Self {
            region: "RegionOne".to_owned(),
            admin_password: None,
            demo_password: None,
        }
    }
}

/// What there is now.
#[derive(Clone)]
pub struct Bootstrapped {
    /// The admin's password, where the user was made now.
    pub admin_password: Option<String>,
    /// The demo user's password, where the user was made now.
    pub demo_password: Option<String>,
    /// The id of the project `admin`, where it is there.
    pub admin_project: Option<String>,
    /// The id of the project `demo`, where it is there.
    pub demo_project: Option<String>,
}

/// Makes sure that there is what a cloud begins with.
///
/// # Errors
/// What the store says.
pub async fn bootstrap(identity: &Identity, options: Bootstrap) -> Result<Bootstrapped, Failure> {
    let store = &identity.store;
    let is_new = store.get::<Project>(&Project::key(DEFAULT_DOMAIN)).is_none();
    let passwords = if is_new { Some(passwords(&options)) } else { None };
    let hashes = match &passwords {
        Some((admin, demo)) => Some((identity.hash(admin).await?, identity.hash(demo).await?)),
        None => None,
    };
    let made = store.transact(Cause::system("bootstrap"), |tx| {
        let mut begin = Begin { tx, store };
        begin.region(&options.region)?;
        begin.roles()?;
        if let Some((admin, demo)) = &hashes {
            begin.people(admin, demo)?;
        }
        Ok::<_, Failure>(())
    });
    made.await?;
    if is_new {
        info!("identity begun: domain, projects, users and roles are there");
    }
    let (admin_password, demo_password) = passwords.unzip();
    let project = |name| named::<Project>(store, DEFAULT_DOMAIN, name).map(|project| project.name().to_owned());
    Ok(Bootstrapped {
        admin_password,
        demo_password,
        admin_project: project("admin"),
        demo_project: project("demo"),
    })
}

fn passwords(options: &Bootstrap) -> (String, String) {
    let given = |password: &Option<String>| password.clone().unwrap_or_else(password::generate);
    (given(&options.admin_password), given(&options.demo_password))
}

fn direct(user_id: &str, on: On, role_id: &str) -> AssignmentSpec {
    AssignmentSpec {
        actor: Actor::User(user_id.to_owned()),
        on,
        role_id: role_id.to_owned(),
        inherited: false,
    }
}

/// What has the name, of kinds whose index `name` is by domain.
fn named<K: Kind>(store: &Store, domain_id: &str, name: &str) -> Option<Arc<Resource<K>>> {
    store
        .cache::<K>()
        .by("name", &name_key(domain_id, name))
        .into_iter()
        .next()
}

fn new_id() -> Metadata {
    let uid = Uuid::new_v4();
    Metadata::with_uid(uid, "", uid.simple().to_string())
}

struct Begin<'t, 's> {
    tx: &'t mut Tx<'s>,
    store: &'t Store,
}

impl Begin<'_, '_> {
    fn region(&mut self, id: &str) -> Result<(), Failure> {
        if self.tx.get::<Region>(&Region::key(id)).is_none() {
            self.tx
                .create(Resource::<Region>::new(Metadata::new("", id), RegionSpec::default()))?;
        }
        Ok(())
    }

    fn roles(&mut self) -> Result<(), Failure> {
        for name in OTHER_ROLES {
            self.role(name)?;
        }
        let chain = ROLE_CHAIN
            .iter()
            .map(|name| self.role(name))
            .collect::<Result<Vec<_>, _>>()?;
        for pair in chain.windows(2) {
            let key = Implication::key(&pair[0], &pair[1]);
            if self.tx.get::<Implication>(&key).is_none() {
                let spec = ImplicationSpec {
                    prior_id: pair[0].clone(),
                    implied_id: pair[1].clone(),
                };
                self.tx
                    .create(Resource::<Implication>::new(Metadata::new("", key.name), spec))?;
            }
        }
        Ok(())
    }

    /// The id of a role, made where it is not there.
    fn role(&mut self, name: &str) -> Result<String, Failure> {
        let staged = self.tx.staged::<Role>().find(|role| role.spec.name == name);
        if let Some(role) = staged.or_else(|| named::<Role>(self.store, "", name)) {
            return Ok(role.name().to_owned());
        }
        let spec = RoleSpec {
            name: name.to_owned(),
            domain_id: String::new(),
            description: None,
            options: Map::new(),
            extra: Map::new(),
        };
        Ok(self.tx.create(Resource::<Role>::new(new_id(), spec))?.name().to_owned())
    }

    fn people(&mut self, admin_hash: &str, demo_hash: &str) -> Result<(), Failure> {
        self.project(Metadata::new("", DEFAULT_DOMAIN), "Default", true, "The default domain")?;
        let admin_project = self.project(new_id(), "admin", false, "For those who run the cloud")?;
        let demo_project = self.project(new_id(), "demo", false, "For trying things out")?;
        let admin = self.user("admin", admin_hash, &admin_project)?;
        let demo = self.user("demo", demo_hash, &demo_project)?;
        let (admin_role, member_role) = (self.role("admin")?, self.role("member")?);
        self.assign(&admin, On::Project(admin_project), &admin_role)?;
        self.assign(&admin, On::Domain(DEFAULT_DOMAIN.to_owned()), &admin_role)?;
        self.assign(&admin, On::System, &admin_role)?;
        self.assign(&demo, On::Project(demo_project), &member_role)
    }

    fn project(&mut self, metadata: Metadata, name: &str, is_domain: bool, about: &str) -> Result<String, Failure> {
        let above = if is_domain { "" } else { DEFAULT_DOMAIN };
        let spec = ProjectSpec {
            name: name.to_owned(),
            is_domain,
            domain_id: above.to_owned(),
            parent_id: above.to_owned(),
            description: about.to_owned(),
            enabled: true,
            tags: Vec::new(),
            options: Map::new(),
            extra: Map::new(),
            tokens_void_until: None,
        };
        Ok(self
            .tx
            .create(Resource::<Project>::new(metadata, spec))?
            .name()
            .to_owned())
    }

    fn user(&mut self, name: &str, hash: &str, project_id: &str) -> Result<String, Failure> {
        let spec = UserSpec {
            name: name.to_owned(),
            domain_id: DEFAULT_DOMAIN.to_owned(),
            enabled: true,
            default_project_id: Some(project_id.to_owned()),
            password: Some(hash.to_owned()),
            ..UserSpec::default()
        };
        Ok(self.tx.create(Resource::<User>::new(new_id(), spec))?.name().to_owned())
    }

    fn assign(&mut self, user_id: &str, on: On, role_id: &str) -> Result<(), Failure> {
        let spec = direct(user_id, on, role_id);
        self.tx
            .create(Resource::<Assignment>::new(Metadata::new("", spec.as_name()), spec))?;
        Ok(())
    }
}
