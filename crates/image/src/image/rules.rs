//! The verbs of images. Every face comes through here: who may, what must hold, one store transaction. Taking bytes is
//! in [`super::upload`].
//!
//! What a caller may not see does not exist for it: not found, not forbidden.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use madang_http::Failure;
use madang_identity::{
    Caller,
    catalog::{Endpoint, Service},
};
use madang_store::{Metadata, Resource, StoreBuilder, StoreError};
use uuid::Uuid;

use super::{Content, Image, ImageSpec, ImageState, Member, MemberStatus, Visibility, is_visible, quota};
use crate::{library::Library, policy, task::Task};

/// How many projects an image can be shared with: Glance's `image_member_quota`.
const MAX_MEMBERS: usize = 128;
/// How many tags and properties an image has at most: Glance's `image_tag_quota` and `image_property_quota`.
const MAX_TAGS: usize = 128;
const MAX_PROPERTIES: usize = 128;

/// Makes images known to a store that is about to be opened.
pub fn register(builder: &mut StoreBuilder) {
    madang_identity::limit::unified::know(builder);
    builder.kind::<Endpoint>().kind::<Service>().kind::<Task>();
    builder.rule::<Image>(quota::count);
    crate::metadef::rules::register(builder);
}

/// An image that the caller can see.
///
/// # Errors
/// Not found.
pub fn find(library: &Library, caller: &Caller, id: &str) -> Result<Arc<Resource<Image>>, Failure> {
    let image = library.store.cache::<Image>().by_name(id);
    let image =
        image.filter(|image| caller.is_admin() || is_visible(image, caller.subject.project_id().unwrap_or_default()));
    image
        .filter(|image| policy::allows(caller, "get_image", image))
        .ok_or_else(|| Failure::not_found(format!("No image found with ID {id}")))
}

/// An image that the caller can see and may do something to.
pub(super) fn find_for(
    library: &Library,
    caller: &Caller,
    rule: &'static str,
    id: &str,
) -> Result<Arc<Resource<Image>>, Failure> {
    let image = find(library, caller, id)?;
    enforce(caller, rule, &image)?;
    Ok(image)
}

fn enforce(caller: &Caller, rule: &'static str, image: &Resource<Image>) -> Result<(), Failure> {
    if policy::allows(caller, rule, image) {
        return Ok(());
    }
    Err(Failure::forbidden(format!("You are not authorized to complete {rule} action.")).because("PolicyNotAuthorized"))
}

/// Creates an image without bytes. `owner` is for admins; anybody else's is their own project.
///
/// # Errors
/// Forbidden; conflict when the id is taken; exhausted past the limits of tags and properties.
pub async fn create(
    library: &Library,
    caller: &Caller,
    id: Option<Uuid>,
    owner: Option<String>,
    spec: ImageSpec,
) -> Result<Arc<Resource<Image>>, Failure> {
    let own = caller.subject.project_id().unwrap_or_default().to_owned();
    let owner = owner.unwrap_or_else(|| own.clone());
    if owner != own && !caller.is_admin() {
        return Err(Failure::forbidden(format!(
            "You are not permitted to create images owned by '{owner}'."
        )));
    }
    let id = id.unwrap_or_else(Uuid::new_v4);
    let image = Resource::<Image>::new(Metadata::with_uid(id, owner.as_str(), id.to_string()), spec);
    let target = [("project_id", own.as_str()), ("owner", owner.as_str())];
    if !caller.allows("add_image", &target) {
        return Err(Failure::forbidden(
            "You are not authorized to complete add_image action.",
        ));
    }
    may_become_visible(caller, None, &image)?;
    within_limits(&image.spec)?;
    // Ids are unique in the whole cloud, not only in a project.
    if library.store.cache::<Image>().by_name(&id.to_string()).is_some() {
        return Err(taken(id));
    }
    let created = library
        .store
        .transact(caller.cause(), |tx| tx.create(image.clone()))
        .await;
    created.map_err(|error| match error {
        StoreError::Exists { .. } => taken(id),
        other => quota::over_limit(other),
    })
}

fn taken(id: Uuid) -> Failure {
    Failure::conflict(format!("Image ID {id} already exists!"))
}

/// Whether the caller may give an image the visibility it is about to have.
fn may_become_visible(caller: &Caller, old: Option<Visibility>, image: &Resource<Image>) -> Result<(), Failure> {
    let visibility = image.spec.visibility;
    if old == Some(visibility) {
        return Ok(());
    }
    match visibility {
        Visibility::Public => enforce(caller, "publicize_image", image),
        Visibility::Community => enforce(caller, "communitize_image", image),
        Visibility::Private | Visibility::Shared => Ok(()),
    }
}

fn within_limits(spec: &ImageSpec) -> Result<(), Failure> {
    let too_many = |what: &str, attempted: usize, most: usize| {
        Failure::exhausted(format!(
            "The limit has been exceeded on the number of allowed image {what}. Attempted: {attempted}, Maximum: {most}"
        ))
    };
    if spec.properties.len() > MAX_PROPERTIES {
        return Err(too_many("properties", spec.properties.len(), MAX_PROPERTIES));
    }
    if spec.tags.len() > MAX_TAGS {
        return Err(too_many("tags", spec.tags.len(), MAX_TAGS));
    }
    Ok(())
}

