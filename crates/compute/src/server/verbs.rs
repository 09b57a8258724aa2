//! What can be asked of a server that is there. Each verb is one transaction that looks at the server's state itself, so
//! two requests at the same time cannot both find it free.

pub mod rebuild;
pub mod resize;
pub mod shelf;
pub mod snapshot;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use madang_http::Failure;
use madang_identity::Caller;
use madang_network::{Port, SecurityGroup};
use madang_store::{Resource, Store, StoreError, Tx};

use crate::{
    Phase, Power, Server,
    aggregate::zone_of,
    server::{Asked, Doing, Fault, Lock, state, view::host_of},
};

/// A server as its verb left it.
type Done = Result<Arc<Resource<Server>>, Failure>;

/// Asks for it to run.
///
/// # Errors
/// `Conflict` unless it is off and nothing else is under way; when it is locked.
pub async fn start(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(
        store,
        caller,
        server,
        "start",
        &[Phase::Stopped],
        Wants::Idle,
        |server| server.spec.power = Power::On,
    )
    .await
}

/// Asks for it to be off.
///
/// # Errors
/// `Conflict` unless it runs (or is in error) and nothing else is under way; when it is locked.
pub async fn stop(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    let states = [Phase::Active, Phase::Error];
    change(store, caller, server, "stop", &states, Wants::Idle, |server| {
        server.spec.power = Power::Off;
        // Out of an error there is only the way over what is seen.
        if server.status.phase == Phase::Error && server.status.host.is_some() {
            server.status.phase = Phase::Active;
        }
    })
    .await
}

/// Asks for a restart: by the guest itself, or (`is_hard`) without it.
///
/// # Errors
/// `Conflict` in a state without restart; when it is locked.
pub async fn reboot(store: &Store, caller: &Caller, server: &Resource<Server>, is_hard: bool) -> Done {
    let soft = [Phase::Active];
    let hard = [
        Phase::Active,
        Phase::Stopped,
        Phase::Paused,
        Phase::Suspended,
        Phase::Error,
    ];
    let states: &[Phase] = if is_hard { &hard } else { &soft };
    let wants = if is_hard { Wants::IdleOrRebooting } else { Wants::Idle };
    change(store, caller, server, "reboot", states, wants, |server| {
        server.spec.reboots += 1;
        server.spec.is_hard_reboot = is_hard;
        server.spec.power = Power::On;
    })
    .await
}

/// Asks for it to hold still.
///
/// # Errors
/// `Conflict` unless it runs; when it is locked.
pub async fn pause(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(
        store,
        caller,
        server,
        "pause",
        &[Phase::Active],
        Wants::Idle,
        |server| server.spec.power = Power::Paused,
    )
    .await
}

/// Lets it go on.
///
/// # Errors
/// `Conflict` unless it holds still; when it is locked.
pub async fn unpause(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(
        store,
        caller,
        server,
        "unpause",
        &[Phase::Paused],
        Wants::Idle,
        |server| server.spec.power = Power::On,
    )
    .await
}

/// Asks for its memory to go to the disk.
///
/// # Errors
/// `Conflict` unless it runs; when it is locked; `Invalid` for a container.
pub async fn suspend(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    refuse_container(server, "its memory is not written to the disk; pause it instead")?;
    change(
        store,
        caller,
        server,
        "suspend",
        &[Phase::Active],
        Wants::Idle,
        |server| server.spec.power = Power::Suspended,
    )
    .await
}

/// Lets it go on with the memory it had.
///
/// # Errors
/// `Conflict` unless it is suspended; when it is locked.
pub async fn resume(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(
        store,
        caller,
        server,
        "resume",
        &[Phase::Suspended],
        Wants::Idle,
        |server| server.spec.power = Power::On,
    )
    .await
}

/// Wants a soft-deleted server back.
///
/// # Errors
/// `Conflict` unless it is soft-deleted; when it is locked.
pub async fn restore(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(
        store,
        caller,
        server,
        "restore",
        &[Phase::SoftDeleted],
        Wants::Idle,
        |server| {
            server.spec.power = Power::On;
            server.status.soft_deleted = None;
        },
    )
    .await
}

