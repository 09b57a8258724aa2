//! The rules language, as Keystone documents it.

use serde_json::{Value, json};

use super::{
    engine::{Assertion, Mapped, MappingError, UserType, Version, process},
    read,
};

fn assertion(claims: &[(&str, &[&str])]) -> Assertion {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    claims
        .iter()
        .map(|(name, values)| ((*name).to_owned(), owned(values)))
        .collect()
}

/// Somebody like those in Keystone's documentation.
fn bob() -> Assertion {
    assertion(&[
        ("UserName", &["bob"]),
        ("FirstName", &["Bob"]),
        ("LastName", &["Thompson"]),
        ("Email", &["bob@example.com"]),
        ("orgPersonType", &["Employee", "Tester"]),
        ("groups", &["Developers", "openstack-admins", "openstack-users"]),
    ])
}

fn map(rules: Value) -> Result<Mapped, MappingError> {
    map_by(Version::One, rules)
}

fn map_by(version: Version, rules: Value) -> Result<Mapped, MappingError> {
    process(version, &rules, &bob())
}

fn one(local: Value, remote: Value) -> Value {
    json!([{ "local": local, "remote": remote }])
}

#[test]
fn places_are_the_matches_in_their_order() {
    let rules = one(
        json!([{ "user": { "name": "{0} {1}", "email": "{2}" } }, { "group": { "id": "0cd5e9" } }]),
        json!([
            { "type": "FirstName" },
            { "type": "orgPersonType", "any_one_of": ["Tester"] },
            { "type": "LastName" },
            { "type": "orgPersonType", "not_any_of": ["Contractor", "Guest"] },
            { "type": "Email" },
        ]),
    );
    let mapped = map(rules).unwrap();
    assert_eq!(mapped.user.name.as_deref(), Some("Bob Thompson"));
    assert_eq!(mapped.user.email.as_deref(), Some("bob@example.com"));
    assert_eq!(mapped.user.kind, UserType::Ephemeral);
    assert_eq!(mapped.group_ids, ["0cd5e9"]);
}

#[test]
fn all_requirements_of_a_rule_must_hold() {
    for (remote, holds) in [
        (
            json!([{ "type": "orgPersonType", "any_one_of": ["Tester", "Boss"] }]),
            true,
        ),
        (json!([{ "type": "orgPersonType", "any_one_of": ["Boss"] }]), false),
        (
            json!([{ "type": "orgPersonType", "any_one_of": ["^Test"], "regex": true }]),
            true,
        ),
        (json!([{ "type": "orgPersonType", "any_one_of": ["^Test"] }]), false),
        (json!([{ "type": "orgPersonType", "not_any_of": ["Tester"] }]), false),
        (
            json!([{ "type": "Email", "not_any_of": [".*@example.com$"], "regex": true }]),
            false,
        ),
        (
            json!([{ "type": "Email", "not_any_of": [".*@example.org$"], "regex": true }]),
            true,
        ),
        (json!([{ "type": "Missing" }]), false),
        (json!([{ "type": "Missing", "not_any_of": ["x"] }]), false),
        (json!([{ "type": "Email" }, { "type": "Missing" }]), false),
        (json!([{ "type": "Email", "whitelist": [] }]), true),
    ] {
        let mapped = map(one(json!([{ "user": { "name": "x" } }]), remote.clone()));
        assert_eq!(mapped.is_ok(), holds, "{remote}");
        assert!(holds || mapped == Err(MappingError::NoRule), "{remote}");
    }
}

#[test]
fn lists_of_groups_pass_a_whitelist_or_a_blacklist() {
    let domain = json!({ "id": "0cd5e9" });
    for (filter, names) in [
        (json!({}), vec!["Developers", "openstack-admins", "openstack-users"]),
        (json!({ "whitelist": ["Developers", "OpsTeam"] }), vec!["Developers"]),
        (
            json!({ "whitelist": ["^openstack-"], "regex": true }),
            vec!["openstack-admins", "openstack-users"],
        ),
        (
            json!({ "blacklist": ["Developers"] }),
            vec!["openstack-admins", "openstack-users"],
        ),
        (
            json!({ "blacklist": ["admins$"], "regex": true }),
            vec!["Developers", "openstack-users"],
        ),
        (json!({ "whitelist": ["none"] }), vec![]),
    ] {
        let mut requirement = filter.clone();
        requirement["type"] = json!("groups");
        let rules = one(
            json!([{ "user": { "name": "{0}" } }, { "groups": "{1}", "domain": domain }]),
            json!([{ "type": "UserName" }, requirement]),
        );
        let mapped = map(rules).unwrap();
        let found: Vec<&str> = mapped.group_names.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(found, names, "{filter}");
        assert!(
            mapped
                .group_names
                .iter()
                .all(|group| group.domain.id.as_deref() == Some("0cd5e9"))
        );
    }
}

#[test]
fn groups_are_named_by_id_by_name_and_as_json() {
    let rules = one(
        json!([
                    { "user": { "name": "{0}" }, "group_ids": "{1}" },
                    { "group": { "id": "Developers" } },
                    { "group": { "name": "manager", "domain": { "name": "corp" } } },
        { "groups": "{2}" },
                ]),
        json!([{ "type": "UserName" }, { "type": "groups", "blacklist": ["openstack-users"] }, { "type": "more" }]),
    );
    let mut claims = bob();
    let ops = r#"JSON:{"name": "ops", "domain": {"name": "corp"}}"#;
    claims.insert("more".to_owned(), vec![ops.to_owned()]);
    let mapped = process(Version::One, &rules, &claims).unwrap();
    assert_eq!(mapped.group_ids, ["Developers", "openstack-admins"]);
    let names: Vec<_> = mapped
        .group_names
        .iter()
        .map(|group| (group.name.as_str(), group.domain.name.as_deref()))
        .collect();
    assert_eq!(names, [("manager", Some("corp")), ("ops", Some("corp"))]);
    let without_domain = one(json!([{ "groups": "{0}" }]), json!([{ "type": "groups" }]));
    assert!(matches!(map(without_domain), Err(MappingError::NoDomain(_))));
}

