//! `make bench`: measures what docs/benchmarks.md reports, on this machine, against a real `madang up`.
//!
//! Every measure is repeated and its median is reported, beside what we want it to be and the ratio of the two. The
//! load comes from this process, over real sockets, and shares the machine's processors with madang. `scripts/in-lab`
//! gives both a network namespace of their own.

mod cloud;
/// The store's own tests start etcd the same way.
#[path = "../../store/tests/it/cluster.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "made for tests: what goes wrong ends it")]
mod cluster;
mod measure;
mod report;
mod wire;

use std::path::PathBuf;

use clap::Parser;

use crate::{measure::Measure, report::Report};

#[derive(Parser)]
#[command(name = "madang-bench", about = "Measure madang on this machine")]
struct Arguments {
    /// The binary to measure
    #[arg(long, default_value = "target/release/madang")]
    madang: PathBuf,
    /// Only these measures
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Where data directories are made: on the disk that is to be measured [default: where temporary files go]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Hosts for `placements`
    #[arg(long, default_value_t = 10_000)]
    hosts: usize,
    /// Workloads for `placements`
    #[arg(long, default_value_t = 1_000_000)]
    workloads: usize,
    /// Also write the table into this file, between its marks
    #[arg(long)]
    write: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let scratch = match &arguments.scratch {
        Some(directory) => tempfile::tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    let bench = cloud::Bench {
        binary: arguments.madang.canonicalize()?,
        scratch: scratch.path().to_owned(),
        placed: (arguments.hosts, arguments.workloads),
    };
    let mut report = Report::default();
    for measure in Measure::ALL {
        if arguments.only.is_empty() || arguments.only.contains(&measure) {
            eprintln!("measuring {measure:?}");
            // One that cannot be measured is reported as such; the others still count.
            if let Err(error) = measure.run(&bench, &mut report).await {
                report.failed(measure, &format!("{error:#}"));
            }
        }
    }
    println!("{}", report.table());
    if let Some(file) = &arguments.write {
        report.write(file)?;
    }
    Ok(())
}
