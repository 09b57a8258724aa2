//! An image: what a server's disk or a container's root starts as.
//!
//! ```text
//!            PUT file                 bytes checked, blob durable
//!  queued ───────────────▶ saving ───────────────────────────────▶ active ◀──────▶ deactivated
//!     ▲                      │                                       (admin: deactivate, reactivate)
//!     └──────────────────────┘ upload failed, was refused, or madang stopped meanwhile
//! ```
//! An import goes `queued ──▶ uploading` (staged) ` ──▶ importing ──▶ active`, or without staging ([`import`]).
//!
//! The bytes are a blob named by their SHA-512 ([`crate::blobs`]); several images may share one. A deleted image is gone
//! from the store at once; its blob goes when no other image names it.

pub(crate) mod api;
pub(crate) mod import;
pub(crate) mod quota;
pub mod rules;
pub mod upload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use jiff::Timestamp;
use madang_store::{Indexes, Kind, Resource};
use serde::{Deserialize, Serialize};

/// The kind of images. `metadata.name` is the id, `metadata.project` the owner.
pub struct Image;

impl Kind for Image {
    const NAME: &'static str = "images";
    type Spec = ImageSpec;
    type Status = ImageStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| r.spec.name.iter().cloned().collect())
            .on("visibility", |r| vec![r.spec.visibility.as_str().to_owned()])
            .on("member", |r| {
                r.spec.members.iter().map(|member| member.project.clone()).collect()
            })
            .on("state", |r| vec![r.status.state.as_str().to_owned()])
            .on("digest", |r| {
                let contents = r.status.content.iter().chain(&r.status.staged);
                contents.map(|content| content.sha512.clone()).collect()
            })
    }
}

/// What was asked of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// What the user calls it; need not be unique, need not be there.
    #[serde(default)]
    pub name: Option<String>,
    /// Who may see it.
    #[serde(default)]
    pub visibility: Visibility,
    /// What the bytes are wrapped in. Known before bytes are taken.
    #[serde(default)]
    pub container_format: Option<ContainerFormat>,
    /// What the bytes are. Known before bytes are taken, and compared with them.
    #[serde(default)]
    pub disk_format: Option<DiskFormat>,
    /// The smallest root disk that a flavor must give, in GiB; 0 for any.
    #[serde(default)]
    pub min_disk: u32,
    /// The least memory that a flavor must give, in MiB; 0 for any.
    #[serde(default)]
    pub min_ram: u32,
    /// Refuses to be deleted.
    #[serde(default)]
    pub is_protected: bool,
    /// Left out of lists that do not ask for it.
    #[serde(default)]
    pub is_hidden: bool,
    /// The user's tags.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Everything else the user says about it, such as `hw_machine_type`, `os_distro`, `kernel_id`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// The projects it is shared with; they see it when `visibility` is `shared`.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// What is seen of an image. Written by uploads and by the actions of admins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Where it is on its way.
    #[serde(default)]
    pub state: ImageState,
    /// Its bytes, once they are here.
    #[serde(default)]
    pub content: Option<Content>,
    /// Bytes that wait to be imported.
    #[serde(default)]
    pub staged: Option<Content>,
    /// It was imported, or that was tried; Glance's properties of imports stay from then on.
    #[serde(default)]
    pub was_imported: bool,
    /// The last import failed.
    #[serde(default)]
    pub has_failed: bool,
}

/// The bytes of an image, as they were when they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many there are.
    pub size: u64,
    /// The size of the disk that a guest sees, in bytes; none for what is not a disk.
    #[serde(default)]
    pub virtual_size: Option<u64>,
    /// MD5 in hex; the API's `checksum`. Only for clients that want it: it proves nothing.
    pub md5: String,
    /// SHA-512 in hex; the API's `os_hash_value`, and the blob's name.
    pub sha512: String,
}

/// A project that an image is shared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The project's id.
    pub project: String,
    /// What it said to that.
    pub status: MemberStatus,
    /// When it was added.
    pub created: Timestamp,
    /// When the status last changed.
    pub updated: Timestamp,
}

/// Declares an enum that is a fixed set of words on the wire and at rest.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every word, in the order Glance lists them.
            pub const ALL: &'static [&'static str] = &[$($word),+];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err(UnknownWord(word.to_owned())) }
            }
        }
    };
}

/// A word that is not one of the set.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not one of the known words")]
pub struct UnknownWord(pub String);

words! {
    /// Who may see an image.
    Visibility {
        /// Everybody, and listed for everybody.
        Community = "community",
        /// Everybody; only admins may make it so.
        Public = "public",
        /// The owner only.
        Private = "private",
        /// The owner and the members.
        Shared = "shared",
    }
}

// Glance's default since v2.5: private until somebody is added as a member.
#[allow(clippy::derivable_impls)] // the derive needs an attribute that the macro cannot pass through
impl Default for Visibility {
    fn default() -> Self {
        Self::Shared
    }
}

