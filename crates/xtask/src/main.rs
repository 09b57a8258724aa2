//! Workspace chores: `cargo xtask check` holds the layout rules that the compiler and clippy cannot see.

mod check;
mod workspace;

use std::{env, path::Path, process::ExitCode};

use anyhow::Context as _;
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
    // Cargo says where it is at run time; what was compiled in may be another copy of the workspace.
    let own = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask check`")?;
    let root = Path::new(&own).join("../..").canonicalize()?;
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
