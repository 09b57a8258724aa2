//! What an entry of a directory means: pure, from attributes to people and teams, and the filters that find them.

use std::collections::HashMap;

use ldap3::{SearchEntry, ldap_escape};
use sha2::{Digest, Sha256};

use super::LdapOptions;

/// A user of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// The public id.
    pub(super) id: String,
    pub(super) dn: String,
    /// What the directory names it by; groups may list it.
    pub(super) local_id: String,
    pub(super) name: String,
    pub(super) mail: Option<String>,
    pub(super) description: Option<String>,
    pub(super) enabled: bool,
}

/// A group of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Team {
    pub(super) id: String,
    pub(super) dn: String,
    pub(super) name: String,
    pub(super) description: String,
    /// Distinguished names in lower case, or local ids, as the options say.
    pub(super) members: Vec<String>,
}

/// Keystone's public id of an entry: its values, hashed in the order of their names.
pub(super) fn public_id(domain_id: &str, entity: &str, local_id: &str) -> String {
    let digest = Sha256::new()
        .chain_update(domain_id)
        .chain_update(entity)
        .chain_update(local_id)
        .finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A user, where the entry has what one needs.
pub(super) fn person(options: &LdapOptions, domain_id: &str, entry: &SearchEntry) -> Option<Person> {
    let local_id = first(entry, &options.user_id_attribute)?;
    Some(Person {
        id: public_id(domain_id, "user", local_id),
        dn: entry.dn.clone(),
        local_id: local_id.to_owned(),
        name: first(entry, &options.user_name_attribute)?.to_owned(),
        mail: first(entry, &options.user_mail_attribute).map(str::to_owned),
        description: first(entry, &options.user_description_attribute).map(str::to_owned),
        enabled: is_enabled(options, first(entry, &options.user_enabled_attribute)),
    })
}

/// A group, where the entry has what one needs.
pub(super) fn team(options: &LdapOptions, domain_id: &str, entry: &SearchEntry) -> Option<Team> {
    let local_id = first(entry, &options.group_id_attribute)?;
    let members = values(entry, &options.group_member_attribute).iter();
    Some(Team {
        id: public_id(domain_id, "group", local_id),
        dn: entry.dn.clone(),
        name: first(entry, &options.group_name_attribute)?.to_owned(),
        description: first(entry, &options.group_desc_attribute)
            .unwrap_or_default()
            .to_owned(),
        members: members
            .map(|member| match options.group_members_are_ids {
                true => member.clone(),
                false => comparable(member),
            })
            .collect(),
    })
}

/// How groups list a person.
pub(super) fn as_member(options: &LdapOptions, person: &Person) -> String {
    if options.group_members_are_ids {
        person.local_id.clone()
    } else {
        comparable(&person.dn)
    }
}

/// Distinguished names are the same whatever their case and the blanks after commas.
fn comparable(dn: &str) -> String {
    let parts = dn.split(',').map(str::trim);
    parts.collect::<Vec<_>>().join(",").to_lowercase()
}

fn is_enabled(options: &LdapOptions, value: Option<&str>) -> bool {
    let value = value.unwrap_or(&options.user_enabled_default).trim();
    if options.user_enabled_mask != 0 {
        let flags: i64 = value.parse().unwrap_or_default();
        return flags & options.user_enabled_mask != options.user_enabled_mask;
    }
    let says = !["false", "no", "off", "0", ""].contains(&value.to_lowercase().as_str());
    says != options.user_enabled_invert
}

/// All users.
pub(super) fn all_users(options: &LdapOptions) -> String {
    format!(
        "(&(objectClass={}){})",
        ldap_escape(&options.user_objectclass),
        options.user_filter
    )
}

/// The user with a name. Whatever is in the name, it stays a name.
pub(super) fn user_named(options: &LdapOptions, name: &str) -> String {
    let (attribute, name) = (&options.user_name_attribute, ldap_escape(name));
    format!(
        "(&(objectClass={}){}({attribute}={name}))",
        ldap_escape(&options.user_objectclass),
        options.user_filter
    )
}

/// All groups.
pub(super) fn all_groups(options: &LdapOptions) -> String {
    format!(
        "(&(objectClass={}){})",
        ldap_escape(&options.group_objectclass),
        options.group_filter
    )
}

/// The groups that somebody is in.
pub(super) fn groups_of(options: &LdapOptions, person: &Person) -> String {
    let member = if options.group_members_are_ids {
        &person.local_id
    } else {
        &person.dn
    };
    let (attribute, member) = (&options.group_member_attribute, ldap_escape(member.as_str()));
    format!(
        "(&(objectClass={}){}({attribute}={member}))",
        ldap_escape(&options.group_objectclass),
        options.group_filter
    )
}

fn first<'e>(entry: &'e SearchEntry, attribute: &str) -> Option<&'e str> {
    values(entry, attribute)
        .first()
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// Attributes are the same whatever their case.
fn values<'e>(entry: &'e SearchEntry, attribute: &str) -> &'e [String] {
    let attrs: &HashMap<String, Vec<String>> = &entry.attrs;
    let found = attrs.iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    found.map(|(_, values)| values.as_slice()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(more: serde_json::Value) -> LdapOptions {
        let mut all = serde_json::json!({"domain": "corp", "url": "ldap://x", "suffix": "dc=x"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn entry(dn: &str, attrs: &[(&str, &str)]) -> SearchEntry {
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in attrs {
            all.entry((*name).to_owned()).or_default().push((*value).to_owned());
        }
        SearchEntry {
            dn: dn.into(),
            attrs: all,
            bin_attrs: HashMap::new(),
        }
    }

    #[test]
    fn ids_are_keystones() {
        // hashlib.sha256(b'default' + b'user' + b'alice').hexdigest()
        assert_eq!(
            public_id("default", "user", "alice"),
            "c43e4dd25aba357630477a0f49fde7da8567b753ddd430c9555ad09aa2a76e9e"
        );
    }

    #[test]
    fn an_entry_needs_an_id_and_a_name_in_whatever_case() {
        let options = options(serde_json::json!({"user_name_attribute": "uid"}));
        let found = person(
            &options,
            "d",
            &entry("cn=A,dc=x", &[("CN", "a"), ("Uid", "alice"), ("mail", "a@x")]),
        )
        .unwrap();
        assert_eq!(
            (found.name.as_str(), found.mail.as_deref(), found.enabled),
            ("alice", Some("a@x"), true)
        );
        assert!(person(&options, "d", &entry("cn=A,dc=x", &[("cn", "a")])).is_none());
    }

    #[test]
    fn enabled_is_a_word_or_a_bit_and_may_be_turned_round() {
        let word = options(serde_json::json!({}));
        assert!(is_enabled(&word, None) && is_enabled(&word, Some("TRUE")) && !is_enabled(&word, Some("FALSE")));
        let bit = options(serde_json::json!({"user_enabled_mask": 2, "user_enabled_default": "512"}));
        assert!(is_enabled(&bit, None) && is_enabled(&bit, Some("512")) && !is_enabled(&bit, Some("514")));
        let lock = options(serde_json::json!({"user_enabled_invert": true, "user_enabled_default": "false"}));
        assert!(is_enabled(&lock, None) && !is_enabled(&lock, Some("true")));
    }

    #[test]
    fn a_name_stays_a_name() {
        let options = options(serde_json::json!({"user_filter": "(x=y)"}));
        let filter = user_named(&options, "*)(uid=admin");
        assert_eq!(filter, "(&(objectClass=inetOrgPerson)(x=y)(sn=\\2a\\29\\28uid=admin))");
        assert!(ldap3::parse_filter(&filter).is_ok());
    }

    #[test]
    fn members_are_found_by_distinguished_name_or_by_id() {
        let by_name = options(serde_json::json!({}));
        let someone = person(&by_name, "d", &entry("cn=A, dc=X", &[("cn", "a"), ("sn", "alice")])).unwrap();
        let group = team(
            &by_name,
            "d",
            &entry("cn=g", &[("cn", "g"), ("ou", "g"), ("member", "CN=a,dc=x")]),
        )
        .unwrap();
        assert!(group.members.contains(&as_member(&by_name, &someone)));
        let by_id = options(serde_json::json!({"group_members_are_ids": true}));
        assert_eq!(as_member(&by_id, &someone), "a");
    }
}
