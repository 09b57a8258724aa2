//! The only code of this crate that touches the kernel: takes steps of a plan in a namespace of the instance.

mod edge;
mod fabric;

pub(crate) use edge::EdgeSpace;
pub(crate) use fabric::FabricSpace;
