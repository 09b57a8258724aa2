//! A token as Keystone describes it.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Identity, Scope,
    application_credential::ApplicationCredential,
    catalog::render::{CatalogService, catalog},
    federation::{
        service_provider::{self, InToken},
        shadow,
    },
    oauth1::AccessToken,
    token::validate::Validated,
    trust::Trust,
};

#[derive(Serialize)]
struct Body<'a> {
    token: Token<'a>,
}

#[derive(Serialize)]
struct Token<'a> {
    methods: &'a [String],
    user: User<'a>,
    audit_ids: &'a [String],
    expires_at: String,
    issued_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<Member<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_domain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<System>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<Named<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    catalog: Option<Vec<CatalogService>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_credential: Option<Credential>,
    #[serde(rename = "OS-TRUST:trust", skip_serializing_if = "Option::is_none")]
    trust: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_providers: Vec<InToken>,
    #[serde(rename = "OS-OAUTH1", skip_serializing_if = "Option::is_none")]
    oauth1: Option<Value>,
}

#[derive(Serialize)]
struct Named<'a> {
    id: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
struct Member<'a> {
    domain: Named<'a>,
    id: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(flatten)]
    member: Member<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_expires_at: Option<Option<String>>,
    #[serde(rename = "OS-FEDERATION", skip_serializing_if = "Option::is_none")]
    federation: Option<Value>,
}

#[derive(Serialize)]
struct System {
    all: bool,
}

#[derive(Serialize)]
struct Credential {
    id: String,
    name: String,
    restricted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_rules: Option<Vec<crate::application_credential::api::AccessRuleView>>,
}

fn member(of: &crate::DomainMember) -> Member<'_> {
    Member {
        domain: Named {
            id: &of.domain_id,
            name: &of.domain_name,
        },
        id: &of.id,
        name: &of.name,
    }
}

/// The body of the answers to `POST` and `GET /v3/auth/tokens`.
pub(crate) fn token_body(identity: &Identity, validated: &Validated, with_catalog: bool) -> Bytes {
    let subject = &*validated.subject;
    let scoped = subject.scope != Scope::Unscoped;
    let project = match &subject.scope {
        Scope::Project(project) => Some(member(project)),
        _ => None,
    };
    let token = Token {
        methods: &subject.methods,
        user: User {
            member: member(&subject.user),
            // A provider's user has no password, not one that never ends.
            password_expires_at: subject.federated.is_none().then(|| {
                identity
                    .store
                    .get::<crate::user::User>(&crate::user::User::key(&subject.user.id))
                    .and_then(|user| user.spec.password_expires)
                    .map(bare_time)
            }),
            federation: subject.federated.as_ref().map(|session| {
                let groups = shadow::memberships(&identity.store, &subject.user.id, true);
                let groups = groups
                    .iter()
                    .map(|membership| json!({ "id": membership.spec.group_id }));
                json!({
                    "groups": groups.collect::<Vec<_>>(),
                    "identity_provider": { "id": session.provider_id },
                    "protocol": { "id": session.protocol_id },
                })
            }),
        },
        audit_ids: &subject.audit_ids,
        expires_at: time(subject.expires),
        issued_at: time(subject.issued),
        is_domain: project.as_ref().map(|_| false),
        project,
        domain: match &subject.scope {
            Scope::Domain { id, name } => Some(Named { id, name }),
            _ => None,
        },
        system: (subject.scope == Scope::System).then_some(System { all: true }),
        roles: scoped.then(|| {
            subject
                .roles
                .iter()
                .map(|role| Named {
                    id: &role.id,
                    name: &role.name,
                })
                .collect()
        }),
        catalog: (scoped && with_catalog).then(|| catalog(&identity.store, &subject.user.id, subject.project_id())),
        application_credential: subject
            .application_credential
            .as_deref()
            .and_then(|id| credential(identity, id)),
        trust: subject.trust.as_deref().and_then(|id| trust(identity, id)),
        service_providers: service_provider::in_token(&identity.store),
        oauth1: validated.claims.oauth1.as_deref().and_then(|id| oauth1(identity, id)),
    };
    let bytes = serde_json::to_vec(&Body { token }).expect("texts, flags and lists of them are JSON");
    bytes.into()
}

fn credential(identity: &Identity, id: &str) -> Option<Credential> {
    let credential = identity
        .store
        .get::<ApplicationCredential>(&ApplicationCredential::key(id))?;
    let rules = crate::application_credential::api::access_rules_of(&identity.store, &credential);
    Some(Credential {
        id: id.to_owned(),
        name: credential.spec.name.clone(),
        restricted: !credential.spec.unrestricted,
        access_rules: (!rules.is_empty()).then_some(rules),
    })
}

fn trust(identity: &Identity, id: &str) -> Option<Value> {
    let trust = identity.store.get::<Trust>(&Trust::key(id))?;
    let spec = &trust.spec;
    Some(json!({
        "id": id,
        "impersonation": spec.impersonation,
        "trustor_user": { "id": spec.trustor_user_id },
        "trustee_user": { "id": spec.trustee_user_id },
    }))
}

fn oauth1(identity: &Identity, id: &str) -> Option<Value> {
    let access = identity.store.get::<AccessToken>(&AccessToken::key(id))?;
    Some(json!({ "access_token_id": id, "consumer_id": access.spec.consumer_id }))
}

/// A time as Keystone writes some: as [`time`], but without saying that it is UTC.
pub(crate) fn bare_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// A time as Keystone writes it: `2026-01-02T03:04:05.000006Z`.
pub(crate) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_digits() {
        assert_eq!(
            time("2026-01-02T03:04:05.000006Z".parse().unwrap()),
            "2026-01-02T03:04:05.000006Z"
        );
        assert_eq!(
            time("2026-01-02T03:04:05Z".parse().unwrap()),
            "2026-01-02T03:04:05.000000Z"
        );
    }
}
