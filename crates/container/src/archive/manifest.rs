//! From an archive's index to the one image for this machine.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;

use super::{Archive, Digest, Image, ImageConfig, ImageError, LayerRef, MAX_LAYERS, blob::clip, sha256_hex};

/// Indexes inside indexes; real ones nest twice.
const MAX_INDEX_DEPTH: u32 = 4;

/// What `docker save` writes beside the layers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// Follows `index.json` of an OCI image layout.
pub(super) fn from_layout(archive: &Archive) -> Result<Image, ImageError> {
    let index: ImageIndex = archive.json("index.json", None)?;
    let mut found = Vec::new();
    let mut others = Vec::new();
    collect(archive, &index, MAX_INDEX_DEPTH, &mut found, &mut others)?;
    found.dedup_by(|a, b| a.digest() == b.digest());
    let descriptor = match found.as_slice() {
        [one] => one,
        [] => {
            others.sort();
            others.dedup();
            let list = if others.is_empty() {
                "nothing".to_owned()
            } else {
                others.join(", ")
            };
            return Err(ImageError::Broken(format!(
                "the archive holds no image for linux/{}, only for {list}",
                Arch::default()
            )));
        }
        several => {
            return Err(ImageError::Broken(format!(
                "the archive holds {} images for linux/{}; a server is made from an archive of one",
                several.len(),
                Arch::default()
            )));
        }
    };
    let digest: Digest = descriptor.digest().as_ref().parse()?;
    let manifest: ImageManifest = archive.json(&blob_path(&digest), Some(&digest))?;
    let config_digest: Digest = manifest.config().digest().as_ref().parse()?;
    let path = blob_path(&config_digest);
    let document = archive.document(&path, Some(&config_digest))?;
    let stored = manifest.layers().iter().map(|layer| layer.digest().as_ref().parse());
    let stored = stored.collect::<Result<Vec<Digest>, _>>()?;
    let layers = stored
        .into_iter()
        .map(|digest| (blob_path(&digest), Some(digest)))
        .collect();
    image(document, &path, layers)
}

/// Follows `manifest.json` of `docker save`.
pub(super) fn from_docker_save(archive: &Archive) -> Result<Image, ImageError> {
    let images: Vec<SavedImage> = archive.json("manifest.json", None)?;
    let saved = match images.as_slice() {
        [one] => one,
        [] => return Err(ImageError::Broken("manifest.json lists no image".into())),
        several => {
            let tags = several
                .iter()
                .flat_map(|image| image.repo_tags.iter().flatten())
                .take(5);
            return Err(ImageError::Broken(format!(
                "the archive holds {} images ({}); a server is made from an archive of one",
                several.len(),
                tags.map(|tag| clip(tag)).collect::<Vec<_>>().join(", ")
            )));
        }
    };
    let body = archive.document(&saved.config, None)?;
    // The configuration's file is named by its own hash, in both layouts docker has used.
    let stem = saved
        .config
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json");
    let found = sha256_hex(&body);
    if stem != found {
        return Err(ImageError::Broken(format!(
            "the configuration {:?} does not match its digest: it has {found}",
            clip(&saved.config)
        )));
    }
    let layers = saved.layers.iter().map(|path| (path.clone(), None)).collect();
    image(body, &saved.config, layers)
}

fn collect(
    archive: &Archive,
    index: &ImageIndex,
    depth: u32,
    found: &mut Vec<Descriptor>,
    others: &mut Vec<String>,
) -> Result<(), ImageError> {
    for descriptor in index.manifests() {
        if is_index(descriptor.media_type()) {
            let digest: Digest = descriptor.digest().as_ref().parse()?;
            if depth == 0 {
                return Err(ImageError::Broken(format!(
                    "the archive's indexes nest deeper than {MAX_INDEX_DEPTH} at {digest}"
                )));
            }
            collect(
                archive,
                &archive.json(&blob_path(&digest), Some(&digest))?,
                depth - 1,
                found,
                others,
            )?;
            continue;
        }
        match descriptor.platform() {
            Some(platform) if *platform.os() != Os::Linux || *platform.architecture() != Arch::default() => {
                others.push(format!("{}/{}", platform.os(), platform.architecture()));
            }
            _ => found.push(descriptor.clone()),
        }
    }
    Ok(())
}

fn is_index(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageIndex => true,
        MediaType::Other(name) => name == "application/vnd.docker.distribution.manifest.list.v2+json",
        _ => false,
    }
}

/// `document` is the configuration, found at `path`.
fn image(document: Vec<u8>, path: &str, layers: Vec<(String, Option<Digest>)>) -> Result<Image, ImageError> {
    let config: ImageConfiguration = serde_json::from_slice(&document)
        .map_err(|error| ImageError::Broken(format!("the configuration {} is malformed: {error}", clip(path))))?;
    if *config.os() != Os::Linux || *config.architecture() != Arch::default() {
        return Err(ImageError::Broken(format!(
            "the image is for {}/{}, this host is linux/{}",
            config.os(),
            config.architecture(),
            Arch::default()
        )));
    }
    let contents = config.rootfs().diff_ids();
    if contents.len() != layers.len() {
        return Err(ImageError::Broken(format!(
            "the image's manifest lists {} layers, its configuration {}",
            layers.len(),
            contents.len()
        )));
    }
    if layers.is_empty() || layers.len() > MAX_LAYERS {
        return Err(ImageError::Broken(format!(
            "the image has {} layers; 1 to {MAX_LAYERS} can be used",
            layers.len()
        )));
    }
    let layers = layers.into_iter().zip(contents).map(|((path, stored), content)| {
        Ok(LayerRef {
            path: super::clean(path.as_bytes()).unwrap_or(path),
            stored,
            unpacked: content.parse()?,
        })
    });
    Ok(Image {
        config: ImageConfig::from_document(config.config().as_ref())?,
        document,
        layers: layers.collect::<Result<_, ImageError>>()?,
    })
}

pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}
