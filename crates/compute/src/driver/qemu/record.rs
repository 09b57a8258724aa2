//! What is kept of a machine on disk: `qemu.json` in its directory, and the names of all other files there.

use std::{
    fs, io,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use madang_host::{
    cgroup::Group,
    process::{Identity, Process},
    workload::{DriverError, State},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The record itself.
const RECORD: &str = "qemu.json";
/// The machine's own layer of its disk.
pub(super) const DISK: &str = "disk.qcow2";
/// Collected console output.
pub(super) const CONSOLE: &str = "console.log";
/// The socket of QEMU's monitor.
pub(super) const MONITOR: &str = "qmp.sock";
/// The socket of the guest's agent.
pub(super) const AGENT: &str = "agent.sock";
/// What sits where on its board.
pub(super) const DEVICES: &str = "devices.json";
/// The layer of the disk it boots from for once.
pub(super) const RESCUE: &str = "rescue.qcow2";
/// What its UEFI firmware keeps.
pub(super) const UEFI_VARS: &str = "uefi-vars.fd";
/// What its trusted platform module keeps: a directory.
pub(super) const TPM: &str = "tpm";
/// What that says on standard error.
pub(super) const TPM_ERRORS: &str = "swtpm.log";
/// The memory of a suspended machine.
pub(super) const MEMORY: &str = "memory";
/// The memory while a machine is being made to go on with it: nobody may use it a second time.
pub(super) const MEMORY_USED: &str = "memory.used";
/// What QEMU says on standard error.
pub(super) const ERRORS: &str = "qemu.log";
/// Files that a crash may have left half written.
pub(super) const PARTIAL: &str = ".partial";

/// The only version so far.
const VERSION: u32 = 1;

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// By request or by its guest.
    Stopped,
    /// By request, with its memory on the disk.
    Suspended,
    /// By accident; the reason in words for the user.
    Failed { reason: String },
}

impl End {
    pub fn state(&self) -> State {
        match self {
            Self::Stopped => State::Stopped { exit_code: None },
            Self::Suspended => State::Suspended,
            Self::Failed { reason } => State::Failed { reason: reason.clone() },
        }
    }
}

/// What is known of a machine. Neither process nor end: it was being started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub id: Uuid,
    /// Which run of the host the process belongs to. Source: `/proc/sys/kernel/random/boot_id`.
    boot: String,
    process: Option<Identity>,
    pub end: Option<End>,
}

impl Record {
    pub fn starting(id: Uuid) -> Self {
        Self {
            version: VERSION,
            id,
            boot: boot(),
            process: None,
            end: None,
        }
    }

    pub fn running(id: Uuid, process: Identity) -> Self {
        Self {
            process: Some(process),
            ..Self::starting(id)
        }
    }

    pub fn ended(id: Uuid, end: End) -> Self {
        Self {
            end: Some(end),
            ..Self::starting(id)
        }
    }

    /// The machine's process if it runs. When madang was killed between starting it and writing down which it is, the
    /// machine's control group knows.
    pub fn process(&self, group: Option<&Group>) -> Option<Process> {
        if self.boot != boot() {
            return None;
        }
        if let Some(identity) = self.process {
            return Process::find(identity);
        }
        let members = group?.processes().into_iter().filter(|pid| is_machine(*pid));
        members.filter_map(Identity::of).find_map(Process::find)
    }

    /// How a machine ended that nobody watched.
    pub fn end_unseen(&self, dir: &Path) -> End {
        // Whole memory is there only from the moment the machine is done with it until the next start.
        if dir.join(MEMORY).exists() {
            return End::Suspended;
        }
        // The host was restarted, or the start was interrupted before there was a process: nothing went wrong.
        if self.boot != boot() || self.process.is_none() {
            return End::Stopped;
        }
        let said = last_error(dir).map(|line| format!(": {line}")).unwrap_or_default();
        End::Failed {
            reason: format!("its QEMU process was gone when madang came back{said}"),
        }
    }
}

