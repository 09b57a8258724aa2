//! How things are named on a disk, so that what is listed together lies together and in the order of listings.
//!
//! ```text
//! a ACCOUNT                     an account
//! A ACCOUNT                     what it uses
//! c ACCOUNT 0 CONTAINER         a container
//! C ID                          what it uses
//! o ID NAME                     an object, of the container with that id
//! v ID NAME 0 !TIME             an older version of it, the newest first
//! x SECONDS ID NAME             an object that ends then
//! ```
//! No name has a zero byte in it. Numbers are big-endian.

/// The end of everything that begins with `prefix`.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 64]
}

/// An account.
pub fn account(account: &str) -> Vec<u8> {
    [b"a", account.as_bytes()].concat()
}

/// What an account uses.
pub fn account_use(account: &str) -> Vec<u8> {
    [b"A", account.as_bytes()].concat()
}

/// What all containers of an account begin with.
pub fn containers(account: &str) -> Vec<u8> {
    [b"c", account.as_bytes(), b"\0"].concat()
}

/// A container.
pub fn container(account: &str, container: &str) -> Vec<u8> {
    [b"c", account.as_bytes(), b"\0", container.as_bytes()].concat()
}

/// What a container uses.
pub fn container_use(id: u64) -> Vec<u8> {
    [&b"C"[..], &id.to_be_bytes()].concat()
}

/// What all objects of a container begin with.
pub fn objects(id: u64) -> Vec<u8> {
    [&b"o"[..], &id.to_be_bytes()].concat()
}

/// An object.
pub fn object(id: u64, name: &str) -> Vec<u8> {
    [&b"o"[..], &id.to_be_bytes(), name.as_bytes()].concat()
}

/// What all older versions in a container begin with.
pub fn all_versions(id: u64) -> Vec<u8> {
    [&b"v"[..], &id.to_be_bytes()].concat()
}

/// What all older versions of an object begin with.
pub fn versions(id: u64, name: &str) -> Vec<u8> {
    [&b"v"[..], &id.to_be_bytes(), name.as_bytes(), b"\0"].concat()
}

/// An older version of an object.
pub fn version(id: u64, name: &str, micros: u64) -> Vec<u8> {
    [&versions(id, name)[..], &(!micros).to_be_bytes()].concat()
}

/// The end of an object.
pub fn expiry(seconds: u64, id: u64, name: &str) -> Vec<u8> {
    [&b"x"[..], &seconds.to_be_bytes(), &id.to_be_bytes(), name.as_bytes()].concat()
}

/// What a key of an object's end says: when, and which.
pub fn read_expiry(key: &[u8]) -> Option<(u64, u64, &str)> {
    let rest = key.strip_prefix(b"x")?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (id, name) = rest.split_first_chunk()?;
    Some((
        u64::from_be_bytes(*seconds),
        u64::from_be_bytes(*id),
        std::str::from_utf8(name).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begin_with_it() {
        for prefix in [&b"a"[..], b"a\xff", b"o\0\0\0\0\0\0\0\xff\xff"] {
            let end = end_of(prefix);
            assert!([prefix, b"\xff\xff\xff\xff"].concat() < end && end.as_slice() > prefix);
        }
        assert!(end_of(b"\xff").as_slice() > &b"\xff\xff\xff"[..]);
    }

    #[test]
    fn newer_versions_come_first_and_ends_are_read_back() {
        assert!(version(1, "a", 20) < version(1, "a", 10));
        assert!(
            version(1, "a", 1) < version(1, "a/b", 20),
            "those of one name are together"
        );
        assert_eq!(read_expiry(&expiry(7, 9, "ü")), Some((7, 9, "ü")));
    }
}
