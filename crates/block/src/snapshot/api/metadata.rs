//! `/snapshots/{id}/metadata`.

crate::api::metadata::handlers!(
    "Snapshot",
    super::snapshot_for,
    super::edit,
    [
        "volume:get_snapshot_metadata",
        "volume:update_snapshot_metadata",
        "volume:update_snapshot_metadata",
        "volume:delete_snapshot_metadata"
    ]
);
