//! What passwords and logins must be: Keystone's `security_compliance`. By default, nothing is asked.

pub use fancy_regex::Regex;
use jiff::{SignedDuration, Timestamp};
use madang_http::Failure;
use madang_store::{Cause, Key, Kind, Metadata, Op, Resource, StoreBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{User, UserSpec};
use crate::{Identity, cascade::remove_all};

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// More passwords than this nobody may be told to remember; each costs a hash to compare with.
pub const MAX_HISTORY: u32 = 24;

/// What is asked of passwords and logins.
#[derive(Clone, Debug)]
pub struct Compliance {
    /// After how many failures in a row nobody can log in as a user; never where there is none.
    pub lockout_failure_attempts: Option<u32>,
    /// For how long then. Keystone's default is half an hour.
    pub lockout_duration: SignedDuration,
    /// After how many days without a login a user counts as disabled; never where there is none.
    pub disable_user_account_days_inactive: Option<u32>,
    /// After how many days a password must be changed; never where there is none.
    pub password_expires_days: Option<u32>,
    /// How many passwords, the present one included, a user cannot choose again; any number where it is 0.
    pub unique_last_password_count: u32,
    /// For how many days users cannot change their password again.
    pub minimum_password_age: u32,
    /// What passwords must match.
    pub password_regex: Option<Regex>,
    /// The same in words.
    pub password_regex_description: Option<String>,
    /// Whether users must change a password that somebody else gave them.
    pub change_password_upon_first_use: bool,
}

impl Default for Compliance {
    fn default() -> Self {
        Self {
            lockout_failure_attempts: None,
            lockout_duration: SignedDuration::from_mins(30),
            disable_user_account_days_inactive: None,
            password_expires_days: None,
            unique_last_password_count: 0,
            minimum_password_age: 0,
            password_regex: None,
            password_regex_description: None,
            change_password_upon_first_use: false,
        }
    }
}

/// The kind of login records: what was seen of a user at the door. `metadata.name` is the user's id. They stand beside
/// users, since a failed login changes nothing that a token depends on.
#[derive(Debug)]
pub struct LoginRecord;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoginRecordSpec {
    /// Failures since the last success.
    #[serde(default)]
    pub failures: u32,
    /// When the last one was.
    #[serde(default)]
    pub failed: Option<Timestamp>,
    /// When the user was last let in, to the day.
    #[serde(default)]
    pub last_active: Option<Timestamp>,
}

impl Kind for LoginRecord {
    const NAME: &'static str = "login-records";
    type Spec = LoginRecordSpec;
    type Status = ();
}

impl LoginRecord {
    /// Where the record of a user is stored.
    pub fn key(user_id: &str) -> Key {
        Key::new(Self::NAME, "", "", user_id)
    }
}

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<LoginRecord>();
    builder.rule::<User>(|tx, op| {
        let Op::Remove(user) = op else { return Ok(()) };
        let record = tx.store().get::<LoginRecord>(&LoginRecord::key(user.name()));
        remove_all(tx, record.into_iter().collect())
    });
}

/// Whether a user has a resource option such as `ignore_password_expiry`.
pub(crate) fn has_option(user: &UserSpec, option: &str) -> bool {
    user.options.get(option) == Some(&Value::Bool(true))
}

impl Compliance {
    /// Whether a password may be chosen.
    ///
    /// # Errors
    /// 400 with the requirements in words.
    pub(crate) fn check(&self, password: &str) -> Result<(), Failure> {
        let Some(regex) = &self.password_regex else {
            return Ok(());
        };
        // One that takes too long to decide does not match.
        if regex.is_match(password).unwrap_or(false) {
            return Ok(());
        }
        let words = self.password_regex_description.as_deref().unwrap_or_default();
        let message = format!("The password does not match the requirements: {words}.");
        Err(Failure::invalid(message).at("password"))
    }

