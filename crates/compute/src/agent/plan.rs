//! What to do next for a server, from what was asked, what was recorded and what is seen. Pure.

use madang_host::workload::State;
use madang_store::Resource;

use crate::server::{Phase, Power, Server, Snapshot, Stage};

/// One step towards what was asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// What is matches what was asked.
    Nothing,
    /// Start the workload, once its ports are wired.
    Start,
    /// Power it off, politely first.
    Stop,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// Write its memory to the disk and end it.
    Suspend,
    /// Restart it.
    Reboot {
        /// Without asking the guest.
        hard: bool,
    },
    /// Throw its root away, to build it from the image that is asked for now.
    Rebuild,
    /// Run it from another root.
    Rescue,
    /// Run it from its own root again.
    Unrescue,
    /// Copy its root into an image.
    Snapshot(Snapshot),
    /// Power it off and copy its root into the image of its shelf.
    Shelve,
    /// Take it off this host.
    Offload,
    /// Delete the image that it came off the shelf with.
    Discard(String),
    /// End it here, so that it can start in its new place.
    Leave,
    /// Start it in its new place, or in its old one again; off it stays off.
    Arrive,
    /// End it in its new place.
    Return,
    /// Only the record is behind.
    Record(Phase),
    /// The guest ended by itself: that is what is asked from now on.
    GuestOff,
    /// It is broken, for this reason.
    Fail(String),
}

/// Decides the next step.
pub(super) fn plan(server: &Resource<Server>, seen: &State) -> Step {
    let phase = server.status.phase;
    let asked = &server.spec.asked;
    match phase {
        Phase::Scheduling | Phase::Offloaded => return Step::Nothing,
        Phase::Building => return building(server, seen),
        _ => {}
    }
    if let Some(step) = asked.stage().and_then(|stage| moving(stage, seen)) {
        return step;
    }
    if asked.rebuilds > server.status.rebuilds_done {
        return Step::Rebuild;
    }
    match (&asked.rescue, phase) {
        (Some(_), Phase::Rescued) => return Step::Nothing,
        (Some(_), _) => return Step::Rescue,
        (None, Phase::Rescued) => return Step::Unrescue,
        (None, _) => {}
    }
    let wants_reboot = server.spec.reboots > server.status.reboots_done;
    match phase {
        // Only a hard reboot leads out of it.
        Phase::Error if wants_reboot && server.spec.is_hard_reboot => Step::Reboot { hard: true },
        Phase::Error => Step::Nothing,
        Phase::Shelved => shelved(server),
        Phase::SoftDeleted if server.spec.power == Power::On => Step::Start,
        Phase::SoftDeleted => match seen {
            State::Running { .. } | State::Paused => Step::Stop,
            _ => Step::Nothing,
        },
        _ if asked.shelf.is_some() => Step::Shelve,
        _ => settled(server, seen, wants_reboot),
    }
}

fn building(server: &Resource<Server>, seen: &State) -> Step {
    match seen {
        // Started, and then we were cut off before writing it down.
        State::Running { .. } => Step::Record(Phase::Active),
        State::Paused => Step::Resume,
        State::Suspended => Step::Start,
        State::Failed { reason } => Step::Fail(reason.clone()),
        State::Stopped { exit_code } if server.status.attempts > 0 => Step::Fail(ended_at_once(*exit_code)),
        State::Stopped { .. } | State::Absent => Step::Start,
    }
}

/// What a move wants here; none when it wants nothing and all else goes on.
fn moving(stage: Stage, seen: &State) -> Option<Step> {
    match (stage, seen) {
        (Stage::Placing | Stage::Failed, _) => Some(Step::Nothing),
        (Stage::Leaving, _) => Some(Step::Leave),
        (Stage::Arriving | Stage::Returning, _) => Some(Step::Arrive),
        (Stage::Reverting, _) => Some(Step::Return),
        (Stage::Arrived, State::Stopped { .. } | State::Absent | State::Failed { .. }) => Some(Step::GuestOff),
        (Stage::Arrived, _) => Some(Step::Nothing),
    }
}

fn shelved(server: &Resource<Server>) -> Step {
    match &server.spec.asked.shelf {
        Some(shelf) if shelf.offload => Step::Offload,
        Some(_) => Step::Nothing,
        None => Step::Start,
    }
}

fn settled(server: &Resource<Server>, seen: &State, wants_reboot: bool) -> Step {
    let step = powered(server, seen, wants_reboot);
    if step != Step::Nothing {
        return step;
    }
    if let Some(snapshot) = &server.spec.asked.snapshot {
        return Step::Snapshot(snapshot.clone());
    }
    match &server.status.unshelved {
        Some(image) if server.status.phase == Phase::Active => Step::Discard(image.clone()),
        _ => Step::Nothing,
    }
}

