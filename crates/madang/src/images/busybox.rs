//! A container image with nothing but Debian's static busybox, as an OCI archive: what one can try containers with,
//! without a registry.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

const BUSYBOX: &str = "/bin/busybox";
const PAGE: &[u8] = b"a container on madang\n";
/// What it can be called as inside; a name costs a link.
const APPLETS: [&str; 24] = [
    "sh", "httpd", "ping", "wget", "nc", "ip", "ls", "cat", "echo", "env", "id", "hostname", "ps", "kill", "sleep",
    "mkdir", "rm", "touch", "grep", "sed", "awk", "vi", "df", "top",
];
const DIRECTORIES: [&str; 8] = ["bin", "dev", "etc", "proc", "sys", "tmp", "var", "www"];

/// Writes the archive.
///
/// # Errors
/// When busybox is not installed or is not static, or the file cannot be written.
pub fn build(file: &Path) -> anyhow::Result<()> {
    let busybox = fs::read(BUSYBOX).context("busybox is not installed: apt-get install busybox-static")?;
    if needs_a_loader(&busybox) {
        bail!("{BUSYBOX} needs libraries: apt-get install busybox-static");
    }
    write(&busybox, file)
}

/// Whether a 64-bit little-endian program has a segment that names its loader, as dynamic ones have. Source: elf(5).
fn needs_a_loader(program: &[u8]) -> bool {
    const INTERPRETER: &[u8] = &3u32.to_le_bytes();
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = program.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let headers = || -> Option<(usize, usize, usize)> { Some((number(32, 8)?, number(54, 2)?, number(56, 2)?)) };
    let Some((first, size, count)) = headers() else {
        return false;
    };
    let kind = |index: usize| program.get(first.checked_add(index * size)?..)?.get(..4);
    (0..count).any(|index| kind(index) == Some(INTERPRETER))
}

fn write(busybox: &[u8], file: &Path) -> anyhow::Result<()> {
    let layer = layer(busybox)?;
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/httpd", "-f", "-v", "-p", "8080", "-h", "/www"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)],
    }))?;
    let pack = || -> std::io::Result<()> {
        let mut archive = tar::Builder::new(BufWriter::new(File::create(file)?));
        add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        add(&mut archive, "index.json", &index, 0o644)?;
        for blob in [&config, &layer, &manifest] {
            add(
                &mut archive,
                &format!("blobs/{}", digest(blob).replace(':', "/")),
                blob,
                0o644,
            )?;
        }
        archive.into_inner()?.flush()
    };
    pack().with_context(|| format!("could not write {}", file.display()))
}

fn layer(busybox: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for directory in DIRECTORIES {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        layer.append_data(&mut header, format!("{directory}/"), std::io::empty())?;
    }
    add(&mut layer, "bin/busybox", busybox, 0o755)?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    add(&mut layer, "www/index.html", PAGE, 0o644)?;
    layer.into_inner()
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, content)
}

fn digest(blob: &[u8]) -> String {
    let hash = Sha256::digest(blob);
    hash.iter()
        .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn descriptor(media_type: &str, blob: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_lies_under_its_digest() {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        write(b"a program", scratch.path()).unwrap();
        let mut archive = tar::Archive::new(File::open(scratch.path()).unwrap());
        let mut blobs = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                assert_eq!(digest(&content), format!("sha256:{hex}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }
}
