//! What can be asked of a server that is there. Each verb is one transaction that looks at the server's state itself, so
//! two requests at the same time cannot both find it free.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use madang_http::Failure;
use madang_identity::Caller;
use madang_network::{Port, SecurityGroup};
use madang_store::{Resource, Store};

use crate::{
    Phase, Power, Server,
    server::{Fault, Lock, state},
};

/// A server as its verb left it.
type Done = Result<Arc<Resource<Server>>, Failure>;

/// Asks for it to run.
///
/// # Errors
/// `Conflict` unless it is off and nothing else is under way; when it is locked.
pub async fn start(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(store, caller, server, "start", &[Phase::Stopped], |server| {
        server.spec.power = Power::On
    })
    .await
}

/// Asks for it to be off.
///
/// # Errors
/// `Conflict` unless it runs (or is in error) and nothing else is under way; when it is locked.
pub async fn stop(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    let states = [Phase::Active, Phase::Error];
    change(store, caller, server, "stop", &states, |server| {
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
    let hard = [Phase::Active, Phase::Stopped, Phase::Paused, Phase::Error];
    let states: &[Phase] = if is_hard { &hard } else { &soft };
    change(store, caller, server, "reboot", states, |server| {
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
    change(store, caller, server, "pause", &[Phase::Active], |server| {
        server.spec.power = Power::Paused
    })
    .await
}

/// Lets it go on.
///
/// # Errors
/// `Conflict` unless it holds still; when it is locked.
pub async fn unpause(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    change(store, caller, server, "unpause", &[Phase::Paused], |server| {
        server.spec.power = Power::On
    })
    .await
}

/// Locks it against changes.
///
/// # Errors
/// `NotFound` when it is gone.
pub async fn lock(store: &Store, caller: &Caller, server: &Resource<Server>, reason: Option<String>) -> Done {
    let by_admin = caller.is_admin() && caller.subject.project_id() != Some(server.project());
    edit(store, caller, server, |server| {
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
/// `Conflict` when an admin locked it and the caller is none.
pub async fn unlock(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    let may_override = caller.allows("os_compute_api:os-lock-server:unlock:unlock_override", &[]);
    edit(store, caller, server, |server| {
        if server.spec.lock.as_ref().is_some_and(|lock| lock.by_admin) && !may_override {
            return Err(locked(server));
        }
        server.spec.lock = None;
        Ok(())
    })
    .await
}

/// Sets its recorded state by an admin's word, to `active` or `error`.
///
/// # Errors
/// `NotFound` when it is gone.
pub async fn reset_state(store: &Store, caller: &Caller, server: &Resource<Server>, is_active: bool) -> Done {
    edit(store, caller, server, |server| {
        server.status.phase = if is_active { Phase::Active } else { Phase::Error };
        server.status.fault = (!is_active).then(|| Fault {
            code: 500,
            message: "the state was set to error by an administrator".to_owned(),
            created: jiff::Timestamp::now(),
        });
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
}

/// Renames and redescribes.
///
/// # Errors
/// `NotFound` when it is gone.
pub async fn update(store: &Store, caller: &Caller, server: &Resource<Server>, update: &Update) -> Done {
    edit(store, caller, server, |server| {
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
        .map_err(|Edit(failure)| failure)
}

/// Asks for its end.
///
/// # Errors
/// `Conflict` when it is locked.
pub async fn delete(store: &Store, caller: &Caller, server: &Resource<Server>) -> Result<(), Failure> {
    let key = server.key();
    let deleted = store.transact::<(), Edit>(caller.cause(), |tx| {
        let Some(server) = tx.get::<Server>(&key) else {
            return Ok(());
        };
        check_lock(caller, &server)?;
        Ok(tx.delete(&server)?)
    });
    deleted.await.map_err(|Edit(failure)| failure)
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
            return Err(Edit(Failure::not_found(message)));
        }
        Ok(())
    });
    changed.await.map_err(|Edit(failure)| failure)
}

/// Changes a server that is in one of `states`, unlocked, and has nothing under way.
async fn change(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    verb: &str,
    states: &[Phase],
    change: impl Fn(&mut Resource<Server>),
) -> Done {
    edit(store, caller, server, |server| {
        check_lock(caller, server)?;
        let state = state::of(server);
        let id = server.name();
        if !states.contains(&server.status.phase) {
            let message = format!(
                "Cannot '{verb}' instance {id} while it is in vm_state {}",
                state.vm_state
            );
            return Err(Failure::conflict(message));
        }
        if let Some(task) = state.task_state.filter(|task| verb != "reboot" || *task != "rebooting") {
            return Err(Failure::conflict(format!(
                "Cannot '{verb}' instance {id} while it is in task_state {task}"
            )));
        }
        change(server);
        Ok(())
    })
    .await
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

/// A failure inside a transaction, so that the store's own errors come out in Nova's words.
struct Edit(Failure);

impl From<madang_store::StoreError> for Edit {
    fn from(error: madang_store::StoreError) -> Self {
        Self(crate::api::failure(error))
    }
}

impl From<Failure> for Edit {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}
