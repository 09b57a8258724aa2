//! Volumes: disks that outlive servers, their snapshots, types and attachments, Cinder's API over them and the back end
//! that keeps their bytes.
//!
//! A volume's bytes are the top of a stack of layers ([`layer`]); a snapshot, a clone or an image below it costs one more
//! layer and no copy. Layers are counted in the same transactions that begin and end their use, so that nothing needed is
//! ever removed.

pub mod api;
pub mod attachment;
pub mod backup;
pub mod control;
pub mod driver;
pub mod group;
pub mod group_snapshot;
pub mod group_type;
pub mod layer;
pub mod manage;
pub mod message;
pub mod qos;
pub mod quota;
pub mod snapshot;
pub mod transfer;
pub mod vault;
pub mod volume;
pub mod volume_type;
mod words;

use madang_store::StoreBuilder;

pub use attachment::{AttachState, Attachment, AttachmentSpec, AttachmentStatus, Device};
pub use backup::{Backup, BackupSpec, BackupState, BackupStatus};
pub use layer::{Layer, LayerFormat, LayerSpec, LayerStatus};
pub use qos::{Consumer, QosSpecs};
pub use quota::Quota;
pub use snapshot::{Snapshot, SnapshotSpec, SnapshotState, SnapshotStatus};
pub use volume::{Source, Task, Volume, VolumeSpec, VolumeState, VolumeStatus};
pub use volume_type::{DefaultType, Encryption, VolumeType, VolumeTypeSpec};

/// Makes the kinds of this crate and their rules known.
pub fn register(store: &mut StoreBuilder) {
    madang_identity::limit::unified::know(store);
    store
        .kind::<Quota>()
        .kind::<DefaultType>()
        .kind::<message::Message>()
        .kind::<transfer::Transfer>()
        .kind::<group_snapshot::GroupSnapshot>()
        .kind::<madang_image::Image>();
    store.rule::<QosSpecs>(qos::rules::admit);
    store.rule::<VolumeType>(volume_type::rules::admit);
    store.rule::<Layer>(layer::admit);
    store.rule::<Volume>(volume::rules::admit);
    store.rule::<Snapshot>(snapshot::rules::admit);
    store.rule::<Attachment>(attachment::rules::admit);
    store.rule::<group_type::GroupType>(group_type::admit);
    store.rule::<group::Group>(group::admit);
    store.rule::<Backup>(backup::rules::admit);
}
