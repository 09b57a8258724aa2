//! `/images` and `/images/{id}/metadata`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Json, LimitRules, PageQuery, Schema, json, parse_bool};
use madang_image::{Image, ImageState, MemberStatus, Visibility, is_visible};
use madang_store::{Resource, Store, StoreError};
use serde_json::{Value, json};

use super::collection::{self, Asked, Collection, Found, on_delete, on_detail, on_list, on_show};
use crate::{
    api::{ComputeApi, failure, input},
    quota,
    server::view::seconds,
};

/// The last microversion that has metadata of images.
const LAST_METADATA: u16 = 38;
/// Nova's `max_limit`.
const LIMITS: LimitRules = LimitRules::up_to(1000);

type Items = BTreeMap<String, String>;

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/images", get(on_list::<Images>))
        .route("/images/detail", get(on_detail::<Images>))
        .route("/images/{id}", get(on_show::<Images>).delete(on_delete::<Images>))
        .route("/images/{id}/metadata", get(metadata).post(merge).put(replace))
        .route(
            "/images/{id}/metadata/{key}",
            get(show_item).put(set_item).delete(remove_item),
        )
}

/// The images that a project may use.
struct Images;

impl Collection for Images {
    type Kind = Image;
    const ONE: &'static str = "image";
    const MANY: &'static str = "images";
    const GONE: StatusCode = StatusCode::NO_CONTENT;

    fn allow(asked: &Asked, _verb: &str) -> Result<(), Failure> {
        input::until(asked.version, super::LAST)
    }

    fn missing(_id: &str) -> String {
        "Image not found.".to_owned()
    }

    fn view(asked: &Asked, image: &Resource<Image>) -> Value {
        full(image, &asked.base())
    }

    fn brief(asked: &Asked, image: &Resource<Image>) -> Value {
        json!({ "id": image.name(), "name": image.spec.name, "links": links(&asked.base(), image.name()) })
    }

    async fn list(asked: &Asked) -> Result<Found<Image>, Failure> {
        let mut images = listed(asked.store(), asked.project());
        for (name, value) in asked.query.iter() {
            let mut refused = None;
            images.retain(|image| {
                matches(image, name, value).unwrap_or_else(|failure| {
                    refused = Some(failure);
                    false
                })
            });
            if let Some(failure) = refused {
                return Err(failure);
            }
        }
        let page = PageQuery::from(&asked.query, LIMITS)?.cut(images, |image| image.name())?;
        let next = page.next_link(&asked.info, &asked.query, |image| image.name());
        let items = page.items;
        Ok(Found { items, next })
    }

    fn is_seen(asked: &Asked, image: &Resource<Image>) -> bool {
        asked.caller.is_admin() || is_visible(image, asked.project())
    }

    fn may_go(asked: &Asked, image: &Resource<Image>) -> Result<(), Failure> {
        let may = asked.caller.enforce_in("delete_image", image.project());
        if asked.caller.can_see(image.project()) && may.is_ok() && !image.spec.is_protected {
            return Ok(());
        }
        Err(Failure::forbidden("You are not allowed to delete the image."))
    }
}

fn status(image: &Resource<Image>) -> (&'static str, u32) {
    match image.status.state {
        ImageState::Active => ("ACTIVE", 100),
        ImageState::Queued | ImageState::Uploading | ImageState::Importing => ("SAVING", 25),
        ImageState::Saving => ("SAVING", 50),
        ImageState::Deactivated => ("UNKNOWN", 0),
    }
}

fn links(base: &str, id: &str) -> Value {
    let root = base.trim_end_matches("/compute");
    json!([
        { "rel": "self", "href": format!("{base}/v2.1/images/{id}") },
        { "rel": "bookmark", "href": format!("{base}/images/{id}") },
        { "rel": "alternate", "type": "application/vnd.openstack.image", "href": format!("{root}/image/images/{id}") },
    ])
}

