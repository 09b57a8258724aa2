//! Workspace chores: `cargo xtask check` holds the layout rules that the compiler and clippy cannot see.

mod check;
mod workspace;

use std::{path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Workspace chores of madang")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check the layout rules: names, dependency direction, file lengths, where unsafe and anyhow may be
    Check,
}

fn main() -> anyhow::Result<ExitCode> {
    let Chore::Check = Arguments::parse().chore;
    // Built from this workspace, so it knows where the workspace is, whichever directory it is called from.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let workspace = workspace::Workspace::read(&root)?;
    let findings = check::all(&workspace);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        eprintln!("\n{} to mend; the rules are in CONTRIBUTING.md", findings.len());
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "layout: {} crates, {} files, nothing to mend",
        workspace.crates.len(),
        workspace.files().count()
    );
    Ok(ExitCode::SUCCESS)
}
