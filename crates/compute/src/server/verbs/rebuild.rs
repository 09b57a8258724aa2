//! Its root anew from an image; another root for once.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use madang_http::Failure;
use madang_identity::Caller;
use madang_image::Image;
use madang_store::{Resource, Store};

use super::{Done, Wants, allowed, check_lock, edit};
use crate::{
    Phase, Power, Server, ServerKey,
    server::{Doing, Injected, Rescue, volumes},
};

/// What a rebuild may change beside the root; none leaves it.
#[derive(Clone, Debug, Default)]
pub struct Rebuild {
    /// The display name.
    pub name: Option<String>,
    /// The guest's name for itself.
    pub hostname: Option<String>,
    /// The description; inner none removes it.
    pub description: Option<Option<String>>,
    /// All of its metadata.
    pub metadata: Option<BTreeMap<String, String>>,
    /// The key to put in; inner none puts none in.
    pub key: Option<Option<ServerKey>>,
    /// For the guest, in base64; inner none removes it.
    pub user_data: Option<Option<String>>,
    /// `AUTO` rather than `MANUAL`.
    pub is_disk_automatic: Option<bool>,
    /// Where the user says it is reached.
    pub access_ipv4: Option<Ipv4Addr>,
    /// Where the user says it is reached, in IPv6.
    pub access_ipv6: Option<Ipv6Addr>,
    /// What is put into the guest.
    pub injected: Injected,
    /// The caller knows that the volume a server starts from can begin anew.
    pub may_reimage: bool,
}

/// Asks for its root to be made anew from an image that the caller may use.
///
/// # Errors
/// `Conflict` in a state without it, when it is locked; `Invalid` for an image of the other sort (machine, container), or
/// for one that the volume it starts from does not have and does not take.
pub async fn rebuild(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    image: &Resource<Image>,
    change: &Rebuild,
) -> Done {
    edit(store, caller, server, |server| {
        check_lock(caller, server)?;
        let phases = [Phase::Active, Phase::Stopped, Phase::Error];
        allowed(server, "rebuild", &phases, Wants::Idle)?;
        check_image(server, image)?;
        let reimage = match server.spec.image {
            Some(_) => None,
            None => new_image(store, server, image, change.may_reimage)?,
        };
        let spec = &mut server.spec;
        if let Some(is) = &mut spec.image {
            image.name().clone_into(is);
            spec.image_properties.clone_from(&image.spec.properties);
        }
        spec.asked.reimage = reimage;
        spec.asked.rebuilds += 1;
        if server.status.phase == Phase::Error {
            spec.power = Power::On;
        }
        let change = change.clone();
        spec.name = change.name.unwrap_or_else(|| spec.name.clone());
        spec.hostname = change.hostname.unwrap_or_else(|| spec.hostname.clone());
        spec.description = change.description.unwrap_or_else(|| spec.description.clone());
        spec.metadata = change.metadata.unwrap_or_else(|| spec.metadata.clone());
        spec.key = change.key.unwrap_or_else(|| spec.key.clone());
        spec.user_data = change.user_data.unwrap_or_else(|| spec.user_data.clone());
        spec.is_disk_automatic = change.is_disk_automatic.unwrap_or(spec.is_disk_automatic);
        spec.access_ipv4 = change.access_ipv4.or(spec.access_ipv4);
        spec.access_ipv6 = change.access_ipv6.or(spec.access_ipv6);
        spec.injected = change.injected;
        server.status.fault = None;
        server.status.action = Some(Doing::new("rebuild", &caller.cause()));
        Ok(())
    })
    .await
}

fn check_image(server: &Resource<Server>, image: &Resource<Image>) -> Result<(), Failure> {
    let unacceptable = |reason: &str| {
        let message = format!("Image {} is unacceptable: {reason}", image.name());
        Err(Failure::invalid(message).at("imageRef"))
    };
    match (image.spec.is_container(), server.spec.driver == "oci") {
        (true, false) => unacceptable("a virtual machine cannot be rebuilt from a container image"),
        (false, true) => unacceptable("a container cannot be rebuilt from a disk image"),
        _ => Ok(()),
    }
}

/// The image that the volume a server starts from is to begin anew as; none where it stays as it is, which an older client
/// expects of the image that is in it already.
fn new_image(
    store: &Store,
    server: &Resource<Server>,
    image: &Resource<Image>,
    may_reimage: bool,
) -> Result<Option<String>, Failure> {
    let unacceptable = |reason: &str| {
        let message = format!("Image {} is unacceptable: {reason}", image.name());
        Err(Failure::invalid(message).at("imageRef"))
    };
    let volume = volumes::root_volume(store, server.name());
    let Some(volume) = volume else {
        return unacceptable("the volume that the server starts from is gone");
    };
    if may_reimage {
        let content = image.status.content.as_ref();
        let needed = content.map_or(0, |content| content.virtual_size.unwrap_or(content.size));
        if needed > u64::from(volume.spec.size_gib) << 30 {
            return unacceptable("it is larger than the volume that the server starts from");
        }
        return Ok(Some(image.name().to_owned()));
    }
    if volume.spec.image_metadata.get("image_id").map(String::as_str) == Some(image.name()) {
        return Ok(None);
    }
    unacceptable("Unable to rebuild with a different image for a volume-backed server.")
}

/// What a rescue is asked to run from.
#[derive(Clone, Debug, Default)]
pub struct Rescuer {
    /// The image; the server's own when none.
    pub image: Option<String>,
    /// The image says where its disk is plugged in, so that all others keep their places.
    pub is_stable: bool,
    /// The caller knows that servers that start from a volume can be rescued.
    pub may_have_volume: bool,
}

/// Asks for it to run from an image, its own root as a second disk.
///
/// # Errors
/// `Conflict` in a state without it, when it is locked; `Invalid` for containers, and servers that boot from a volume
/// unless the image says where its disk goes.
pub async fn rescue(store: &Store, caller: &Caller, server: &Resource<Server>, rescuer: &Rescuer) -> Done {
    edit(store, caller, server, |server| {
        check_lock(caller, server)?;
        let phases = [Phase::Active, Phase::Stopped, Phase::Error];
        allowed(server, "rescue", &phases, Wants::Idle)?;
        let refuse = |reason: &str| {
            let message = format!("Instance {} cannot be rescued: {reason}", server.name());
            Err(Failure::invalid(message))
        };
        if server.spec.driver == "oci" {
            return refuse("a container has no disk that another system could mend");
        }
        let is_volume = server.spec.image.is_none();
        let image = rescuer.image.clone().or_else(|| server.spec.image.clone());
        let Some(image) = image.filter(|_| !is_volume || (rescuer.may_have_volume && rescuer.is_stable)) else {
            return refuse("Cannot rescue a volume-backed instance");
        };
        server.spec.asked.rescue = Some(Rescue { image });
        server.status.fault = None;
        server.status.action = Some(Doing::new("rescue", &caller.cause()));
        Ok(())
    })
    .await
}

/// Asks for it to run from its own root again.
///
/// # Errors
/// `Conflict` unless it is rescued; when it is locked.
pub async fn unrescue(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    edit(store, caller, server, |server| {
        check_lock(caller, server)?;
        allowed(server, "unrescue", &[Phase::Rescued], Wants::Idle)?;
        server.spec.asked.rescue = None;
        server.spec.power = Power::On;
        server.status.action = Some(Doing::new("unrescue", &caller.cause()));
        Ok(())
    })
    .await
}
