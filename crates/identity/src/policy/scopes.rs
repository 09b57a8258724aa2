//! With which tokens Keystone's rules can be asked at all, whatever roles are in them: oslo.policy's `enforce_scope`.

use crate::Scope;

/// Rules that are also for tokens of a domain.
const WITH_DOMAIN: &[&str] = &[
    "identity:add_user_to_group",
    "identity:check_grant",
    "identity:check_token",
    "identity:check_user_in_group",
    "identity:create_credential",
    "identity:create_grant",
    "identity:create_group",
    "identity:create_project",
    "identity:create_project_tag",
    "identity:create_user",
    "identity:delete_credential",
    "identity:delete_group",
    "identity:delete_project",
    "identity:delete_project_tag",
    "identity:delete_project_tags",
    "identity:delete_user",
    "identity:ec2tokens_validate",
    "identity:get_credential",
    "identity:get_domain",
    "identity:get_group",
    "identity:get_limit",
    "identity:get_limit_model",
    "identity:get_project",
    "identity:get_project_tag",
    "identity:get_region",
    "identity:get_registered_limit",
    "identity:get_role",
    "identity:get_security_compliance_domain_config",
    "identity:get_user",
    "identity:list_credentials",
    "identity:list_domains",
    "identity:list_grants",
    "identity:list_groups",
    "identity:list_groups_for_user",
    "identity:list_limits",
    "identity:list_project_tags",
    "identity:list_projects",
    "identity:list_regions",
    "identity:list_registered_limits",
    "identity:list_role_assignments",
    "identity:list_role_assignments_for_tree",
    "identity:list_roles",
    "identity:list_user_projects",
    "identity:list_users",
    "identity:list_users_in_group",
    "identity:remove_user_from_group",
    "identity:revoke_grant",
    "identity:revoke_token",
    "identity:revoke_tokens_for_user",
    "identity:s3tokens_validate",
    "identity:update_credential",
    "identity:update_group",
    "identity:update_project",
    "identity:update_project_tags",
    "identity:update_user",
    "identity:validate_token",
];

/// Rules that are for tokens of a project alone.
const PROJECT_ONLY: &[&str] = &[
    "identity:authorize_request_token",
    "identity:create_application_credential",
    "identity:create_trust",
    "identity:delete_access_token",
    "identity:get_access_token",
    "identity:get_access_token_role",
    "identity:list_access_token_roles",
    "identity:list_access_tokens",
];

/// Rules that are for any token.
const ANY: &[&str] = &[
    "identity:get_auth_catalog",
    "identity:get_auth_domains",
    "identity:get_auth_projects",
    "identity:get_auth_system",
];

/// Whether a rule can be asked with a token of a scope. As oslo.policy does, an unscoped one counts as a project's.
pub(super) fn is_for(rule: &str, scope: &Scope) -> bool {
    let is_in = |rules: &[&str]| rules.binary_search(&rule).is_ok();
    if !rule.starts_with("identity:") || is_in(ANY) {
        return true;
    }
    match scope {
        Scope::System => !is_in(PROJECT_ONLY),
        Scope::Domain { .. } => is_in(WITH_DOMAIN),
        Scope::Project(_) | Scope::Unscoped => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        for table in [WITH_DOMAIN, PROJECT_ONLY, ANY] {
            assert!(table.is_sorted());
        }
    }

    #[test]
    fn a_domains_token_is_not_for_all_rules() {
        let domain = Scope::Domain {
            id: "d".to_owned(),
            name: "d".to_owned(),
        };
        assert!(is_for("identity:create_user", &domain));
        assert!(!is_for("identity:create_region", &domain));
        assert!(is_for("os_compute_api:servers:create", &domain));
        assert!(!is_for("identity:create_trust", &Scope::System));
    }
}
