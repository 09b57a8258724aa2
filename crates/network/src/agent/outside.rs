//! The way outside: one veth pair from the bridge of external networks to the host's own namespace, where its end has
//! the external subnets' gateway addresses. The only thing of madang's network in the host's namespace.

use madang_host::{
    Instance, Result,
    link::{Change, Links, VethEnd},
};

use super::{names, wanted::Outside};
use crate::driver::FabricSpace;

/// Makes the pair and gives the host's end its addresses. `host` are the links of the host's own namespace.
pub(super) async fn make(instance: &Instance, host: &Links, fabric: &FabricSpace, wanted: &Outside) -> Result<()> {
    let outer = instance.outside_link();
    let there = host.list().await?;
    let found = there.iter().find(|link| link.name == outer);
    let inner = fabric
        .list()
        .await?
        .into_iter()
        .find(|link| link.name == names::OUTSIDE_PORT);
    if found.is_none() || inner.is_none() {
        host.remove(&outer).await?;
        fabric.links().remove(names::OUTSIDE_PORT).await?;
        let near = VethEnd {
            name: outer.clone(),
            netns: host.netns().clone(),
            mac: None,
            mtu: Some(wanted.mtu),
        };
        let far = VethEnd {
            name: names::OUTSIDE_PORT.into(),
            netns: fabric.links().netns().clone(),
            mac: None,
            mtu: Some(wanted.mtu),
        };
        host.ensure_veth(&near, &far).await?;
    }
    let master = Some(Some(names::OUTSIDE_BRIDGE.to_owned()));
    let plugged = Change {
        up: Some(true),
        mtu: Some(wanted.mtu),
        master,
        ..Change::default()
    };
    fabric.links().change(names::OUTSIDE_PORT, &plugged).await?;
    if found.is_none_or(|link| !link.up || link.mtu != wanted.mtu) {
        host.change(
            &outer,
            &Change {
                up: Some(true),
                mtu: Some(wanted.mtu),
                ..Change::default()
            },
        )
        .await?;
    }
    host.set_addresses(&outer, &wanted.addresses).await
}

/// Takes the pair away.
pub(super) async fn remove(fabric: &FabricSpace) -> Result<()> {
    fabric.links().remove(names::OUTSIDE_PORT).await
}
