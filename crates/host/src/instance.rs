//! One madang on one host: its id, and every name it puts on the host.
//!
//! The id is kept in `DIR/instance`. All names start with it, so that two madangs never touch each other's things and
//! [`Instance::sweep`] finds everything again, whatever was left by whatever crash.

mod sweep;

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    Error, Result,
    cgroup::{Group, Hierarchies},
    mounts,
    netns::Netns,
};

/// Which instance uses which range of user ids on this host; gone after a reboot, as is everything that ran under them.
const SLOTS: &str = "run/madang/uids";

/// The first user id of slot 0. 0x70000000 … 0x7fffffff is outside of what systemd hands out to containers (up to
/// 0x6fffffff) and of what fits into a signed number. Source: systemd's UIDS-GIDS document.
const FIRST_UID: u32 = 0x7000_0000;

/// User ids per slot: as many workloads of one instance can run on one host.
const UIDS_PER_SLOT: u32 = 1 << 16;

/// Slots between the first id and 0x7fffffff, which some programs take for "unknown".
const SLOT_COUNT: u32 = (0x7fff_ffff - FIRST_UID) / UIDS_PER_SLOT;

/// One madang on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: String,
    directory: PathBuf,
}

/// The user ids that only this instance uses on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl UidRange {
    /// The `index`-th id; none past the end.
    pub fn get(&self, index: u32) -> Option<u32> {
        (index < self.count).then(|| self.first + index)
    }
}

