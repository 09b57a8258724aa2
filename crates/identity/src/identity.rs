//! The handle that all of identity works with.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use madang_control::TaskGroup;
use madang_http::Failure;
use madang_store::{Change, Kind, Store, StoreBuilder};
use moka::sync::Cache;

use crate::{
    Policy,
    application_credential::{AccessRule, ApplicationCredential},
    assignment::Assignment,
    catalog::{
        Endpoint, Region, Service,
        filter::{EndpointChoice, EndpointGroup},
    },
    directory::{Directories, DirectoryEntry, LdapOptions},
    federation::{self, IdentityProvider, ServiceProvider, shadow::VouchedMembership},
    group::{Group, Membership},
    keys::{KeyRing, KeysError},
    limit::Model,
    oauth1::AccessToken,
    password::Passwords,
    project::Project,
    role::{Implication, Role},
    token::{revocation::Revocation, upkeep, validate::Validated},
    trust::Trust,
    user::{User, compliance::Compliance},
};

/// How many tokens are kept validated. With its body one takes some 6 KiB.
const TOKENS: u64 = 4096;
/// A token that nobody showed for this long is examined anew.
const TOKEN_IDLE: Duration = Duration::from_secs(600);
/// How many one-time words (nonces, passwords) are remembered, and for how long: longer than a clock may be off.
const USED: u64 = 100_000;
const USED_FOR: Duration = Duration::from_secs(1260);

/// Where keys are, and how long tokens live.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the token keys, and in it that of the credentials' (`credentials`); made when they are not there.
    pub keys_dir: PathBuf,
    /// Directories that domains take their users from.
    pub directories: Vec<LdapOptions>,
    /// How long a token lives. Keystone's default is an hour.
    pub token_lifetime: SignedDuration,
    /// How long after its end a token is still taken where `allow_expired` is asked. Keystone's default is two days.
    pub expired_window: SignedDuration,
    /// How limits of projects relate to those above them.
    pub limit_model: Model,
    /// What passwords and logins must be.
    pub compliance: Compliance,
    /// Whose users are let in as well.
    pub federation: federation::Options,
}

impl Options {
    /// Keystone's lifetimes, with keys in `keys_dir`.
    pub fn new(keys_dir: impl Into<PathBuf>) -> Self {
        Self {
            keys_dir: keys_dir.into(),
            directories: Vec::new(),
            token_lifetime: SignedDuration::from_hours(1),
            expired_window: SignedDuration::from_hours(48),
            limit_model: Model::default(),
            compliance: Compliance::default(),
            federation: federation::Options::default(),
        }
    }

    pub(crate) fn keep_keys(&self) -> SignedDuration {
        self.token_lifetime + self.expired_window
    }
}

/// Why identity cannot start.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The keys cannot be used.
    #[error("the keys of tokens and credentials cannot be used")]
    Keys(#[from] KeysError),
    /// Something else, in words.
    #[error("identity cannot start: {0}")]
    Start(String),
}

/// Users, projects, roles, tokens and policy of one cloud. Shared by every face.
pub struct Identity {
    pub(crate) store: Store,
    pub(crate) policy: Arc<Policy>,
    pub(crate) options: Options,
    pub(crate) keys: KeyRing,
    /// What credentials are sealed with.
    pub(crate) vault: KeyRing,
    pub(crate) passwords: Passwords,
    pub(crate) tokens: Cache<String, Arc<Validated>, ahash::RandomState>,
    /// The identity providers that can be asked.
    pub(crate) oidc: federation::oidc::Providers,
    /// Browsers on their way to one of them.
    pub(crate) departures: federation::Departures,
    /// Words that were used, and count only once.
    used: Cache<String, ()>,
    pub(crate) directories: Directories,
    epoch: Arc<AtomicU64>,
}

