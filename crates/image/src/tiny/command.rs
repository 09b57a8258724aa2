//! Running the host's tools for the build: with the caller's environment (proxies, `APT_CONFIG`), a time limit, and an
//! error that says what to install.

use std::{ffi::OsStr, io, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::TinyError;

/// How long a tool may take. The longest is a download of 35 MB; a mirror slower than this is not one.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// How much of what a tool complained about goes into an error.
const COMPLAINT_BYTES: usize = 2000;

/// The Debian package of each tool, for those who lack one.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
];

/// Runs a tool in a directory and gives what it printed.
pub(super) async fn run<A: AsRef<OsStr>>(
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
    directory: &Path,
) -> Result<Vec<u8>, TinyError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .env("LC_ALL", "C")
        .env("PATH", path());
    // File systems and archives that are made twice from the same input come out the same.
    command.env("SOURCE_DATE_EPOCH", "0").env("E2FSPROGS_FAKE_TIME", "1");
    output(program, command).await
}

/// Runs a program that is not on the host's path, such as one that was just unpacked.
pub(super) async fn run_file(program: &Path, arguments: &[&OsStr], directory: &Path) -> Result<Vec<u8>, TinyError> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    output("busybox", command).await
}

async fn output(program: &'static str, mut command: Command) -> Result<Vec<u8>, TinyError> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TIME_LIMIT, command.output()).await;
    let output = output.map_err(|_| TinyError::Slow {
        program,
        seconds: TIME_LIMIT.as_secs(),
    })?;
    let output = output.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TinyError::Missing {
            program,
            package: package(program),
        },
        _ => TinyError::Start { program, source },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.trim();
    let from = complaint.ceil_char_boundary(complaint.len().saturating_sub(COMPLAINT_BYTES));
    Err(TinyError::Failed {
        program,
        status: output.status,
        complaint: complaint[from..].to_owned(),
    })
}

fn package(program: &str) -> &'static str {
    PACKAGES
        .iter()
        .find(|(tool, _)| *tool == program)
        .map_or("?", |(_, package)| package)
}

/// The caller's path, and where the tools of administrators are, which a user's path leaves out.
fn path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/sbin:/sbin:/usr/bin:/bin")
}
