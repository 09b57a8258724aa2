//! Connections to one directory: one that all searches share, and one of its own for each login.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry,
    adapters::{Adapter, EntriesOnly, PagedResults},
};
use madang_control::TaskGroup;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::debug;

use super::{DirectoryError, LdapOptions, QueryScope};

/// How much longer than one answer a search of many pages may take.
const PATIENCE: u32 = 6;
/// What LDAP answers where the name or the password is wrong (RFC 4511).
const INVALID_CREDENTIALS: u32 = 49;
/// What the system trusts, where the options name no authority.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) struct Connection {
    pub(super) options: LdapOptions,
    tls: Arc<ClientConfig>,
    tasks: OnceLock<TaskGroup>,
    shared: Mutex<Option<Ldap>>,
    searches: Semaphore,
    logins: Semaphore,
}

impl Connection {
    pub(super) fn new(options: LdapOptions) -> Result<Self, String> {
        options.check()?;
        Ok(Self {
            tls: Arc::new(tls(&options)?),
            tasks: OnceLock::new(),
            shared: Mutex::new(None),
            searches: Semaphore::new(options.pool_size),
            logins: Semaphore::new(options.auth_pool_size),
            options,
        })
    }

    /// From then on it may connect; connections are tasks of the group.
    pub(super) fn start(&self, tasks: TaskGroup) {
        let _ = self.tasks.set(tasks);
    }

    /// The entries below `base` that match, at most `max_entries`.
    pub(super) async fn search(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
    ) -> Result<Vec<SearchEntry>, DirectoryError> {
        let _seat = self.searches.acquire().await.map_err(|_| DirectoryError::NotNow)?;
        let work = async {
            let ldap = self.shared().await?;
            let found = self.run(ldap, base, filter, attributes).await;
            if matches!(found, Err(DirectoryError::Ldap(_))) {
                // The next search makes a new one.
                self.shared.lock().take();
            }
            found
        };
        timeout(self.patience() * PATIENCE, work)
            .await
            .map_err(|_| DirectoryError::TimedOut)?
    }

    async fn run(
        &self,
        mut ldap: Ldap,
        base: &str,
        filter: &str,
        attributes: &[&str],
    ) -> Result<Vec<SearchEntry>, DirectoryError> {
        let scope = match self.options.query_scope {
            QueryScope::One => Scope::OneLevel,
            QueryScope::Sub => Scope::Subtree,
        };
        let mut adapters: Vec<Box<dyn Adapter<'_, _, _>>> = vec![Box::new(EntriesOnly::new())];
        if self.options.page_size > 0 {
            adapters.push(Box::new(PagedResults::new(self.options.page_size)));
        }
        let ldap = ldap.with_timeout(self.patience());
        let mut stream = ldap
            .streaming_search_with(adapters, base, scope, filter, attributes.to_vec())
            .await?;
        let mut entries = Vec::new();
        while let Some(entry) = stream.next().await? {
            if entries.len() == self.options.max_entries {
                return Err(DirectoryError::TooMany(self.options.max_entries, base.to_owned()));
            }
            entries.push(SearchEntry::construct(entry));
        }
        stream.finish().await.success()?;
        Ok(entries)
    }

    /// Whether the directory takes this password. An empty one is never asked about: servers answer an anonymous bind
    /// with yes.
    pub(super) async fn takes(&self, dn: &str, password: &str) -> Result<bool, DirectoryError> {
        if dn.is_empty() || password.is_empty() {
            return Ok(false);
        }
        let _seat = self.logins.acquire().await.map_err(|_| DirectoryError::NotNow)?;
        let mut ldap = self.connect().await?;
        let answer = ldap.with_timeout(self.patience()).simple_bind(dn, password).await;
        let goodbye = ldap.unbind().await;
        debug!(said = ?goodbye.err(), "login's connection closed");
        let answer = answer?;
        if answer.rc != 0 && answer.rc != INVALID_CREDENTIALS {
            debug!(code = answer.rc, text = answer.text, "the directory refuses a login");
        }
        Ok(answer.rc == 0)
    }

    async fn shared(&self) -> Result<Ldap, DirectoryError> {
        let kept = self.shared.lock().clone();
        if let Some(mut ldap) = kept
            && !ldap.is_closed()
        {
            return Ok(ldap);
        }
        let mut ldap = self.connect().await?;
        if !self.options.user.is_empty() {
            let bind = ldap.with_timeout(self.patience());
            let answer = bind.simple_bind(&self.options.user, &self.options.password.0).await?;
            if answer.rc != 0 {
                return Err(DirectoryError::Refused(self.options.user.clone()));
            }
        }
        *self.shared.lock() = Some(ldap.clone());
        Ok(ldap)
    }

    /// A new connection to the first server that answers.
    async fn connect(&self) -> Result<Ldap, DirectoryError> {
        let tasks = self.tasks.get().ok_or(DirectoryError::NotNow)?;
        let mut failed = DirectoryError::NotNow;
        for url in self.options.urls() {
            let settings = LdapConnSettings::new()
                .set_conn_timeout(self.patience())
                .set_config(Arc::clone(&self.tls))
                .set_starttls(self.options.use_tls);
            match timeout(self.patience(), LdapConnAsync::with_settings(settings, url)).await {
                Ok(Ok((connection, ldap))) => {
                    tasks.spawn_until_stopped("connection to a directory", async move {
                        if let Err(error) = connection.drive().await {
                            debug!(%error, "connection to a directory ended");
                        }
                    });
                    return Ok(ldap);
                }
                Ok(Err(error)) => failed = error.into(),
                Err(_) => failed = DirectoryError::TimedOut,
            }
        }
        Err(failed)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.options.connection_timeout)
    }
}

fn tls(options: &LdapOptions) -> Result<ClientConfig, String> {
    let encrypted = options.use_tls || options.urls().any(|url| url.starts_with("ldaps://"));
    let mut roots = RootCertStore::empty();
    if encrypted {
        let file = options.tls_cacertfile.as_deref().unwrap_or(SYSTEM_AUTHORITIES.as_ref());
        let unreadable = |error| format!("could not read tls_cacertfile {}: {error}", file.display());
        for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
            // The system's bundle may hold some that rustls does not take; the rest is still good.
            _ = roots.add(certificate.map_err(unreadable)?);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// An entry that is not there is no failure of the directory's: a tree that nobody made yet is empty.
pub(super) fn is_absent(error: &DirectoryError) -> bool {
    const NO_SUCH_OBJECT: u32 = 32;
    matches!(error, DirectoryError::Ldap(LdapError::LdapResult { result }) if result.rc == NO_SUCH_OBJECT)
}
