//! Nova's view of a server: `status`, `vm_state`, `task_state`, `power_state`. Pure.

use madang_store::Resource;

use crate::server::{
    Phase, Power, Server,
    asked::{MoveKind, Stage},
};

/// The four words (and one number) that Nova has for where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NovaState {
    /// `status`, such as `ACTIVE`.
    pub status: &'static str,
    /// `OS-EXT-STS:vm_state`, such as `active`.
    pub vm_state: &'static str,
    /// `OS-EXT-STS:task_state`, such as `spawning`; none when nothing is under way.
    pub task_state: Option<&'static str>,
    /// `OS-EXT-STS:power_state`: 0 unknown, 1 running, 3 paused, 4 off.
    pub power_state: u8,
}

/// Where a server is, in Nova's words.
pub fn of(server: &Resource<Server>) -> NovaState {
    if is_gone(server) {
        return DELETED;
    }
    let task_state = task(server);
    let phase = seen_phase(server);
    let vm_state = vm_state(phase);
    let power_state = match server.status.phase {
        Phase::Active | Phase::Rescued => 1,
        Phase::Resized if server.spec.power == Power::On => 1,
        Phase::Paused => 3,
        Phase::Scheduling | Phase::Building => 0,
        Phase::Error if server.status.launched.is_none() => 0,
        _ => 4,
    };
    NovaState {
        status: status(phase, task_state),
        vm_state,
        task_state,
        power_state,
    }
}

/// Whether it is gone: nobody has to clean up behind it any more.
pub fn is_gone(server: &Resource<Server>) -> bool {
    server.metadata.is_deleting() && server.metadata.finalizers.is_empty()
}

/// What is gone, as it is told afterwards.
pub const DELETED: NovaState = NovaState {
    status: "DELETED",
    vm_state: "deleted",
    task_state: None,
    power_state: 0,
};

/// The phase that users are told: one that is built again is still what it was before.
fn seen_phase(server: &Resource<Server>) -> Phase {
    match (server.status.phase, server.status.before) {
        (Phase::Scheduling | Phase::Building, Some(before)) => before,
        (phase, _) => phase,
    }
}

fn vm_state(phase: Phase) -> &'static str {
    match phase {
        Phase::Scheduling | Phase::Building => "building",
        Phase::Active => "active",
        Phase::Stopped => "stopped",
        Phase::Paused => "paused",
        Phase::Suspended => "suspended",
        Phase::Rescued => "rescued",
        Phase::Resized => "resized",
        Phase::Shelved => "shelved",
        Phase::Offloaded => "shelved_offloaded",
        Phase::SoftDeleted => "soft-delete",
        Phase::Error => "error",
    }
}

fn status(phase: Phase, task: Option<&str>) -> &'static str {
    match (phase, task) {
        (Phase::Active, Some("rebooting")) => "REBOOT",
        (Phase::Active, Some("rebooting_hard")) => "HARD_REBOOT",
        (Phase::Active | Phase::Stopped | Phase::Error, Some("rebuilding" | "rebuild_spawning")) => "REBUILD",
        (Phase::Active | Phase::Stopped, Some("resize_prep" | "resize_migrating" | "resize_finish")) => "RESIZE",
        (Phase::Active | Phase::Stopped | Phase::Resized, Some("resize_reverting")) => "REVERT_RESIZE",
        (Phase::Active | Phase::Paused, Some("migrating")) => "MIGRATING",
        (Phase::Scheduling | Phase::Building, _) => "BUILD",
        (Phase::Active, _) => "ACTIVE",
        (Phase::Stopped, _) => "SHUTOFF",
        (Phase::Paused, _) => "PAUSED",
        (Phase::Suspended, _) => "SUSPENDED",
        (Phase::Rescued, _) => "RESCUE",
        (Phase::Resized, _) => "VERIFY_RESIZE",
        (Phase::Shelved, _) => "SHELVED",
        (Phase::Offloaded, _) => "SHELVED_OFFLOADED",
        (Phase::SoftDeleted, _) => "SOFT_DELETED",
        (Phase::Error, _) => "ERROR",
    }
}

/// What is under way: the difference between what was asked and what is.
fn task(server: &Resource<Server>) -> Option<&'static str> {
    if server.metadata.is_deleting() {
        return Some("deleting");
    }
    moving(server)
        .or_else(|| built(server))
        .or_else(|| asked(server))
        .or_else(|| powered(server))
}

fn moving(server: &Resource<Server>) -> Option<&'static str> {
    let moving = server.spec.asked.moving.as_ref()?;
    if moving.kind == MoveKind::Evacuation {
        return Some("rebuilding");
    }
    if moving.kind == MoveKind::LiveMigration {
        return Some("migrating");
    }
    match moving.stage {
        Stage::Placing | Stage::Failed => Some("resize_prep"),
        Stage::Leaving => Some("resize_migrating"),
        Stage::Arriving => Some("resize_finish"),
        Stage::Arrived => None,
        Stage::Reverting | Stage::Returning => Some("resize_reverting"),
    }
}

