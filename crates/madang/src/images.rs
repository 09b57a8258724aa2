//! `madang image`: guest images as files.

mod busybox;

use std::path::PathBuf;

use anyhow::Context;
use madang_image::tiny::{self, TinyFormat, TinyImage, TinyOptions};

use crate::{
    cli::Image,
    console::{Checks, Progress, line},
};

/// Where packages and built images are kept between runs: the same for every data directory.
pub fn cache() -> PathBuf {
    let home = || Some(crate::data_dir::home()?.join(".cache/madang"));
    match std::env::var_os("MADANG_CACHE_DIR") {
        Some(directory) => directory.into(),
        None if nix::unistd::geteuid().is_root() => "/var/cache/madang".into(),
        None => home().unwrap_or_else(|| "/var/tmp/madang-cache".into()),
    }
}

/// Builds what is asked for.
///
/// # Errors
/// When a tool or package is missing, named with what to do, or the file cannot be written.
pub async fn run(image: Image) -> anyhow::Result<()> {
    match image {
        Image::BuildTiny(build) => {
            let format = if build.file.extension().is_some_and(|end| end == "raw" || end == "img") {
                TinyFormat::Raw
            } else {
                TinyFormat::Qcow2
            };
            let options = TinyOptions {
                cache: cache(),
                output: Some(build.file),
                format,
            };
            let built = tiny(options, &mut Checks::new()).await?;
            line(&format!(
                "{} boots Linux {}",
                built.path.display(),
                built.kernel_version
            ));
        }
        Image::BuildBusybox(build) => {
            let file = build.file.clone();
            tokio::task::spawn_blocking(move || busybox::build(&file)).await??;
            line(&format!("{} serves a page on port 8080", build.file.display()));
        }
    }
    Ok(())
}

/// The tiny guest: found, or built while saying where it is.
///
/// # Errors
/// When a tool or package is missing.
pub async fn tiny(options: TinyOptions, checks: &mut Checks) -> anyhow::Result<TinyImage> {
    let building = async |progress: Progress| tiny::build(options, &move |step: &str| progress.step(step)).await;
    let built = checks
        .follow("building the tiny guest from Debian packages", building)
        .await;
    built.context("could not build the tiny guest")
}