    /// Whether a user may change its password now.
    ///
    /// # Errors
    /// 400 saying in how many days.
    pub(crate) fn check_age(&self, user: &UserSpec, now: Timestamp) -> Result<(), Failure> {
        let least = DAY * i32::try_from(self.minimum_password_age).unwrap_or(i32::MAX);
        let age = user
            .password_created
            .filter(|_| user.password_by_user)
            .map(|made| now.duration_since(made));
        let Some(age) = age.filter(|age| *age < least) else {
            return Ok(());
        };
        let left = ((least - age).as_secs() + DAY.as_secs() - 1) / DAY.as_secs();
        let message = format!(
            "You cannot change your password at this time due to minimum password age. Once you change your password, it \
             must be used for {} day(s) before it can be changed. Please try again in {left} day(s) or contact your \
             administrator to reset your password.",
            self.minimum_password_age
        );
        Err(Failure::invalid(message).at("password"))
    }

    /// Gives a user another password, by its hash. `by_user` says that it chose it itself.
    pub(crate) fn set_password(&self, user: &mut UserSpec, hash: Option<String>, by_user: bool, now: Timestamp) {
        if let Some(old) = user.password.take() {
            user.password_history.insert(0, old);
        }
        let remembered = self.unique_last_password_count.min(MAX_HISTORY).saturating_sub(1);
        user.password_history.truncate(remembered as usize);
        user.password_created = hash.as_ref().map(|_| now);
        user.password_by_user = by_user;
        user.password_expires = hash.as_ref().and_then(|_| self.expiry(user, by_user, now));
        user.password = hash;
    }

    fn expiry(&self, user: &UserSpec, by_user: bool, now: Timestamp) -> Option<Timestamp> {
        let first_use = self.change_password_upon_first_use && !by_user;
        if first_use && !has_option(user, "ignore_change_password_upon_first_use") {
            return Some(now);
        }
        let days = self.password_expires_days?;
        let keeps = has_option(user, "ignore_password_expiry");
        let life = DAY * i32::try_from(days).unwrap_or(i32::MAX);
        (!keeps).then(|| now.saturating_add(life).unwrap_or(Timestamp::MAX))
    }

    fn is_locked(&self, user: &UserSpec, record: &LoginRecordSpec, now: Timestamp) -> bool {
        let at_most = self.lockout_failure_attempts.unwrap_or(u32::MAX);
        if record.failures < at_most || has_option(user, "ignore_lockout_failure_attempts") {
            return false;
        }
        self.lockout_duration.is_zero()
            || record
                .failed
                .is_some_and(|failed| now.duration_since(failed) < self.lockout_duration)
    }

    fn is_inactive(&self, user: &UserSpec, record: &LoginRecordSpec, now: Timestamp) -> bool {
        let Some(days) = self.disable_user_account_days_inactive else {
            return false;
        };
        let life = DAY * i32::try_from(days).unwrap_or(i32::MAX);
        let idle = record.last_active.map(|last| now.duration_since(last));
        !has_option(user, "ignore_user_inactivity") && idle.is_some_and(|idle| idle > life)
    }
}

/// Whether a password must be changed before it is good for anything else.
pub(crate) fn is_expired(user: &UserSpec, now: Timestamp) -> bool {
    user.password_expires.is_some_and(|end| end <= now)
}

impl Identity {
    fn record(&self, user_id: &str) -> LoginRecordSpec {
        let record = self.store.get::<LoginRecord>(&LoginRecord::key(user_id));
        record.map(|record| record.spec.clone()).unwrap_or_default()
    }

    /// Whether nobody can log in as a user now, after too many failures.
    pub(crate) fn is_locked(&self, user: &Resource<User>) -> bool {
        let compliance = &self.options.compliance;
        compliance.lockout_failure_attempts.is_some()
            && compliance.is_locked(&user.spec, &self.record(user.name()), Timestamp::now())
    }

    /// Whether a user was away for so long that it counts as disabled.
    pub(crate) fn is_inactive(&self, user: &Resource<User>) -> bool {
        let compliance = &self.options.compliance;
        compliance.disable_user_account_days_inactive.is_some()
            && compliance.is_inactive(&user.spec, &self.record(user.name()), Timestamp::now())
    }

