//! VLANs of one link as links of their own: packets of a VLAN that come in on a *trunk* link are handed, without their tag,
//! to another link, and what that link is to send leaves by the trunk with the tag.
//!
//! This is done by programs at the links' traffic control, which every kernel of Debian has; the kernel's own VLAN
//! devices could not be ports of a bridge while their trunk is one, too.

use std::os::fd::AsRawFd;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};

use super::{Links, answered, ebpf};
use crate::{Error, Result};

/// The only filter at its place.
const PRIORITY: u32 = 1;
/// `ETH_P_ALL`, in the world's order.
const ALL_PROTOCOLS: u32 = u16::to_be(3) as u32;
/// Where programs are put.
const QUEUE: &str = "clsact";
const QUEUE_HANDLE: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

impl Links {
    /// From now on packets with the tag of a VLAN that come in on the link numbered `trunk` come in, without it, on the
    /// link that is listed with the VLAN, by its number. Packets of other VLANs are dropped.
    pub async fn untag(&self, trunk: u32, vlans: &[(u16, u32)]) -> Result<()> {
        let program = ebpf::untag(vlans);
        self.attach(trunk, TcHandle::MIN_INGRESS, &program, "untag").await
    }

    /// From now on what the link numbered `link` is to send leaves by `trunk`, tagged with a VLAN.
    pub async fn tag(&self, link: u32, vlan: u16, trunk: u32) -> Result<()> {
        let program = ebpf::tag(vlan, trunk);
        self.attach(link, TcHandle::MIN_EGRESS, &program, "tag").await
    }

    /// Ends what [`Links::untag`] or [`Links::tag`] began. Succeeds when nothing was.
    pub async fn stop_tagging(&self, link: u32) -> Result<()> {
        let removed = self.request(RouteNetlinkMessage::DelQueueDiscipline(queue(link)), 0);
        match answered(format!("stop tagging at link {link}"), removed).await {
            Err(error) if error.is_not_found() || is_invalid(&error) => Ok(()),
            other => other,
        }
    }

    /// The numbers of links that tag or untag.
    pub async fn tagging(&self) -> Result<Vec<u32>> {
        let mut handle = self.handle.qdisc();
        let found = answered(
            "list traffic control".into(),
            handle.get().execute().try_collect::<Vec<_>>(),
        );
        let is_ours = |message: &&TcMessage| {
            let named = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == QUEUE);
            message.attributes.iter().any(named)
        };
        let found = found.await?;
        let numbers = found
            .iter()
            .filter(is_ours)
            .filter_map(|message| u32::try_from(message.header.index).ok());
        Ok(numbers.collect())
    }

    async fn attach(&self, link: u32, place: u16, program: &[ebpf::Instruction], name: &str) -> Result<()> {
        let action = format!("attach the program `{name}` to link {link}");
        let made = self.request(
            RouteNetlinkMessage::NewQueueDiscipline(queue(link)),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match answered(action.clone(), made).await {
            Err(error) if error.is_already_there() => {}
            other => other?,
        }
        let loaded = ebpf::load(program)?;
        let mut filter = TcMessage::with_index(link as i32);
        filter.header.parent = TcHandle {
            major: QUEUE_HANDLE.major,
            minor: place,
        };
        filter.header.handle = TcHandle { major: 0, minor: 1 };
        filter.header.info = (PRIORITY << 16) | ALL_PROTOCOLS;
        filter.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(loaded.as_raw_fd() as u32)),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let attached = self.request(
            RouteNetlinkMessage::NewTrafficFilter(filter),
            NLM_F_CREATE | NLM_F_REPLACE,
        );
        answered(action, attached).await
    }

    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> std::result::Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

fn queue(link: u32) -> TcMessage {
    let mut message = TcMessage::with_index(link as i32);
    message.header.handle = QUEUE_HANDLE;
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![TcAttribute::Kind(QUEUE.to_owned())];
    message
}

/// What the kernel says of a place for programs that is not there.
fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}
