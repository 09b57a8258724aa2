//! Links that go without our doing.

use futures_util::{Stream, StreamExt};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkAttribute},
};
use tokio::task::JoinSet;

use crate::{Error, Result, netns::Netns};

/// Tells of links that are removed from a namespace, by whomever.
pub struct Removals {
    messages: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Sync + Unpin>,
    /// Moves messages from the socket; ends with this.
    _connection: JoinSet<()>,
}

impl Removals {
    /// Listens from now on. A burst that the kernel cannot queue loses some: look at everything from time to time.
    pub async fn watch(netns: &Netns) -> Result<Self> {
        let open = || rtnetlink::new_multicast_connection(&[MulticastGroup::Link]);
        let (connection, _, messages) = netns
            .run(open)
            .await?
            .map_err(Error::io("listen for changes of links"))?;
        let mut running = JoinSet::new();
        running.spawn(connection);
        Ok(Self {
            messages: Box::new(messages.map(|(message, _)| message)),
            _connection: running,
        })
    }

    /// The name of the next link that is gone; none when there will be no more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let message = self.messages.next().await?;
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload else {
                continue;
            };
            // The bridge family tells of a port that left its bridge, not of a link that is gone.
            if link.header.interface_family == AddressFamily::Bridge {
                continue;
            }
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            if name.is_some() {
                return name;
            }
        }
    }
}
