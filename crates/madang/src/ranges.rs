//! Ranges for `private` and `public` that collide with no route of the host, nor with another madang on it.
//!
//! The way outside is only made when something needs it, so routes do not tell of every other madang. Each therefore
//! writes down its public range in `/run/madang/ranges`, under its instance's id, until `madang down`.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

/// Where madangs on this host say which public range is theirs; gone after a reboot, as are their links.
const REGISTRY: &str = "/run/madang/ranges";

/// Ranges that few use, best first. Each is tried for both networks.
const CANDIDATES: [[u8; 3]; 16] = [
    [10, 42, 0],
    [172, 31, 42],
    [192, 168, 242],
    [10, 142, 0],
    [172, 30, 42],
    [192, 168, 142],
    [10, 242, 0],
    [172, 29, 42],
    [192, 168, 232],
    [10, 143, 7],
    [172, 28, 42],
    [10, 243, 7],
    [172, 27, 142],
    [10, 187, 93],
    [172, 26, 142],
    [10, 213, 171],
];

/// The two ranges that a new cloud starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Of the network `private`.
    pub private: Ipv4Net,
    /// Of the network `public`.
    pub public: Ipv4Net,
}

/// What was asked for, and else what is free.
///
/// # Errors
/// When an asked range collides with a route of the host, naming both, or nothing is free.
pub fn choose(private: Option<Ipv4Net>, public: Option<Ipv4Net>, routes: &[Ipv4Net]) -> anyhow::Result<Ranges> {
    for (key, asked) in [("private", private), ("public", public)] {
        if let Some(range) = asked
            && let Some(route) = routes.iter().find(|route| overlap(&range, route))
        {
            anyhow::bail!(
                "network.{key} {range} collides with {route}, which the host routes or another madang on it has: choose another range"
            );
        }
    }
    let mut taken = routes.to_vec();
    taken.extend([private, public].into_iter().flatten());
    let mut free = |asked: Option<Ipv4Net>, key| {
        let range = match asked {
            Some(range) => range.trunc(),
            None => candidates()
                .find(|range| !taken.iter().any(|other| overlap(range, other)))
                .with_context(|| format!("every usual range is in use on this host: set network.{key}"))?,
        };
        taken.push(range);
        anyhow::Ok(range)
    };
    Ok(Ranges {
        private: free(private, "private")?,
        public: free(public, "public")?,
    })
}

fn candidates() -> impl Iterator<Item = Ipv4Net> {
    CANDIDATES
        .into_iter()
        .map(|[a, b, c]| Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), 24))
}

fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// What the madangs of this host have written down. While it is held, no other chooses.
pub struct Registry {
    directory: PathBuf,
    _turn: Flock<File>,
}

impl Registry {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open() -> anyhow::Result<Self> {
        if cfg!(test) {
            // Tests write nothing below /run, and need no root for it.
            return Self::open_at(&std::env::temp_dir().join("madang-test-ranges"));
        }
        Self::open_at(Path::new(REGISTRY))
    }

    fn open_at(directory: &Path) -> anyhow::Result<Self> {
        let failed = || format!("could not use {}", directory.display());
        fs::create_dir_all(directory).with_context(failed)?;
        let turn = Flock::lock(File::open(directory).with_context(failed)?, FlockArg::LockExclusive);
        let turn = turn.map_err(|(_, error)| error).with_context(failed)?;
        Ok(Self {
            directory: directory.to_owned(),
            _turn: turn,
        })
    }

    /// The public ranges of the others.
    pub fn others(&self, instance: &str) -> Vec<Ipv4Net> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let others = entries.filter(|entry| entry.file_name() != instance);
        others
            .filter_map(|entry| fs::read_to_string(entry.path()).ok()?.trim().parse().ok())
            .collect()
    }

    /// Writes down the instance's own.
    ///
    /// # Errors
    /// What the file system says.
    pub fn claim(&self, instance: &str, range: Ipv4Net) -> anyhow::Result<()> {
        let path = self.directory.join(instance);
        fs::write(&path, format!("{range}\n")).with_context(|| format!("could not write {}", path.display()))
    }

    /// Forgets the instance's, and itself where it was the last.
    pub fn release(self, instance: &str) {
        // What is not there is released; a directory with others in it stays.
        _ = fs::remove_file(self.directory.join(instance));
        _ = fs::remove_dir(&self.directory);
        if let Some(above) = self.directory.parent() {
            _ = fs::remove_dir(above);
        }
    }
}

/// The host's routes, the default route left out.
pub fn of_host() -> Vec<Ipv4Net> {
    // The file is of the calling thread's network namespace; the main table is the one that a fresh Debian uses.
    parse(&std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default())
}

/// Reads the kernel's table: one route a line; the second field is the destination and the eighth the mask, both in
/// hexadecimal, byte-swapped on little-endian machines.
fn parse(table: &str) -> Vec<Ipv4Net> {
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Ipv4Net::with_netmask(address(fields.get(1)?)?, address(fields.get(7)?)?).ok()
    });
    routes.filter(|route| route.prefix_len() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        if cfg!(target_endian = "little") {
            assert_eq!(parse(table), [net("10.0.2.0/24")]);
        }
    }

    #[test]
    fn the_first_free_ranges_are_taken() {
        let free = choose(None, None, &[]).unwrap();
        assert_eq!(
            (free.private, free.public),
            (net("10.42.0.0/24"), net("172.31.42.0/24"))
        );
        let busy = choose(None, None, &[net("10.0.0.0/8"), net("172.31.0.0/16")]).unwrap();
        assert_eq!(
            (busy.private, busy.public),
            (net("192.168.242.0/24"), net("172.30.42.0/24"))
        );
    }

    #[test]
    fn what_is_asked_is_taken_unless_it_collides() {
        let asked = choose(Some(net("172.31.42.0/24")), None, &[]).unwrap();
        assert_eq!(
            (asked.private, asked.public),
            (net("172.31.42.0/24"), net("10.42.0.0/24"))
        );
        let error = choose(None, Some(net("10.1.2.0/24")), &[net("10.1.0.0/16")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("10.1.2.0/24") && error.contains("10.1.0.0/16"),
            "{error}"
        );
    }

    #[test]
    fn madangs_on_one_host_know_of_each_other() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("madang/ranges");
        let registry = Registry::open_at(&directory).unwrap();
        registry.claim("aaaaaa", net("172.31.42.0/24")).unwrap();
        assert_eq!(registry.others("aaaaaa"), []);
        assert_eq!(registry.others("bbbbbb"), [net("172.31.42.0/24")]);
        registry.release("aaaaaa");
        assert!(!directory.exists() && !scratch.path().join("madang").exists());
    }

    #[test]
    fn a_host_that_routes_everything_is_told_what_to_set() {
        let everything = [net("10.0.0.0/8"), net("172.16.0.0/12"), net("192.168.0.0/16")];
        assert!(
            choose(None, None, &everything)
                .unwrap_err()
                .to_string()
                .contains("set network.private")
        );
    }
}