    /// Writes down that somebody tried a user's password; nothing where nobody asks for it.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn note_login(&self, user: &Resource<User>, succeeded: bool) -> Result<(), Failure> {
        let compliance = &self.options.compliance;
        let now = Timestamp::now();
        let is = self.record(user.name());
        let counts = compliance.lockout_failure_attempts.is_some();
        let daily = compliance.disable_user_account_days_inactive.is_some()
            && is.last_active.is_none_or(|last| now.duration_since(last) >= DAY);
        let change = move |record: &mut LoginRecordSpec| {
            if !succeeded {
                // After a lock that is over, counting begins anew.
                let over = compliance
                    .lockout_failure_attempts
                    .is_some_and(|most| record.failures >= most);
                record.failures = if over { 1 } else { record.failures.saturating_add(1) };
                record.failed = Some(now);
                return;
            }
            record.failures = 0;
            record.failed = None;
            if daily {
                record.last_active = Some(now);
            }
        };
        let due = if succeeded {
            (counts && is.failures > 0) || daily
        } else {
            counts
        };
        if !due {
            return Ok(());
        }
        let noted = self.store.transact(Cause::system("login"), |tx| {
            match tx.get::<LoginRecord>(&LoginRecord::key(user.name())) {
                Some(old) => {
                    let mut new = (*old).clone();
                    change(&mut new.spec);
                    tx.update(&old, new)?;
                }
                None => {
                    let mut spec = LoginRecordSpec::default();
                    change(&mut spec);
                    tx.create(Resource::<LoginRecord>::new(Metadata::new("", user.name()), spec))?;
                }
            }
            Ok::<_, Failure>(())
        });
        noted.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserSpec {
        serde_json::from_str(r#"{"name": "a", "domain_id": "default", "enabled": true}"#).unwrap()
    }

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn passwords_are_remembered_and_end() {
        let compliance = Compliance {
            unique_last_password_count: 3,
            password_expires_days: Some(2),
            ..Compliance::default()
        };
        let mut user = user();
        for hash in ["a", "b", "c", "d"] {
            compliance.set_password(&mut user, Some(hash.to_owned()), true, start());
        }
        assert_eq!(user.password.as_deref(), Some("d"));
        assert_eq!(user.password_history, ["c", "b"]);
        assert!(!is_expired(&user, start() + DAY));
        assert!(is_expired(&user, start() + DAY * 2));
        user.options.insert("ignore_password_expiry".to_owned(), true.into());
        compliance.set_password(&mut user, Some("e".to_owned()), true, start());
        assert_eq!(user.password_expires, None);
    }

    #[test]
    fn what_somebody_else_chose_must_be_changed_first() {
        let compliance = Compliance {
            change_password_upon_first_use: true,
            minimum_password_age: 2,
            ..Compliance::default()
        };
        let mut user = user();
        compliance.set_password(&mut user, Some("a".to_owned()), false, start());
        assert!(is_expired(&user, start()));
        assert!(
            compliance.check_age(&user, start()).is_ok(),
            "it was not chosen by the user"
        );
        compliance.set_password(&mut user, Some("b".to_owned()), true, start());
        assert!(!is_expired(&user, start()));
        let refused = compliance.check_age(&user, start() + DAY).unwrap_err();
        assert!(refused.message.contains("try again in 1 day(s)"), "{}", refused.message);
        assert!(compliance.check_age(&user, start() + DAY * 2).is_ok());
    }

    #[test]
    fn too_many_failures_lock_for_a_while() {
        let compliance = Compliance {
            lockout_failure_attempts: Some(2),
            lockout_duration: SignedDuration::from_secs(5),
            ..Compliance::default()
        };
        let record = |failures| LoginRecordSpec {
            failures,
            failed: Some(start()),
            last_active: None,
        };
        let mut user = user();
        assert!(!compliance.is_locked(&user, &record(1), start()));
        assert!(compliance.is_locked(&user, &record(2), start()));
        assert!(!compliance.is_locked(&user, &record(2), start() + SignedDuration::from_secs(5)));
        user.options
            .insert("ignore_lockout_failure_attempts".to_owned(), true.into());
        assert!(!compliance.is_locked(&user, &record(2), start()));
    }

    #[test]
    fn passwords_match_patterns_that_look_ahead() {
        let compliance = Compliance {
            password_regex: Some(Regex::new(r"^(?=.*\d)(?=.*[a-zA-Z]).{7,}$").unwrap()),
            password_regex_description: Some("a letter and a digit".to_owned()),
            ..Compliance::default()
        };
        assert!(compliance.check("secret12").is_ok());
        let refused = compliance.check("secretly").unwrap_err();
        assert!(refused.message.contains("a letter and a digit"), "{}", refused.message);
    }
}