/// Changes an image. `change` may run more than once.
///
/// # Errors
/// Not found, forbidden, and what `change` says.
pub async fn update(
    library: &Library,
    caller: &Caller,
    id: &str,
    change: impl Fn(&mut Resource<Image>) -> Result<(), Failure>,
) -> Result<Arc<Resource<Image>>, Failure> {
    let image = find_for(library, caller, "modify_image", id)?;
    let key = image.key();
    let changed = library.store.modify::<Image, Failure>(&key, caller.cause(), |image| {
        let before = image.spec.visibility;
        change(image)?;
        may_become_visible(caller, Some(before), image)?;
        within_limits(&image.spec)
    });
    changed.await
}

/// Whether the caller may give images to other projects.
///
/// # Errors
/// Forbidden for all but admins.
pub fn may_give(caller: &Caller) -> Result<(), Failure> {
    if caller.is_admin() {
        Ok(())
    } else {
        Err(Failure::forbidden("You are not permitted to modify 'owner' on this image.").at("owner"))
    }
}

/// Gives an image to another project. For admins.
///
/// # Errors
/// Not found, forbidden.
pub async fn give(
    library: &Library,
    caller: &Caller,
    id: &str,
    project: &str,
) -> Result<Arc<Resource<Image>>, Failure> {
    may_give(caller)?;
    let image = find_for(library, caller, "modify_image", id)?;
    if image.project() == project {
        return Ok(image);
    }
    let key = image.key();
    let given = library.store.transact(caller.cause(), |tx| {
        let old = tx
            .get::<Image>(&key)
            .ok_or_else(|| Failure::not_found(format!("No image found with ID {id}")))?;
        if old.status.state == ImageState::Saving {
            return Err(Failure::conflict(format!(
                "image {id} is being saved, wait until it is active"
            )));
        }
        // The owner is part of where a resource is kept, so it is another resource, in all else the same.
        let mut new = Resource::<Image>::new(Metadata::with_id(project), old.spec.clone());
        new.metadata.name = id.to_owned();
        new.status = old.status.clone();
        tx.delete(&*old)?;
        Ok(tx.create_since(new, old.metadata.created)?)
    });
    given.await
}

/// Deletes an image, and its bytes when no other image has the same.
///
/// # Errors
/// Not found; forbidden, also while it is protected.
pub async fn delete(library: &Library, caller: &Caller, id: &str) -> Result<(), Failure> {
    let image = find_for(library, caller, "delete_image", id)?;
    let key = image.key();
    let deleted = library.store.transact(caller.cause(), |tx| {
        let image = tx
            .get::<Image>(&key)
            .ok_or_else(|| Failure::not_found(format!("No image found with ID {id}")))?;
        if image.spec.is_protected {
            return Err(Failure::forbidden(format!(
                "Image {id} is protected and cannot be deleted."
            )));
        }
        tx.delete(&*image)?;
        Ok::<_, Failure>(image)
    });
    let image = deleted.await?;
    for content in image.status.content.iter().chain(&image.status.staged) {
        if let Err(error) = library.blobs.remove_unnamed(&library.store, &content.sha512).await {
            // The image is gone; the file is swept at the next start.
            tracing::warn!(image = id, %error, "could not remove the bytes of a deleted image");
        }
    }
    Ok(())
}

/// What is to be sent of an image; none for one without bytes.
///
/// # Errors
/// Not found; forbidden, also for a deactivated image and anybody but an admin.
pub fn download(library: &Library, caller: &Caller, id: &str) -> Result<Option<Content>, Failure> {
    let image = find_for(library, caller, "download_image", id)?;
    if image.status.state == ImageState::Deactivated && !caller.is_admin() {
        return Err(Failure::forbidden(
            "The requested image has been deactivated. Image data download is forbidden.",
        ));
    }
    Ok(image.status.content.clone())
}

/// Withdraws an image's bytes from use, or gives them back.
///
/// # Errors
/// Not found, forbidden; forbidden too when it has no bytes.
pub async fn set_active(library: &Library, caller: &Caller, id: &str, active: bool) -> Result<(), Failure> {
    let (rule, to) = if active {
        ("reactivate", ImageState::Active)
    } else {
        ("deactivate", ImageState::Deactivated)
    };
    let image = find_for(library, caller, rule, id)?;
    let key = image.key();
    let changed = library.store.modify::<Image, Failure>(&key, caller.cause(), |image| {
        if !matches!(image.status.state, ImageState::Active | ImageState::Deactivated) {
            let from = image.status.state;
            return Err(Failure::forbidden(format!(
                "Image status transition from {from} to {to} is not allowed"
            )));
        }
        image.status.state = to;
        Ok(())
    });
    changed.await.map(|_| ())
}

