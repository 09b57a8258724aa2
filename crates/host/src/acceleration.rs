//! Whether virtual machines run on the processor itself (KVM) or are emulated (TCG): found out by running one.
//!
//! That `/dev/kvm` opens says nothing. There are hosts, themselves virtual, where KVM interprets every instruction of a
//! guest in software: a boot sector runs fine, a kernel takes hours and seems to hang. The probe's guest therefore goes
//! through long mode, paging, an APIC timer interrupt and a piece of work that takes hardware about as long as TCG, and
//! KVM is believed only when it is done in a like time. The answer is kept in a file until kernel, QEMU or processor
//! change.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Error, Result, process::Command};

/// The program that runs virtual machines.
pub const QEMU: &str = "qemu-system-x86_64";

/// What to do without it.
pub const QEMU_REMEDY: &str = "install it with `apt-get install --no-install-recommends qemu-system-x86 qemu-utils`";

/// The probe's guest; see `acceleration/guest.S`.
const GUEST: &[u8] = include_bytes!("acceleration/guest.bin");

/// QEMU's exit code when the guest writes 0x10 to its exit device: twice that, plus one.
const SUCCESS: i32 = 33;

/// The processor to emulate: everything QEMU can, but page tables of four levels instead of five, which are a tenth
/// faster to walk in software and enough for 256 TiB.
pub const EMULATED_CPU: &str = "max,la57=off";

/// The longest a guest may take. TCG needs about a tenth of a second.
const LIMIT: Duration = Duration::from_secs(5);

/// The shortest time KVM is given, so that a hiccup of the host does not count.
const PATIENCE: Duration = Duration::from_secs(1);

/// How virtual machines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// On the processor.
    Kvm,
    /// Emulated: about ten times slower, and always there.
    Tcg,
}

impl Acceleration {
    /// The name QEMU knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// How to run machines.
    pub acceleration: Acceleration,
    /// The value of QEMU's `-cpu` that goes with it, such as `host`.
    pub cpu: String,
    /// Why, for people: lower case, without a full stop.
    pub reason: String,
    /// QEMU's version in Nova's form: 7002009 for 7.2.9; 0 where it does not tell.
    pub version: u64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    probe: Probe,
}

/// Finds out, or reads what was found out before from `file`. Takes about a second where KVM is of no use.
///
/// Errors when QEMU is not installed, or cannot even run the guest emulated.
pub async fn probe(file: &Path) -> Result<Probe> {
    let key = key()?;
    if let Some(kept) = read(file).filter(|kept| kept.key == key) {
        return Ok(kept.probe);
    }
    let probe = run_probe().await?;
    let kept = Kept { key, probe };
    // Only costs the next start a second.
    if let Err(error) = write(file, &kept) {
        tracing::warn!(error = %error.chain(), "could not keep the result of the acceleration probe");
    }
    Ok(kept.probe)
}

fn read(file: &Path) -> Option<Kept> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn write(file: &Path, kept: &Kept) -> Result<()> {
    let text = serde_json::to_vec_pretty(kept).expect("plain data has a JSON form");
    let partial = file.with_extension("partial");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, file))
        .map_err(Error::io(format!("write {}", file.display())))
}

/// What the answer depends on. Read from files only: every start of madang asks.
fn key() -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kvm = fs::metadata("/dev/kvm").is_ok();
    let qemu = crate::process::find_program(QEMU)
        .and_then(|program| fs::metadata(program).ok())
        .ok_or_else(|| Error::Missing {
            program: QEMU.into(),
            remedy: QEMU_REMEDY.into(),
        })?;
    let (size, changed) = (qemu.len(), qemu.mtime());
    Ok(format!(
        "2|{}|{QEMU} {size} {changed} {EMULATED_CPU}|{}|kvm={kvm}",
        kernel.trim(),
        processor()
    ))
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_default()
    };
    let flags = named("flags");
    let virtualization = flags
        .split(' ')
        .find(|flag| matches!(*flag, "vmx" | "svm"))
        .unwrap_or("none");
    format!("{} {}|{virtualization}", named("model name"), named("microcode"))
}

/// QEMU's version in Nova's form: 7002009 for 7.2.9; 0 where it does not tell, or is not there.
pub async fn version() -> u64 {
    let said = Command::new(QEMU)
        .args(["--version"])
        .if_missing(QEMU_REMEDY)
        .run(LIMIT)
        .await;
    said.map_or(0, |said| version_in(&String::from_utf8_lossy(&said.stdout)))
}

/// The version in words such as `QEMU emulator version 7.2.9 (Debian 1:7.2+dfsg-7)`.
fn version_in(said: &str) -> u64 {
    let after = said.split_once("version ").map_or("", |(_, after)| after);
    let version = after.split(|c: char| c != '.' && !c.is_ascii_digit()).next();
    let mut parts = version.unwrap_or_default().split('.');
    let mut part = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
    part() * 1_000_000 + part() * 1000 + part()
}

