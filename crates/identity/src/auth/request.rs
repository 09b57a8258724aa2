//! The body of `POST /v3/auth/tokens`.

use std::sync::LazyLock;

use madang_http::{Failure, Form, Schema};
use serde_json::{Value, json};

use super::{CredentialRef, DomainRef, Login, Proof, ScopeRequest, UserRef, unauthenticated};
use crate::oauth1::signature::Signed;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": "string" });
    let domain = json!({ "type": "object", "properties": { "id": text, "name": text } });
    let user = json!({
        "type": "object",
        "properties": { "id": text, "name": text, "password": text, "passcode": text, "domain": domain },
    });
    let credential = json!({
        "type": "object",
        "properties": { "id": text, "name": text, "secret": text, "user": user },
        "required": ["secret"],
    });
    let identity = json!({
        "type": "object",
        "properties": {
            "methods": { "type": "array", "items": text },
            "token": { "type": "object", "properties": { "id": text }, "required": ["id"] },
            "password": { "type": "object", "properties": { "user": user }, "required": ["user"] },
            "application_credential": credential,
            "totp": { "type": "object", "properties": { "user": user }, "required": ["user"] },
        },
        "required": ["methods"],
    });
    let project = json!({ "type": ["object", "null"], "properties": { "id": text, "name": text, "domain": domain } });
    let scope = json!({
        "type": ["object", "string"],
        "properties": {
            "project": project,
            "domain": domain,
            "system": { "type": "object", "properties": { "all": { "type": "boolean" } } },
            "unscoped": { "type": "object" },
            "OS-TRUST:trust": { "type": "object", "properties": { "id": text }, "required": ["id"] },
        },
    });
    let auth = json!({
        "type": "object",
        "properties": { "identity": identity, "scope": scope },
        "required": ["identity"],
    });
    Schema::new(
        Form::Keystone,
        json!({ "type": "object", "properties": { "auth": auth }, "required": ["auth"] }),
    )
});

