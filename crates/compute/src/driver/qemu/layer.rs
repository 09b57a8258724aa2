//! What a disk's bytes lie in: files, block devices and sockets, opened here one by one and handed to QEMU as descriptors.
//!
//! A disk is a stack of layers, the lowest first. QEMU is told each of them explicitly; it never follows what an image's
//! header says, so a header that somebody tampered with leads nowhere.

use std::{
    fs,
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use madang_host::workload::{Disk, DiskFormat, DiskSource, DriverError};
use serde_json::{Value, json};
use uuid::Uuid;

/// More layers than this are a circle, or a disk nobody could use.
const DEEPEST: usize = 32;

/// How QEMU reads a layer's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A regular file.
    File,
    /// A block device of the host.
    Device,
    /// An export behind a connected socket.
    Nbd {
        /// Its name.
        export: String,
    },
}

/// One layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// The node QEMU knows it by, at most 26 bytes: QEMU allows 31.
    pub node: String,
    pub protocol: Protocol,
    pub format: DiskFormat,
    pub is_read_only: bool,
}

impl Layer {
    /// A layer in a regular file.
    pub fn file(node: &str, format: DiskFormat, is_read_only: bool) -> Self {
        Self {
            node: node.to_owned(),
            protocol: Protocol::File,
            format,
            is_read_only,
        }
    }

    /// The block nodes it is made of, the lowest first. `from` is the path (or, for sockets, the name) of its descriptor,
    /// `below` the node that it stands on.
    pub fn nodes(&self, from: &str, below: Option<&str>) -> [Value; 2] {
        let file = format!("{}-file", self.node);
        let mut lower = match &self.protocol {
            Protocol::Nbd { export } => json!({
                "driver": "nbd", "server": { "type": "fd", "str": from }, "export": export,
            }),
            protocol => json!({
                "driver": if *protocol == Protocol::File { "file" } else { "host_device" }, "filename": from,
            }),
        };
        lower["node-name"] = json!(file);
        lower["read-only"] = json!(self.is_read_only);
        lower["auto-read-only"] = json!(false);
        let mut upper = json!({
            "driver": self.format.as_str(), "node-name": self.node, "file": file, "read-only": self.is_read_only,
        });
        if !self.is_read_only {
            lower["discard"] = json!("unmap");
            upper["discard"] = json!("unmap");
            upper["detect-zeroes"] = json!("unmap");
        }
        if self.format == DiskFormat::Qcow2 {
            // Never what the image's own header says.
            upper["backing"] = json!(below);
        }
        [lower, upper]
    }
}

/// The node of a disk: as much of its id as QEMU has room for.
pub(super) fn node_of(disk: Uuid) -> String {
    format!("d{}", &disk.simple().to_string()[..20])
}

/// Whether a node is the one of a disk, or of what the disk is made of.
pub(super) fn is_of(name: &str, disk: &str) -> bool {
    name == disk || name.strip_prefix(disk).is_some_and(|rest| rest.starts_with('-'))
}

