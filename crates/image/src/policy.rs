//! Who may do what to images: Glance's rules by their names, with its defaults.

use madang_identity::Caller;
use madang_store::Resource;

use crate::image::Image;

/// Glance's rules. The binary registers them with the one policy engine.
pub const POLICY: &[(&str, &str)] = &[
    (
        "add_image",
        "role:admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
    ),
    ("delete_image", WRITE),
    ("get_image", READ_VISIBLE),
    ("get_images", "rule:context_is_admin or role:reader"),
    ("modify_image", WRITE),
    ("publicize_image", "rule:context_is_admin"),
    ("communitize_image", WRITE),
    ("download_image", USE_VISIBLE),
    ("upload_image", WRITE),
    ("add_member", WRITE),
    ("delete_member", WRITE),
    (
        "get_member",
        "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s))",
    ),
    (
        "get_members",
        "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s))",
    ),
    (
        "modify_member",
        "rule:context_is_admin or (role:member and project_id:%(member_id)s)",
    ),
    ("deactivate", WRITE),
    ("reactivate", WRITE),
    ("copy_image", "rule:context_is_admin"),
    ("tasks_api_access", "rule:context_is_admin"),
    ("stores_info_detail", "rule:context_is_admin"),
    ("metadef_default", ""),
    ("metadef_admin", "rule:context_is_admin"),
    ("get_metadef_namespace", READ_NAMESPACE),
    ("get_metadef_namespaces", "rule:context_is_admin or role:reader"),
    ("modify_metadef_namespace", "rule:metadef_admin"),
    ("add_metadef_namespace", "rule:metadef_admin"),
    ("delete_metadef_namespace", "rule:metadef_admin"),
    ("get_metadef_object", READ_NAMESPACE),
    ("get_metadef_objects", READ_NAMESPACE),
    ("modify_metadef_object", "rule:metadef_admin"),
    ("add_metadef_object", "rule:metadef_admin"),
    ("delete_metadef_object", "rule:metadef_admin"),
    ("list_metadef_resource_types", READ_NAMESPACE),
    ("get_metadef_resource_type", READ_NAMESPACE),
    ("add_metadef_resource_type_association", "rule:metadef_admin"),
    ("remove_metadef_resource_type_association", "rule:metadef_admin"),
    ("get_metadef_property", READ_NAMESPACE),
    ("get_metadef_properties", READ_NAMESPACE),
    ("modify_metadef_property", "rule:metadef_admin"),
    ("add_metadef_property", "rule:metadef_admin"),
    ("remove_metadef_property", "rule:metadef_admin"),
    ("get_metadef_tag", READ_NAMESPACE),
    ("get_metadef_tags", READ_NAMESPACE),
    ("modify_metadef_tag", "rule:metadef_admin"),
    ("add_metadef_tag", "rule:metadef_admin"),
    ("add_metadef_tags", "rule:metadef_admin"),
    ("delete_metadef_tag", "rule:metadef_admin"),
    ("delete_metadef_tags", "rule:metadef_admin"),
];

const READ_NAMESPACE: &str =
    "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))";
const WRITE: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READ_VISIBLE: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const USE_VISIBLE: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";

/// Whether a rule allows the caller to do something to an image that it can see.
pub(crate) fn allows(caller: &Caller, rule: &str, image: &Resource<Image>) -> bool {
    let project = caller.subject.project_id().unwrap_or_default();
    let member = image.spec.member(project).map_or("", |member| member.project.as_str());
    let target = [
        ("project_id", image.project()),
        ("owner", image.project()),
        ("member_id", member),
        ("visibility", image.spec.visibility.as_str()),
    ];
    caller.allows(rule, &target)
}