fn full(image: &Resource<Image>, base: &str) -> Value {
    let (spec, (status, progress)) = (&image.spec, status(image));
    let mut shown = json!({
        "id": image.name(),
        "name": spec.name,
        "minRam": spec.min_ram,
        "minDisk": spec.min_disk,
        "metadata": spec.properties,
        "created": seconds(image.metadata.created),
        "updated": seconds(image.metadata.updated),
        "status": status,
        "progress": progress,
        "OS-EXT-IMG-SIZE:size": image.status.content.as_ref().map_or(0, |content| content.size),
        "links": links(base, image.name()),
    });
    if let Some(server) = spec.properties.get("instance_uuid") {
        shown["server"] = json!({ "id": server, "links": [
            { "rel": "self", "href": format!("{base}/v2.1/servers/{server}") },
            { "rel": "bookmark", "href": format!("{base}/servers/{server}") },
        ] });
    }
    if let Some(config) = spec.properties.get("auto_disk_config") {
        let is_automatic = parse_bool(config) == Some(true);
        shown["OS-DCF:diskConfig"] = json!(if is_automatic { "AUTO" } else { "MANUAL" });
    }
    shown
}

/// The images that a project's lists have: its own, public ones, and those it accepted.
fn listed(store: &Store, project: &str) -> Vec<Arc<Resource<Image>>> {
    let images = store.cache::<Image>();
    let mut found: HashMap<_, _> = HashMap::new();
    let shared = images.by("member", project).into_iter().filter(|image| {
        let member = image.spec.member(project);
        image.spec.visibility == Visibility::Shared && member.is_some_and(|m| m.status == MemberStatus::Accepted)
    });
    let public = images.by("visibility", Visibility::Public.as_str());
    for image in images.in_project(project).into_iter().chain(public).chain(shared) {
        if !image.spec.is_hidden {
            found.insert(image.metadata.uid, image);
        }
    }
    let mut images: Vec<_> = found.into_values().collect();
    images.sort_unstable_by(|a, b| (b.metadata.created, b.name()).cmp(&(a.metadata.created, a.name())));
    images
}

fn matches(image: &Resource<Image>, name: &str, value: &str) -> Result<bool, Failure> {
    let property = |key: &str, value: &str| image.spec.properties.get(key).is_some_and(|own| own == value);
    let number = |own: u32| value.parse() == Ok(own);
    Ok(match name {
        "name" => image.spec.name.as_deref() == Some(value),
        // Glance's words and Nova's are both taken.
        "status" => {
            let value = value.to_lowercase();
            image.status.state.as_str() == value || status(image).0.to_lowercase() == value
        }
        "changes-since" => image.metadata.updated >= time(value)?,
        "server" => property("instance_uuid", value.rsplit('/').next().unwrap_or(value)),
        "type" => property("image_type", value),
        "minRam" => number(image.spec.min_ram),
        "minDisk" => number(image.spec.min_disk),
        _ => match name.strip_prefix("property-") {
            Some(key) => property(key, value),
            None => true,
        },
    })
}

fn time(value: &str) -> Result<Timestamp, Failure> {
    let read = value.parse().or_else(|_| format!("{value}Z").parse());
    read.map_err(|_| Failure::invalid(format!("Invalid changes-since {value}: not a time")).at("changes-since"))
}

/// An image that the caller may change: its own; an admin's is every one.
fn find_own(asked: &Asked, id: &str) -> Result<Arc<Resource<Image>>, Failure> {
    let image = find(asked, id)?;
    if asked.caller.can_see(image.project()) {
        return Ok(image);
    }
    Err(Failure::forbidden(format!("Not authorized for image {id}.")))
}

fn find(asked: &Asked, id: &str) -> Result<Arc<Resource<Image>>, Failure> {
    collection::find::<Images>(asked, id)
}

static ALL: LazyLock<Schema> = LazyLock::new(|| input::nova(input::of_one("metadata", input::items(false))));

