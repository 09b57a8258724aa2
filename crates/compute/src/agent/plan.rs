//! What to do next for a server, from what was asked, what was recorded and what is seen. Pure.

use madang_host::workload::State;
use madang_store::Resource;

use crate::server::{Phase, Power, Server};

/// One step towards what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Restart it.
    Reboot {
        /// Without asking the guest.
        hard: bool,
    },
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
    let wants_reboot = server.spec.reboots > server.status.reboots_done;
    match phase {
        Phase::Scheduling => Step::Nothing,
        Phase::Building => match seen {
            // Started, and then we were cut off before writing it down.
            State::Running { .. } => Step::Record(Phase::Active),
            State::Paused => Step::Resume,
            State::Suspended => Step::Start,
            State::Failed { reason } => Step::Fail(reason.clone()),
            State::Stopped { exit_code } if server.status.attempts > 0 => Step::Fail(ended_at_once(*exit_code)),
            State::Stopped { .. } | State::Absent => Step::Start,
        },
        // Only a hard reboot leads out of it.
        Phase::Error if wants_reboot && server.spec.is_hard_reboot => Step::Reboot { hard: true },
        Phase::Error => Step::Nothing,
        Phase::Active | Phase::Stopped | Phase::Paused => settled(server, seen, wants_reboot),
    }
}

fn settled(server: &Resource<Server>, seen: &State, wants_reboot: bool) -> Step {
    let phase = server.status.phase;
    match (server.spec.power, seen) {
        (Power::On, _) if wants_reboot => Step::Reboot {
            hard: server.spec.is_hard_reboot,
        },
        (Power::On, State::Running { .. }) if phase == Phase::Active => Step::Nothing,
        (Power::On, State::Running { .. }) => Step::Record(Phase::Active),
        (Power::On, State::Paused) => Step::Resume,
        (Power::On | Power::Paused, State::Failed { reason }) if phase != Phase::Stopped => Step::Fail(reason.clone()),
        (Power::On | Power::Paused, _) if phase == Phase::Active || phase == Phase::Paused => match seen {
            State::Running { .. } => Step::Pause,
            State::Paused if phase == Phase::Paused => Step::Nothing,
            State::Paused => Step::Record(Phase::Paused),
            _ => Step::GuestOff,
        },
        (Power::On, _) => Step::Start,
        (Power::Paused, _) => Step::GuestOff,
        (Power::Off, State::Running { .. } | State::Paused) => Step::Stop,
        (Power::Off, _) if phase == Phase::Stopped => Step::Nothing,
        (Power::Off, _) => Step::Record(Phase::Stopped),
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
