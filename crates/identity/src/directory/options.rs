//! How a directory is asked: the options of Keystone's `[ldap]` section, with its names and defaults.

use std::{fmt, path::PathBuf};

use serde::Deserialize;

/// One directory, for one domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LdapOptions {
    /// The name of the domain whose users and groups these are.
    pub domain: String,
    /// `ldap://host` or `ldaps://host`; several, separated by commas, are tried in order.
    pub url: String,
    /// The account that searches; anonymous without.
    #[serde(default)]
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: Secret,
    /// What all names end with: `dc=example,dc=org`.
    #[serde(default)]
    pub suffix: String,
    /// Whether trees are searched below their first level, too.
    #[serde(default)]
    pub query_scope: QueryScope,
    /// Entries per answer; 0 asks for all at once.
    #[serde(default)]
    pub page_size: i32,
    /// Whether a plain connection is turned into TLS before anything is said.
    #[serde(default)]
    pub use_tls: bool,
    /// The authorities that are believed, in PEM; the system's without.
    #[serde(default)]
    pub tls_cacertfile: Option<PathBuf>,
    /// Seconds until a server that does not answer is given up.
    #[serde(default = "ten")]
    pub connection_timeout: u64,
    /// Searches at a time.
    #[serde(default = "pool")]
    pub pool_size: usize,
    /// Logins at a time; each is a connection of its own.
    #[serde(default = "pool")]
    pub auth_pool_size: usize,
    /// Where users are; `ou=Users` of the suffix without.
    #[serde(default)]
    pub user_tree_dn: Option<String>,
    /// What users must match besides their class: `(memberOf=cn=cloud,…)`.
    #[serde(default)]
    pub user_filter: String,
    /// The class of users.
    #[serde(default = "person")]
    pub user_objectclass: String,
    /// What names an entry for good.
    #[serde(default = "cn")]
    pub user_id_attribute: String,
    /// What users log in with.
    #[serde(default = "sn")]
    pub user_name_attribute: String,
    /// The address.
    #[serde(default = "mail")]
    pub user_mail_attribute: String,
    /// Free text.
    #[serde(default = "description")]
    pub user_description_attribute: String,
    /// What says whether a user may log in.
    #[serde(default = "enabled")]
    pub user_enabled_attribute: String,
    /// Where that is a number: the bit that says that it may not, as 2 for Active Directory; 0 where it is a word.
    #[serde(default)]
    pub user_enabled_mask: i64,
    /// What counts where an entry does not say.
    #[serde(default = "yes")]
    pub user_enabled_default: String,
    /// Whether the attribute says that a user may not, as `nsAccountLock`.
    #[serde(default)]
    pub user_enabled_invert: bool,
    /// Where groups are; `ou=UserGroups` of the suffix without.
    #[serde(default)]
    pub group_tree_dn: Option<String>,
    /// What groups must match besides their class.
    #[serde(default)]
    pub group_filter: String,
    /// The class of groups.
    #[serde(default = "group_of_names")]
    pub group_objectclass: String,
    /// What names a group for good.
    #[serde(default = "cn")]
    pub group_id_attribute: String,
    /// What a group is called.
    #[serde(default = "ou")]
    pub group_name_attribute: String,
    /// Who is in it.
    #[serde(default = "member")]
    pub group_member_attribute: String,
    /// Whether members are given by the id attribute instead of the distinguished name, as in `posixGroup`.
    #[serde(default)]
    pub group_members_are_ids: bool,
    /// Free text.
    #[serde(default = "description")]
    pub group_desc_attribute: String,
    /// Seconds between copies of the whole directory.
    #[serde(default = "minute")]
    pub sync_seconds: u64,
    /// The most users, and the most groups, that are copied.
    #[serde(default = "many")]
    pub max_entries: usize,
}

/// How deep a search goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryScope {
    /// The entries right below.
    #[default]
    One,
    /// All entries below.
    Sub,
}

/// A text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl LdapOptions {
    pub(super) fn user_tree(&self) -> String {
        self.user_tree_dn
            .clone()
            .unwrap_or_else(|| format!("ou=Users,{}", self.suffix))
    }

    pub(super) fn group_tree(&self) -> String {
        self.group_tree_dn
            .clone()
            .unwrap_or_else(|| format!("ou=UserGroups,{}", self.suffix))
    }

    /// What is wrong with it, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        for url in self.urls() {
            if !url.starts_with("ldap://") && !url.starts_with("ldaps://") {
                return Err(format!("url has to begin with ldap:// or ldaps://: {url}"));
            }
            if self.use_tls && url.starts_with("ldaps://") {
                return Err(format!("use_tls is for ldap://, and {url} is TLS already"));
            }
        }
        let missing_tree = self.user_tree_dn.is_none() || self.group_tree_dn.is_none();
        if self.suffix.is_empty() && missing_tree {
            return Err("give suffix, or both user_tree_dn and group_tree_dn".to_owned());
        }
        for (name, filter) in [("user_filter", &self.user_filter), ("group_filter", &self.group_filter)] {
            if !filter.is_empty() && ldap3::parse_filter(filter).is_err() {
                return Err(format!("{name} is no LDAP filter: {filter}"));
            }
        }
        let least = [self.pool_size, self.auth_pool_size, self.max_entries];
        if least.contains(&0) || self.connection_timeout == 0 || self.sync_seconds == 0 {
            return Err(
                "pool_size, auth_pool_size, max_entries, connection_timeout and sync_seconds have to be at least 1"
                    .to_owned(),
            );
        }
        Ok(())
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim).filter(|url| !url.is_empty())
    }
}

fn ten() -> u64 {
    10
}
fn pool() -> usize {
    10
}
fn minute() -> u64 {
    60
}
fn many() -> usize {
    20_000
}
fn person() -> String {
    "inetOrgPerson".to_owned()
}
fn cn() -> String {
    "cn".to_owned()
}
fn sn() -> String {
    "sn".to_owned()
}
fn ou() -> String {
    "ou".to_owned()
}
fn mail() -> String {
    "mail".to_owned()
}
fn description() -> String {
    "description".to_owned()
}
fn enabled() -> String {
    "enabled".to_owned()
}
fn yes() -> String {
    "True".to_owned()
}
fn group_of_names() -> String {
    "groupOfNames".to_owned()
}
fn member() -> String {
    "member".to_owned()
}
