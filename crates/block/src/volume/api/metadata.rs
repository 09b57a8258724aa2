//! `/volumes/{id}/metadata`.

crate::api::metadata::handlers!(
    "Volume",
    crate::api::volume_for,
    crate::volume::verbs::edit,
    [
        "volume:get_volume_metadata",
        "volume:create_volume_metadata",
        "volume:update_volume_metadata",
        "volume:delete_volume_metadata"
    ]
);
