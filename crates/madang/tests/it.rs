//! The program as a shell sees it. That cargo builds it for this, with all tests, is what the end-to-end tests run on.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy only knows those functions that are marked so"
)]

use std::process::{Command, Output};

fn madang(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_madang"))
        .args(arguments)
        .output()
        .expect("the program was built")
}

#[test]
fn help_names_every_command() {
    let said = madang(&["--help"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{text}");
    for command in [
        "up", "down", "doctor", "status", "backup", "restore", "image", "policy", "audit", "identity",
    ] {
        let is_named = text.lines().any(|line| line.split_whitespace().next() == Some(command));
        assert!(is_named, "{command} is not in:\n{text}");
    }
    assert!(
        !text.contains("container-shim"),
        "what only madang itself calls is hidden:\n{text}"
    );
}

#[test]
fn an_unknown_command_is_refused_by_name() {
    let said = madang(&["upp"]);
    let text = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(2), "{text}");
    assert!(text.contains("upp"), "{text}");
}
