//! Images and their bytes: the resource, the blobs, Glance's API over them, the cache that agents read from, and the
//! tiny guest that every cloud starts with.

pub mod api;
pub mod blobs;
pub mod cache;
mod format;
pub mod image;
mod intake;
mod library;
pub mod metadef;
mod policy;
mod task;
pub mod tiny;

pub use blobs::{BlobError, Blobs};
pub use cache::{Cache, CacheError, CachedImage, LocalCache};
pub use format::{FormatError, inspect};
pub use image::{
    ContainerFormat, Content, DiskFormat, Image, ImageSpec, ImageState, ImageStatus, Member, MemberStatus, Visibility,
    is_visible, rules::register,
};
pub use intake::{Intake, IntakeError, LocalIntake};
pub use library::{Library, LibraryError, MAX_IMAGE_BYTES};