impl Instance {
    /// That of a data directory: reads `DIR/instance`, or makes it with an id that nothing on this host uses.
    ///
    /// Errors when the file cannot be read or made, or holds something else than 6 lower hex digits.
    pub fn open(directory: &Path) -> Result<Self> {
        let directory =
            fs::canonicalize(directory).map_err(Error::io(format!("find the directory {}", directory.display())))?;
        let file = directory.join("instance");
        match fs::read_to_string(&file) {
            Ok(text) => Self::named(text.trim(), directory.clone()).map_err(|_| {
                Error::Invalid(format!(
                    "{} does not hold an instance id of 6 lower hex digits",
                    file.display()
                ))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(directory),
            Err(error) => Err(Error::io(format!("read {}", file.display()))(error)),
        }
    }

    /// An instance by its id, whatever its directory holds.
    pub fn named(id: &str, directory: PathBuf) -> Result<Self> {
        if id.len() == 6 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
            return Ok(Self {
                id: id.to_owned(),
                directory,
            });
        }
        Err(Error::Invalid(format!(
            "`{id}` is not an instance id of 6 lower hex digits"
        )))
    }

    fn create(directory: PathBuf) -> Result<Self> {
        let instance = (0..64)
            .map(|_| {
                let id = Uuid::new_v4().simple().to_string()[..6].to_owned();
                Self {
                    id,
                    directory: directory.clone(),
                }
            })
            .find(|instance| !instance.is_in_use())
            .ok_or_else(|| Error::Invalid("no free instance id found on this host".into()))?;
        let file = directory.join("instance");
        let partial = directory.join(format!("instance.{}", instance.id));
        let written = fs::File::create_new(&partial)
            .and_then(|mut opened| {
                writeln!(opened, "{}", instance.id)?;
                opened.sync_all()
            })
            // Fails, as it should, when another process was faster.
            .and_then(|()| fs::hard_link(&partial, &file));
        let _ = fs::remove_file(&partial);
        match written {
            Ok(()) => Ok(instance),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::open(&directory),
            Err(error) => Err(Error::io(format!("make {}", file.display()))(error)),
        }
    }

    /// Whether anything on this host has our names already.
    fn is_in_use(&self) -> bool {
        !Netns::list(&self.netns_prefix()).is_empty()
            || !Hierarchies::detect().list(&self.cgroup_name()).is_empty()
            || Path::new("/sys/class/net").join(self.outside_link()).exists()
            || slots().into_iter().any(|(_, id)| id == self.id)
    }

    /// Its id: 6 lower hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A network namespace of its own, such as `mdg-0a1b2c-fabric`; `suffix` is letters, digits and `-`.
    pub fn netns(&self, suffix: &str) -> Netns {
        Netns::named(format!("{}{suffix}", self.netns_prefix()))
    }

    /// The namespace that holds all bridges and everything plugged into them.
    pub fn fabric(&self) -> Netns {
        self.netns("fabric")
    }

    /// What the names of its namespaces start with.
    pub fn netns_prefix(&self) -> String {
        format!("mdg-{}-", self.id)
    }

    /// The only link in the host's own namespace, the way to the outside: `mdg0a1b2c`.
    pub fn outside_link(&self) -> String {
        format!("mdg{}", self.id)
    }

    /// A link that passes through the host's own namespace for a moment, such as `m0a1b2cx…`: recognisable as ours and
    /// removed by a sweep. `id` tells those of one `kind` apart.
    pub fn passing_link(&self, kind: char, id: Uuid) -> String {
        format!("m{}{kind}{}", self.id, &id.simple().to_string()[25..])
    }

    /// The name of the group that holds all of its groups.
    pub fn cgroup_name(&self) -> String {
        format!("madang-{}", self.id)
    }

    /// The group that holds all of its groups.
    pub fn cgroup(&self, hierarchies: &Hierarchies) -> Group {
        Group::new(hierarchies, self.cgroup_name()).expect("an id is a plain name")
    }

    /// The user ids that only this instance uses on this host until the next reboot or sweep. Needs root.
    pub fn uids(&self) -> Result<UidRange> {
        let directory = mounts::host_root().join(SLOTS);
        fs::create_dir_all(&directory).map_err(Error::io(format!("make {}", directory.display())))?;
        if let Some((slot, _)) = slots().into_iter().find(|(_, id)| *id == self.id) {
            return Ok(range(slot));
        }
        // Usually free at once, and usually the same again after a reboot.
        let preferred = u32::from_str_radix(&self.id, 16).expect("an id is hexadecimal") % SLOT_COUNT;
        for slot in (preferred..SLOT_COUNT).chain(0..preferred) {
            // A link comes with its content, so nobody ever reads half of a claim.
            match std::os::unix::fs::symlink(&self.id, directory.join(slot.to_string())) {
                Ok(()) => return Ok(range(slot)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(format!("claim user ids in {}", directory.display()))(error)),
            }
        }
        Err(Error::Invalid(format!(
            "all {SLOT_COUNT} ranges of user ids are taken; see {}",
            directory.display()
        )))
    }
}

fn range(slot: u32) -> UidRange {
    UidRange {
        first: FIRST_UID + slot * UIDS_PER_SLOT,
        count: UIDS_PER_SLOT,
    }
}

/// Claimed slots and who claimed them.
fn slots() -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(mounts::host_root().join(SLOTS)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let slot = entry.file_name().to_str()?.parse().ok()?;
            Some((slot, fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
        })
        .collect()
}

/// The name of a device in a namespace of our own, where no other instance can be: a letter for its kind and 14 digits
/// of its resource's id, the random ones of every version of id.
pub fn device_name(kind: char, id: Uuid) -> String {
    debug_assert!(kind.is_ascii_alphabetic());
    format!("{kind}{}", &id.simple().to_string()[18..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::open(dir.path()).unwrap();
        assert_eq!(Instance::open(dir.path()).unwrap(), first);
        assert_eq!(
            fs::read_to_string(dir.path().join("instance")).unwrap(),
            format!("{}\n", first.id())
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_id_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "0A1B2C", "0a1b2", "0a1b2c7", "../../"] {
            fs::write(dir.path().join("instance"), bad).unwrap();
            let error = Instance::open(dir.path()).unwrap_err();
            assert!(error.to_string().contains("6 lower hex digits"), "{error}");
        }
    }

    #[test]
    fn names_fit_and_differ() {
        let instance = Instance::named("0a1b2c", PathBuf::from("/nowhere")).unwrap();
        let port = Uuid::parse_str("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(device_name('t', port), "tceb302099a8057");
        assert_eq!(device_name('t', port).len(), 15);
        assert_eq!(instance.passing_link('p', port), "m0a1b2cp99a8057");
        assert_eq!(instance.outside_link(), "mdg0a1b2c");
        assert_eq!(instance.fabric(), Netns::named("mdg-0a1b2c-fabric"));
    }

    #[test]
    fn user_ids_stay_below_the_signed_limit() {
        let last = range(SLOT_COUNT - 1);
        assert!(last.get(last.count - 1).unwrap() < 0x7fff_ffff);
        assert_eq!(last.get(last.count), None);
    }
}