static ONE: LazyLock<Schema> = LazyLock::new(|| {
    let mut one = input::items(false);
    one["minProperties"] = json!(1);
    one["maxProperties"] = json!(1);
    input::nova(input::of_one("meta", one))
});

fn read(body: &Value, member: &str) -> Items {
    let items = body[member].as_object().into_iter().flatten();
    items
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// `GET /images/{id}/metadata`.
async fn metadata(asked: Asked, Path(id): Path<String>) -> Result<Response, Failure> {
    input::until(asked.version, LAST_METADATA)?;
    let image = find(&asked, &id)?;
    Ok(json(StatusCode::OK, &json!({ "metadata": image.spec.properties })))
}

/// Changes an image's properties, as many as the project may have items of metadata.
async fn edit(asked: &Asked, id: &str, change: impl Fn(&mut Items)) -> Result<Arc<Resource<Image>>, Failure> {
    let image = find_own(asked, id)?;
    asked.caller.enforce_in("modify_image", image.project())?;
    let mut items = image.spec.properties.clone();
    change(&mut items);
    let most = quota::limit(asked.store(), asked.project(), "metadata_items");
    if most.is_some_and(|most| items.len() as i64 > most) {
        return Err(Failure::forbidden("Image metadata limit exceeded").because("OverQuota"));
    }
    let key = image.key();
    let store = asked.store();
    let changed = store.modify::<Image, StoreError>(&key, asked.caller.cause(), |image| {
        change(&mut image.spec.properties);
        Ok(())
    });
    changed.await.map_err(failure)
}

/// `POST /images/{id}/metadata`: adds and changes items.
async fn merge(asked: Asked, Path(id): Path<String>, Json(body): Json<Value>) -> Result<Response, Failure> {
    input::until(asked.version, LAST_METADATA)?;
    ALL.check(&body)?;
    let items = read(&body, "metadata");
    let image = edit(&asked, &id, |own| own.extend(items.clone())).await?;
    Ok(json(StatusCode::OK, &json!({ "metadata": image.spec.properties })))
}

/// `PUT /images/{id}/metadata`: these items and no others.
async fn replace(asked: Asked, Path(id): Path<String>, Json(body): Json<Value>) -> Result<Response, Failure> {
    input::until(asked.version, LAST_METADATA)?;
    ALL.check(&body)?;
    let items = read(&body, "metadata");
    edit(&asked, &id, |own| own.clone_from(&items)).await?;
    Ok(json(StatusCode::OK, &json!({ "metadata": items })))
}

/// `GET /images/{id}/metadata/{key}`.
async fn show_item(asked: Asked, Path((id, key)): Path<(String, String)>) -> Result<Response, Failure> {
    input::until(asked.version, LAST_METADATA)?;
    let image = find(&asked, &id)?;
    let value = image.spec.properties.get(&key);
    let value = value.ok_or_else(|| Failure::not_found("The resource could not be found."))?;
    Ok(json(StatusCode::OK, &json!({ "meta": { key: value } })))
}

/// `PUT /images/{id}/metadata/{key}`.
async fn set_item(
    asked: Asked,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    input::until(asked.version, LAST_METADATA)?;
    ONE.check(&body)?;
    let items = read(&body, "meta");
    if !items.contains_key(&key) {
        return Err(Failure::invalid("Request body and URI mismatch").at("meta"));
    }
    edit(&asked, &id, |own| own.extend(items.clone())).await?;
    Ok(json(StatusCode::OK, &json!({ "meta": items })))
}

/// `DELETE /images/{id}/metadata/{key}`.
async fn remove_item(asked: Asked, Path((id, key)): Path<(String, String)>) -> Result<Response, Failure> {
    input::until(asked.version, LAST_METADATA)?;
    if !find(&asked, &id)?.spec.properties.contains_key(&key) {
        return Err(Failure::not_found("Invalid metadata key"));
    }
    edit(&asked, &id, |own| _ = own.remove(&key)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