/// Tells apart the layers that a disk goes on in while it is used: the same for the same file, on each try.
pub(super) fn note_of(top: &Disk) -> u16 {
    let mut hash: u32 = 0x811c_9dc5; // FNV-1a
    if let DiskSource::File { path, .. } = &top.source {
        for byte in path.as_os_str().as_encoded_bytes() {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
    (hash >> 16) as u16 ^ hash as u16
}

/// The node of a layer that is put on a disk while it is used; with `-file` it has the 31 bytes that QEMU allows.
pub(super) fn stacked(disk: &str, note: u16) -> String {
    format!("{disk}-{note:04x}")
}

/// Opens all layers of a disk.
///
/// # Errors
/// `Broken` for an image that leads out of the directory it lies in, `Io` for what cannot be opened.
pub(super) fn open(disk: &Disk) -> Result<Vec<(Layer, OwnedFd)>, DriverError> {
    let node = node_of(disk.id);
    match &disk.source {
        DiskSource::File { path, format } => open_file(&node, path, *format, disk.is_read_only),
        DiskSource::Nbd { socket, export } => {
            let connected = UnixStream::connect(socket);
            let connected = connected.map_err(DriverError::io(format!("connect to {}", socket.display())))?;
            let layer = Layer {
                node,
                protocol: Protocol::Nbd { export: export.clone() },
                format: DiskFormat::Raw,
                is_read_only: disk.is_read_only,
            };
            Ok(vec![(layer, connected.into())])
        }
    }
}

fn open_file(
    node: &str,
    path: &Path,
    format: DiskFormat,
    is_read_only: bool,
) -> Result<Vec<(Layer, OwnedFd)>, DriverError> {
    let home = path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut stack = Vec::new();
    let mut next = Some((path.to_owned(), format));
    while let Some((path, format)) = next.take() {
        let depth = stack.len();
        if depth == DEEPEST {
            return Err(DriverError::Broken(format!("{} has too many layers", path.display())));
        }
        let is_read_only = is_read_only || depth > 0;
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(!is_read_only)
            .open(&path)
            .map_err(DriverError::io(format!("open {}", path.display())))?;
        let kind = file
            .metadata()
            .map_err(DriverError::io(format!("read {}", path.display())))?;
        if format == DiskFormat::Qcow2 {
            next = backing(&mut file, &path, &home)?;
        }
        let layer = Layer {
            node: if depth == 0 {
                node.to_owned()
            } else {
                format!("{node}-{depth}")
            },
            protocol: if kind.file_type().is_block_device() {
                Protocol::Device
            } else {
                Protocol::File
            },
            format,
            is_read_only,
        };
        stack.push((layer, OwnedFd::from(file)));
    }
    stack.reverse();
    Ok(stack)
}

/// What a qcow2 image says it stands on. Source: docs/interop/qcow2.txt of QEMU.
fn backing(file: &mut fs::File, path: &Path, home: &Path) -> Result<Option<(PathBuf, DiskFormat)>, DriverError> {
    let mut header = Vec::new();
    // Name and extensions lie in the first cluster.
    file.take(64 << 10)
        .read_to_end(&mut header)
        .map_err(DriverError::io(format!("read {}", path.display())))?;
    let broken = |why: &str| DriverError::Broken(format!("{} cannot be used: {why}", path.display()));
    let Some((name, format)) = parse_backing(&header).map_err(broken)? else {
        return Ok(None);
    };
    let below = home.join(name);
    let real = fs::canonicalize(&below).map_err(DriverError::io(format!("find {}", below.display())))?;
    let home = fs::canonicalize(home).map_err(DriverError::io(format!("find {}", home.display())))?;
    if !real.starts_with(&home) {
        return Err(broken(&format!("it leads to {}", below.display())));
    }
    Ok(Some((real, format)))
}

/// Name and format of the layer below.
fn parse_backing(header: &[u8]) -> Result<Option<(String, DiskFormat)>, &'static str> {
    let number = |at: usize, length: usize| -> Result<usize, &'static str> {
        let bytes = header.get(at..at + length).ok_or("its header is cut off")?;
        Ok(bytes
            .iter()
            .fold(0_usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    if header.get(..4) != Some(b"QFI\xfb") {
        return Err("it is not a qcow2 image");
    }
    if number(4, 4)? >= 3 && number(72, 8)? & 4 != 0 {
        return Err("its data is in another file");
    }
    let (at, length) = (number(8, 8)?, number(16, 4)?);
    if at == 0 {
        return Ok(None);
    }
    let name = header
        .get(at..at.saturating_add(length))
        .ok_or("its header is cut off")?;
    let name = String::from_utf8(name.to_vec()).map_err(|_| "the name of the layer below is not text")?;
    let mut extension = if number(4, 4)? >= 3 { number(100, 4)? } else { 72 };
    loop {
        match (number(extension, 4)?, number(extension + 4, 4)?) {
            (0, _) => return Err("it does not say the format of the layer below"),
            (0xe279_2aca, length) => {
                return match header.get(extension + 8..extension + 8 + length) {
                    Some(b"raw") => Ok(Some((name, DiskFormat::Raw))),
                    Some(b"qcow2") => Ok(Some((name, DiskFormat::Qcow2))),
                    _ => Err("the layer below has an unknown format"),
                };
            }
            (_, length) => extension += 8 + length.next_multiple_of(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use madang_host::workload::{DiskBus, DiskKind, IoLimits};

    use super::*;

    fn image(below: Option<(&str, &str)>) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[..4].copy_from_slice(b"QFI\xfb");
        image[7] = 3;
        image[103] = 104;
        if let Some((name, format)) = below {
            image[8..16].copy_from_slice(&1024_u64.to_be_bytes());
            image[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            image[1024..1024 + name.len()].copy_from_slice(name.as_bytes());
            image[104..108].copy_from_slice(&0xe279_2aca_u32.to_be_bytes());
            image[108..112].copy_from_slice(&(format.len() as u32).to_be_bytes());
            image[112..112 + format.len()].copy_from_slice(format.as_bytes());
        }
        image
    }

    fn disk(path: PathBuf) -> Disk {
        Disk {
            id: Uuid::nil(),
            source: DiskSource::File {
                path,
                format: DiskFormat::Qcow2,
            },
            bus: DiskBus::Virtio,
            kind: DiskKind::Disk,
            serial: String::new(),
            is_read_only: false,
            boot_index: None,
            limits: IoLimits::default(),
            mount_point: None,
        }
    }

    #[test]
    fn a_stack_is_opened_from_the_bottom() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("base"), "x").unwrap();
        fs::write(home.path().join("middle"), image(Some(("base", "raw")))).unwrap();
        fs::write(home.path().join("top"), image(Some(("middle", "qcow2")))).unwrap();
        let layers = open(&disk(home.path().join("top"))).unwrap();
        let said: Vec<_> = layers
            .iter()
            .map(|(layer, _)| (layer.node.as_str(), layer.format, layer.is_read_only))
            .collect();
        assert_eq!(
            said,
            [
                ("d00000000000000000000-2", DiskFormat::Raw, true),
                ("d00000000000000000000-1", DiskFormat::Qcow2, true),
                ("d00000000000000000000", DiskFormat::Qcow2, false),
            ]
        );
        let [file, node] = layers[2].0.nodes("/dev/fdset/9", Some("below"));
        assert_eq!(
            (&file["filename"], &node["backing"]),
            (&json!("/dev/fdset/9"), &json!("below"))
        );
    }

    #[test]
    fn an_image_that_leads_elsewhere_is_refused() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = elsewhere.path().join("secret");
        fs::write(&secret, "x").unwrap();
        fs::write(home.path().join("top"), image(Some((secret.to_str().unwrap(), "raw")))).unwrap();
        let error = open(&disk(home.path().join("top"))).unwrap_err();
        assert!(
            matches!(&error, DriverError::Broken(why) if why.contains("leads to")),
            "{error}"
        );
        fs::write(home.path().join("top"), image(Some(("top", "qcow2")))).unwrap();
        let error = open(&disk(home.path().join("top"))).unwrap_err();
        assert!(error.to_string().contains("too many layers"), "{error}");
        fs::write(home.path().join("top"), image(Some(("top", "vmdk")))).unwrap();
        assert!(open(&disk(home.path().join("top"))).is_err());
    }
}