/// Adds or removes a tag.
///
/// # Errors
/// Not found, also of a tag to be removed; forbidden; exhausted.
pub async fn set_tag(library: &Library, caller: &Caller, id: &str, tag: &str, wanted: bool) -> Result<(), Failure> {
    if tag.chars().count() > 255 {
        return Err(Failure::invalid(format!("Invalid image tag {tag}: it is longer than 255 characters")).at("tags"));
    }
    let changed = update(library, caller, id, |image| {
        let tags: &mut BTreeSet<String> = &mut image.spec.tags;
        if wanted {
            tags.insert(tag.to_owned());
        } else if !tags.remove(tag) {
            return Err(Failure::not_found(format!("Failed to find image {id} tag {tag}")));
        }
        Ok(())
    });
    changed.await.map(|_| ())
}

/// Shares an image with a project.
///
/// # Errors
/// Not found, forbidden (also when it is not a shared image), conflict when it is a member, exhausted.
pub async fn add_member(library: &Library, caller: &Caller, id: &str, project: &str) -> Result<Member, Failure> {
    let image = find_for(library, caller, "add_member", id)?;
    only_shared(&image)?;
    let now = Timestamp::now();
    let member = Member {
        project: project.to_owned(),
        status: MemberStatus::Pending,
        created: now,
        updated: now,
    };
    let key = image.key();
    let added = library.store.modify::<Image, Failure>(&key, caller.cause(), |image| {
        if image.spec.member(project).is_some() {
            return Err(Failure::conflict(format!(
                "The target member {project} is already associated with image {id}."
            )));
        }
        if image.spec.members.len() >= MAX_MEMBERS {
            return Err(Failure::exhausted(format!(
                "The limit has been exceeded on the number of allowed image members for this image. Attempted: {}, \
                 Maximum: {MAX_MEMBERS}",
                image.spec.members.len() + 1
            )));
        }
        image.spec.members.push(member.clone());
        Ok(())
    });
    added.await?;
    Ok(member)
}

fn only_shared(image: &Resource<Image>) -> Result<(), Failure> {
    if image.spec.visibility == Visibility::Shared {
        Ok(())
    } else {
        Err(Failure::forbidden("Only shared images have members."))
    }
}

/// Those members of an image that the caller may know of: all for the owner, itself for a member.
///
/// # Errors
/// Not found; forbidden when it is not a shared image.
pub fn members(library: &Library, caller: &Caller, id: &str) -> Result<Vec<Member>, Failure> {
    let image = find_for(library, caller, "get_members", id)?;
    only_shared(&image)?;
    let own = caller.subject.project_id().unwrap_or_default();
    let sees_all = caller.is_admin() || image.project() == own;
    Ok(image
        .spec
        .members
        .iter()
        .filter(|member| sees_all || member.project == own)
        .cloned()
        .collect())
}

/// One member of an image.
///
/// # Errors
/// Not found.
pub fn member(library: &Library, caller: &Caller, id: &str, project: &str) -> Result<Member, Failure> {
    let known = members(library, caller, id)?;
    known
        .into_iter()
        .find(|member| member.project == project)
        .ok_or_else(|| no_member(id, project))
}

fn no_member(id: &str, project: &str) -> Failure {
    Failure::not_found(format!("{project} not found in the member list of the image {id}."))
}

/// Says what a project thinks of an image that is shared with it.
///
/// # Errors
/// Not found; forbidden for anybody but that project and admins.
pub async fn answer_membership(
    library: &Library,
    caller: &Caller,
    id: &str,
    project: &str,
    status: MemberStatus,
) -> Result<Member, Failure> {
    let image = find(library, caller, id)?;
    only_shared(&image)?;
    if image.spec.member(project).is_none() {
        return Err(no_member(id, project));
    }
    if !caller.allows(
        "modify_member",
        &[("project_id", image.project()), ("member_id", project)],
    ) {
        return Err(Failure::forbidden(
            "You are not authorized to complete modify_member action.",
        ));
    }
    let now = Timestamp::now();
    let key = image.key();
    let changed = library.store.modify::<Image, Failure>(&key, caller.cause(), |image| {
        let member = image.spec.members.iter_mut().find(|member| member.project == project);
        let member = member.ok_or_else(|| no_member(id, project))?;
        member.status = status;
        member.updated = now;
        Ok(())
    });
    let image = changed.await?;
    image
        .spec
        .member(project)
        .cloned()
        .ok_or_else(|| no_member(id, project))
}

/// Shares an image with a project no more.
///
/// # Errors
/// Not found, forbidden.
pub async fn remove_member(library: &Library, caller: &Caller, id: &str, project: &str) -> Result<(), Failure> {
    let image = find_for(library, caller, "delete_member", id)?;
    only_shared(&image)?;
    let key = image.key();
    let removed = library.store.modify::<Image, Failure>(&key, caller.cause(), |image| {
        let before = image.spec.members.len();
        image.spec.members.retain(|member| member.project != project);
        if image.spec.members.len() == before {
            Err(no_member(id, project))
        } else {
            Ok(())
        }
    });
    removed.await.map(|_| ())
}
