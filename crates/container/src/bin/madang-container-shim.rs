//! The shim as a program of its own, as this crate's tests start it; `madang container-shim` is the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    madang_container::shim_main(std::env::args_os().skip(1))
}
