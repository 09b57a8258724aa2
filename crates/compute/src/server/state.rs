//! Nova's view of a server: `status`, `vm_state`, `task_state`, `power_state`. Pure.

use madang_store::Resource;

use crate::server::{Phase, Power, Server};

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
    let phase = server.status.phase;
    let task_state = task(server);
    let (vm_state, power_state) = match phase {
        Phase::Scheduling | Phase::Building => ("building", 0),
        Phase::Active => ("active", 1),
        Phase::Stopped => ("stopped", 4),
        Phase::Paused => ("paused", 3),
        Phase::Error => ("error", if server.status.launched.is_some() { 4 } else { 0 }),
    };
    let status = match (phase, task_state) {
        (Phase::Active, Some("rebooting")) => "REBOOT",
        (Phase::Active | Phase::Stopped | Phase::Paused, Some("rebooting_hard")) => "HARD_REBOOT",
        (Phase::Scheduling | Phase::Building, _) => "BUILD",
        (Phase::Active, _) => "ACTIVE",
        (Phase::Stopped, _) => "SHUTOFF",
        (Phase::Paused, _) => "PAUSED",
        (Phase::Error, _) => "ERROR",
    };
    NovaState {
        status,
        vm_state,
        task_state,
        power_state,
    }
}

/// What is under way: the difference between what was asked and what is.
fn task(server: &Resource<Server>) -> Option<&'static str> {
    if server.metadata.is_deleting() {
        return Some("deleting");
    }
    let asked_to_reboot = server.spec.reboots > server.status.reboots_done;
    match (server.status.phase, server.spec.power) {
        (Phase::Scheduling, _) => Some("scheduling"),
        (Phase::Building, _) => Some("spawning"),
        (Phase::Active | Phase::Stopped | Phase::Paused, Power::On) if asked_to_reboot => {
            Some(if server.spec.is_hard_reboot {
                "rebooting_hard"
            } else {
                "rebooting"
            })
        }
        (Phase::Active | Phase::Paused, Power::Off) => Some("powering-off"),
        (Phase::Active, Power::Paused) => Some("pausing"),
        (Phase::Stopped, Power::On) => Some("powering-on"),
        (Phase::Paused, Power::On) => Some("unpausing"),
        _ => None,
    }
}
