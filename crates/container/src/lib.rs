//! Container images and the `oci` workload driver.
//!
//! [`OciDriver`] runs servers whose image is a container: [`archive`] reads the image, [`layers`] keeps it unpacked once
//! for all, and a small process per container, the [`shim`], makes its namespaces and root, starts it through runc, owns
//! its output and records how it ended. The shim needs nobody: madang can stop, crash and be replaced meanwhile.
//!
//! ```text
//! OciDriver ─ spec.json ─► shim ─► namespaces · overlay · network ─► runc run ─► container
//!     ▲                     │ output ─► console.log
//!     └── events (inotify) ─┴ record.json: starting → running → exited | failed
//! ```

pub mod archive;
mod disk;
mod driver;
mod files;
pub mod layers;
mod record;
mod runtime;
pub mod shim;

pub use driver::{OciDriver, Options};
pub use shim::shim_main;
