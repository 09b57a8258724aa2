//! Container images made from nothing, good ones and bad ones.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy only knows those functions that are marked so"
)]

use std::{io::Write, path::Path};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One entry of a layer; names are written as they are, however bad.
#[derive(Clone, Debug)]
pub enum Item {
    File(&'static str, u32, Vec<u8>),
    Dir(&'static str, u32),
    Symlink(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Device(&'static str),
    Fifo(&'static str),
    /// Attributes of the entry after it.
    Attributes(&'static str, &'static [u8]),
    /// Owner of the entry after it.
    Owner(u32, u32),
}

pub fn file(path: &'static str, body: &str) -> Item {
    Item::File(path, 0o644, body.as_bytes().to_vec())
}

/// The tar of a layer.
pub fn layer(items: &[Item]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut owner = (0, 0);
    for item in items {
        let (kind, path, link, mode, body): (_, _, _, _, &[u8]) = match item {
            Item::File(path, mode, body) => (tar::EntryType::Regular, *path, "", *mode, body),
            Item::Dir(path, mode) => (tar::EntryType::Directory, *path, "", *mode, &[]),
            Item::Symlink(path, target) => (tar::EntryType::Symlink, *path, *target, 0o777, &[]),
            Item::Hard(path, target) => (tar::EntryType::Link, *path, *target, 0o644, &[]),
            Item::Device(path) => (tar::EntryType::Block, *path, "", 0o600, &[]),
            Item::Fifo(path) => (tar::EntryType::Fifo, *path, "", 0o600, &[]),
            Item::Attributes(name, value) => {
                builder
                    .append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), *value)])
                    .unwrap();
                continue;
            }
            Item::Owner(uid, gid) => {
                owner = (*uid, *gid);
                continue;
            }
        };
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(owner.0));
        header.set_gid(u64::from(owner.1));
        header.set_mtime(1_000_000_000);
        header.set_size(body.len() as u64);
        if kind == tar::EntryType::Block {
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        builder.append(&header, body).unwrap();
        owner = (0, 0);
    }
    builder.into_inner().unwrap()
}

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    Plain,
    Gzip,
    Zstd,
}

/// An image to be written in either form.
#[derive(Clone, Debug)]
pub struct Image {
    pub layers: Vec<(Vec<u8>, Stored)>,
    pub config: Value,
    pub architecture: &'static str,
}

impl Image {
    pub fn new(layers: Vec<Vec<u8>>, command: &[&str]) -> Self {
        let layers = layers.into_iter().map(|layer| (layer, Stored::Gzip)).collect();
        Self {
            layers,
            config: json!({ "Cmd": command }),
            architecture: "amd64",
        }
    }

    /// Adds to the configuration.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn document(&self) -> Vec<u8> {
        let ids: Vec<String> = self.layers.iter().map(|(tar, _)| digest(tar)).collect();
        json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": ids },
        })
        .to_string()
        .into_bytes()
    }

    /// As an OCI image layout, with an image for another machine beside it.
    pub fn oci(&self) -> Vec<u8> {
        let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
        let mut layers = Vec::new();
        for (tar, stored) in &self.layers {
            let bytes = compress(tar, *stored);
            let kind = match stored {
                Stored::Plain => "application/vnd.oci.image.layer.v1.tar",
                Stored::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                Stored::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            };
            layers.push(describe(kind, &bytes));
            files.push((blob(&bytes), bytes));
        }
        let config = self.document();
        let manifest = json!({
            "schemaVersion": 2, "config": describe("application/vnd.oci.image.config.v1+json", &config), "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let mut own = describe("application/vnd.oci.image.manifest.v1+json", &manifest);
        own["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        let mut other = describe("application/vnd.oci.image.manifest.v1+json", b"not in the archive");
        other["platform"] = json!({ "architecture": "s390x", "os": "linux" });
        let inner = json!({ "schemaVersion": 2, "manifests": [other, own] })
            .to_string()
            .into_bytes();
        let index =
            json!({ "schemaVersion": 2, "manifests": [describe("application/vnd.oci.image.index.v1+json", &inner)] });
        for bytes in [config, manifest, inner] {
            files.push((blob(&bytes), bytes));
        }
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        archive(&files)
    }

    /// As `docker save` writes it.
    pub fn docker_save(&self) -> Vec<u8> {
        let config = self.document();
        let config_name = format!("{}.json", &digest(&config)[7..]);
        let mut files = vec![(config_name.clone(), config)];
        let mut names = Vec::new();
        for (i, (tar, _)) in self.layers.iter().enumerate() {
            names.push(format!("{i}/layer.tar"));
            files.push((format!("{i}/layer.tar"), tar.clone()));
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": ["app:latest"], "Layers": names }]);
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        archive(&files)
    }
}

/// A tar of these files.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, body.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The hash an archive is known by.
pub fn content_hash(bytes: &[u8]) -> String {
    digest(bytes)[7..].to_owned()
}

pub fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", &digest(bytes)[7..])
}

fn describe(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

fn compress(bytes: &[u8], stored: Stored) -> Vec<u8> {
    match stored {
        Stored::Plain => bytes.to_vec(),
        Stored::Gzip => gzip(bytes),
        Stored::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// Writes an archive and returns its path and hash.
pub fn save(dir: &Path, name: &str, bytes: &[u8]) -> (std::path::PathBuf, String) {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    (path, content_hash(bytes))
}
