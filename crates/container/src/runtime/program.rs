//! Whether a container's program can be started, decided before it is tried: the kernel's answer comes too late and says
//! too little to tell a user why.

use std::{
    fs::File,
    io::Read,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::fstat};

use crate::{archive::ImageError, layers::unpack::resolve, runtime::DEFAULT_PATH};

/// `#!` lines longer than this are cut by the kernel. Source: BINPRM_BUF_SIZE in include/uapi/linux/binfmts.h.
const HEAD: usize = 256;
/// ELF machine numbers by what they are called. Source: elf.h.
const MACHINES: &[(u16, &str)] = &[
    (3, "x86"),
    (40, "arm"),
    (62, "x86_64"),
    (21, "powerpc64"),
    (22, "s390x"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];
const PT_INTERP: u32 = 3;
const ELF_64_BIT: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
/// Program headers looked at; linkers write about a dozen.
const MAX_PROGRAM_HEADERS: u16 = 64;

/// Checks that `program`, looked up as a container with this environment and working directory would, exists in the
/// tree at `root`, may be executed, and is of a kind this machine runs.
///
/// # Errors
/// [`ImageError::Broken`] with the reason in words.
pub(crate) fn check(root: &OwnedFd, program: &str, env: &[String], working_dir: &str) -> Result<(), ImageError> {
    let broken = |what: String| ImageError::Broken(format!("the image's program {program:?} {what}"));
    let file = find(root, program, env, working_dir).map_err(broken)?;
    let mut head = [0; HEAD];
    let length = (&file)
        .read(&mut head)
        .map_err(|e| broken(format!("could not be read: {e}")))?;
    let head = &head[..length];
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let interpreter = line.split_whitespace().next().unwrap_or_default();
        return exists(root, Path::new(interpreter), working_dir).map_err(|_| {
            broken(format!(
                "needs the interpreter {interpreter:?}, which is not in the image"
            ))
        });
    }
    if !head.starts_with(b"\x7fELF") || head.len() < 64 {
        return Err(broken("is neither a program nor a script: exec format error".into()));
    }
    let machine = u16::from_le_bytes([head[18], head[19]]);
    let name = |machine: u16| {
        MACHINES
            .iter()
            .find(|(number, _)| *number == machine)
            .map_or("another processor", |(_, name)| name)
    };
    // Programs of 32 bits are refused by the system call filter.
    let runs = name(machine) == std::env::consts::ARCH && head[4] == ELF_64_BIT;
    if !runs {
        return Err(broken(format!(
            "is for {}, this host is {}: exec format error",
            name(machine),
            std::env::consts::ARCH
        )));
    }
    match loader(&file, head) {
        Some(loader) => exists(root, &loader, working_dir).map_err(|_| {
            broken(format!(
                "needs the loader {:?}, which is not in the image",
                loader.display()
            ))
        }),
        None => Ok(()),
    }
}

fn find(root: &OwnedFd, program: &str, env: &[String], working_dir: &str) -> Result<File, String> {
    if program.contains('/') {
        return open(root, &Path::new(working_dir).join(program));
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut reason = None;
    for directory in path.split(':') {
        match open(root, &Path::new(working_dir).join(directory).join(program)) {
            Ok(file) => return Ok(file),
            Err(why) if why.starts_with("is not") && reason.is_none() => {}
            Err(why) => reason = reason.or(Some(why)),
        }
    }
    Err(reason.unwrap_or_else(|| format!("was not found in PATH ({path})")))
}

fn open(root: &OwnedFd, path: &Path) -> Result<File, String> {
    let file = resolve(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(|error| match error {
        Errno::ENOENT | Errno::ENOTDIR => "is not in the image".to_owned(),
        error => format!("could not be opened: {error}"),
    })?;
    let stat = fstat(&file).map_err(|error| format!("could not be looked at: {error}"))?;
    match stat.st_mode & 0o170_000 {
        0o100_000 if stat.st_mode & 0o111 != 0 => Ok(File::from(file)),
        0o100_000 => Err("may not be executed: permission denied".into()),
        _ => Err("is no file".into()),
    }
}

fn exists(root: &OwnedFd, path: &Path, working_dir: &str) -> Result<(), Errno> {
    resolve(root, &Path::new(working_dir).join(path), OFlag::O_PATH).map(drop)
}

/// The dynamic loader that a 64-bit little-endian program asks for.
fn loader(file: &File, head: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    if head[5] != ELF_LITTLE_ENDIAN {
        return None;
    }
    let u16_at = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u64_at = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (offset, size, count) = (
        u64_at(head, 32)?,
        u16_at(head, 54)?,
        u16_at(head, 56)?.min(MAX_PROGRAM_HEADERS),
    );
    for i in 0..u64::from(count) {
        let mut header = [0; 56];
        file.read_exact_at(&mut header, offset.checked_add(i * u64::from(size))?)
            .ok()?;
        if u32::from_le_bytes(header[..4].try_into().ok()?) == PT_INTERP {
            let mut path = vec![
                0;
                usize::try_from(u64_at(&header, 32)?)
                    .ok()
                    .filter(|length| *length <= 4096)?
            ];
            file.read_exact_at(&mut path, u64_at(&header, 8)?).ok()?;
            path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
            return Some(PathBuf::from(std::ffi::OsString::from_vec(path)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn reason(name: &str, body: &[u8], mode: u32) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let path = dir.path().join("bin").join(name);
        fs::write(&path, body).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        check(&root, "app", &["PATH=/sbin:/bin".into()], "/").map_err(|error| error.to_string())
    }

    #[test]
    fn reasons_are_words() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut foreign = own[..64].to_vec();
        foreign[18] = 183;
        for (name, body, mode, word) in [
            ("other", b"x".as_slice(), 0o755, "not found in PATH (/sbin:/bin)"),
            ("app", b"hello", 0o755, "exec format error"),
            ("app", foreign.as_slice(), 0o755, "aarch64"),
            ("app", own.as_slice(), 0o644, "permission denied"),
            ("app", own.as_slice(), 0o755, "loader"),
            ("app", b"#!/bin/nosh -e\n", 0o755, "\"/bin/nosh\""),
        ] {
            let error = reason(name, body, mode).unwrap_err();
            assert!(error.contains(word), "{error} should say {word}");
        }
        reason("app", b"#! /bin/app\n", 0o755).unwrap();
    }

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("app")).unwrap();
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        let error = check(&root, "/app", &[], "/").unwrap_err().to_string();
        assert!(
            error.contains("is not in the image"),
            "the host's own shell must not be seen: {error}"
        );
    }
}
