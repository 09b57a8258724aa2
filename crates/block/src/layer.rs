//! A layer: a file that never changes once something stands on it.
//!
//! ```text
//!   image ◄── layer ◄── layer (a snapshot) ◄── layer (the volume writes here)
//!                            ▲
//!                            └── layer (another volume, cloned from the snapshot)
//! ```
//! Volumes, snapshots and layers hold the layers they need; a layer that nobody holds goes in the transaction in which the
//! last one let go, and its file after that. A file whose layer was never written is removed at the next start.

use madang_store::{ErrorKind, Indexes, Key, Kind, Metadata, Op, Rejection, Resource, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The kind of layers. `metadata.name` is the uid, which also names the file. They belong to the cloud, not to a project.
pub struct Layer;

impl Kind for Layer {
    const NAME: &'static str = "volumelayers";
    type Spec = LayerSpec;
    type Status = LayerStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("image", |r| r.spec.image.iter().cloned().collect())
            .on("parent", |r| r.spec.parent.iter().map(Uuid::to_string).collect())
    }
}

/// What a layer is. Written once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// What it stands on; none for one that stands alone.
    #[serde(default)]
    pub parent: Option<Uuid>,
    /// What the file is.
    pub format: LayerFormat,
    /// The back end that keeps it.
    pub back_end: String,
    /// The host whose back end that is.
    pub host: String,
    /// SHA-512 of the image that it is, in hex; none for what was written here.
    #[serde(default)]
    pub image: Option<String>,
    /// How many layers are below it.
    #[serde(default)]
    pub depth: u32,
}

/// What the file of a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerFormat {
    /// Plain bytes.
    Raw,
    /// QEMU copy-on-write.
    Qcow2,
}

impl LayerFormat {
    /// The name QEMU knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What is seen of a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerStatus {
    /// How many volumes, snapshots and layers hold it. Written by [`hold`] and [`release`] alone.
    #[serde(default)]
    pub holders: u32,
}

/// The key of a layer.
pub fn key(uid: Uuid) -> Key {
    Key::new(Layer::NAME, "", "", uid.to_string())
}

/// A layer that is to be written to the store, held by nobody yet.
pub fn new(uid: Uuid, spec: LayerSpec) -> Resource<Layer> {
    Resource::new(Metadata::with_uid(uid, "", uid.to_string()), spec)
}

/// Holds a layer.
///
/// # Errors
/// `Conflict` when it is gone.
pub fn hold(tx: &mut Tx<'_>, uid: Uuid) -> Result<(), StoreError> {
    let layer = tx.get::<Layer>(&key(uid)).ok_or_else(|| {
        let message = format!("layer {uid} is gone");
        StoreError::from(Rejection::new(ErrorKind::Conflict, "LayerGone", message))
    })?;
    let mut held = (*layer).clone();
    held.status.holders += 1;
    tx.update(&layer, held).map(|_| ())
}

/// Lets go of a layer; the last one to do so removes it.
///
/// # Errors
/// What the store says.
pub fn release(tx: &mut Tx<'_>, uid: Uuid) -> Result<(), StoreError> {
    let Some(layer) = tx.get::<Layer>(&key(uid)) else {
        return Ok(());
    };
    if layer.status.holders <= 1 {
        return tx.delete(&layer);
    }
    let mut left = (*layer).clone();
    left.status.holders -= 1;
    tx.update(&layer, left).map(|_| ())
}

/// Passes from one layer to another, holding the new one before the old one is let go: it may stand on it.
///
/// # Errors
/// As [`hold`] and [`release`].
pub(crate) fn pass(tx: &mut Tx<'_>, from: Option<Uuid>, to: Option<Uuid>) -> Result<(), StoreError> {
    if from == to {
        return Ok(());
    }
    to.map_or(Ok(()), |uid| hold(tx, uid))?;
    from.map_or(Ok(()), |uid| release(tx, uid))
}

/// The rule of layers: each holds the one it stands on.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Layer>) -> Result<(), StoreError> {
    match op {
        Op::Create(layer) => layer.spec.parent.map_or(Ok(()), |parent| hold(tx, parent)),
        Op::Update { old, new } if old.spec.parent != new.spec.parent => pass(tx, old.spec.parent, new.spec.parent),
        Op::Update { .. } => Ok(()),
        Op::Remove(layer) => layer.spec.parent.map_or(Ok(()), |parent| release(tx, parent)),
    }
}
