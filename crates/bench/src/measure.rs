//! What is measured, each in a file of its own.

mod compute;
mod identity;
mod login;
mod startup;
mod store;
mod workloads;

use crate::{cloud::Bench, report::Report};

/// One measure; several may come from one run of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measure {
    /// Durable small transactions
    Store,
    /// From the command to the line; memory and processor while idle
    Startup,
    /// Validating tokens
    Identity,
    /// Getting tokens
    Login,
    /// A thousand simulated servers
    Compute,
    /// A real machine and a real container
    Workloads,
}

impl Measure {
    pub const ALL: [Self; 6] = [
        Self::Store,
        Self::Startup,
        Self::Identity,
        Self::Login,
        Self::Compute,
        Self::Workloads,
    ];

    /// Measures, and reports what was found.
    pub async fn run(self, bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Store => store::run(bench, report).await,
            Self::Startup => startup::run(bench, report).await,
            Self::Identity => identity::run(bench, report).await,
            Self::Login => login::run(bench, report).await,
            Self::Compute => compute::run(bench, report).await,
            Self::Workloads => workloads::run(bench, report).await,
        }
    }
}