/// Locks it against changes.
///
/// # Errors
/// `NotFound` when it is gone.
pub async fn lock(store: &Store, caller: &Caller, server: &Resource<Server>, reason: Option<String>) -> Done {
    let by_admin = caller.is_admin() && caller.subject.project_id() != Some(server.project());
    edit(store, caller, server, |server| {
        server.status.action = Some(Doing::new("lock", &caller.cause()));
        server.spec.lock = Some(Lock {
            by_admin,
            reason: reason.clone(),
        });
        Ok(())
    })
    .await
}

/// Unlocks it.
///
/// # Errors
/// `Forbidden` when an admin locked it and the caller is none.
pub async fn unlock(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    let may_override = caller.allows("os_compute_api:os-lock-server:unlock:unlock_override", &[]);
    edit(store, caller, server, |server| {
        if server.spec.lock.as_ref().is_some_and(|lock| lock.by_admin) && !may_override {
            let rule = "os_compute_api:os-lock-server:unlock:unlock_override";
            return Err(Failure::forbidden(format!(
                "Policy doesn't allow {rule} to be performed."
            )));
        }
        server.spec.lock = None;
        server.status.action = Some(Doing::new("unlock", &caller.cause()));
        Ok(())
    })
    .await
}

/// Sets its recorded state by an admin's word, to `active` or `error`.
///
/// # Errors
/// `NotFound` when it is gone.
pub async fn reset_state(store: &Store, caller: &Caller, server: &Resource<Server>, is_active: bool) -> Done {
    let is_known = |server: &Resource<Server>| server.status.host.is_some();
    edit(store, caller, server, |server| {
        server.status.action = Some(Doing::new("resetState", &caller.cause()));
        server.status.phase = if is_active { Phase::Active } else { Phase::Error };
        server.status.before = None;
        server.status.reboots_done = server.spec.reboots;
        server.status.rebuilds_done = server.spec.asked.rebuilds;
        // What was under way is no more; a move keeps its two places until one of them is chosen.
        let moving = server.spec.asked.moving.take();
        server.spec.asked = Asked {
            rebuilds: server.spec.asked.rebuilds,
            moving,
            ..Asked::default()
        };
        if is_active && is_known(server) {
            server.spec.power = Power::On;
        }
        let message = "the state was set to error by an administrator";
        server.status.fault = (!is_active).then(|| Fault::new(500, message, jiff::Timestamp::now()));
        Ok(())
    })
    .await
}

/// What `PUT /servers/{id}` may change; none leaves it.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The display name.
    pub name: Option<String>,
    /// The guest's name for itself, from its next start on.
    pub hostname: Option<String>,
    /// The description; inner none removes it.
    pub description: Option<Option<String>>,
    /// `AUTO` rather than `MANUAL`.
    pub is_disk_automatic: Option<bool>,
    /// Where the user says it is reached.
    pub access_ipv4: Option<Ipv4Addr>,
    /// Where the user says it is reached, in IPv6.
    pub access_ipv6: Option<Ipv6Addr>,
    /// The zone it has to be in wherever it moves, which is the one it is in; inner none lets it move to any.
    pub zone: Option<Option<String>>,
}

/// Renames and redescribes.
///
/// # Errors
/// `NotFound` when it is gone; `Conflict` for another zone than it is in or has to be in.
pub async fn update(store: &Store, caller: &Caller, server: &Resource<Server>, update: &Update) -> Done {
    edit(store, caller, server, |server| {
        if let Some(zone) = &update.zone {
            check_pin(store, server, zone.as_deref())?;
            server.spec.availability_zone.clone_from(zone);
        }
        if let Some(name) = &update.name {
            server.spec.name.clone_from(name);
        }
        if let Some(hostname) = &update.hostname {
            server.spec.hostname.clone_from(hostname);
        }
        if let Some(description) = &update.description {
            server.spec.description.clone_from(description);
        }
        server.spec.is_disk_automatic = update.is_disk_automatic.unwrap_or(server.spec.is_disk_automatic);
        server.spec.access_ipv4 = update.access_ipv4.or(server.spec.access_ipv4);
        server.spec.access_ipv6 = update.access_ipv6.or(server.spec.access_ipv6);
        Ok(())
    })
    .await
}

