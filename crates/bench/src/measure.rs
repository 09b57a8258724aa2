//! What is measured, each in a file of its own.

mod audit;
mod compute;
mod identity;
mod login;
mod placements;
mod scale;
mod startup;
mod store;
mod workloads;

use crate::{cloud::Bench, report::Report};

/// One measure; several may come from one run of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measure {
    /// Durable small transactions
    Store,
    /// The same on three members of etcd, beside etcd's own measure
    Etcd,
    /// From the command to the line; memory and processor while idle
    Startup,
    /// Validating tokens
    Identity,
    /// Getting tokens
    Login,
    /// What the audit trail adds to a write
    Audit,
    /// A thousand simulated servers
    Compute,
    /// Ten thousand simulated servers
    Scale,
    /// A million workloads on ten thousand hosts
    Placements,
    /// A real machine and a real container
    Workloads,
}

impl Measure {
    pub const ALL: [Self; 10] = [
        Self::Store,
        Self::Etcd,
        Self::Startup,
        Self::Identity,
        Self::Login,
        Self::Audit,
        Self::Compute,
        Self::Scale,
        Self::Placements,
        Self::Workloads,
    ];

    /// Measures, and reports what was found.
    pub async fn run(self, bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Store => store::run(bench, report).await,
            Self::Etcd => store::run_on_etcd(report).await,
            Self::Startup => startup::run(bench, report).await,
            Self::Identity => identity::run(bench, report).await,
            Self::Login => login::run(bench, report).await,
            Self::Audit => audit::run(bench, report).await,
            Self::Compute => compute::run(bench, report).await,
            Self::Scale => scale::run(bench, report).await,
            Self::Placements => placements::run(bench, report).await,
            Self::Workloads => workloads::run(bench, report).await,
        }
    }
}
