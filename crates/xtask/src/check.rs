//! The layout rules, one function each. Every finding names the place, what is wrong and what to do instead.

mod direction;
mod sources;

use std::fmt;

use crate::workspace::{Crate, Workspace};

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// `crates/x/src/y.rs:12`, or a manifest.
    pub place: String,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Finding {
    fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.text)
    }
}

/// Runs every rule.
pub fn all(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for krate in &workspace.crates {
        names(krate, &mut findings);
        manifest(krate, &mut findings);
    }
    direction::all(workspace, &mut findings);
    sources::all(workspace, &mut findings);
    findings
}

/// Packages are `madang-<directory>` and lie flat.
fn names(krate: &Crate, findings: &mut Vec<Finding>) {
    let place = place_of(krate);
    let wanted = match krate.directory.as_str() {
        "madang" => "madang".to_owned(),
        directory => format!("madang-{directory}"),
    };
    if krate.package != wanted {
        findings.push(Finding::new(
            &place,
            format!("package `{}` should be named `{wanted}`", krate.package),
        ));
    }
    if nameless(&krate.directory) {
        findings.push(Finding::new(
            &place,
            "if a thing has no name it is not finished: name the crate after its subject",
        ));
    }
    for nested in &krate.nested {
        findings.push(Finding::new(nested, "crates lie flat below `crates/`: move it there"));
    }
}

/// Versions and lints come from the workspace; anyhow is for the binary, xtask and tests.
fn manifest(krate: &Crate, findings: &mut Vec<Finding>) {
    let place = place_of(krate);
    for dependency in krate
        .dependencies
        .iter()
        .filter(|dependency| !dependency.from_workspace)
    {
        let text = format!(
            "`{name}` brings its own version: put it in the workspace's table and write `{name}.workspace = true`",
            name = dependency.name
        );
        findings.push(Finding::new(&place, text));
    }
    if !krate.takes_lints {
        findings.push(Finding::new(&place, "add `[lints] workspace = true`"));
    }
    let may_use_anyhow = matches!(krate.directory.as_str(), "madang" | "xtask" | "bench" | "testkit");
    if !may_use_anyhow
        && krate
            .dependencies
            .iter()
            .any(|dependency| dependency.name == "anyhow" && !dependency.dev)
    {
        findings.push(Finding::new(
            &place,
            "`anyhow` is for the binary and tests: a library has its own error enum (thiserror)",
        ));
    }
}

fn place_of(krate: &Crate) -> String {
    format!("crates/{}/Cargo.toml", krate.directory)
}

/// Names that say nothing.
fn nameless(name: &str) -> bool {
    matches!(name, "common" | "util" | "utils" | "helper" | "helpers" | "misc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(directory: &str, manifest: &str) -> Crate {
        Crate::parse(directory.into(), manifest).unwrap()
    }

    fn texts(check: impl Fn(&Crate, &mut Vec<Finding>), krate: &Crate) -> Vec<String> {
        let mut findings = Vec::new();
        check(krate, &mut findings);
        findings.into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_package_is_named_after_its_directory() {
        assert!(texts(names, &crate_of("block", "[package]\nname = 'madang-block'")).is_empty());
        assert!(texts(names, &crate_of("madang", "[package]\nname = 'madang'")).is_empty());
        assert_eq!(
            texts(names, &crate_of("block", "[package]\nname = 'volumes'")),
            ["crates/block/Cargo.toml: package `volumes` should be named `madang-block`"]
        );
        assert_eq!(
            texts(names, &crate_of("utils", "[package]\nname = 'madang-utils'")).len(),
            1
        );
    }

    #[test]
    fn a_nested_crate_is_found() {
        let mut krate = crate_of("block", "[package]\nname = 'madang-block'");
        krate.nested.push("crates/block/rbd/Cargo.toml".into());
        assert_eq!(texts(names, &krate).len(), 1);
    }

    #[test]
    fn versions_live_in_the_workspace() {
        let good = "[package]\nname='madang-a'\n[lints]\nworkspace=true\n[dependencies]\ntar.workspace=true";
        assert!(texts(manifest, &crate_of("a", good)).is_empty());
        let own = good.replace("tar.workspace=true", "tar='0.4'");
        assert!(texts(manifest, &crate_of("a", &own))[0].contains("`tar` brings its own version"));
        assert!(
            texts(
                manifest,
                &crate_of("a", &good.replace("workspace=true\n", "workspace=false\n"))
            )[0]
            .contains("lints")
        );
    }

    #[test]
    fn anyhow_stays_out_of_libraries() {
        let text = "[package]\nname='x'\n[lints]\nworkspace=true\n[dependencies]\nanyhow.workspace=true";
        assert_eq!(texts(manifest, &crate_of("network", text)).len(), 1);
        assert!(texts(manifest, &crate_of("madang", text)).is_empty());
        assert!(texts(manifest, &crate_of("network", &text.replace("[dep", "[dev-dep"))).is_empty());
    }
}
