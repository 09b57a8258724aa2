//! What only a real kernel and root can show. Every test works in namespaces and groups of an instance of its own and
//! leaves the host as it was.
#![expect(clippy::unwrap_used, reason = "a test may end at whatever it did not expect")]

#[path = "root_it/root_links.rs"]
mod root_links;
#[path = "root_it/root_processes.rs"]
mod root_processes;

use madang_host::{Instance, cgroup::Hierarchies};

/// An instance in a directory of its own; sweeps when it is over, also when the test failed.
pub(crate) struct Fixture {
    pub(crate) instance: Instance,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let instance = Instance::open(directory.path()).unwrap();
        Self {
            instance,
            _directory: directory,
        }
    }

    pub(crate) fn hierarchies() -> Hierarchies {
        Hierarchies::detect()
    }

    /// Sweeps and asserts that nothing is left.
    pub async fn finish(self) {
        self.instance.sweep().await.unwrap();
        assert_eq!(self.instance.traces().await, Vec::<String>::new());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let instance = self.instance.clone();
        let swept = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(instance.sweep())
        });
        if let Err(error) = swept.join().unwrap() {
            eprintln!("left on the host: {}", error.chain());
        }
    }
}
