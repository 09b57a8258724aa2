//! What every host driver shares: processes, namespaces, links, filters, limits, and the seam behind which workloads run.
//!
//! Nothing here knows of clouds. All names that end up on a host come from an [`Instance`], so that two madangs run side
//! by side and `madang down` can find everything again.

pub mod acceleration;
pub mod blockfile;
pub mod capability;
pub mod cgroup;
pub mod conntrack;
mod error;
pub mod instance;
pub mod link;
pub mod machine;
pub mod mounts;
pub mod netns;
pub mod nft;
pub mod process;
pub mod pty;
pub mod sysctl;
pub mod tap;
pub mod userns;
pub mod workload;

pub use error::{Error, Result};
pub use instance::Instance;