fn powered(server: &Resource<Server>, seen: &State, wants_reboot: bool) -> Step {
    let phase = server.status.phase;
    let was_on = matches!(phase, Phase::Active | Phase::Paused | Phase::Suspended);
    match (server.spec.power, seen) {
        (Power::On, _) if wants_reboot => Step::Reboot {
            hard: server.spec.is_hard_reboot,
        },
        (Power::On, State::Running { .. }) if phase == Phase::Active => Step::Nothing,
        (Power::On, State::Running { .. }) => Step::Record(Phase::Active),
        (Power::On, State::Paused) => Step::Resume,
        (Power::On, State::Suspended) => Step::Start,
        (Power::Suspended, State::Suspended) if phase == Phase::Suspended => Step::Nothing,
        (Power::Suspended, State::Suspended) => Step::Record(Phase::Suspended),
        (Power::Suspended, State::Running { .. } | State::Paused) => Step::Suspend,
        (Power::Paused, State::Suspended) => Step::Start,
        (Power::Off, State::Running { .. } | State::Paused | State::Suspended) => Step::Stop,
        (Power::Off, _) if phase == Phase::Stopped => Step::Nothing,
        (Power::Off, _) => Step::Record(Phase::Stopped),
        (_, State::Failed { reason }) if phase != Phase::Stopped => Step::Fail(reason.clone()),
        (Power::Paused, State::Running { .. }) if was_on => Step::Pause,
        (Power::Paused, State::Paused) if phase == Phase::Paused => Step::Nothing,
        (Power::Paused, State::Paused) if was_on => Step::Record(Phase::Paused),
        (_, _) if was_on => Step::GuestOff,
        (Power::On, _) => Step::Start,
        (Power::Paused | Power::Suspended, _) => Step::GuestOff,
    }
}

