//! What was done to a server: a record of each action, opened with the request and closed with what became of it.
//!
//! A verb notes in `status.action` what it begins; the rule of servers does the rest ([`follow`]): it opens the record in
//! the verb's transaction and closes it in the one after which nothing is under way any more. Records outlive the server
//! for a while ([`super::control`]).

use jiff::Timestamp;
use madang_store::{Cause, Indexes, Key, Kind, Metadata, Resource, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Fault, Phase, Server, state};

/// Records kept of one server; beyond that the oldest goes.
const MAX_ACTIONS: usize = 256;

/// The kind of records. `metadata.namespace` is the server's id, `metadata.name` the request's.
pub struct Action;

impl Kind for Action {
    const NAME: &'static str = "serveractions";
    type Spec = ActionSpec;
    type Status = ActionStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("server", |r| vec![r.metadata.namespace.clone()])
    }
}

/// What was begun. Written by the rule of servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionSpec {
    /// Nova's word, such as `reboot`.
    pub action: String,
    /// Who asked; `system:…` for what nobody asked for.
    pub user: String,
    /// When.
    pub started: Timestamp,
}

/// What became of it. Written by the rule of servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionStatus {
    /// What went wrong; none when nothing did.
    #[serde(default)]
    pub message: Option<String>,
    /// Its steps.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// A step of an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Nova's word, such as `compute_reboot_instance`.
    pub event: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; none while it goes on.
    #[serde(default)]
    pub finished: Option<Timestamp>,
    /// How it ended; none while it goes on.
    #[serde(default)]
    pub is_success: Option<bool>,
    /// The host it happened on.
    #[serde(default)]
    pub host: Option<String>,
    /// What went wrong, in words for the user.
    #[serde(default)]
    pub details: Option<String>,
}

/// An action under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    /// Nova's word.
    pub action: String,
    /// The request that asked, `req-…`.
    pub request: String,
}

impl Doing {
    /// An action that `cause` begins; what no request caused gets an id of its own.
    pub fn new(action: &str, cause: &Cause) -> Self {
        let request = if cause.request.is_empty() {
            format!("req-{}", Uuid::new_v4())
        } else {
            cause.request.to_string()
        };
        Self {
            action: action.to_owned(),
            request,
        }
    }
}

impl Event {
    /// How it ended, in Nova's word.
    pub fn result(&self) -> Option<&'static str> {
        self.is_success
            .map(|is_success| if is_success { "Success" } else { "Error" })
    }
}

/// Opens the record of an action that begins with this write, and closes it when nothing is under way after it.
pub(super) fn follow(
    tx: &mut Tx<'_>,
    old: Option<&Resource<Server>>,
    new: &mut Resource<Server>,
) -> Result<(), StoreError> {
    let before = old.and_then(|old| old.status.action.as_ref());
    let Some(doing) = new.status.action.clone() else {
        return Ok(());
    };
    if before != Some(&doing) {
        if let Some(before) = before {
            close(tx, new, before, None)?;
        }
        open(tx, new, &doing)?;
    }
    if state::of(new).task_state.is_none() {
        let failure = failure(old, new);
        close(tx, new, &doing, failure)?;
        new.status.action = None;
    }
    Ok(())
}

/// Closes what was under way on a server that is gone.
pub(super) fn end(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    match &server.status.action {
        Some(doing) => {
            // One that goes at once was never seen with it.
            open(tx, server, doing)?;
            close(tx, server, doing, None)
        }
        None => Ok(()),
    }
}

/// Records an action that is done already.
///
/// # Errors
/// What the store says.
pub(crate) fn note(
    tx: &mut Tx<'_>,
    server: &Resource<Server>,
    action: &str,
    failure: Option<String>,
) -> Result<(), StoreError> {
    let doing = Doing::new(action, tx.cause());
    open(tx, server, &doing)?;
    let failure = failure.map(|message| Fault::new(500, message, tx.at()));
    close(tx, server, &doing, failure)
}

