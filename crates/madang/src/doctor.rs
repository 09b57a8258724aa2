//! `madang doctor`: what this host can do, what is missing and how to get it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use madang_host::{
    acceleration::{self, Acceleration},
    capability::{self, Capability},
};

use crate::{
    console::{Checks, line},
    data_dir::DataDir,
};

/// Examines the host and prints what it finds.
///
/// # Errors
/// When something is missing, after all is printed.
pub async fn run(data: &DataDir) -> anyhow::Result<()> {
    let place = nearest(data.path());
    let mut checks = Checks::new();
    let found = checks.wait("examining the host", capability::examine(&place)).await;
    let scratch = tempfile::tempdir().context("could not make a directory for temporary files")?;
    // Anew rather than from what an earlier start has kept: who asks the doctor doubts.
    let file = scratch.path().join("acceleration.json");
    let probe = checks
        .wait("running a guest to see how machines run", acceleration::probe(&file))
        .await;
    for capability in &found {
        line(&describe(capability));
    }
    let mut missing = found.iter().filter(|capability| !capability.present).count();
    match probe {
        Ok(probe) => {
            let how = match probe.acceleration {
                Acceleration::Kvm => "on the processor (KVM)",
                Acceleration::Tcg => "emulated (TCG), about ten times slower",
            };
            line(&format!("✓ acceleration: machines run {how}: {}", probe.reason));
        }
        Err(error) => {
            missing += 1;
            line(&format!("✗ acceleration: {}", error.chain()));
        }
    }
    if let Ok(capacity) = capability::capacity(&place) {
        line(&format!(
            "  {} processors, {} memory, {} of {} disk free at {}",
            capacity.cpus,
            gibibytes(capacity.memory_bytes),
            gibibytes(capacity.disk_free_bytes),
            gibibytes(capacity.disk_bytes),
            place.display()
        ));
    }
    match missing {
        0 => line("this host has everything"),
        1 => bail!("one thing is missing on this host"),
        count => bail!("{count} things are missing on this host"),
    }
    Ok(())
}

fn describe(capability: &Capability) -> String {
    let Capability {
        name,
        present,
        detail,
        needed_for,
        remedy,
    } = capability;
    let detail = detail.lines().next().unwrap_or_default();
    if *present {
        let gap = if detail.is_empty() { "" } else { ": " };
        return format!("✓ {name}{gap}{detail}");
    }
    format!("✗ {name}: {detail}\n    needed for {needed_for}; {remedy}")
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The path itself, or the first directory above it that exists.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_remedy() {
        let mut capability = Capability {
            name: "runc".into(),
            present: false,
            detail: "not installed".into(),
            needed_for: "containers".into(),
            remedy: "install it with `apt-get install runc`".into(),
        };
        let text = describe(&capability);
        assert!(
            text.starts_with("✗ runc: not installed\n") && text.contains("needed for containers; install it"),
            "{text}"
        );
        capability.present = true;
        capability.detail = "1.1.5\nmore".into();
        assert_eq!(describe(&capability), "✓ runc: 1.1.5");
    }

    #[test]
    fn a_directory_that_is_not_there_yet_lies_on_the_disk_of_the_one_above() {
        assert_eq!(nearest(Path::new("/no/such/place")), Path::new("/"));
    }
}
