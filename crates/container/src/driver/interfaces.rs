//! Interfaces that come to a container that runs and go: their devices move between the fabric and its network namespace.
//!
//! The specification says which devices it has, so that the shim returns them at its end; it is written before a device
//! moves in and after one has moved out.

use std::thread;

use madang_host::workload::{DriverError, Nic};
use uuid::Uuid;

use super::{Inner, blocking, launch::spec_nic, refused};
use crate::{
    record::{Home, Record, Spec, SpecNic, nic_name},
    shim::{Failure, network},
};

impl Inner {
    pub(super) async fn attach_nic(&self, id: Uuid, nic: &Nic) -> Result<(), DriverError> {
        let (home, mut spec, pid) = self.running(id)?;
        let known = spec.nics.iter().find(|known| known.port == nic.port);
        let name = known.map_or_else(|| free_name(&spec), |known| known.name.clone());
        let new = spec_nic(nic, name)?;
        let before = spec.clone();
        spec.nics.retain(|other| other.port != nic.port);
        spec.nics.push(new.clone());
        write(id, &home, &spec)?;
        let plugged = on_its_own(move || network::plug(pid, &new)).await;
        if plugged.is_err() {
            write(id, &home, &before)?;
        }
        plugged
    }

    pub(super) async fn detach_nic(&self, id: Uuid, port: Uuid) -> Result<(), DriverError> {
        let (home, mut spec, pid) = self.running(id)?;
        let Some(at) = spec.nics.iter().position(|nic| nic.port == port) else {
            return Ok(());
        };
        let gone: SpecNic = spec.nics.remove(at);
        on_its_own(move || network::unplug(pid, &gone)).await?;
        write(id, &home, &spec)
    }

    /// A container that runs: its specification and its first process.
    pub(super) fn running(&self, id: Uuid) -> Result<(Home, Spec, u32), DriverError> {
        let not_running = || DriverError::Host(format!("container {id} is not running"));
        let home = self.home(id)?.ok_or_else(not_running)?;
        let Some(Record::Running { init, .. }) = self.record(id, &home)? else {
            return Err(not_running());
        };
        madang_host::process::Process::find(init).ok_or_else(not_running)?;
        let spec = home
            .spec()
            .map_err(|e| refused(format!("read the specification of container {id}"), e))?;
        Ok((home, spec.ok_or_else(not_running)?, init.pid))
    }
}

fn free_name(spec: &Spec) -> String {
    let mut names = (0..).map(nic_name);
    let free = names.find(|name| spec.nics.iter().all(|nic| nic.name != *name));
    free.expect("there are more names than interfaces")
}

fn write(id: Uuid, home: &Home, spec: &Spec) -> Result<(), DriverError> {
    home.write_spec(spec)
        .map_err(|e| refused(format!("write the specification of container {id}"), e))
}

/// On a thread that ends with it: it enters network namespaces.
async fn on_its_own(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), DriverError> {
    blocking(move || {
        let thread = thread::Builder::new().name("interface".into()).spawn(work);
        match thread.map_err(|e| refused("start a thread".into(), e))?.join() {
            Ok(done) => done.map_err(|failure| match failure.broken {
                true => DriverError::Broken(failure.reason),
                false => DriverError::Host(failure.reason),
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
    .await
}