#[test]
fn of_several_rules_the_first_user_counts_and_groups_add_up() {
    let rules = json!([
        { "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "Nickname" }] },
        {
            "local": [{ "user": { "name": "{0}", "type": "local", "domain": { "id": "default" } } }, { "group": { "id": "a" } }],
            "remote": [{ "type": "UserName" }],
        },
        { "local": [{ "user": { "name": "second" } }, { "group": { "id": "b" } }], "remote": [{ "type": "Email" }] },
    ]);
    let mapped = map(rules).unwrap();
    assert_eq!(mapped.user.name.as_deref(), Some("bob"));
    assert_eq!(mapped.user.kind, UserType::Local);
    assert_eq!(mapped.group_ids, ["a", "b"]);
}

#[test]
fn the_second_version_honors_the_domain_beside_user_and_projects() {
    let local = json!([{
        "user": { "name": "{0}" },
        "projects": [
            { "name": "{0}-lab", "roles": [{ "name": "member" }] },
            { "name": "shared", "roles": [{ "name": "reader" }] },
        ],
        "domain": { "id": "corp" },
    }]);
    let rules = one(local, json!([{ "type": "UserName" }]));
    let first = map(rules.clone()).unwrap();
    assert_eq!(first.user.domain, None);
    assert_eq!(first.projects[0].name, "bob-lab");
    assert_eq!(first.projects[0].domain, None);
    let second = map_by(Version::Two, rules).unwrap();
    assert_eq!(second.user.domain.unwrap().id.as_deref(), Some("corp"));
    assert!(
        second
            .projects
            .iter()
            .all(|p| p.domain.as_ref().unwrap().id.as_deref() == Some("corp"))
    );
}

#[test]
fn the_third_version_takes_projects_from_a_claim() {
    let rules = one(
        json!([{ "user": { "name": "{0}" }, "projects_json": "{1}", "domain": { "id": "corp" } }]),
        json!([{ "type": "UserName" }, { "type": "projects" }]),
    );
    let mut claims = bob();
    let listed = r#"[{"name": "p1", "roles": [{"name": "member"}, {"name": "load-balancer_member"}]}, {"name": "p2", "roles": [], "domain": {"name": "other"}}]"#;
    claims.insert("projects".to_owned(), vec![listed.to_owned()]);
    let mapped = process(Version::Three, &rules, &claims).unwrap();
    assert_eq!(mapped.projects.len(), 2);
    assert_eq!(mapped.projects[0].roles[1].name, "load-balancer_member");
    assert_eq!(mapped.projects[0].domain.as_ref().unwrap().id.as_deref(), Some("corp"));
    assert_eq!(
        mapped.projects[1].domain.as_ref().unwrap().name.as_deref(),
        Some("other")
    );
    claims.insert("projects".to_owned(), vec!["[{\"name\": 1}]".to_owned()]);
    assert!(matches!(
        process(Version::Three, &rules, &claims),
        Err(MappingError::Rule(_))
    ));
}

#[test]
fn a_place_without_a_match_is_named() {
    let rules = one(json!([{ "user": { "name": "{1}" } }]), json!([{ "type": "UserName" }]));
    assert_eq!(map(rules), Err(MappingError::NoSuchMatch(1)));
}

#[test]
fn what_is_no_mapping_is_refused_when_it_is_written() {
    let remote = json!([{ "type": "UserName" }]);
    let user = json!([{ "user": { "name": "{0}" } }]);
    let good = one(user.clone(), remote.clone());
    read(&json!({ "rules": good }), None).unwrap();
    read(&good, Some("2.0")).unwrap();
    let project = json!([{ "projects": [{ "name": "p", "roles": [{ "name": "r" }], "domain": { "id": "d" } }] }]);
    read(&one(project.clone(), remote.clone()), Some("2.0")).unwrap();
    for (rules, version) in [
        (json!([]), None),
        (json!([{ "local": [] }]), None),
        (one(user.clone(), json!([])), None),
        (one(json!([{ "user": { "color": "red" } }]), remote.clone()), None),
        (one(json!([{ "user": { "type": "magic" } }]), remote.clone()), None),
        (
            one(json!([{ "group": { "name": "without domain" } }]), remote.clone()),
            None,
        ),
        (one(json!([{ "groups": ["a"] }]), remote.clone()), None),
        (
            one(
                user.clone(),
                json!([{ "type": "a", "any_one_of": ["x"], "whitelist": ["y"] }]),
            ),
            None,
        ),
        (one(user.clone(), json!([{ "type": "a", "any_one_of": "x" }])), None),
        (
            one(
                user.clone(),
                json!([{ "type": "a", "any_one_of": ["("], "regex": true }]),
            ),
            None,
        ),
        (one(project, remote.clone()), None),
        (one(json!([{ "projects_json": "{0}" }]), remote.clone()), Some("2.0")),
        (good, Some("4.0")),
    ] {
        assert!(read(&json!({ "rules": rules }), version).is_err(), "{rules}");
    }
}
