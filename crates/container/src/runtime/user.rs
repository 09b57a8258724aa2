//! Which ids an image's `User` stands for, by the image's own `/etc/passwd` and `/etc/group`.

use std::{fs::File, io::Read, os::fd::OwnedFd, path::Path};

use nix::fcntl::OFlag;

use crate::{archive::ImageError, layers::unpack::resolve};

/// Account files of real systems stay far below.
const MAX_FILE: u64 = 1 << 20;

/// The ids a container's first process runs under, inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    /// All groups, `gid` among them.
    pub groups: Vec<u32>,
}

/// A user and its home directory.
pub(crate) struct Account {
    pub user: User,
    pub home: String,
}

impl Account {
    /// Looks `wanted` (`user`, `uid`, either with `:group` or `:gid`; empty for root) up in the tree at `root`.
    pub fn find(root: &OwnedFd, wanted: &str) -> Result<Self, ImageError> {
        Self::parse(wanted, &read(root, "etc/passwd"), &read(root, "etc/group"))
    }

    fn parse(wanted: &str, passwd: &str, group: &str) -> Result<Self, ImageError> {
        let (name, group_name) = wanted
            .split_once(':')
            .map_or((wanted, None), |(name, group)| (name, Some(group)));
        let name = if name.is_empty() { "0" } else { name };
        let lines = || {
            passwd
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .filter(|fields| fields.len() >= 6)
        };
        let number = id(name);
        // A name that is a number may still be a name; numbers come first only if nobody is called so.
        let known = lines()
            .find(|fields| fields[0] == name)
            .or_else(|| lines().find(|fields| number.is_some() && id(fields[2]) == number));
        let uid = known.as_ref().and_then(|fields| id(fields[2])).or(number);
        let uid =
            uid.ok_or_else(|| ImageError::Broken(format!("the image's user {name:?} is not in its /etc/passwd")))?;
        let own_gid = known.as_ref().and_then(|fields| id(fields[3])).unwrap_or(0);
        let groups = || {
            group
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .filter(|fields| fields.len() >= 4)
        };
        let gid = match group_name {
            None | Some("") => own_gid,
            Some(group) => groups()
                .find(|fields| fields[0] == group)
                .and_then(|fields| id(fields[2]))
                .or_else(|| id(group))
                .ok_or_else(|| ImageError::Broken(format!("the image's group {group:?} is not in its /etc/group")))?,
        };
        // Its own group is among them too, so that setting another one cannot get rid of it.
        let mut further = vec![gid];
        if let (Some(account), None) = (&known, group_name) {
            let member = |fields: &Vec<&str>| fields[3].split(',').any(|member| member == account[0]);
            further.extend(groups().filter(member).filter_map(|fields| id(fields[2])));
            further.sort_unstable();
            further.dedup();
        }
        let home = known
            .as_ref()
            .map(|fields| fields[5])
            .filter(|home| home.starts_with('/'))
            .unwrap_or("/");
        Ok(Self {
            user: User {
                uid,
                gid,
                groups: further,
            },
            home: home.to_owned(),
        })
    }
}

/// An id that exists in a container's range.
fn id(text: &str) -> Option<u32> {
    text.parse::<u16>().ok().map(u32::from)
}

/// A file of the image as text; empty if it is missing or no file.
fn read(root: &OwnedFd, path: &str) -> String {
    // Not blocking, in case it is a fifo.
    let Ok(file) = resolve(root, Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK) else {
        return String::new();
    };
    let mut bytes = Vec::new();
    match File::from(file).take(MAX_FILE).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\n1000:x:7:7::/seven:\nbad\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\naudio:x:29:www,root\nvideo:x:44:www\n";

    fn find(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let account = Account::parse(wanted, PASSWD, GROUP).unwrap();
        (account.user.uid, account.user.gid, account.user.groups, account.home)
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(find(""), (0, 0, vec![0, 29], "/root".into()));
        assert_eq!(find("www"), (33, 34, vec![29, 34, 44], "/var/www".into()));
        assert_eq!(find("33"), (33, 34, vec![29, 34, 44], "/var/www".into()));
        assert_eq!(find("www:audio"), (33, 29, vec![29], "/var/www".into()));
        assert_eq!(find("www:5"), (33, 5, vec![5], "/var/www".into()));
        assert_eq!(find("4242"), (4242, 0, vec![0], "/".into()));
        assert_eq!(
            find("1000"),
            (7, 7, vec![7], "/seven".into()),
            "a name may look like a number"
        );
    }

    #[test]
    fn unknown_names_and_ids_outside_the_range_are_refused() {
        for wanted in ["nobody-here", "www:nope", "65536", "-1"] {
            assert!(Account::parse(wanted, PASSWD, GROUP).is_err(), "{wanted}");
        }
    }
}
