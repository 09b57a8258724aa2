//! Importing: bytes that were staged, that another server has, or that another image has, become an image's.
//!
//! Each import is a task that its user can look at. The image says `importing` meanwhile; when it fails it is as before, and
//! says that it failed.

mod web;

use std::sync::Arc;

use http::StatusCode;
use madang_http::Failure;
use madang_identity::{
    Caller,
    catalog::{Endpoint, Service},
};
use madang_store::{Key, Resource, StoreError, Tx};
use serde_json::{Value, json as object};
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

pub(crate) use web::check_uri;

use super::{
    Content, Image, ImageSpec, ImageState, rules,
    upload::{Purpose, Upload, content_of_head},
};
use crate::{
    api::STORE,
    library::Library,
    task::{self, Task, TaskSpec},
};

/// The ways to import, as `/v2/info/import` names them.
pub(crate) const METHODS: [&str; 4] = ["glance-direct", "web-download", "copy-image", "glance-download"];
/// What an image takes over from the one whose bytes it gets. Source: Glance's `glance_download_opts`.
const TAKEN: [&str; 5] = ["hw_", "trait:", "os_distro", "os_secure_boot", "os_type"];
/// What formats are told by.
const HEAD: u64 = 64 << 10;

/// A way to import, with what was said about it.
#[derive(Clone, Debug)]
enum Method {
    /// What was staged.
    Direct,
    /// What a server answers.
    Web(String),
    /// What is here already.
    Copy,
    /// What another image has, which is here as well.
    Other(String),
}

/// Begins to import.
///
/// # Errors
/// Not found, forbidden; 400 for what cannot be asked; 409 in a state that does not allow it.
pub(crate) async fn begin(library: &Arc<Library>, caller: &Caller, id: &str, body: &Value) -> Result<(), Failure> {
    let method = read(library, body)?;
    let rule = match method {
        Method::Copy => "copy_image",
        _ => "modify_image",
    };
    let image = rules::find_for(library, caller, rule, id)?;
    let key = image.key();
    let spec = TaskSpec {
        kind: "api_image_import".to_owned(),
        image: Some(id.to_owned()),
        input: object!({ "image_id": id, "import_req": body, "backend": [STORE] }),
        user: caller.subject.user.id.clone(),
        request: caller.request_id().to_owned(),
    };
    let started = library.store.transact::<_, Refused>(caller.cause(), |tx| {
        let missing = || Failure::not_found(format!("No image found with ID {id}"));
        let image = tx.get::<Image>(&key).ok_or_else(missing)?;
        check(&image, &method)?;
        let before = image.status.state;
        let mut busy = (*image).clone();
        if !matches!(method, Method::Copy) {
            busy.status.state = ImageState::Importing;
        }
        busy.status.was_imported = true;
        busy.status.has_failed = false;
        tx.update(&image, busy)?;
        Ok((task::begin(tx, image.project(), spec.clone())?, before))
    });
    let (task, before) = started.await.map_err(|Refused(failure)| failure)?;
    run(library, caller, key, task, method, before);
    Ok(())
}

/// Makes an image whose bytes a server is to answer.
///
/// # Errors
/// As creating an image does.
pub(crate) async fn create(
    library: &Arc<Library>,
    caller: &Caller,
    spec: ImageSpec,
    uri: &str,
    input: Value,
) -> Result<Arc<Resource<Task>>, Failure> {
    let image = rules::create(library, caller, None, None, spec).await?;
    let key = image.key();
    let spec = TaskSpec {
        kind: "import".to_owned(),
        image: Some(image.name().to_owned()),
        input,
        user: caller.subject.user.id.clone(),
        request: caller.request_id().to_owned(),
    };
    let started = library.store.transact::<_, Refused>(caller.cause(), |tx| {
        if let Some(image) = tx.get::<Image>(&key) {
            let mut busy = (*image).clone();
            busy.status.state = ImageState::Importing;
            busy.status.was_imported = true;
            tx.update(&image, busy)?;
        }
        Ok(task::begin(tx, image.project(), spec.clone())?)
    });
    let task = started.await.map_err(|Refused(failure)| failure)?;
    let method = Method::Web(uri.to_owned());
    run(library, caller, key, Arc::clone(&task), method, ImageState::Queued);
    Ok(task)
}

/// A failure inside a transaction.
struct Refused(Failure);

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(madang_http::write_failure(error))
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