/// Rather than what runs beside it. The kernel keeps 15 bytes of a name.
fn is_machine(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.starts_with("qemu-system")
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Writes the record. A machine runs without it too, so failing is only worth a warning; the start has checked that the
/// directory can be written.
pub(super) fn write(dir: &Path, record: &Record) {
    if let Err(error) = try_write(dir, record) {
        tracing::warn!(workload = %record.id, %error, "could not write what is known of a machine");
    }
}

/// Writes the record whole or not at all.
pub(super) fn try_write(dir: &Path, record: &Record) -> io::Result<()> {
    let text = serde_json::to_vec(record).expect("plain data has a JSON form");
    let partial = dir.join(format!("{RECORD}{PARTIAL}"));
    fs::write(&partial, text)?;
    fs::rename(&partial, dir.join(RECORD))
}

/// All records of the directories in `root`. A damaged one counts as a failed machine, if its directory tells which.
pub(super) fn scan(root: &Path) -> Result<Vec<(PathBuf, Record)>, DriverError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DriverError::io(format!("list {}", root.display()))(error)),
    };
    let mut found = Vec::new();
    for dir in entries.flatten().map(|entry| entry.path()) {
        let Ok(text) = fs::read(dir.join(RECORD)) else { continue };
        match serde_json::from_slice::<Record>(&text).map_err(|error| error.to_string()) {
            Ok(record) if record.version == VERSION => found.push((dir, record)),
            other => {
                let why = other.err().unwrap_or_else(|| "written by a newer madang".into());
                tracing::warn!(dir = %dir.display(), why, "unreadable record of a machine");
                let id = dir
                    .file_name()
                    .and_then(|name| name.to_str())
                    .and_then(|name| Uuid::parse_str(name).ok());
                if let Some(id) = id {
                    let reason = format!("the record of the machine cannot be read: {why}");
                    found.push((dir, Record::ended(id, End::Failed { reason })));
                }
            }
        }
    }
    Ok(found)
}

/// Removes everything this driver put into the directory, the record last.
pub(super) fn remove_all(dir: &Path) -> Result<(), DriverError> {
    let partial = |name: &str| format!("{name}{PARTIAL}");
    let files = [
        DISK,
        CONSOLE,
        MONITOR,
        ERRORS,
        AGENT,
        DEVICES,
        RESCUE,
        MEMORY,
        MEMORY_USED,
        UEFI_VARS,
        TPM_ERRORS,
    ];
    let files = files.map(str::to_owned);
    let partials = [DISK, CONSOLE, RECORD, DEVICES, RESCUE, MEMORY, UEFI_VARS].map(partial);
    super::local::remove_all(dir)?;
    for name in files.into_iter().chain(partials).chain([RECORD.to_owned()]) {
        match fs::remove_file(dir.join(&name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(DriverError::io(format!("remove {}", dir.join(&name).display()))(error));
            }
            _ => {}
        }
    }
    match fs::remove_dir_all(dir.join(TPM)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(DriverError::io(format!("remove {}", dir.join(TPM).display()))(error))
        }
        _ => Ok(()),
    }
}

/// A name beside `name` to write to before it is complete.
pub(super) fn partial(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{PARTIAL}"))
}

/// The last line QEMU wrote to standard error, without its own name.
pub(super) fn last_error(dir: &Path) -> Option<String> {
    let text = fs::read(dir.join(ERRORS)).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let line = line.strip_prefix("qemu-system-x86_64: ").unwrap_or(line);
    Some(line.chars().take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again() {
        let root = tempfile::tempdir().unwrap();
        let id = Uuid::new_v4();
        let dir = root.path().join("any-name");
        fs::create_dir(&dir).unwrap();
        let record = Record::ended(
            id,
            End::Failed {
                reason: "no luck".into(),
            },
        );
        write(&dir, &record);
        assert_eq!(scan(root.path()).unwrap(), [(dir.clone(), record)]);
        remove_all(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        assert_eq!(scan(root.path()).unwrap(), []);
        assert_eq!(scan(&root.path().join("absent")).unwrap(), []);
    }

    #[test]
    fn a_damaged_record_is_a_failed_machine() {
        let root = tempfile::tempdir().unwrap();
        let id = Uuid::new_v4();
        let dir = root.path().join(id.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(RECORD), "{\"version\":").unwrap();
        let found = scan(root.path()).unwrap();
        assert_eq!(found[0].1.id, id);
        assert!(matches!(&found[0].1.end, Some(End::Failed { reason }) if reason.contains("cannot be read")));
    }

    #[test]
    fn a_sample_of_version_1_is_understood() {
        let text = r#"{"version":1,"id":"7f6c1f0e-9c0b-4f0e-8a55-0f7a3c1f9d10","boot":"b",
            "process":{"pid":42,"started":99},"end":{"failed":{"reason":"r"}}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.process, Some(Identity { pid: 42, started: 99 }));
        assert_eq!(record.end, Some(End::Failed { reason: "r".into() }));
        assert_eq!(
            record.process(None).map(|process| process.pid()),
            None,
            "from another run of the host"
        );
    }

    #[test]
    fn the_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_error(dir.path()), None);
        fs::write(
            dir.path().join(ERRORS),
            "warning: x\nqemu-system-x86_64: -blockdev: no such image\n\n",
        )
        .unwrap();
        assert_eq!(last_error(dir.path()).as_deref(), Some("-blockdev: no such image"));
    }
}
