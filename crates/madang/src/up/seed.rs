//! The image `tiny`, which a new cloud begins with.
//!
//! Registered through the API, as an operator would, so that it takes the way of every image. It can be interrupted
//! anywhere and goes on at the next start. Once it is through, `DIR/begun` says so: an image that is then removed stays
//! removed.

use anyhow::Context;
use http::Method;
use madang_image::tiny::{TinyFormat, TinyOptions};
use serde_json::json;

use crate::{
    client::Client,
    console::Checks,
    credentials::{Credentials, Endpoint},
    data_dir::{DataDir, write_secret},
    images,
};

/// Whether there is something left to do.
pub fn is_due(data: &DataDir) -> bool {
    !data.join("begun").exists()
}

/// Builds and registers the image.
///
/// # Errors
/// When it cannot be built or the API refuses.
pub async fn tiny(
    data: &DataDir,
    endpoint: &Endpoint,
    credentials: &Credentials,
    checks: &mut Checks,
) -> anyhow::Result<()> {
    let options = TinyOptions {
        cache: images::cache(),
        output: None,
        format: TinyFormat::Qcow2,
    };
    let built = images::tiny(options, checks).await?;
    let mut admin = Client::new(endpoint)?;
    admin.log_in("admin", &credentials.admin_password).await?;
    let found = admin.get("/image/v2/images?name=tiny").await?;
    let image = match found["images"].as_array().and_then(|images| images.first()) {
        Some(image) => image.clone(),
        None => {
            let record = json!({"name": "tiny", "disk_format": "qcow2", "container_format": "bare", "min_ram": 64,
                "visibility": "public", "os_distro": "debian", "os_admin_user": "tiny"});
            admin.send(Method::POST, "/image/v2/images", &record).await?
        }
    };
    if image["status"] != "active" {
        let id = image["id"].as_str().context("the image has no id")?;
        let path = format!("/image/v2/images/{id}/file");
        checks
            .wait("registering the tiny guest", admin.upload(&path, &built.path))
            .await?;
    }
    write_secret(&data.join("begun"), "")
}
