//! Receipts: what a login that lacks a factor is answered with, so that the next one need not prove everything again.
//!
//! A receipt is sealed like a token, for a scope that no token has, and lives some minutes.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{now, render::time, unauthenticated};
use crate::{
    Identity,
    project::Project,
    token::{Claims, Methods, ScopeClaim},
    user::{User, UserSpec},
};
use madang_http::Failure;
use madang_store::Resource;

/// Keystone's lifetime of receipts.
const LIFE: SignedDuration = SignedDuration::from_mins(5);

/// A login that went well so far.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What the client shows with the next login.
    pub sealed: String,
    /// The answer's body.
    pub body: Value,
}

/// The sets of methods of which a user has to prove one whole; none where any method is enough. A method that there is not
/// counts for nothing, so that nobody is locked out by a wrong word.
fn rules(user: &UserSpec) -> Vec<Vec<String>> {
    if user.options.get("multi_factor_auth_enabled") == Some(&Value::Bool(false)) {
        return Vec::new();
    }
    let rules = user.options.get("multi_factor_auth_rules").and_then(Value::as_array);
    let known = |rule: &Value| -> Vec<String> {
        let methods = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
        let known = methods.filter(|method| Methods::are_named(method));
        known.map(str::to_owned).collect()
    };
    let rules = rules.into_iter().flatten().map(known);
    rules.filter(|rule| !rule.is_empty()).collect()
}

impl Identity {
    /// A receipt, where a user has not proved enough yet.
    pub(super) fn receipt(&self, user: &Resource<User>, methods: Methods) -> Option<Receipt> {
        let mut rules = rules(&user.spec);
        let names = methods.names();
        let enough = rules
            .iter()
            .any(|rule| rule.iter().all(|method| names.contains(method)));
        if rules.is_empty() || enough {
            return None;
        }
        // What can still be made whole with what was proved.
        rules.retain(|rule| rule.iter().any(|method| names.contains(method)));
        let issued = now();
        let claims = Claims {
            user_id: user.name().to_owned(),
            scope: ScopeClaim::Receipt,
            methods,
            audit: Uuid::new_v4(),
            chain: None,
            issued,
            expires: issued + LIFE,
            application_credential: None,
            trust: None,
            oauth1: None,
            federated: None,
        };
        let domain_id = &user.spec.domain_id;
        let domain = self.store.get::<Project>(&Project::key(domain_id));
        let domain = json!({ "id": domain_id, "name": domain.map(|domain| domain.spec.name.clone()) });
        let receipt = json!({
            "methods": names,
            "user": { "domain": domain, "id": user.name(), "name": user.spec.name },
            "expires_at": time(claims.expires),
            "issued_at": time(claims.issued),
        });
        Some(Receipt {
            sealed: self.keys.seal(&claims),
            body: json!({ "receipt": receipt, "required_auth_methods": rules }),
        })
    }

    /// What a receipt says was proved, and by whom.
    ///
    /// # Errors
    /// 401 for one that does not hold.
    pub(super) fn open_receipt(&self, sealed: &str) -> Result<(String, Methods), Failure> {
        let claims = self.keys.open_token(sealed);
        let claims = claims.filter(|claims| claims.scope == ScopeClaim::Receipt && claims.expires > Timestamp::now());
        let claims = claims.ok_or_else(unauthenticated)?;
        Ok((claims.user_id, claims.methods))
    }
}