words! {
    /// What an image's bytes are wrapped in.
    ContainerFormat {
        /// An Amazon machine image.
        Ami = "ami",
        /// An Amazon ramdisk image.
        Ari = "ari",
        /// An Amazon kernel image.
        Aki = "aki",
        /// Nothing: a disk.
        Bare = "bare",
        /// An OVF container.
        Ovf = "ovf",
        /// An OVA archive.
        Ova = "ova",
        /// A container image: an OCI or `docker save` archive.
        Docker = "docker",
        /// A compressed file.
        Compressed = "compressed",
    }
}

words! {
    /// What an image's bytes are.
    DiskFormat {
        /// An Amazon machine image: a raw file system.
        Ami = "ami",
        /// An Amazon ramdisk image.
        Ari = "ari",
        /// An Amazon kernel image.
        Aki = "aki",
        /// Virtual PC.
        Vhd = "vhd",
        /// Hyper-V.
        Vhdx = "vhdx",
        /// VMware.
        Vmdk = "vmdk",
        /// Any bytes.
        Raw = "raw",
        /// QEMU's copy-on-write format, version 2 or 3.
        Qcow2 = "qcow2",
        /// VirtualBox.
        Vdi = "vdi",
        /// Parallels.
        Ploop = "ploop",
        /// An optical disc.
        Iso = "iso",
    }
}

words! {
    /// Where an image is on its way.
    ImageState {
        /// Known, without bytes.
        Queued = "queued",
        /// Bytes are coming.
        Saving = "saving",
        /// Bytes are staged, or coming to be.
        Uploading = "uploading",
        /// Bytes are being imported.
        Importing = "importing",
        /// Ready to be used.
        Active = "active",
        /// Kept, but its bytes are for admins only.
        Deactivated = "deactivated",
    }
}

#[allow(clippy::derivable_impls)] // as above
impl Default for ImageState {
    fn default() -> Self {
        Self::Queued
    }
}

words! {
    /// What a project says to an image that is shared with it.
    MemberStatus {
        /// Nothing yet: it can use the image but does not see it in lists.
        Pending = "pending",
        /// Wants it in its lists.
        Accepted = "accepted",
        /// Does not.
        Rejected = "rejected",
    }
}

impl ImageSpec {
    /// The membership of a project.
    pub fn member(&self, project: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.project == project)
    }

    /// Whether it is a container image, run by the `oci` driver.
    pub fn is_container(&self) -> bool {
        self.container_format == Some(ContainerFormat::Docker)
    }

    /// The id of the kernel image to boot directly, when the image asks for that.
    pub fn kernel_id(&self) -> Option<&str> {
        self.properties
            .get("kernel_id")
            .map(String::as_str)
            .filter(|id| !id.is_empty())
    }

    /// The id of the ramdisk image that goes with the kernel.
    pub fn ramdisk_id(&self) -> Option<&str> {
        self.properties
            .get("ramdisk_id")
            .map(String::as_str)
            .filter(|id| !id.is_empty())
    }
}

/// Whether a project may know of an image and use it. Admins may, always; that is for the caller to say.
pub fn is_visible(image: &Resource<Image>, project: &str) -> bool {
    match image.spec.visibility {
        Visibility::Public | Visibility::Community => true,
        _ if image.project() == project => true,
        Visibility::Shared => image.spec.member(project).is_some(),
        Visibility::Private => false,
    }
}

#[cfg(test)]
mod tests {
    use madang_store::Metadata;

    use super::*;

    fn image(visibility: Visibility, member: Option<&str>) -> Resource<Image> {
        let at = Timestamp::UNIX_EPOCH;
        let status = MemberStatus::Pending;
        let members = member.map(|p| Member {
            project: p.into(),
            status,
            created: at,
            updated: at,
        });
        let spec = ImageSpec {
            visibility,
            members: members.into_iter().collect(),
            ..ImageSpec::default()
        };
        Resource::new(Metadata::with_id("owner"), spec)
    }

    #[test]
    fn visibility_decides_who_sees_it() {
        assert!(is_visible(&image(Visibility::Public, None), "other"));
        assert!(is_visible(&image(Visibility::Community, None), "other"));
        assert!(is_visible(&image(Visibility::Private, None), "owner"));
        assert!(!is_visible(&image(Visibility::Private, Some("other")), "other"));
        assert!(!is_visible(&image(Visibility::Shared, None), "other"));
        assert!(is_visible(&image(Visibility::Shared, Some("other")), "other"));
    }

    #[test]
    fn words_come_back_as_themselves() {
        for word in DiskFormat::ALL {
            assert_eq!(word.parse::<DiskFormat>().unwrap().as_str(), *word);
        }
        assert!("qcow3".parse::<DiskFormat>().is_err());
    }

    #[test]
    fn an_image_stored_by_version_1_loads() {
        let stored = serde_json::json!({
            "name": "tiny", "visibility": "public", "container_format": "bare", "disk_format": "qcow2",
            "min_disk": 1, "min_ram": 64, "tags": ["a"], "properties": {"os_distro": "debian"},
        });
        let spec: ImageSpec = serde_json::from_value(stored).unwrap();
        assert_eq!(spec.disk_format, Some(DiskFormat::Qcow2));
        assert!(!spec.is_protected && spec.members.is_empty());
    }
}
