//! What is asked of users, and how limits of projects relate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context, bail};
use jiff::SignedDuration;
use madang_identity::{
    federation::{self, oidc::Settings},
    limit::Model,
    user::compliance::{Compliance, MAX_HISTORY, Regex},
};
use serde::Deserialize;

/// Services that have quotas, as the catalog calls them.
const LIMITED: [&str; 4] = ["block-storage", "compute", "image", "network"];

/// Identity.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// How limits of projects relate to those above them.
    pub limit_model: Model,
    /// Services whose quotas are unified limits.
    pub unified_limits: BTreeSet<String>,
    pub security_compliance: SecurityCompliance,
    pub federation: Federation,
}

/// Identity providers.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Federation {
    /// Where browsers' tokens may be sent.
    pub trusted_dashboards: Vec<String>,
    /// For how many minutes a provider's word about groups holds beyond a session.
    pub default_authorization_ttl: u32,
    /// What assertions call the issuer.
    pub remote_id_attribute: String,
    /// By their ids in the API.
    pub providers: BTreeMap<String, Provider>,
}

/// How to speak to an identity provider.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    pub issuer: String,
    pub client_id: String,
    #[serde(default)]
    pub client_secret: Option<String>,
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    #[serde(default)]
    pub discovery_url: Option<String>,
    #[serde(default)]
    pub audiences: Vec<String>,
    #[serde(default)]
    pub claim_prefix: Option<String>,
    #[serde(default)]
    pub userinfo: bool,
    #[serde(default)]
    pub scope: Option<String>,
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            trusted_dashboards: Vec::new(),
            default_authorization_ttl: 0,
            remote_id_attribute: "HTTP_OIDC_ISS".to_owned(),
            providers: BTreeMap::new(),
        }
    }
}

impl Federation {
    /// What identity is told, with `url` where clients reach this cloud. Reads the files with secrets.
    ///
    /// # Errors
    /// For a file that cannot be read.
    pub fn options(&self, url: &str) -> anyhow::Result<federation::Options> {
        let providers = self.providers.iter().map(|(id, provider)| {
            let settings = provider.settings(id)?;
            Ok((id.clone(), settings))
        });
        Ok(federation::Options {
            providers: providers.collect::<anyhow::Result<_>>()?,
            trusted_dashboards: self.trusted_dashboards.clone(),
            authorization_ttl: SignedDuration::from_mins(self.default_authorization_ttl.into()),
            remote_id_attribute: self.remote_id_attribute.clone(),
            public_url: Some(format!("{url}/identity")),
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        for (id, provider) in &self.providers {
            let key = format!("identity.federation.providers.{id}");
            if provider.client_secret.is_some() && provider.client_secret_file.is_some() {
                bail!("{key} has both client_secret and client_secret_file: one of them is enough");
            }
            provider
                .addresses()
                .check()
                .map_err(|why| anyhow::anyhow!("{key}: {why}"))?;
        }
        for origin in &self.trusted_dashboards {
            if !(origin.starts_with("https://") || origin.starts_with("http://")) {
                bail!("identity.federation.trusted_dashboards: {origin} has to begin with https:// or http://");
            }
        }
        Ok(())
    }
}

impl Provider {
    /// All but the secret.
    fn addresses(&self) -> Settings {
        let usual = Settings::new(&self.issuer, &self.client_id);
        Settings {
            discovery_url: self.discovery_url.clone(),
            audiences: self.audiences.clone(),
            claim_prefix: self.claim_prefix.clone().unwrap_or(usual.claim_prefix),
            userinfo: self.userinfo,
            scope: self.scope.clone().unwrap_or(usual.scope),
            ca_file: self.ca_file.clone(),
            ..Settings::new(&self.issuer, &self.client_id)
        }
    }

    fn settings(&self, id: &str) -> anyhow::Result<Settings> {
        let client_secret = match &self.client_secret_file {
            Some(file) => {
                let text = fs::read_to_string(file).with_context(|| {
                    format!(
                        "could not read {} of identity.federation.providers.{id}",
                        file.display()
                    )
                })?;
                Some(text.trim().to_owned())
            }
            None => self.client_secret.clone(),
        };
        Ok(Settings {
            client_secret,
            ..self.addresses()
        })
    }
}

/// What passwords and logins must be; nothing where nothing is set. A number that is 0 asks for nothing.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityCompliance {
    /// After how many failures in a row nobody can log in as a user.
    pub lockout_failure_attempts: u32,
    /// For how many seconds then; 0 for ever.
    pub lockout_duration: u32,
    /// After how many days without a login a user counts as disabled.
    pub disable_user_account_days_inactive: u32,
    /// After how many days a password must be changed.
    pub password_expires_days: u32,
    /// How many passwords in a row must be different.
    pub unique_last_password_count: u32,
    /// For how many days users cannot change their password again.
    pub minimum_password_age: u32,
    /// What passwords must match.
    pub password_regex: Option<String>,
    /// The same in words.
    pub password_regex_description: Option<String>,
    /// Whether users must change a password that somebody else gave them.
    pub change_password_upon_first_use: bool,
}

impl Default for SecurityCompliance {
    fn default() -> Self {
        Self {
            lockout_failure_attempts: 0,
            lockout_duration: 1800,
            disable_user_account_days_inactive: 0,
            password_expires_days: 0,
            unique_last_password_count: 0,
            minimum_password_age: 0,
            password_regex: None,
            password_regex_description: None,
            change_password_upon_first_use: false,
        }
    }
}

impl Identity {
    /// Whether all of it can be used.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(other) = self
            .unified_limits
            .iter()
            .find(|name| !LIMITED.contains(&name.as_str()))
        {
            bail!(
                "identity.unified_limits: {other} has no quotas; there are {}",
                LIMITED.join(", ")
            );
        }
        let rules = &self.security_compliance;
        if rules.unique_last_password_count > MAX_HISTORY {
            let count = rules.unique_last_password_count;
            bail!(
                "identity.security_compliance.unique_last_password_count is {count}, at most {MAX_HISTORY} are remembered"
            );
        }
        if rules.password_expires_days > 0 && rules.minimum_password_age >= rules.password_expires_days {
            bail!("identity.security_compliance.minimum_password_age has to be below password_expires_days");
        }
        self.federation.check()?;
        self.compliance().map(|_| ())
    }

    /// What identity is told.
    ///
    /// # Errors
    /// For a pattern that cannot be read, with the place.
    pub fn compliance(&self) -> anyhow::Result<Compliance> {
        let rules = &self.security_compliance;
        let some = |number: u32| (number > 0).then_some(number);
        let regex = rules.password_regex.as_deref().map(Regex::new).transpose();
        Ok(Compliance {
            lockout_failure_attempts: some(rules.lockout_failure_attempts),
            lockout_duration: SignedDuration::from_secs(rules.lockout_duration.into()),
            disable_user_account_days_inactive: some(rules.disable_user_account_days_inactive),
            password_expires_days: some(rules.password_expires_days),
            unique_last_password_count: rules.unique_last_password_count,
            minimum_password_age: rules.minimum_password_age,
            password_regex: regex.context("identity.security_compliance.password_regex is no pattern")?,
            password_regex_description: rules.password_regex_description.clone(),
            change_password_upon_first_use: rules.change_password_upon_first_use,
        })
    }
}