/// Whether a server may be held to a zone from now on, or to none.
fn check_pin(store: &Store, server: &Resource<Server>, zone: Option<&str>) -> Result<(), Failure> {
    let pinned = server.spec.availability_zone.as_deref();
    if zone.is_none() || zone == pinned {
        return Ok(());
    }
    let refuse = |reason: String| Err(Failure::conflict(reason).at("pinned_availability_zone"));
    if let Some(pinned) = pinned {
        return refuse(format!(
            "the server is held to availability zone '{pinned}': set pinned_availability_zone to null first"
        ));
    }
    let is = host_of(store, server).map(|host| zone_of(store, &host));
    if is.as_deref() == zone {
        return Ok(());
    }
    refuse(format!(
        "the server is in availability zone '{}' and can be held to no other, such as '{}'",
        is.unwrap_or_default(),
        zone.unwrap_or_default()
    ))
}

/// Changes its metadata.
///
/// # Errors
/// What `change` says; `Conflict` when it is locked.
pub async fn edit_metadata(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    change: impl Fn(&mut BTreeMap<String, String>) -> Result<(), Failure>,
) -> Done {
    edit(store, caller, server, |server| {
        check_lock(caller, server)?;
        change(&mut server.spec.metadata)
    })
    .await
}

/// Changes anything of a server; for verbs of few words.
///
/// # Errors
/// What `change` says; `NotFound` when it is gone.
pub async fn edit(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    change: impl Fn(&mut Resource<Server>) -> Result<(), Failure>,
) -> Done {
    store
        .modify::<Server, Edit>(&server.key(), caller.cause(), |server| Ok(change(server)?))
        .await
        .map_err(Edit::into_failure)
}

/// How a server is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// For ever.
    Now,
    /// It can be wanted back for a while, if it ever ran.
    Softly,
}

/// Asks for its end.
///
/// # Errors
/// `Conflict` when it is locked.
pub async fn delete(store: &Store, caller: &Caller, server: &Resource<Server>, end: End) -> Result<(), Failure> {
    let key = server.key();
    let deleted = store.transact::<(), Edit>(caller.cause(), |tx| {
        let Some(server) = tx.get::<Server>(&key) else {
            return Ok(());
        };
        check_lock(caller, &server)?;
        if server.metadata.is_deleting() {
            return Ok(());
        }
        let mut doing = (*server).clone();
        doing.status.action = Some(Doing::new("delete", tx.cause()));
        let is_soft = end == End::Softly && server.status.launched.is_some();
        if is_soft && server.status.phase == Phase::SoftDeleted {
            return Ok(());
        }
        if is_soft {
            doing.spec.power = Power::Off;
            doing.status.phase = Phase::SoftDeleted;
            doing.status.soft_deleted = Some(tx.at());
            tx.update(&server, doing)?;
            return Ok(());
        }
        discard_shelf(tx, &server)?;
        doing.metadata.deleted = Some(tx.at());
        tx.update(&server, doing)?;
        Ok(())
    });
    deleted.await.map_err(Edit::into_failure)
}

/// The image on its shelf goes with it.
fn discard_shelf(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), Edit> {
    let shelf = server.spec.asked.shelf.as_ref();
    let id = shelf
        .and_then(|shelf| shelf.image.as_ref())
        .or(server.status.unshelved.as_ref());
    let image = id.and_then(|id| tx.store().cache::<madang_image::Image>().by_name(id));
    if let Some(image) = image {
        tx.delete::<madang_image::Image>(&image)?;
    }
    Ok(())
}

/// Puts all its ports into a security group, or takes them out.
///
/// # Errors
/// `NotFound` when it has no ports; `Conflict` when it is in the group already, or was not.
pub async fn set_group(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    group: &Resource<SecurityGroup>,
    is_member: bool,
) -> Result<(), Failure> {
    check_lock(caller, server)?;
    let id = group.name();
    let changed = store.transact::<(), Edit>(caller.cause(), |tx| {
        let mut count = 0;
        for port in tx.store().cache::<Port>().by("device", server.name()) {
            let is_in = port.spec.security_groups.iter().any(|other| other == id);
            if is_in == is_member {
                continue;
            }
            let mut new = (*port).clone();
            if is_member {
                new.spec.security_groups.push(id.to_owned());
            } else {
                new.spec.security_groups.retain(|other| other != id);
            }
            new.spec.explicit_security_groups = true;
            tx.update(&port, new)?;
            count += 1;
        }
        if count == 0 && !is_member {
            let message = format!(
                "Security group {} not associated with the instance {}",
                group.spec.name,
                server.name()
            );
            return Err(Edit::Refused(Failure::not_found(message)));
        }
        Ok(())
    });
    changed.await.map_err(Edit::into_failure)
}

