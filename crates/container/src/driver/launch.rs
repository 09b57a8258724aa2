//! From a workload to a shim that runs it.

use std::{fs, io, path::PathBuf, time::Duration};

use madang_host::{
    netns::Netns,
    process::{Command, Process, Stdio},
    userns::IdRange,
    workload::{DriverError, Nic, Workload},
};
use nix::{errno::Errno, sys::stat::Mode, unistd::mkfifo};
use uuid::Uuid;

use super::{Inner, host, refused};
use crate::{
    layers::Prepared,
    record::{Home, Spec, SpecNic, nic_name},
    runtime::DEFAULT_PATH,
};

/// One call of runc.
const RUNC_WITHIN: Duration = Duration::from_secs(20);

impl Inner {
    pub(super) fn spec(
        &self,
        workload: &Workload,
        image: Prepared,
        env: &[String],
        runc: PathBuf,
    ) -> Result<Spec, DriverError> {
        let named = workload.nics.iter().enumerate();
        let nics = named.map(|(i, nic)| spec_nic(nic, nic_name(i)));
        let nics = nics.collect::<Result<_, _>>()?;
        let mut name_servers = Vec::new();
        for server in workload.nics.iter().flat_map(|nic| &nic.name_servers) {
            if !name_servers.contains(server) {
                name_servers.push(*server);
            }
        }
        Ok(Spec {
            id: workload.id,
            run: Uuid::new_v4(),
            hostname: workload.hostname.clone(),
            env: environment(&workload.hostname, &image.config.env, env),
            lower: image.layers.iter().rev().map(|layer| self.layers.tree(layer)).collect(),
            layers: image.layers,
            command: image.config.command,
            working_dir: image.config.working_dir,
            user: image.config.user,
            stop_signal: image.config.stop_signal,
            first_id: IdRange::of_workload(workload.uid).first,
            vcpus: workload.vcpus,
            memory_bytes: workload.memory_bytes,
            swap_bytes: workload.swap_bytes(),
            nics,
            name_servers,
            is_held: false,
            cgroup: self.group(workload.id)?.path().to_string_lossy().into_owned(),
            shims: self.shims.path().to_string_lossy().into_owned(),
            runc,
            events: self.events.clone(),
        })
    }

    /// Writes what to run, so that the workload is known from here on.
    pub(super) fn register(&self, id: Uuid, home: &Home, spec: &Spec) -> Result<(), DriverError> {
        match mkfifo(&home.file("go"), Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(refused(format!("make a fifo of container {id}"), error.into())),
        }
        for stale in ["record.json", "stop"] {
            match fs::remove_file(home.file(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(refused(format!("forget the last run of container {id}"), error));
                }
                _ => {}
            }
        }
        home.write_spec(spec)
            .map_err(|e| refused(format!("write the specification of container {id}"), e))?;
        let link = self.link(id);
        let known = fs::read_link(&link).is_ok_and(|target| target == home.path());
        if !known {
            // One of another directory is stale: ids are never used twice.
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(home.path(), &link)
                .map_err(|e| refused(format!("register container {id}"), e))?;
        }
        Ok(())
    }

    /// Starts a shim on the run that the specification is of.
    pub(super) async fn launch(&self, verb: &str, home: &Home, run: Uuid) -> Result<Process, DriverError> {
        self.shim_command(verb)?
            .arg(home.path())
            .arg(run.to_string())
            .stderr(Stdio::Append(home.file("shim.log")))
            .start()
            .await
            .map_err(host)
    }

    /// The shim's program with a verb of its.
    pub(super) fn shim_command(&self, verb: &str) -> Result<Command, DriverError> {
        let (program, args) = self
            .shim
            .split_first()
            .ok_or_else(|| DriverError::Host("no shim program is set".into()))?;
        Ok(Command::new(program).args(args).arg(verb))
    }

    /// Calls runc on a container; `words` are the verb and what follows the container's name.
    pub(super) async fn runc(&self, home: &Home, words: &[&str]) -> Result<(), DriverError> {
        let Some(spec) = home
            .spec()
            .map_err(|e| refused(format!("read {}", home.file("spec.json").display()), e))?
        else {
            return Ok(());
        };
        let (verb, rest) = words.split_first().expect("a verb is given");
        let mut command = Command::new(&spec.runc).arg("--root").arg(home.file("runc")).arg(verb);
        // Options stand before the name, values after it.
        let (options, values): (Vec<&&str>, Vec<&&str>) = rest.iter().partition(|word| word.starts_with('-'));
        command = command
            .env("GOGC", "off")
            .args(options)
            .arg(spec.runc_id())
            .args(values);
        command.run(RUNC_WITHIN).await.map(drop).map_err(host)
    }
}

pub(super) fn spec_nic(nic: &Nic, name: String) -> Result<SpecNic, DriverError> {
    let peer = nic
        .peer
        .clone()
        .ok_or_else(|| DriverError::Broken(format!("port {} is not wired for a container", nic.port)))?;
    Ok(SpecNic {
        port: nic.port,
        name,
        peer,
        netns: Netns::named(&nic.netns).path(),
        mac: nic.mac,
        mtu: nic.mtu,
        addresses: nic.addresses.clone(),
        gateway: nic.gateway,
        routes: nic.routes.clone(),
    })
}

/// The image's environment with what the server adds or overrides.
fn environment(hostname: &str, image: &[String], server: &[String]) -> Vec<String> {
    let mut all = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    for entry in image.iter().chain(server) {
        let name = entry.split('=').next().unwrap_or_default();
        all.retain(|other| other.split('=').next() != Some(name));
        all.push(entry.clone());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_environment_wins() {
        let image = ["PATH=/bin".to_owned(), "A=1".into(), "B=2".into()];
        let all = environment("web", &image, &["A=3".into(), "C=".into()]);
        assert_eq!(all, ["HOSTNAME=web", "PATH=/bin", "B=2", "A=3", "C="]);
    }
}
