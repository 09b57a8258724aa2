//! Getting back in: whoever owns the data directory can be admin again.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use madang_http::Failure;
use madang_store::{Cause, Metadata, Resource};
use uuid::Uuid;

use super::{Begin, DEFAULT_DOMAIN, direct, named};
use crate::{
    Identity,
    assignment::{Assignment, On},
    project::Project,
    token::{Claims, Methods, ScopeClaim},
    user::{
        User,
        compliance::{Compliance, LoginRecord},
    },
};

/// How long the token lives that a running cloud is asked with.
const LIFETIME: SignedDuration = SignedDuration::from_mins(2);

/// A way to ask a running cloud as its admin.
#[derive(Clone)]
pub struct BackDoor {
    /// A token of `admin` for the project `admin`, sealed with the cloud's own key.
    pub token: String,
    /// The id of the user `admin`.
    pub admin: String,
    /// The id of the user `demo`, where it is there.
    pub demo: Option<String>,
}

impl Identity {
    /// A token for a user whose password nobody knows. Only who can read the keys can make one, and could anyhow.
    ///
    /// # Errors
    /// 404 where there is no user or project `admin`.
    pub fn back_door(&self) -> Result<BackDoor, Failure> {
        let user = |name| named::<User>(&self.store, DEFAULT_DOMAIN, name);
        let admin = user("admin").ok_or_else(|| Failure::not_found("there is no user admin"))?;
        let project = named::<Project>(&self.store, DEFAULT_DOMAIN, "admin");
        let project = project.ok_or_else(|| Failure::not_found("there is no project admin"))?;
        // To the microsecond, which is what tokens keep.
        let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or(Timestamp::UNIX_EPOCH);
        let claims = Claims {
            user_id: admin.name().to_owned(),
            scope: ScopeClaim::Project(project.name().to_owned()),
            methods: Methods::PASSWORD,
            audit: Uuid::new_v4(),
            chain: None,
            issued: now,
            expires: now + LIFETIME,
            application_credential: None,
            trust: None,
            oauth1: None,
            federated: None,
        };
        Ok(BackDoor {
            token: self.keys.seal(&claims),
            admin: admin.name().to_owned(),
            demo: user("demo").map(|demo| demo.name().to_owned()),
        })
    }
}

/// Makes sure that there is an admin with this password: the user, enabled, and its roles on the project `admin`, the
/// default domain and the system. Tokens it had end. `demo_password`, where given, becomes that of `demo`, if it is there.
///
/// # Errors
/// What the store says; 404 where there is no default domain or project `admin` to be admin of.
pub async fn reset_admin(identity: &Identity, password: &str, demo_password: Option<&str>) -> Result<(), Failure> {
    let hash = identity.hash(password).await?;
    let demo_hash = match demo_password {
        Some(password) => Some(identity.hash(password).await?),
        None => None,
    };
    let store = &identity.store;
    let reset = store.transact(Cause::system("reset-admin"), |tx| {
        let project = named::<Project>(store, DEFAULT_DOMAIN, "admin");
        let project = project.ok_or_else(|| Failure::not_found("there is no project admin in the default domain"))?;
        let mut begin = Begin { tx, store };
        begin.roles()?;
        let role = begin.role("admin")?;
        for id in [DEFAULT_DOMAIN, project.name()] {
            begin.enable(id)?;
        }
        let admin = match named::<User>(store, DEFAULT_DOMAIN, "admin") {
            Some(user) => begin.set_password(&user, &hash)?,
            None => begin.user("admin", &hash, project.name())?,
        };
        if let (Some(hash), Some(user)) = (&demo_hash, named::<User>(store, DEFAULT_DOMAIN, "demo")) {
            begin.set_password(&user, hash)?;
        }
        for on in [
            On::Project(project.name().to_owned()),
            On::Domain(DEFAULT_DOMAIN.to_owned()),
            On::System,
        ] {
            begin.assign_once(&admin, on, &role)?;
        }
        Ok::<_, Failure>(())
    });
    reset.await
}

impl Begin<'_, '_> {
    fn set_password(&mut self, user: &Arc<Resource<User>>, hash: &str) -> Result<String, Failure> {
        let mut new = (**user).clone();
        new.spec.enabled = true;
        new.spec.options.shift_remove("lock_password");
        // Chosen by whoever owns the cloud: it need not be changed, and what was asked of the one before is over.
        Compliance::default().set_password(&mut new.spec, Some(hash.to_owned()), true, self.tx.at());
        if let Some(record) = self.tx.get::<LoginRecord>(&LoginRecord::key(user.name())) {
            self.tx.delete(&record)?;
        }
        Ok(self.tx.update(user, new)?.name().to_owned())
    }

    fn enable(&mut self, id: &str) -> Result<(), Failure> {
        let project = self.tx.get::<Project>(&Project::key(id));
        if let Some(old) = project.filter(|project| !project.spec.enabled) {
            let mut new = (*old).clone();
            new.spec.enabled = true;
            self.tx.update(&old, new)?;
        }
        Ok(())
    }

    fn assign_once(&mut self, user_id: &str, on: On, role_id: &str) -> Result<(), Failure> {
        let spec = direct(user_id, on, role_id);
        let made = Resource::<Assignment>::new(Metadata::new("", spec.as_name()), spec);
        if self.tx.get::<Assignment>(&made.key()).is_none() {
            self.tx.create(made)?;
        }
        Ok(())
    }
}
