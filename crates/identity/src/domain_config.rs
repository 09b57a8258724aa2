//! Configuration that belongs to one domain: which driver its users come from, and how that reaches them.
//!
//! Only the options of [`GROUPS`] can be set. Sensitive ones are kept, used, and never shown.

pub(crate) mod api;
pub mod rules;

use madang_store::{Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The kind of domains' configurations. `metadata.name` is the domain's id.
#[derive(Debug)]
pub struct DomainConfig;

/// What is set for a domain. May hold a password, so it is never logged (the store prints only names).
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainConfigSpec {
    /// Options by group: `{"ldap": {"url": "ldap://…"}}`.
    pub groups: Map<String, Value>,
}

impl Kind for DomainConfig {
    const NAME: &'static str = "domain-configs";
    type Spec = DomainConfigSpec;
    type Status = ();
}

impl DomainConfig {
    /// Where the configuration of a domain is stored.
    pub fn key(domain_id: &str) -> Key {
        Key::new(Self::NAME, "", "", domain_id)
    }
}

/// A group of options.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    /// What clients may see.
    shown: &'static [&'static str],
    /// What they may set, but not see.
    sensitive: &'static [&'static str],
}

/// What can be set for a domain, as Keystone has it.
pub(crate) const GROUPS: [Group; 2] = [
    Group {
        name: "identity",
        shown: &["driver", "list_limit"],
        sensitive: &[],
    },
    Group {
        name: "ldap",
        shown: &[
            "url",
            "user",
            "suffix",
            "query_scope",
            "page_size",
            "alias_dereferencing",
            "debug_level",
            "chase_referrals",
            "user_tree_dn",
            "user_filter",
            "user_objectclass",
            "user_id_attribute",
            "user_name_attribute",
            "user_mail_attribute",
            "user_description_attribute",
            "user_pass_attribute",
            "user_enabled_attribute",
            "user_enabled_invert",
            "user_enabled_mask",
            "user_enabled_default",
            "user_attribute_ignore",
            "user_default_project_id_attribute",
            "user_enabled_emulation",
            "user_enabled_emulation_dn",
            "user_enabled_emulation_use_group_config",
            "user_additional_attribute_mapping",
            "group_tree_dn",
            "group_filter",
            "group_objectclass",
            "group_id_attribute",
            "group_name_attribute",
            "group_members_are_ids",
            "group_member_attribute",
            "group_desc_attribute",
            "group_attribute_ignore",
            "group_additional_attribute_mapping",
            "tls_cacertfile",
            "tls_cacertdir",
            "use_tls",
            "tls_req_cert",
            "use_pool",
            "pool_size",
            "pool_retry_max",
            "pool_retry_delay",
            "pool_connection_timeout",
            "pool_connection_lifetime",
            "use_auth_pool",
            "auth_pool_size",
            "auth_pool_connection_lifetime",
        ],
        sensitive: &["password"],
    },
];

impl Group {
    /// The group of a name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        GROUPS.iter().find(|group| group.name == name)
    }

    /// Whether an option can be set.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.shows(option) || self.sensitive.contains(&option)
    }

    /// Whether clients may see an option.
    pub(crate) fn shows(&self, option: &str) -> bool {
        self.shown.contains(&option)
    }

    /// What holds where nothing is set, as Keystone has it.
    pub(crate) fn defaults(&self) -> Map<String, Value> {
        let options = self.shown.iter().map(|option| ((*option).to_owned(), default(option)));
        options.collect()
    }
}

/// The value of an option where nothing is set.
fn default(option: &str) -> Value {
    match option {
        "driver" => json!("sql"),
        "url" => json!("ldap://localhost"),
        "suffix" => json!("cn=example,cn=com"),
        "query_scope" => json!("one"),
        "alias_dereferencing" => json!("default"),
        "user_objectclass" => json!("inetOrgPerson"),
        "user_id_attribute" | "group_id_attribute" => json!("cn"),
        "user_name_attribute" => json!("sn"),
        "user_mail_attribute" => json!("mail"),
        "user_description_attribute" | "group_desc_attribute" => json!("description"),
        "user_pass_attribute" => json!("userPassword"),
        "user_enabled_attribute" => json!("enabled"),
        "user_enabled_default" => json!("True"),
        "group_objectclass" => json!("groupOfNames"),
        "group_name_attribute" => json!("ou"),
        "group_member_attribute" => json!("member"),
        "tls_req_cert" => json!("demand"),
        "page_size" | "user_enabled_mask" => json!(0),
        "pool_size" => json!(10),
        "pool_retry_max" => json!(3),
        "pool_retry_delay" => json!(0.1),
        "pool_connection_timeout" => json!(-1),
        "pool_connection_lifetime" => json!(600),
        "auth_pool_size" => json!(100),
        "auth_pool_connection_lifetime" => json!(60),
        "use_pool" | "use_auth_pool" => json!(true),
        "use_tls"
        | "user_enabled_invert"
        | "user_enabled_emulation"
        | "user_enabled_emulation_use_group_config"
        | "group_members_are_ids" => json!(false),
        "user_attribute_ignore" => json!(["default_project_id"]),
        "group_attribute_ignore" | "user_additional_attribute_mapping" | "group_additional_attribute_mapping" => {
            json!([])
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_can_be_set_but_not_seen() {
        let ldap = Group::named("ldap").unwrap();
        assert!(ldap.has("password") && !ldap.shows("password"));
        assert!(!ldap.defaults().contains_key("password"));
        assert!(!ldap.has("driver") && Group::named("token").is_none());
    }
}
