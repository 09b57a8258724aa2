//! The binary: the command line, and the composition of all crates into one process.
//!
//! `up` is the composition ([`up`]); the other commands work on the data directory that it leaves behind, or ask its
//! APIs as any client would. Nothing is decided here that a domain could decide.

mod audit;
mod backup;
mod cli;
mod client;
mod config;
mod console;
mod credentials;
mod data_dir;
mod doctor;
mod down;
mod images;
mod logs;
mod mapping;
mod migrate;
mod policy;
mod ranges;
mod reset;
mod status;
mod storage;
#[cfg(test)]
mod tenancy;
mod up;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::{
    cli::{Arguments, Command},
    config::Config,
    data_dir::DataDir,
};

/// Requests take microseconds and what blocks has its own threads: two keep an idle process small and a busy one quick.
const WORKERS: usize = 2;
/// What may block at a time: hashing passwords, reading disks, waiting for commands.
const BLOCKING_THREADS: usize = 64;
/// Threads that block end when there is nothing for them for this long.
const THREAD_IDLE: std::time::Duration = std::time::Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("madang: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::ContainerShim(shim) => return Ok(madang_container::shim_main(shim.arguments)),
        Command::Config => print!("{}", config::EXAMPLE),
        Command::Identity(cli::Identity::Mapping(cli::Mapping::Test(asked))) => mapping::run(&asked)?,
        Command::Identity(cli::Identity::ResetAdmin(place)) => with_data(&place, async |data| reset::run(data).await)?,
        Command::Policy(command) => {
            logs::start_shown();
            runtime()?.block_on(policy::run(command))?;
        }
        Command::Image(image) => {
            logs::start_shown();
            runtime()?.block_on(images::run(image))?;
        }
        Command::Up(arguments) => {
            let config = Config::read(&arguments)?;
            let data = on_host(&arguments.place)?;
            runtime()?.block_on(up::run(config, data))?;
        }
        Command::Down(place) => with_data(&place, async |data| down::run(data).await)?,
        Command::Doctor(place) => with_data(&place, async |data| doctor::run(data).await)?,
        Command::Status(place) => with_data(&place, async |data| status::run(data).await)?,
        Command::Migrate(asked) => {
            logs::start_shown();
            runtime()?.block_on(migrate::run(&asked))?;
        }
        Command::Audit(asked) => with_data(&asked.place, async |data| audit::run(data, &asked).await)?,
        Command::Backup(backup) => with_data(&backup.place, async |data| backup::backup(data, &backup.file).await)?,
        Command::Restore(backup) => with_data(&backup.place, async |data| backup::restore(data, &backup.file).await)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that ends soon on a data directory.
fn with_data(place: &cli::Place, work: impl AsyncFnOnce(&DataDir) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let data = on_host(place)?;
    logs::start_shown();
    runtime()?.block_on(work(&data))
}

/// The data directory, seen from the host's own mount table: what `ip netns exec` gives is a private copy in which
/// control groups are gone and namespaces would end with us. Before any thread is started, as the kernel wants it.
fn on_host(place: &cli::Place) -> anyhow::Result<DataDir> {
    let data = DataDir::new(place.data_dir.as_deref())?;
    let joined = madang_host::mounts::join_host(&[data.path()]);
    joined.map_err(|error| anyhow::anyhow!("could not see the host's mounts: {}", error.chain()))?;
    Ok(data)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_IDLE)
        .enable_all()
        .build()
        .context("could not start the runtime")
}
