//! How what the agent did and saw is written into a server. Pure.

use jiff::Timestamp;
use madang_store::{Cause, Resource};

use crate::server::{Fault, Phase, Power, Server};

/// The cause of everything an agent writes.
pub(super) fn cause(host: &str) -> Cause {
    Cause::system(&format!("agent:{host}"))
}

/// It runs.
pub(super) fn active(server: &mut Resource<Server>) {
    reached(server, Phase::Active);
}

/// It is off.
pub(super) fn stopped(server: &mut Resource<Server>) {
    reached(server, Phase::Stopped);
}

/// It holds still.
pub(super) fn paused(server: &mut Resource<Server>) {
    reached(server, Phase::Paused);
}

/// Its memory is on the disk.
pub(super) fn suspended(server: &mut Resource<Server>) {
    reached(server, Phase::Suspended);
}

/// It runs from its rescuer's root.
pub(super) fn rescued(server: &mut Resource<Server>) {
    reached(server, Phase::Rescued);
}

/// It came to a phase that is not an error.
pub(super) fn reached(server: &mut Resource<Server>, phase: Phase) {
    if server.status.phase == Phase::SoftDeleted && phase == Phase::Stopped {
        return;
    }
    server.status.phase = phase;
    server.status.attempts = 0;
    server.status.fault = None;
    server.status.before = None;
    if phase == Phase::Active {
        server.status.launched.get_or_insert_with(Timestamp::now);
    }
}

/// It was rebooted as often as had been asked when the reboot began.
pub(super) fn rebooted(server: &mut Resource<Server>, asked: u64) {
    server.status.reboots_done = asked;
    active(server);
}

/// The guest ended by itself: nobody wants it to run any more.
pub(super) fn guest_off(server: &mut Resource<Server>) {
    server.spec.power = Power::Off;
    if server.status.phase != Phase::Resized {
        stopped(server);
    }
}

/// Its root is gone; it is built from what is asked for now, as often as had been asked when this began.
pub(super) fn cleared(server: &mut Resource<Server>, asked: u64) {
    server.status.rebuilds_done = asked;
    server.status.before = Some(server.status.phase);
    server.status.phase = Phase::Building;
    server.status.base = None;
    server.status.fault = None;
    server.status.attempts = 0;
}

/// The copy of its root is made, or cannot be: nobody asks for it any more.
pub(super) fn copied(server: &mut Resource<Server>, failure: Option<&str>) {
    server.spec.asked.snapshot = None;
    if let Some(reason) = failure {
        server.status.fault = Some(fault(reason));
    }
}

/// It cannot be what was asked.
pub(super) fn failed(server: &mut Resource<Server>, reason: &str) {
    server.status.phase = Phase::Error;
    // What led here was tried; asking again is a new reboot, rebuild, rescue.
    server.status.reboots_done = server.spec.reboots;
    server.status.rebuilds_done = server.spec.asked.rebuilds;
    server.status.before = None;
    server.spec.asked.rescue = None;
    server.spec.asked.snapshot = None;
    server.spec.asked.shelf = None;
    server.status.fault = Some(fault(reason));
}

fn fault(reason: &str) -> Fault {
    Fault::new(500, reason, Timestamp::now())
}

/// It stays as it is, since its driver cannot do what was asked.
pub(super) fn refused(server: &mut Resource<Server>, reason: &str) {
    server.spec.power = match server.status.phase {
        Phase::Stopped => Power::Off,
        Phase::Paused => Power::Paused,
        Phase::Suspended => Power::Suspended,
        _ => Power::On,
    };
    server.status.fault = Some(Fault::new(409, reason, Timestamp::now()));
}
