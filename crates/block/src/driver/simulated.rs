//! A back end that pretends, for scale tests and simulated hosts.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{BackEnd, BackEndError, Capacity, LayerFile, Stranger};
use crate::layer::LayerFormat;

/// Remembers which layers there are.
#[derive(Default)]
pub struct SimulatedBackEnd {
    layers: Mutex<HashSet<Uuid>>,
    left: Mutex<HashSet<String>>,
}

impl SimulatedBackEnd {
    fn make(&self, uid: Uuid) -> LayerFile {
        self.layers.lock().insert(uid);
        LayerFile {
            uid,
            format: LayerFormat::Qcow2,
        }
    }

    /// How many layers there are.
    pub fn len(&self) -> usize {
        self.layers.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl BackEnd for SimulatedBackEnd {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn make_blank(&self, uid: Uuid, _: u64) -> Result<LayerFile, BackEndError> {
        Ok(self.make(uid))
    }

    async fn make_over(&self, uid: Uuid, base: LayerFile, _: u64) -> Result<LayerFile, BackEndError> {
        if !self.layers.lock().contains(&base.uid) {
            return Err(BackEndError::Broken(format!("layer {} is gone", base.uid)));
        }
        Ok(self.make(uid))
    }

    async fn merge(&self, uid: Uuid, top: LayerFile, _: Option<LayerFile>) -> Result<LayerFile, BackEndError> {
        if !self.layers.lock().contains(&top.uid) {
            return Err(BackEndError::Broken(format!("layer {} is gone", top.uid)));
        }
        Ok(self.make(uid))
    }

    async fn take_image(&self, uid: Uuid, _: &Path, _: &str) -> Result<LayerFile, BackEndError> {
        Ok(self.make(uid))
    }

    async fn grow(&self, _: LayerFile, _: u64) -> Result<(), BackEndError> {
        Ok(())
    }

    async fn export(&self, _: LayerFile, into: &Path, _: &str) -> Result<(), BackEndError> {
        std::fs::write(into, b"simulated").map_err(BackEndError::io(format!("write {}", into.display())))
    }

    async fn strangers(&self) -> Result<Vec<Stranger>, BackEndError> {
        let left = self.left.lock().clone();
        let stranger = |name| Stranger { name, bytes: 1 << 30 };
        Ok(left.into_iter().map(stranger).collect())
    }

    async fn adopt(&self, uid: Uuid, name: &str) -> Result<LayerFile, BackEndError> {
        if !self.left.lock().contains(name) {
            return Err(BackEndError::Broken(format!("there is no file {name}")));
        }
        Ok(self.make(uid))
    }

    async fn forget(&self, name: &str) -> Result<(), BackEndError> {
        self.left.lock().remove(name);
        Ok(())
    }

    async fn leave(&self, _: LayerFile, name: &str) -> Result<(), BackEndError> {
        self.left.lock().insert(name.to_owned());
        Ok(())
    }

    async fn remove(&self, layer: LayerFile) -> Result<(), BackEndError> {
        self.layers.lock().remove(&layer.uid);
        Ok(())
    }

    async fn sweep(&self, keep: &HashSet<Uuid>) -> Result<(), BackEndError> {
        self.layers.lock().retain(|uid| keep.contains(uid));
        Ok(())
    }

    fn path(&self, layer: LayerFile) -> PathBuf {
        PathBuf::from("/nonexistent").join(layer.uid.to_string())
    }

    fn scratch(&self) -> PathBuf {
        std::env::temp_dir()
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            total: 1 << 50,
            free: 1 << 50,
        }
    }
}
