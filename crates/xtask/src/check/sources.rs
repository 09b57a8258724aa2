//! What the files themselves must look like.

use super::{Finding, nameless};
use crate::workspace::{File, Workspace};

/// Lines before the tests; past this a file is two ideas.
const LONGEST_FILE: usize = 800;

/// What the top comment of a longer file has to contain, with its reason.
const EXCUSE: &str = "long because";

pub fn all(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for krate in &workspace.crates {
        for file in &krate.files {
            module_name(file, findings);
            if file.is_test() {
                continue;
            }
            opening(file, findings);
            length(file, findings);
            globs(file, findings);
            if krate.directory != "host" {
                unsafe_code(file, findings);
            }
        }
    }
}

/// `volume.rs` beside `volume/`, and nothing without a name.
fn module_name(file: &File, findings: &mut Vec<Finding>) {
    let parts: Vec<&str> = file.path.split('/').collect();
    if parts.last() == Some(&"mod.rs") {
        findings.push(Finding::new(&file.path, "write `name.rs` beside `name/`, not `mod.rs`"));
    }
    // The last part is the file, before it come the directories below `crates/x/src`.
    if parts.iter().skip(3).any(|part| nameless(part.trim_end_matches(".rs"))) {
        findings.push(Finding::new(
            &file.path,
            "if a thing has no name it is not finished: name the module after what it does",
        ));
    }
}

/// A module opens with `//!`.
fn opening(file: &File, findings: &mut Vec<Finding>) {
    if !file.text.trim_start().starts_with("//!") {
        let text = "a module opens with `//!`: what it owns, who calls it, what must always hold";
        findings.push(Finding::new(format!("{}:1", file.path), text));
    }
}

fn length(file: &File, findings: &mut Vec<Finding>) {
    let lines = file.lines_before_tests().count();
    let excused = || {
        file.text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .any(|line| line.contains(EXCUSE))
    };
    if lines > LONGEST_FILE && !excused() {
        let text = format!(
            "{lines} lines, tests aside: split it by idea, or say at the top that it is {EXCUSE} … ({LONGEST_FILE} is the limit)"
        );
        findings.push(Finding::new(&file.path, text));
    }
}

fn globs(file: &File, findings: &mut Vec<Finding>) {
    for (number, line) in file.lines_before_tests() {
        let line = line.trim();
        let is_use = line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(crate) use ");
        if is_use && line.ends_with("::*;") {
            findings.push(Finding::new(
                format!("{}:{number}", file.path),
                "name what is imported; globs are for tests",
            ));
        }
    }
}

/// The compiler refuses `unsafe` where the workspace's lints hold; what is looked for is somebody lifting them.
fn unsafe_code(file: &File, findings: &mut Vec<Finding>) {
    for (number, line) in file.lines_before_tests() {
        let lifted = line.trim_start().starts_with('#') && line.contains("(unsafe_code)");
        if lifted {
            let text = "`unsafe` lives in `host` only: put it there behind a safe function";
            findings.push(Finding::new(format!("{}:{number}", file.path), text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Crate;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let directory = path.split('/').nth(1).unwrap().to_owned();
        let file = File {
            path: path.into(),
            text: text.into(),
        };
        let krate = Crate {
            directory,
            files: vec![file],
            ..Crate::default()
        };
        let mut findings = Vec::new();
        all(&Workspace { crates: vec![krate] }, &mut findings);
        findings.into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_tidy_file_passes() {
        let text = "//! Volumes.\nuse a::b;\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        assert_eq!(findings("crates/block/src/volume.rs", text), [""; 0]);
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        assert!(findings("crates/block/src/volume/mod.rs", "//! x")[0].contains("not `mod.rs`"));
        assert!(findings("crates/block/src/utils.rs", "//! x")[0].contains("no name"));
        assert!(findings("crates/block/src/helpers/disk.rs", "//! x")[0].contains("no name"));
    }

    #[test]
    fn a_module_without_an_opening_is_found() {
        assert!(
            findings("crates/block/src/volume.rs", "use a::b;\n")[0]
                .starts_with("crates/block/src/volume.rs:1: a module opens")
        );
    }

    #[test]
    fn a_long_file_has_to_say_why() {
        let body = "fn a() {}\n".repeat(LONGEST_FILE);
        assert!(findings("crates/block/src/a.rs", &format!("//! A.\n{body}"))[0].contains("801 lines"));
        assert!(
            findings(
                "crates/block/src/a.rs",
                &format!("//! A.\n//! This file is long because it is a table.\n{body}")
            )
            .is_empty()
        );
        let tests = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert!(findings("crates/block/src/a.rs", &tests).is_empty());
    }

    #[test]
    fn globs_and_unsafe_are_found() {
        assert!(findings("crates/block/src/a.rs", "//! A.\npub use b::*;\n")[0].contains(":2: name what is imported"));
        let text = format!("//! A.\n#![allow({}_code)]\n", "unsafe");
        assert!(findings("crates/block/src/a.rs", &text)[0].contains(":2: `unsafe` lives in `host`"));
        assert!(findings("crates/host/src/a.rs", &text).is_empty());
    }
}
