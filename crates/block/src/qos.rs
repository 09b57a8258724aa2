//! QoS specs: what the host (front end) or the back end lets through for volumes of the types they are associated with.

pub mod api;
pub mod rules;

use std::collections::BTreeMap;

use madang_host::workload::IoLimits;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

use crate::words::words;

/// The kind of QoS specs. `metadata.name` is the id; they belong to the cloud.
pub struct QosSpecs;

impl Kind for QosSpecs {
    const NAME: &'static str = "volumeqos";
    type Spec = QosSpecsSpec;
    type Status = QosSpecsStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("name", |r| vec![r.spec.name.clone()])
    }
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QosSpecsSpec {
    /// The name; unique.
    pub name: String,
    /// Who keeps to it.
    pub consumer: Consumer,
    /// Such as `read_iops_sec = 1000`.
    #[serde(default)]
    pub specs: BTreeMap<String, String>,
}

words! {
    /// Who keeps to QoS specs.
    Consumer {
        /// The host that has the volume.
        FrontEnd = "front-end",
        /// What keeps the bytes.
        BackEnd = "back-end",
        /// Both.
        Both = "both",
    }
}

/// Nothing is seen of QoS specs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QosSpecsStatus {}

impl QosSpecsSpec {
    /// What a host is to let through for a volume of so many GiB. Source: the words are those of libvirt's `iotune`, and
    /// `…_per_gb` multiplies by the size.
    pub fn limits(&self, size_gib: u32) -> IoLimits {
        let own = |name: &str| self.specs.get(name).and_then(|said| said.parse::<u64>().ok());
        let of = |name: &str| {
            own(name).or_else(|| own(&format!("{name}_per_gb")).map(|each| each.saturating_mul(u64::from(size_gib))))
        };
        if self.consumer == Consumer::BackEnd {
            return IoLimits::default();
        }
        IoLimits {
            read_bytes_sec: of("read_bytes_sec"),
            write_bytes_sec: of("write_bytes_sec"),
            total_bytes_sec: of("total_bytes_sec"),
            read_iops_sec: of("read_iops_sec"),
            write_iops_sec: of("write_iops_sec"),
            total_iops_sec: of("total_iops_sec"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_may_grow_with_the_volume() {
        let mut specs = QosSpecsSpec {
            name: "fast".to_owned(),
            consumer: Consumer::FrontEnd,
            specs: [("read_iops_sec", "100"), ("total_bytes_sec_per_gb", "10")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        let limits = specs.limits(5);
        assert_eq!((limits.read_iops_sec, limits.total_bytes_sec), (Some(100), Some(50)));
        specs.consumer = Consumer::BackEnd;
        assert_eq!(specs.limits(5), IoLimits::default());
    }
}