fn read(library: &Library, body: &Value) -> Result<Method, Failure> {
    let method = body.get("method");
    let method = method.ok_or_else(|| Failure::invalid("Import request requires a 'method' field.").at("method"))?;
    let name = method.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| Failure::invalid("Import request requires a 'name' field.").at("name"))?;
    for flag in ["all_stores", "all_stores_must_succeed"] {
        if body.get(flag).is_some_and(|said| !said.is_boolean()) {
            return Err(Failure::invalid(format!("'{flag}' must be boolean value only")).at(flag));
        }
    }
    if let Some(stores) = body.get("stores").and_then(Value::as_array) {
        if body["all_stores"] == true {
            let message = "All_stores parameter can't be used with x-image-meta-store header or stores parameter";
            return Err(Failure::invalid(message).at("stores"));
        }
        if let Some(strange) = stores.iter().find(|store| **store != STORE) {
            let message = format!("Store for identifier {strange} not found");
            return Err(Failure::conflict(message).at("stores"));
        }
    }
    let said = |name: &str| method.get(name).and_then(Value::as_str);
    match name {
        "glance-direct" => Ok(Method::Direct),
        "copy-image" => Ok(Method::Copy),
        "web-download" => {
            let uri = said("uri");
            let uri = uri.ok_or_else(|| Failure::invalid("'uri' needs to be set for web-download import method"))?;
            check_uri(library, uri)?;
            Ok(Method::Web(uri.to_owned()))
        }
        "glance-download" => {
            for name in ["glance_region", "glance_image_id"] {
                if said(name).is_none() {
                    let message = format!("'{name}' needs to be set for glance-download import method");
                    return Err(Failure::invalid(message).at(name));
                }
            }
            let id = said("glance_image_id").unwrap_or_default();
            let wrong = || Failure::invalid("Remote image id does not look like a UUID").at("glance_image_id");
            let id = Uuid::try_parse(id).map_err(|_| wrong())?;
            Ok(Method::Other(id.to_string()))
        }
        other => Err(Failure::invalid(format!("Unknown import method name '{other}'.")).at("name")),
    }
}

/// Refuses a state that does not allow it, in Glance's words.
fn check(image: &Resource<Image>, method: &Method) -> Result<(), Failure> {
    let state = image.status.state;
    let conflict = |message: &str| Err(Failure::conflict(message.to_owned()));
    match method {
        Method::Copy if state != ImageState::Active => {
            return conflict("Only images with status active can be targeted for copying");
        }
        Method::Copy => return Ok(()),
        _ if state == ImageState::Active => {
            return conflict("Image with status active cannot be target for import");
        }
        Method::Direct if state != ImageState::Uploading || image.status.staged.is_none() => {
            return conflict("Image needs to be staged before 'glance-direct' method can be used");
        }
        Method::Web(_) | Method::Other(_) if state != ImageState::Queued => {
            let name = if matches!(method, Method::Web(_)) {
                "web-download"
            } else {
                "glance-download"
            };
            return conflict(&format!("Image needs to be in 'queued' state to use '{name}' method"));
        }
        _ => {}
    }
    if image.spec.container_format.is_none() {
        return conflict("'container_format' needs to be set before import");
    }
    if image.spec.disk_format.is_none() {
        return conflict("'disk_format' needs to be set before import");
    }
    Ok(())
}

/// Does it in the background, and writes down how it ended.
fn run(
    library: &Arc<Library>,
    caller: &Caller,
    key: Key,
    task: Arc<Resource<Task>>,
    method: Method,
    before: ImageState,
) {
    let (work, caller) = (Arc::clone(library), caller.clone());
    library.uploads.spawn(format!("import of {}", key.name), async move {
        let done = match &method {
            Method::Copy => Ok(()),
            Method::Direct => direct(&work, &caller, &key).await,
            Method::Web(uri) => download(&work, &caller, &key, uri).await,
            Method::Other(id) => other(&work, &caller, &key, id, &task.spec.input).await,
        };
        let failure = done.err().map(|failure| failure.message);
        if let Some(message) = &failure {
            tracing::info!(image = key.name, message, "could not import an image");
        }
        let ended = work.store.transact::<(), StoreError>(caller.cause(), |tx| {
            if failure.is_some()
                && let Some(image) = tx.get::<Image>(&key)
                && matches!(image.status.state, ImageState::Importing | ImageState::Queued)
            {
                let mut back = (*image).clone();
                back.status.state = before;
                back.status.has_failed = true;
                tx.update(&image, back)?;
            }
            task::end(tx, &task, failure.as_deref())
        });
        if let Err(error) = ended.await {
            tracing::warn!(image = key.name, %error, "could not write down how an import ended");
        }
    });
}