fn built(server: &Resource<Server>) -> Option<&'static str> {
    let status = &server.status;
    if server.spec.asked.rebuilds > status.rebuilds_done {
        return Some("rebuilding");
    }
    match (status.phase, status.before) {
        (Phase::Scheduling, Some(Phase::Offloaded)) => Some("unshelving"),
        (Phase::Scheduling, _) => Some("scheduling"),
        (Phase::Building, None | Some(Phase::Offloaded)) => Some("spawning"),
        (Phase::Building, Some(_)) => Some("rebuild_spawning"),
        _ => None,
    }
}

fn asked(server: &Resource<Server>) -> Option<&'static str> {
    let (asked, phase) = (&server.spec.asked, server.status.phase);
    match (&asked.rescue, phase) {
        (Some(_), phase) if phase != Phase::Rescued => return Some("rescuing"),
        (None, Phase::Rescued) => return Some("unrescuing"),
        _ => {}
    }
    match (&asked.shelf, phase) {
        (Some(shelf), Phase::Shelved) if shelf.offload => return Some("shelving_offloading"),
        (Some(_), Phase::Shelved | Phase::Offloaded) => {}
        (Some(_), _) => return Some("shelving"),
        (None, Phase::Shelved | Phase::Offloaded) => return Some("unshelving"),
        (None, _) => {}
    }
    let snapshot = asked.snapshot.as_ref()?;
    Some(if snapshot.rotation.is_some() {
        "image_backup"
    } else {
        "image_snapshot"
    })
}

fn powered(server: &Resource<Server>) -> Option<&'static str> {
    let asked_to_reboot = server.spec.reboots > server.status.reboots_done;
    match (server.status.phase, server.spec.power) {
        (Phase::Active | Phase::Stopped | Phase::Paused | Phase::Suspended, Power::On) if asked_to_reboot => {
            Some(if server.spec.is_hard_reboot {
                "rebooting_hard"
            } else {
                "rebooting"
            })
        }
        (Phase::Error, Power::On) if asked_to_reboot && server.spec.is_hard_reboot => Some("rebooting_hard"),
        (Phase::Active | Phase::Paused | Phase::Suspended, Power::Off) => Some("powering-off"),
        (Phase::Active, Power::Paused) => Some("pausing"),
        (Phase::Active, Power::Suspended) => Some("suspending"),
        (Phase::Stopped, Power::On) => Some("powering-on"),
        (Phase::Paused, Power::On) => Some("unpausing"),
        (Phase::Suspended, Power::On) => Some("resuming"),
        (Phase::SoftDeleted, Power::On) => Some("restoring"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{asked::Shelf, tests::server};

    #[test]
    fn what_is_under_way_is_the_difference() {
        let mut server = server("a");
        server.status.phase = Phase::Active;
        assert_eq!((of(&server).status, of(&server).task_state), ("ACTIVE", None));
        server.spec.power = Power::Suspended;
        assert_eq!(
            (of(&server).status, of(&server).task_state),
            ("ACTIVE", Some("suspending"))
        );
        server.status.phase = Phase::Suspended;
        assert_eq!((of(&server).status, of(&server).task_state), ("SUSPENDED", None));
        server.spec.power = Power::On;
        assert_eq!(of(&server).task_state, Some("resuming"));
    }

    #[test]
    fn what_is_built_again_is_what_it_was() {
        let mut server = server("a");
        server.status.phase = Phase::Stopped;
        server.spec.asked.rebuilds = 1;
        assert_eq!(
            (of(&server).status, of(&server).task_state),
            ("REBUILD", Some("rebuilding"))
        );
        server.status.rebuilds_done = 1;
        server.status.before = Some(Phase::Stopped);
        server.status.phase = Phase::Building;
        let state = of(&server);
        assert_eq!((state.status, state.vm_state), ("REBUILD", "stopped"));
    }

    #[test]
    fn a_shelf_is_left_and_reached_in_steps() {
        let mut server = server("a");
        server.spec.power = Power::Off;
        server.status.phase = Phase::Stopped;
        server.spec.asked.shelf = Some(Shelf {
            image: None,
            offload: true,
        });
        assert_eq!(of(&server).task_state, Some("shelving"));
        server.status.phase = Phase::Shelved;
        assert_eq!(
            (of(&server).status, of(&server).task_state),
            ("SHELVED", Some("shelving_offloading"))
        );
        server.status.phase = Phase::Offloaded;
        assert_eq!(
            (of(&server).status, of(&server).task_state),
            ("SHELVED_OFFLOADED", None)
        );
        server.spec.asked.shelf = None;
        server.status.before = Some(Phase::Offloaded);
        server.status.phase = Phase::Scheduling;
        assert_eq!(
            (of(&server).status, of(&server).task_state),
            ("SHELVED_OFFLOADED", Some("unshelving"))
        );
    }
}
