//! What is asked of users, and how limits of projects relate.

use anyhow::{Context, bail};
use jiff::SignedDuration;
use madang_identity::{
    limit::Model,
    user::compliance::{Compliance, MAX_HISTORY, Regex},
};
use serde::Deserialize;

/// Identity.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// How limits of projects relate to those above them.
    pub limit_model: Model,
    pub security_compliance: SecurityCompliance,
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