/// What a verb wants of a server beside its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// That nothing is under way, and that it ran once.
    Idle,
    /// That nothing but a reboot is under way, and that it ran once.
    IdleOrRebooting,
    /// That it ran once.
    Launched,
}

/// Refuses, with the reason, what a container does not do.
///
/// # Errors
/// `Invalid` for a container.
pub(crate) fn refuse_container(server: &Resource<Server>, reason: &str) -> Result<(), Failure> {
    if server.spec.driver != "oci" {
        return Ok(());
    }
    let message = format!("Instance {} is a container: {reason}", server.name());
    Err(Failure::invalid(message))
}

/// Refuses, in Nova's words, what a server's state does not let happen.
///
/// # Errors
/// `Conflict`.
pub(crate) fn allowed(server: &Resource<Server>, verb: &str, phases: &[Phase], wants: Wants) -> Result<(), Failure> {
    let state = state::of(server);
    let refuse = |attribute: &str, value: &str| {
        let id = server.name();
        Err(Failure::conflict(format!(
            "Cannot '{verb}' instance {id} while it is in {attribute} {value}"
        )))
    };
    // One that is built again is, to users, what it was.
    let phase = match (server.status.phase, server.status.before) {
        (Phase::Scheduling | Phase::Building, Some(before)) => before,
        (phase, _) => phase,
    };
    if !phases.contains(&phase) {
        return refuse("vm_state", state.vm_state);
    }
    let is_rebooting = matches!(state.task_state, Some("rebooting" | "rebooting_hard"));
    match (wants, state.task_state) {
        (Wants::Launched, _) => {}
        (Wants::IdleOrRebooting, Some(_)) if is_rebooting => {}
        (_, Some(task)) => return refuse("task_state", task),
        (_, None) => {}
    }
    if server.status.launched.is_none() {
        return refuse("launched_at", "None");
    }
    Ok(())
}

/// Changes a server that is in one of `states`, unlocked, and has nothing under way.
async fn change(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    verb: &str,
    states: &[Phase],
    wants: Wants,
    change: impl Fn(&mut Resource<Server>),
) -> Done {
    edit(store, caller, server, |server| {
        check_lock(caller, server)?;
        allowed(server, verb, states, wants)?;
        server.status.action = Some(Doing::new(verb, &caller.cause()));
        change(server);
        Ok(())
    })
    .await
}

/// One transaction over a server and what goes with it.
///
/// # Errors
/// What `change` says; `NotFound` when it is gone.
pub(crate) async fn transact(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    change: impl Fn(&mut Tx<'_>, &mut Resource<Server>) -> Result<(), Edit>,
) -> Done {
    let key = server.key();
    let project = server.project();
    let done = store.transact::<_, Edit>(caller.cause(), |tx| {
        let old = tx.get::<Server>(&key);
        let old = old.ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
        let mut new = (*old).clone();
        change(tx, &mut new)?;
        Ok(tx.update(&old, new)?)
    });
    done.await.map_err(|edit| edit.worded(store, project))
}

/// Refuses to change a locked server, but for admins.
pub(crate) fn check_lock(caller: &Caller, server: &Resource<Server>) -> Result<(), Failure> {
    if server.spec.lock.is_some() && !caller.is_admin() {
        Err(locked(server))
    } else {
        Ok(())
    }
}

fn locked(server: &Resource<Server>) -> Failure {
    Failure::conflict(format!("Instance {} is locked", server.name()))
}

/// Why a transaction of a verb did not come about: in Nova's words, or in the store's own.
pub(crate) enum Edit {
    /// A rule or the engine refused.
    Store(StoreError),
    /// The verb refused.
    Refused(Failure),
}

impl Edit {
    fn into_failure(self) -> Failure {
        match self {
            Self::Store(error) => crate::api::failure(error),
            Self::Refused(failure) => failure,
        }
    }

    /// As [`Edit::into_failure`], a full quota said as Nova says it.
    fn worded(self, store: &Store, project: &str) -> Failure {
        match self {
            Self::Store(error) => crate::api::failure(super::rules::over_quota(error, store, project)),
            Self::Refused(failure) => failure,
        }
    }
}

impl From<StoreError> for Edit {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Edit {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}
