//! The drivers that run servers on a host; all behind [`madang_host::workload::Driver`].

mod blank;
pub mod qemu;
pub mod simulated;