/// What went wrong: a fault that is new, or the phase that says so.
fn failure(old: Option<&Resource<Server>>, new: &Resource<Server>) -> Option<Fault> {
    let fault = new.status.fault.as_ref()?;
    let is_new = old.is_none_or(|old| old.status.fault.as_ref() != Some(fault));
    (is_new || new.status.phase == Phase::Error).then(|| fault.clone())
}

fn key(server: &Resource<Server>, doing: &Doing) -> Key {
    Key::new(Action::NAME, server.project(), server.name(), &doing.request)
}

fn open(tx: &mut Tx<'_>, server: &Resource<Server>, doing: &Doing) -> Result<(), StoreError> {
    if tx.get::<Action>(&key(server, doing)).is_some() {
        return Ok(());
    }
    make_room(tx, server)?;
    let mut metadata = Metadata::new(server.project(), &doing.request);
    metadata.namespace = server.name().to_owned();
    let started = tx.at();
    let spec = ActionSpec {
        action: doing.action.clone(),
        user: tx.cause().actor.to_string(),
        started,
    };
    let mut action = Resource::<Action>::new(metadata, spec);
    action.status.events.push(Event {
        event: event(&doing.action),
        started,
        finished: None,
        is_success: None,
        host: server.status.host.clone(),
        details: None,
    });
    tx.create(action).map(|_| ())
}

fn make_room(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    let actions = tx.store().cache::<Action>();
    if actions.count_by("server", server.name()) < MAX_ACTIONS {
        return Ok(());
    }
    let all = actions.by("server", server.name());
    match all.iter().min_by_key(|action| action.spec.started) {
        Some(oldest) => tx.delete::<Action>(oldest),
        None => Ok(()),
    }
}

fn close(tx: &mut Tx<'_>, server: &Resource<Server>, doing: &Doing, failure: Option<Fault>) -> Result<(), StoreError> {
    let Some(action) = tx.get::<Action>(&key(server, doing)) else {
        return Ok(());
    };
    let mut closed = (*action).clone();
    closed.status.message = failure.as_ref().map(|_| "Error".to_owned());
    let finished = Some(tx.at());
    let refusals = failure.as_ref().and_then(|fault| fault.details.as_deref());
    let details = failure.as_ref().map(|fault| match refusals {
        Some(refusals) => format!("{}\n{refusals}", fault.message),
        None => fault.message.clone(),
    });
    for event in closed.status.events.iter_mut().filter(|event| event.finished.is_none()) {
        event.finished = finished;
        event.is_success = Some(failure.is_none());
        event.details.clone_from(&details);
        if refusals.is_some() {
            // It did not come to what the action mainly is.
            event.event = placing(&doing.action).to_owned();
        }
        event.host = server.status.host.clone().or(event.host.take());
    }
    tx.update(&action, closed).map(|_| ())
}

/// The step in which an action gets its host. Source: the names that Nova's conductor and scheduler record.
fn placing(action: &str) -> &'static str {
    match action {
        "resize" | "migrate" => "cold_migrate",
        "evacuate" => "rebuild_server",
        _ => "schedule",
    }
}

/// The step that an action mainly is. Source: the names of nova.compute.manager's methods, as Nova records them.
fn event(action: &str) -> String {
    let name = match action {
        "create" => "compute__do_build_and_run_instance",
        "delete" => "compute_terminate_instance",
        "resize" | "migrate" => "compute_finish_resize",
        "confirmResize" => "compute_confirm_resize",
        "revertResize" => "compute_finish_revert_resize",
        "shelveOffload" => "compute_shelve_offload_instance",
        "createImage" => "compute_snapshot_instance",
        "createBackup" => "compute_backup_instance",
        "changePassword" => "compute_set_admin_password",
        "evacuate" => "compute_rebuild_instance",
        "live-migration" => "conductor_live_migrate_instance",
        "lock" => "api_lock",
        "unlock" => "api_unlock",
        "trigger_crash_dump" | "attach_volume" | "detach_volume" | "swap_volume" | "attach_interface"
        | "detach_interface" | "extend_volume" => return format!("compute_{action}"),
        _ => return format!("compute_{action}_instance"),
    };
    name.to_owned()
}
