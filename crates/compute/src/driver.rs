//! The drivers that run servers on a host; all behind [`madang_host::workload::Driver`].

pub mod qemu;
pub mod simulated;