async fn run_probe() -> Result<Probe> {
    let directory = std::env::temp_dir().join(format!("madang-probe-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&directory).map_err(Error::io(format!("make {}", directory.display())))?;
    let found = try_all(&directory.join("guest.rom")).await;
    let _ = fs::remove_dir_all(&directory);
    found
}

async fn try_all(rom: &Path) -> Result<Probe> {
    fs::write(rom, firmware()).map_err(Error::io(format!("write {}", rom.display())))?;
    let version = version().await;
    let emulated = |reason: String| Probe {
        acceleration: Acceleration::Tcg,
        cpu: "max".into(),
        reason,
        version,
    };
    let yardstick = match run_guest(rom, Acceleration::Tcg, EMULATED_CPU, LIMIT).await? {
        Ok(took) => took,
        Err(why) => return Err(Error::Invalid(format!("{QEMU} cannot run a guest on this host: {why}"))),
    };
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let why = match error.kind() {
            ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
            _ => format!("/dev/kvm does not open: {error}"),
        };
        return Ok(emulated(format!("emulating, {why}")));
    }
    // Ten times the emulated time: whoever needs longer is no acceleration, and a busy host slows both.
    let limit = (yardstick * 10).clamp(PATIENCE, LIMIT);
    // Some hosts hand out a bit that makes guests hang, and hide it on request.
    let cpus = ["host", "host,arch-capabilities=off"];
    let [plain, careful] = cpus.map(|cpu| run_guest(rom, Acceleration::Kvm, cpu, limit));
    let (plain, careful) = tokio::join!(plain, careful);
    let mut why = String::new();
    for (cpu, result) in cpus.into_iter().zip([plain?, careful?]) {
        match result {
            Ok(took) => {
                let reason = format!("a guest in KVM did its work in {took:?} ({yardstick:?} emulated)");
                return Ok(Probe {
                    acceleration: Acceleration::Kvm,
                    cpu: cpu.into(),
                    reason,
                    version,
                });
            }
            Err(error) => why = error,
        }
    }
    let hint = if processor().ends_with("|none") {
        "; the processor shows no virtualization (vmx, svm)"
    } else {
        ""
    };
    Ok(emulated(format!(
        "emulating, /dev/kvm opens but a guest in it {why}, emulated it took {yardstick:?}{hint}"
    )))
}

/// Runs the guest to its end. The inner error says how it failed.
async fn run_guest(
    rom: &Path,
    acceleration: Acceleration,
    cpu: &str,
    limit: Duration,
) -> Result<Result<Duration, String>> {
    let start = Instant::now();
    let output = Command::new(QEMU)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "q35",
            "-m",
            "16",
        ])
        .args(["-accel", acceleration.as_str(), "-cpu", cpu])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-bios"])
        .arg(rom)
        .if_missing(QEMU_REMEDY)
        .output(limit)
        .await;
    let took = Duration::from_millis(start.elapsed().as_millis() as u64);
    match output {
        Ok(output) if output.code == SUCCESS => Ok(Ok(took)),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("without a word")
                .trim()
                .to_owned();
            Ok(Err(format!("ended with exit code {}: {last}", output.code)))
        }
        Err(Error::TimedOut { after, .. }) => Ok(Err(format!("did not finish its work within {after:?}"))),
        Err(error) => Err(error),
    }
}

/// 64 KiB that end where the processor starts: 16 bytes before their end, with a jump to their beginning.
fn firmware() -> Vec<u8> {
    let mut rom = vec![0; 1 << 16];
    rom[..GUEST.len()].copy_from_slice(GUEST);
    // jmp f000:0000
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_qemus_words() {
        let said = "QEMU emulator version 7.2.9 (Debian 1:7.2+dfsg-7+deb12u6)\nCopyright (c) 2003-2022";
        assert_eq!(version_in(said), 7_002_009);
        assert_eq!(version_in("QEMU emulator version 10.1"), 10_001_000);
        assert_eq!(version_in("no such program"), 0);
    }

    #[tokio::test]
    async fn a_kept_answer_is_used_only_for_the_same_host() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("acceleration.json");
        let odd = Probe {
            acceleration: Acceleration::Kvm,
            cpu: "kept".into(),
            reason: "kept".into(),
            version: 7_002_009,
        };
        let Ok(key) = key() else { return };
        write(
            &file,
            &Kept {
                key,
                probe: odd.clone(),
            },
        )
        .unwrap();
        assert_eq!(probe(&file).await.unwrap(), odd);
        write(
            &file,
            &Kept {
                key: "another kernel".into(),
                probe: odd.clone(),
            },
        )
        .unwrap();
        let found = probe(&file).await.unwrap();
        assert_ne!(found, odd);
        println!("{}", found.reason);
        assert_eq!(read(&file).unwrap().probe, found);
    }

    #[test]
    fn the_guest_fits_its_firmware() {
        let rom = firmware();
        assert_eq!(rom.len(), 65536);
        assert!(GUEST.len() < 0xfff0 && GUEST.starts_with(&[0xfa, 0xfc]), "cli, cld");
    }
}
