use proptest::prelude::*;

use super::*;
use crate::{DomainMember, RoleRef, Scope};

fn subject(roles: &[&str], scope: Scope) -> Subject {
    let mut subject = (*Subject::system("test")).clone();
    subject.user.id = "u1".to_owned();
    subject.roles = roles
        .iter()
        .map(|name| RoleRef {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
        })
        .collect();
    subject.scope = scope;
    subject
}

fn in_project(roles: &[&str], id: &str) -> Subject {
    subject(
        roles,
        Scope::Project(DomainMember {
            id: id.to_owned(),
            ..DomainMember::default()
        }),
    )
}

fn allows(rule: &str, subject: &Subject, target: &Target<'_>) -> bool {
    let mut policy = Policy::new();
    policy.set("it", rule).unwrap();
    policy.allows(subject, "it", target)
}

#[test]
fn a_member_writes_only_in_its_own_project() {
    let member = in_project(&["member", "reader"], "p1");
    assert!(allows("rule:project_member_or_admin", &member, &[("project_id", "p1")]));
    assert!(!allows(
        "rule:project_member_or_admin",
        &member,
        &[("project_id", "p2")]
    ));
    assert!(!allows(
        "rule:project_member_or_admin",
        &in_project(&["reader"], "p1"),
        &[("project_id", "p1")]
    ));
    assert!(allows(
        "rule:project_member_or_admin",
        &in_project(&["admin"], "p9"),
        &[("project_id", "p1")]
    ));
}

#[test]
fn what_the_target_lacks_never_matches() {
    let nobody = subject(&[], Scope::Unscoped);
    assert!(!allows("project_id:%(project_id)s", &nobody, &[]));
    assert!(!allows("domain_id:%(domain_id)s", &nobody, &[("domain_id", "")]));
    assert!(!allows(
        "project_id:%(other)s",
        &in_project(&[], "p1"),
        &[("project_id", "p1")]
    ));
}

#[test]
fn the_words_bind_as_in_python() {
    let reader = in_project(&["reader"], "p1");
    assert!(allows("role:reader or role:x and role:y", &reader, &[]));
    assert!(!allows("(role:reader or role:x) and role:y", &reader, &[]));
    assert!(allows("not role:x and not (role:y)", &reader, &[]));
    assert!(allows("", &reader, &[]) && allows("@", &reader, &[]) && !allows("!", &reader, &[]));
    assert!(allows("'p1':%(project_id)s", &reader, &[("project_id", "p1")]));
    assert!(allows("system_scope:all", &subject(&[], Scope::System), &[]));
}

#[test]
fn unknown_and_circular_rules_allow_nothing() {
    let mut policy = Policy::new();
    policy.set("a", "rule:b").unwrap();
    policy.set("b", "rule:a").unwrap();
    let admin = in_project(&["admin"], "p1");
    assert!(!policy.allows(&admin, "a", &[]) && !policy.allows(&admin, "no:such", &[]));
}

#[test]
fn broken_rules_are_refused_and_named() {
    let mut policy = Policy::new();
    for rule in [
        "role:a or",
        "(role:a",
        "role:a)",
        "nonsense",
        "role:a role:b",
        "x:a%(b)s",
    ] {
        let error = policy.set("mine", rule).unwrap_err();
        assert!(
            error.to_string().contains("mine") && error.to_string().contains(rule),
            "{error}"
        );
    }
    let deep = "(".repeat(200) + "@" + &")".repeat(200);
    assert!(policy.set("mine", &deep).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(rule in "[a-z:%()s@! 'or]{0,80}") {
        _ = parse::parse(&rule);
    }
}
