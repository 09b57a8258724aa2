//! Networks, subnets, ports, security groups, routers and floating addresses: one model for every workload; Neutron's
//! API over it; the host's bridges, namespaces and filters under it.

pub mod address_group;
pub mod address_scope;
pub mod agent;
pub mod api;
pub mod auto_topology;
pub mod dhcp_port;
mod driver;
pub mod flavor;
pub mod floating_ip;
mod lookup;
pub mod metering;
pub mod network;
pub mod port;
pub mod qos;
pub mod quota;
pub mod rbac;
mod refusal;
pub mod router;
pub mod security_group;
pub mod seed;
pub mod subnet;
pub mod subnet_pool;
pub mod trunk;
mod usage;

use madang_store::StoreBuilder;

pub use address_group::{AddressGroup, AddressGroupSpec, AddressGroupStatus};
pub use address_scope::{AddressScope, AddressScopeSpec, AddressScopeStatus};
pub use agent::MetadataSource;
pub use api::{NetworkApi, POLICY, router};
pub use auto_topology::AutoTopology;
pub use flavor::{Flavor, FlavorSpec, FlavorStatus, ServiceProfile, ServiceProfileSpec, ServiceProfileStatus};
pub use floating_ip::{FloatingIp, FloatingIpSpec, FloatingIpStatus, PortForwarding};
pub use metering::{
    MeteringLabel, MeteringLabelSpec, MeteringLabelStatus, MeteringRule, MeteringRuleSpec, MeteringRuleStatus,
};
pub use network::{Network, NetworkSpec, NetworkStatus};
pub use port::{AddressPair, ExtraDhcpOption, FixedIp, Port, PortSpec, PortStatus};
pub use qos::{QosPolicy, QosPolicySpec, QosPolicyStatus, QosRule, Says};
pub use rbac::{RbacPolicy, RbacPolicySpec, RbacPolicyStatus, is_external_for, is_visible, may_plug_into};
pub use router::{ExternalGateway, Router, RouterSpec, RouterStatus};
pub use security_group::{
    Direction, EtherType, Rule, RuleSpec, RuleStatus, RuleTemplate, RuleTemplateSpec, RuleTemplateStatus,
    SecurityGroup, SecurityGroupSpec, SecurityGroupStatus,
};
pub use seed::{SeedOptions, Seeded, seed, seeded_with};
pub use subnet::{AllocationPool, HostRoute, Subnet, SubnetSpec, SubnetStatus};
pub use subnet_pool::{SubnetPool, SubnetPoolSpec, SubnetPoolStatus};
pub use trunk::{SubPort, Trunk, TrunkSpec, TrunkStatus};

/// Makes this subject's kinds known to the store, with their rules.
pub fn register(builder: &mut StoreBuilder) {
    network::rules::register(builder);
    subnet_pool::rules::register(builder);
    subnet::rules::register(builder);
    port::rules::register(builder);
    security_group::rules::register(builder);
    security_group::template::register(builder);
    router::rules::register(builder);
    floating_ip::rules::register(builder);
    rbac::rules::register(builder);
    address_scope::rules::register(builder);
    address_group::rules::register(builder);
    qos::rules::register(builder);
    trunk::rules::register(builder);
    metering::rules::register(builder);
    flavor::rules::register(builder);
    auto_topology::register(builder);
    madang_identity::limit::unified::know(builder);
    builder.kind::<quota::Quota>();
    builder.kind::<seed::Seed>();
}