/// Reads the body. `signed` is what the request's own signature says.
///
/// # Errors
/// 400 naming what is missing, 401 for a method that is not known.
pub(crate) fn read(body: &Value, signed: Option<&Signed>) -> Result<Login, Failure> {
    SCHEMA.check(body)?;
    let auth = &body["auth"];
    let identity = &auth["identity"];
    let methods = identity["methods"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let proofs = methods
        .map(|method| proof(method, identity, signed))
        .collect::<Result<Vec<_>, _>>()?;
    if proofs.is_empty() {
        return Err(unauthenticated());
    }
    Ok(Login {
        proofs,
        scope: scope(auth.get("scope"))?,
    })
}

fn proof(method: &str, identity: &Value, signed: Option<&Signed>) -> Result<Proof, Failure> {
    let given = identity.get(method).ok_or_else(|| expecting(method, "identity"));
    match method {
        "password" => {
            let user = &given?["user"];
            let password = text(user, "password").ok_or_else(|| expecting("password", "user"))?;
            Ok(Proof::Password {
                user: user_ref(user)?,
                password,
            })
        }
        "token" => Ok(Proof::Token(text(given?, "id").unwrap_or_default())),
        "application_credential" => {
            let given = given?;
            let credential = match (text(given, "id"), text(given, "name")) {
                (Some(id), _) => CredentialRef::Id(id),
                (None, Some(name)) => CredentialRef::Name(name, user_ref(&given["user"])?),
                (None, None) => return Err(expecting("id or name", "application_credential")),
            };
            Ok(Proof::ApplicationCredential {
                credential,
                secret: text(given, "secret").unwrap_or_default(),
            })
        }
        "totp" => {
            let user = &given?["user"];
            let passcode = text(user, "passcode").ok_or_else(|| expecting("passcode", "user"))?;
            Ok(Proof::Totp {
                user: user_ref(user)?,
                passcode,
            })
        }
        "oauth1" => {
            given?;
            let signed = signed.filter(|signed| signed.get("oauth_token").is_some());
            Ok(Proof::OAuth1(
                signed.cloned().ok_or_else(|| expecting("oauth_token", "request"))?,
            ))
        }
        // A provider's token for another scope, as older clients ask for it.
        "mapped" | "openid" | "saml2" if given.as_ref().is_ok_and(|given| given["id"].is_string()) => {
            Ok(Proof::Token(text(given?, "id").unwrap_or_default()))
        }
        _ => Err(Failure::unauthenticated(
            "Attempted to authenticate with an unsupported method.",
        )),
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().map(str::to_owned)
}

fn user_ref(user: &Value) -> Result<UserRef, Failure> {
    match (text(user, "id"), text(user, "name")) {
        (Some(id), _) => Ok(UserRef::Id(id)),
        (None, Some(name)) => Ok(UserRef::Name(name, domain_ref(&user["domain"], "user")?)),
        (None, None) => Err(expecting("id or name", "user")),
    }
}

fn domain_ref(domain: &Value, within: &str) -> Result<DomainRef, Failure> {
    match (text(domain, "id"), text(domain, "name")) {
        (Some(id), _) => Ok(DomainRef::Id(id)),
        (None, Some(name)) => Ok(DomainRef::Name(name)),
        (None, None) => Err(expecting("domain", within)),
    }
}

fn scope(scope: Option<&Value>) -> Result<ScopeRequest, Failure> {
    let Some(scope) = scope else {
        return Ok(ScopeRequest::Default);
    };
    if let Some(word) = scope.as_str() {
        return if word == "unscoped" {
            Ok(ScopeRequest::Unscoped)
        } else {
            Err(expecting("unscoped", "scope"))
        };
    }
    let given = |name: &str| scope.get(name).filter(|value| !value.is_null());
    let named = ["project", "domain", "system", "unscoped", "OS-TRUST:trust"]
        .into_iter()
        .filter(|name| given(name).is_some());
    if named.count() > 1 {
        return Err(expecting("project, domain, or system", "scope"));
    }
    if let Some(trust) = given("OS-TRUST:trust") {
        return Ok(ScopeRequest::Trust(text(trust, "id").unwrap_or_default()));
    }
    if let Some(project) = given("project") {
        return match (text(project, "id"), text(project, "name")) {
            (Some(id), _) => Ok(ScopeRequest::Project(id)),
            (None, Some(name)) => Ok(ScopeRequest::ProjectNamed(
                name,
                domain_ref(&project["domain"], "project")?,
            )),
            (None, None) => Err(expecting("id or name", "project")),
        };
    }
    if let Some(domain) = given("domain") {
        return Ok(ScopeRequest::Domain(domain_ref(domain, "scope")?));
    }
    if let Some(system) = given("system") {
        return if system["all"] == true {
            Ok(ScopeRequest::System)
        } else {
            Err(expecting("all", "system"))
        };
    }
    if given("unscoped").is_some() {
        Ok(ScopeRequest::Unscoped)
    } else {
        Ok(ScopeRequest::Default)
    }
}

/// Keystone's `ValidationError`.
fn expecting(attribute: &str, target: &str) -> Failure {
    let message = format!(
        "Expecting to find {attribute} in {target}. The server could not comply with the request since it is either \
         malformed or otherwise incorrect. The client is assumed to be in error."
    );
    Failure::invalid(message).at(format!("{target}.{attribute}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_scope(scope: Value) -> Result<Login, Failure> {
        let user = json!({ "name": "a", "domain": { "id": "default" }, "password": "p" });
        let identity = json!({ "methods": ["password"], "password": { "user": user } });
        read(&json!({ "auth": { "identity": identity, "scope": scope } }), None)
    }

    #[test]
    fn every_scope_is_understood() {
        let project = json!({ "project": { "name": "p", "domain": { "name": "Default" } } });
        assert!(matches!(
            with_scope(project).unwrap().scope,
            ScopeRequest::ProjectNamed(..)
        ));
        assert!(matches!(
            with_scope(json!({ "project": { "id": "p" } })).unwrap().scope,
            ScopeRequest::Project(_)
        ));
        assert!(matches!(
            with_scope(json!({ "domain": { "id": "d" } })).unwrap().scope,
            ScopeRequest::Domain(_)
        ));
        assert!(matches!(
            with_scope(json!({ "system": { "all": true } })).unwrap().scope,
            ScopeRequest::System
        ));
        for unscoped in [json!("unscoped"), json!({ "unscoped": {} })] {
            assert!(matches!(with_scope(unscoped).unwrap().scope, ScopeRequest::Unscoped));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let both = json!({ "project": { "id": "p" }, "domain": { "id": "d" } });
        for bad in [
            both,
            json!({ "project": { "name": "p" } }),
            json!({ "domain": {} }),
            json!({ "system": {} }),
        ] {
            let failure = with_scope(bad.clone()).unwrap_err();
            assert!(
                failure.message.starts_with("Expecting to find "),
                "{bad}: {}",
                failure.message
            );
        }
        for bad in [
            json!({}),
            json!({ "auth": {} }),
            json!({ "auth": { "identity": { "methods": "password" } } }),
        ] {
            assert!(read(&bad, None).is_err(), "{bad}");
        }
        let oauth = json!({ "auth": { "identity": { "methods": ["oauth7"] } } });
        assert_eq!(
            read(&oauth, None).unwrap_err().kind,
            madang_store::ErrorKind::Unauthenticated
        );
    }
}