fn ended_at_once(exit_code: Option<i32>) -> String {
    match exit_code {
        Some(code) => format!("it ended at once, with exit code {code}"),
        None => "it ended at once".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::server;

    const RUNNING: State = State::Running { pid: 1 };
    const STOPPED: State = State::Stopped { exit_code: None };

    fn step(phase: Phase, power: Power, seen: State) -> Step {
        let mut server = server("a");
        server.status.phase = phase;
        server.spec.power = power;
        plan(&server, &seen)
    }

    #[test]
    fn a_new_server_is_started_once() {
        assert_eq!(step(Phase::Scheduling, Power::On, State::Absent), Step::Nothing);
        assert_eq!(step(Phase::Building, Power::On, State::Absent), Step::Start);
        assert_eq!(step(Phase::Building, Power::On, RUNNING), Step::Record(Phase::Active));
        assert_eq!(step(Phase::Active, Power::On, RUNNING), Step::Nothing);
    }

    #[test]
    fn power_follows_what_was_asked() {
        assert_eq!(step(Phase::Active, Power::Off, RUNNING), Step::Stop);
        assert_eq!(step(Phase::Active, Power::Off, STOPPED), Step::Record(Phase::Stopped));
        assert_eq!(step(Phase::Stopped, Power::Off, STOPPED), Step::Nothing);
        assert_eq!(step(Phase::Stopped, Power::On, STOPPED), Step::Start);
        assert_eq!(step(Phase::Stopped, Power::On, RUNNING), Step::Record(Phase::Active));
        assert_eq!(step(Phase::Active, Power::Paused, RUNNING), Step::Pause);
        assert_eq!(
            step(Phase::Active, Power::Paused, State::Paused),
            Step::Record(Phase::Paused)
        );
        assert_eq!(step(Phase::Paused, Power::Paused, State::Paused), Step::Nothing);
        assert_eq!(step(Phase::Paused, Power::On, State::Paused), Step::Resume);
    }

    #[test]
    fn memory_goes_to_the_disk_and_comes_back() {
        assert_eq!(step(Phase::Active, Power::Suspended, RUNNING), Step::Suspend);
        assert_eq!(
            step(Phase::Active, Power::Suspended, State::Suspended),
            Step::Record(Phase::Suspended),
            "done, and then cut off before writing it down"
        );
        assert_eq!(
            step(Phase::Suspended, Power::Suspended, State::Suspended),
            Step::Nothing
        );
        assert_eq!(step(Phase::Suspended, Power::On, State::Suspended), Step::Start);
        assert_eq!(step(Phase::Suspended, Power::On, RUNNING), Step::Record(Phase::Active));
        assert_eq!(step(Phase::Suspended, Power::Off, State::Suspended), Step::Stop);
    }

    #[test]
    fn a_rescue_is_begun_once_and_ended_once() {
        let mut server = server("a");
        server.spec.asked.rescue = Some(crate::server::Rescue { image: "i".to_owned() });
        for phase in [Phase::Active, Phase::Stopped, Phase::Error] {
            server.status.phase = phase;
            assert_eq!(plan(&server, &RUNNING), Step::Rescue);
        }
        server.status.phase = Phase::Rescued;
        assert_eq!(plan(&server, &RUNNING), Step::Nothing);
        assert_eq!(plan(&server, &STOPPED), Step::Nothing, "its rescuer may power off");
        server.spec.asked.rescue = None;
        assert_eq!(plan(&server, &RUNNING), Step::Unrescue);
    }

    #[test]
    fn a_rebuild_throws_away_before_it_builds() {
        let mut server = server("a");
        server.spec.asked.rebuilds = 1;
        for phase in [Phase::Active, Phase::Stopped, Phase::Error] {
            server.status.phase = phase;
            assert_eq!(plan(&server, &RUNNING), Step::Rebuild);
            assert_eq!(plan(&server, &State::Absent), Step::Rebuild, "cut off in between");
        }
        server.status.rebuilds_done = 1;
        server.status.phase = Phase::Building;
        assert_eq!(plan(&server, &State::Absent), Step::Start);
    }

    #[test]
    fn a_move_goes_stage_by_stage_whatever_is_seen() {
        let mut server = server("a");
        server.status.phase = Phase::Active;
        let flavor = server.spec.flavor.clone();
        let mut at = |stage, seen: &State| {
            server.spec.asked.moving = Some(crate::server::Move {
                migration: uuid::Uuid::nil(),
                kind: crate::server::MoveKind::Resize,
                old_flavor_id: "1".to_owned(),
                old_flavor: flavor.clone(),
                old_disks: Vec::new(),
                source: "h".to_owned(),
                target: None,
                power: Power::On,
                stage,
                failure: None,
                refusals: None,
            });
            plan(&server, seen)
        };
        assert_eq!(at(Stage::Placing, &RUNNING), Step::Nothing);
        assert_eq!(at(Stage::Failed, &STOPPED), Step::Nothing);
        for seen in [RUNNING, STOPPED, State::Absent, State::Suspended] {
            assert_eq!(at(Stage::Leaving, &seen), Step::Leave);
            assert_eq!(at(Stage::Arriving, &seen), Step::Arrive);
            assert_eq!(at(Stage::Reverting, &seen), Step::Return);
            assert_eq!(at(Stage::Returning, &seen), Step::Arrive);
        }
        assert_eq!(at(Stage::Arrived, &RUNNING), Step::Nothing);
    }

    #[test]
    fn a_shelf_is_reached_and_left_once() {
        let mut server = server("a");
        server.spec.power = Power::Off;
        server.spec.asked.shelf = Some(crate::server::Shelf {
            image: Some("i".to_owned()),
            offload: true,
        });
        for phase in [Phase::Active, Phase::Stopped, Phase::Paused, Phase::Suspended] {
            server.status.phase = phase;
            assert_eq!(plan(&server, &STOPPED), Step::Shelve);
        }
        server.status.phase = Phase::Shelved;
        assert_eq!(plan(&server, &STOPPED), Step::Offload);
        server.status.phase = Phase::Offloaded;
        assert_eq!(plan(&server, &State::Absent), Step::Nothing);
        server.status.phase = Phase::Shelved;
        server.spec.asked.shelf = None;
        server.spec.power = Power::On;
        assert_eq!(plan(&server, &STOPPED), Step::Start);
    }

    #[test]
    fn a_snapshot_waits_until_its_server_is_what_was_asked() {
        let mut server = server("a");
        let snapshot = Snapshot {
            image: "i".to_owned(),
            rotation: None,
        };
        server.spec.asked.snapshot = Some(snapshot.clone());
        server.status.phase = Phase::Active;
        assert_eq!(plan(&server, &RUNNING), Step::Snapshot(snapshot.clone()));
        assert_eq!(plan(&server, &STOPPED), Step::GuestOff);
        server.status.phase = Phase::Stopped;
        server.spec.power = Power::Off;
        assert_eq!(plan(&server, &STOPPED), Step::Snapshot(snapshot));
    }

    #[test]
    fn a_guest_that_ends_by_itself_stays_off() {
        assert_eq!(step(Phase::Active, Power::On, STOPPED), Step::GuestOff);
        assert_eq!(step(Phase::Active, Power::On, State::Absent), Step::GuestOff);
        assert_eq!(step(Phase::Paused, Power::Paused, STOPPED), Step::GuestOff);
    }

    #[test]
    fn what_broke_says_why_and_only_a_hard_reboot_mends_it() {
        let broken = State::Failed {
            reason: "out of memory".to_owned(),
        };
        assert_eq!(
            step(Phase::Active, Power::On, broken.clone()),
            Step::Fail("out of memory".to_owned())
        );
        assert_eq!(step(Phase::Error, Power::On, broken.clone()), Step::Nothing);
        let mut server = server("a");
        server.status.phase = Phase::Error;
        server.spec.reboots = 1;
        assert_eq!(plan(&server, &broken), Step::Nothing);
        server.spec.is_hard_reboot = true;
        assert_eq!(plan(&server, &broken), Step::Reboot { hard: true });
    }

    #[test]
    fn a_reboot_is_done_once_for_each_time_it_was_asked() {
        let mut server = server("a");
        server.status.phase = Phase::Active;
        server.spec.reboots = 3;
        server.status.reboots_done = 2;
        assert_eq!(plan(&server, &RUNNING), Step::Reboot { hard: false });
        server.status.reboots_done = 3;
        assert_eq!(plan(&server, &RUNNING), Step::Nothing);
    }
}
