//! The authenticated caller of a request, as handlers get it.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use madang_http::Failure;
use madang_store::Cause;

use crate::{Policy, Subject, bootstrap::DEFAULT_DOMAIN, policy::Target};

/// Methods by which somebody acts for somebody else.
const DELEGATING: [&str; 2] = ["oauth1", "ec2credential"];
const DELEGATED: &str = "delegated tokens cannot manage trusts and credentials";

/// Who asks, and what they may. Extracted by handlers behind [`crate::authenticate`]; without it, 401.
#[derive(Clone)]
pub struct Caller {
    /// The subject of the request's token.
    pub subject: Arc<Subject>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) request_id: Arc<str>,
}

impl Caller {
    /// A caller for tests and for the parts of madang that go through verbs themselves.
    pub fn new(subject: Arc<Subject>, policy: Arc<Policy>, request_id: impl Into<Arc<str>>) -> Self {
        Self {
            subject,
            policy,
            request_id: request_id.into(),
        }
    }

    /// Requires that policy allows `rule` on `target`.
    ///
    /// # Errors
    /// `Forbidden`, reason `PolicyNotAuthorized`, in the words of the original that the rule is named after.
    pub fn enforce(&self, rule: &str, target: &Target<'_>) -> Result<(), Failure> {
        if self.allows(rule, target) {
            Ok(())
        } else {
            Err(refusal(rule))
        }
    }

    /// Requires that policy allows `rule` on what belongs to `project`.
    ///
    /// # Errors
    /// As [`Caller::enforce`].
    pub fn enforce_in(&self, rule: &str, project: &str) -> Result<(), Failure> {
        self.enforce(rule, &[("project_id", project), ("tenant_id", project)])
    }

    /// Whether policy allows `rule` on `target`.
    pub fn allows(&self, rule: &str, target: &Target<'_>) -> bool {
        self.policy.allows(&self.subject, rule, target)
    }

    /// Whether what belongs to `project` may be known to exist at all: it is the caller's own, or the caller is an admin.
    /// Handlers answer 404 for what a caller cannot see.
    pub fn can_see(&self, project: &str) -> bool {
        self.is_admin() || self.subject.project_id() == Some(project)
    }

    /// Whether the caller is an administrator of the cloud.
    pub fn is_admin(&self) -> bool {
        self.policy.allows(&self.subject, "context_is_admin", &[])
    }

    /// The project that the token is for.
    ///
    /// # Errors
    /// `Forbidden` when the token is not for a project.
    pub fn project(&self) -> Result<&str, Failure> {
        let project = self.subject.project_id();
        project.ok_or_else(|| Failure::forbidden("this needs a token that is scoped to a project"))
    }

    /// Requires that the caller acts for itself: a program with somebody's application credential, and who acts under a
    /// trust, must not get itself more than that.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn check_not_delegated(&self) -> Result<(), Failure> {
        if self.subject.trust.is_none() {
            return self.check_primary();
        }
        Err(Failure::forbidden(DELEGATED))
    }

    /// As [`Caller::check_not_delegated`], but for who acts under a trust, which may be handed on.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn check_primary(&self) -> Result<(), Failure> {
        let own = |method: &String| !DELEGATING.contains(&method.as_str());
        if self.subject.application_credential.is_none() && self.subject.methods.iter().all(own) {
            return Ok(());
        }
        Err(Failure::forbidden(DELEGATED))
    }

    /// Whether lists show what is in a domain: with a domain's token, only that one.
    pub fn is_in_sight(&self, domain_id: &str) -> bool {
        self.subject.domain_id().is_none_or(|own| own == domain_id)
    }

    /// The domain of what is made without saying which: the one that the token is for, else the default, as in Keystone.
    pub fn home_domain(&self) -> &str {
        self.subject.domain_id().unwrap_or(DEFAULT_DOMAIN)
    }

    /// The cause to write changes under.
    pub fn cause(&self) -> Cause {
        Cause::request(self.subject.user.id.as_str(), Arc::clone(&self.request_id))
    }

    /// The request's id, `req-…`.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }
}

fn refusal(rule: &str) -> Failure {
    let message = match rule.split_once(':') {
        Some(("identity", _)) => {
            format!("You are not authorized to perform the requested action: {rule}.")
        }
        Some(("os_compute_api" | "placement" | "volume" | "volume_extension", _)) => {
            format!("Policy doesn't allow {rule} to be performed.")
        }
        Some(_) => format!("{rule} is disallowed by policy"),
        None if rule.contains("image") || rule.contains("metadef") => {
            format!("You are not authorized to complete {rule} action.")
        }
        None => format!("rule:{rule} is disallowed by policy"),
    };
    Failure::forbidden(message).because("PolicyNotAuthorized")
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Failure::unauthenticated("The request you have made requires authentication."))
    }
}
