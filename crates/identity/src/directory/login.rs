//! Logging in with a password that a directory knows.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::Resource;
use tracing::{info, warn};

use super::{
    Connection, DirectoryError,
    entries::{groups_of, person, user_named},
    sync::{self, attributes_of_users},
};
use crate::{Identity, auth::UserRef, project::Project, user::User};

impl Identity {
    /// Proves a password where a directory has the user's domain; `None` where none has.
    ///
    /// # Errors
    /// 503 where the directory does not answer: then nobody knows whether the password is right.
    pub(crate) async fn prove_by_directory(
        &self,
        user: &UserRef,
        password: &str,
    ) -> Result<Option<Option<Arc<Resource<User>>>>, Failure> {
        if self.directories.is_empty() {
            return Ok(None);
        }
        let Some((domain, name)) = self.where_to_look(user) else {
            return Ok(None);
        };
        let Some(connection) = self.directories.of(&self.store, domain.name()) else {
            return Ok(None);
        };
        let proved = self.bind(connection, domain.name(), &name, password).await;
        proved.map(Some).map_err(|error| {
            warn!(
                domain = domain.spec.name,
                error = &error as &dyn std::error::Error,
                "nobody can log in"
            );
            Failure::unavailable(format!("the directory of domain {} does not answer", domain.spec.name))
        })
    }

    /// The domain and the name there.
    fn where_to_look(&self, user: &UserRef) -> Option<(Arc<Resource<Project>>, String)> {
        match user {
            UserRef::Name(name, domain) => Some((self.find_domain(domain)?, name.clone())),
            UserRef::Id(id) => {
                let user = self.store.get::<User>(&User::key(id))?;
                let domain = self.store.get::<Project>(&Project::key(&user.spec.domain_id))?;
                Some((domain, user.spec.name.clone()))
            }
        }
    }

    async fn bind(
        &self,
        connection: &Connection,
        domain_id: &str,
        name: &str,
        password: &str,
    ) -> Result<Option<Arc<Resource<User>>>, DirectoryError> {
        let options = &connection.options;
        let attributes = attributes_of_users(options);
        let found = connection
            .search(&options.user_tree(), &user_named(options, name), &attributes)
            .await?;
        let people: Vec<_> = found
            .iter()
            .filter_map(|entry| person(options, domain_id, entry))
            .collect();
        let [someone] = people.as_slice() else {
            info!(
                domain_id,
                found = people.len(),
                "the directory does not have this name once"
            );
            return Ok(None);
        };
        if !connection.takes(&someone.dn, password).await? {
            return Ok(None);
        }
        let teams = sync::teams(connection, domain_id, &groups_of(options, someone)).await?;
        sync::keep_one(&self.store, domain_id, someone, &teams).await?;
        let user = self.store.get::<User>(&User::key(&someone.id));
        Ok(user.filter(|user| self.may_log_in(user)))
    }
}
