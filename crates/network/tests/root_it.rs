//! The network agent with real packets, in namespaces of its own. Needs root.
#![expect(clippy::unwrap_used, reason = "a test may end at whatever it did not expect")]

#[path = "root_it/lab.rs"]
mod lab;

#[path = "root_it/address.rs"]
mod root_address;
#[path = "root_it/filter.rs"]
mod root_filter;
#[path = "root_it/forward.rs"]
mod root_forward;
#[path = "root_it/measure.rs"]
mod root_measure;
#[path = "root_it/meter.rs"]
mod root_meter;
#[path = "root_it/outlive.rs"]
mod root_outlive;
#[path = "root_it/quality.rs"]
mod root_quality;
#[path = "root_it/route.rs"]
mod root_route;
#[path = "root_it/trunk.rs"]
mod root_trunk;
#[path = "root_it/version6.rs"]
mod root_version6;
#[path = "root_it/vlan.rs"]
mod root_vlan;