impl Identity {
    /// Opens identity over a store that [`crate::register`] took part in.
    ///
    /// # Errors
    /// When the keys cannot be read or made.
    pub async fn open(store: Store, policy: Policy, options: Options) -> Result<Arc<Self>, IdentityError> {
        let directories = Directories::new(&options.directories).map_err(IdentityError::Start)?;
        let dir = options.keys_dir.clone();
        let providers = options.federation.providers.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let now = Timestamp::now();
            let (keys, vault) = (KeyRing::open(&dir, now), KeyRing::open(dir.join("credentials"), now));
            let oidc = federation::oidc::Providers::new(&providers);
            (keys, vault, Passwords::new(), oidc)
        });
        let (keys, vault, passwords, oidc) = opened.await.map_err(|e| IdentityError::Start(e.to_string()))?;
        crate::project::rules::check_depth(&store, options.limit_model).map_err(IdentityError::Start)?;
        let epoch = Arc::new(AtomicU64::new(0));
        count_changes(&store, &epoch);
        let tokens = Cache::builder().max_capacity(TOKENS).time_to_idle(TOKEN_IDLE);
        Ok(Arc::new(Self {
            store,
            policy: Arc::new(policy),
            options,
            keys: keys?,
            vault: vault?,
            passwords: passwords.map_err(|failure| IdentityError::Start(failure.message))?,
            tokens: tokens.build_with_hasher(ahash::RandomState::new()),
            oidc: oidc.map_err(IdentityError::Start)?,
            departures: federation::departures(),
            used: Cache::builder().max_capacity(USED).time_to_live(USED_FOR).build(),
            directories,
            epoch,
        }))
    }

    /// Starts what identity does in the background: rotating keys, forgetting old revocations, copying directories.
    pub fn start(self: &Arc<Self>, group: &TaskGroup) {
        upkeep::run(Arc::clone(self), group);
        self.follow_directories(group);
    }

    /// The policy that every face asks.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The store it works on.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Counts up with every change of anything that a token depends on.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether a one-time word was not used before; now it is.
    pub(crate) fn first_use(&self, word: String) -> bool {
        self.used.entry(word).or_insert(()).is_fresh()
    }

    /// `secret` as it is kept.
    pub(crate) async fn hash(&self, secret: &str) -> Result<String, Failure> {
        self.passwords.hash(secret).await
    }
}

fn count_changes(store: &Store, epoch: &Arc<AtomicU64>) {
    fn count<K: Kind>(store: &Store, epoch: &Arc<AtomicU64>) {
        let epoch = Arc::clone(epoch);
        store.cache::<K>().on_change(move |_: &Change<K>| {
            epoch.fetch_add(1, Ordering::Release);
        });
    }
    count::<Project>(store, epoch);
    count::<User>(store, epoch);
    count::<Group>(store, epoch);
    count::<Membership>(store, epoch);
    count::<Role>(store, epoch);
    count::<Implication>(store, epoch);
    count::<Assignment>(store, epoch);
    count::<Region>(store, epoch);
    count::<Service>(store, epoch);
    count::<Endpoint>(store, epoch);
    count::<ApplicationCredential>(store, epoch);
    count::<AccessRule>(store, epoch);
    count::<Trust>(store, epoch);
    count::<AccessToken>(store, epoch);
    count::<EndpointGroup>(store, epoch);
    count::<EndpointChoice>(store, epoch);
    count::<IdentityProvider>(store, epoch);
    count::<VouchedMembership>(store, epoch);
    count::<ServiceProvider>(store, epoch);
    count::<Revocation>(store, epoch);
}

/// Makes identity's kinds and their rules known to a store that is about to be opened.
pub fn register(builder: &mut StoreBuilder) {
    crate::project::rules::register(builder);
    crate::user::rules::register(builder);
    crate::group::rules::register(builder);
    crate::role::rules::register(builder);
    crate::assignment::rules::register(builder);
    crate::catalog::rules::register(builder);
    crate::application_credential::rules::register(builder);
    crate::credential::rules::register(builder);
    crate::trust::rules::register(builder);
    crate::catalog::filter::register(builder);
    crate::domain_config::rules::register(builder);
    crate::limit::rules::register(builder);
    crate::oauth1::rules::register(builder);
    federation::register(builder);
    crate::policy_document::association::register(builder);
    builder.kind::<Revocation>();
    builder.kind::<DirectoryEntry>();
}