/// What was staged is there already, and only has to be looked at.
async fn direct(library: &Arc<Library>, caller: &Caller, key: &Key) -> Result<(), Failure> {
    let gone = || Failure::not_found(format!("Image {} could not be found.", key.name));
    let image = library.store.get::<Image>(key).ok_or_else(gone)?;
    let staged = image
        .status
        .staged
        .clone()
        .ok_or_else(|| Failure::conflict("nothing is staged"))?;
    let unreadable = |error: std::io::Error| Failure::unavailable(format!("what was staged cannot be read: {error}"));
    let file = tokio::fs::File::open(library.blobs.path(&staged.sha512)).await;
    let mut head = Vec::new();
    file.map_err(unreadable)?
        .take(HEAD)
        .read_to_end(&mut head)
        .await
        .map_err(unreadable)?;
    let content = content_of_head(&image.spec, &head, &staged)?;
    let taken = library.store.modify::<Image, Refused>(key, caller.cause(), |image| {
        image.status.state = ImageState::Active;
        image.status.content = Some(content.clone());
        image.status.staged = None;
        Ok(())
    });
    taken.await.map(|_| ()).map_err(|Refused(failure)| failure)
}

async fn download(library: &Arc<Library>, caller: &Caller, key: &Key, uri: &str) -> Result<(), Failure> {
    let body = web::fetch(library, uri).await?;
    let upload = Upload {
        library: Arc::clone(library),
        cause: caller.cause(),
        key: key.clone(),
        promised: None,
        purpose: Purpose::Import,
    };
    upload.run(body).await
}

/// Another image's bytes are named once more, and some of what it says of itself.
async fn other(library: &Arc<Library>, caller: &Caller, key: &Key, id: &str, input: &Value) -> Result<(), Failure> {
    let said = |name: &str| input["import_req"]["method"][name].as_str();
    let region = said("glance_region").unwrap_or_default();
    let interface = said("glance_service_interface").unwrap_or("public");
    check_region(library, region, interface)?;
    let source = rules::find_for(library, caller, "download_image", id)?;
    let from = source.key();
    let taken = library.store.transact::<(), Refused>(caller.cause(), |tx| {
        let content = content_of(tx, &from)?;
        let source = tx.get::<Image>(&from).ok_or_else(|| missing(id))?;
        tx.expect::<Image>(&source)?;
        let gone = || Failure::not_found(format!("Image {} could not be found.", key.name));
        let image = tx.get::<Image>(key).ok_or_else(gone)?;
        let mut new = (*image).clone();
        new.spec.disk_format = source.spec.disk_format;
        new.spec.container_format = source.spec.container_format;
        let all = source.spec.properties.iter();
        let taken = all.filter(|(name, _)| TAKEN.iter().any(|prefix| name.starts_with(prefix)));
        new.spec
            .properties
            .extend(taken.map(|(name, value)| (name.clone(), value.clone())));
        new.status.state = ImageState::Active;
        new.status.content = Some(content);
        tx.update(&image, new)?;
        Ok(())
    });
    taken.await.map_err(|Refused(failure)| failure)
}

fn missing(id: &str) -> Failure {
    Failure::not_found(format!("No image found with ID {id}"))
}

fn content_of(tx: &Tx<'_>, key: &Key) -> Result<Content, Failure> {
    let image = tx.get::<Image>(key).ok_or_else(|| missing(&key.name))?;
    match (&image.status.content, image.status.state) {
        (Some(content), ImageState::Active) => Ok(content.clone()),
        _ => Err(Failure::conflict(format!("image {} is not active", key.name))),
    }
}

/// The other Glance has to be in the catalog. It is this one: a cloud has one, in all of its regions.
fn check_region(library: &Library, region: &str, interface: &str) -> Result<(), Failure> {
    let services = library.store.cache::<Service>().by("type", "image");
    let is_there = library.store.cache::<Endpoint>().all().iter().any(|endpoint| {
        let spec = &endpoint.spec;
        spec.region_id.as_deref() == Some(region)
            && spec.interface == interface
            && services.iter().any(|service| service.name() == spec.service_id)
    });
    if is_there {
        return Ok(());
    }
    let message = format!("no image service has a {interface} endpoint in the region {region}");
    Err(Failure::invalid(message).with_status(StatusCode::CONFLICT))
}
