//! Trunks: a guest that tags its frames, at a tap as a virtual machine has it.

use std::{
    fs::File,
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use madang_host::{
    link::{Change, Links},
    tap,
    workload::Attachment,
};
use madang_network::{Port, PortSpec, Rule, SecurityGroup, SubPort, Trunk, TrunkSpec, agent::names};
use madang_store::Resource;

use super::lab::{Guest, HOST, Lab, Net, allow, in_lab, until};

/// What is before each frame at a tap with offload headers. Source: `struct virtio_net_hdr`.
const HEADER: usize = 10;
/// Two addresses.
const ADDRESSES: usize = 12;

/// What the kernel of a guest does: a link without tags and one for each VLAN, over one tap.
struct Stack {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    guests: Vec<Guest>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Plugs in a guest whose links, in namespaces of their own, are those of `ports`: each with its VLAN, none for the parent.
async fn plug(lab: &Lab, parent: &Resource<Port>, ports: &[(&Arc<Resource<Port>>, Option<u16>)]) -> Stack {
    let fabric = lab.instance.fabric();
    let trunk = tap::open(&fabric, &names::device(parent.metadata.uid)).await.unwrap();
    let mut guests = Vec::new();
    let mut wires: Vec<(Option<u16>, File)> = Vec::new();
    for (port, vlan) in ports {
        let netns = lab.instance.netns(&format!("guest-{}", port.metadata.uid));
        netns.ensure().await.unwrap();
        tap::ensure(&netns, "eth0").await.unwrap();
        wires.push((*vlan, tap::open(&netns, "eth0").await.unwrap().into()));
        let links = Links::open(&netns).await.unwrap();
        let mac: Vec<u8> = port
            .spec
            .mac_address
            .split(':')
            .map(|b| u8::from_str_radix(b, 16).unwrap())
            .collect();
        let change = Change {
            mac: Some(mac.try_into().unwrap()),
            up: Some(true),
            mtu: Some(1400),
            ..Change::default()
        };
        links.change("eth0", &change).await.unwrap();
        let port = Arc::clone(port);
        guests.push(Guest { netns, links, port });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let thread = std::thread::spawn(move || relay(File::from(trunk), wires, &told));
    Stack {
        stop,
        thread: Some(thread),
        guests,
    }
}

fn relay(mut trunk: File, mut wires: Vec<(Option<u16>, File)>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let mut is_quiet = true;
        if let Ok(size) = trunk.read(&mut buffer) {
            is_quiet = false;
            let (vlan, frame) = untagged(&buffer[..size]);
            if let Some((_, wire)) = wires.iter_mut().find(|(of, _)| *of == vlan) {
                wire.write_all(&frame).unwrap();
            }
        }
        for (vlan, wire) in &mut wires {
            if let Ok(size) = wire.read(&mut buffer) {
                is_quiet = false;
                trunk.write_all(&tagged(&buffer[..size], *vlan)).unwrap();
            }
        }
        if is_quiet {
            #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn untagged(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    let at = HEADER + ADDRESSES;
    if frame[at..at + 2] != [0x81, 0x00] {
        return (None, frame.to_vec());
    }
    let vlan = u16::from_be_bytes([frame[at + 2], frame[at + 3]]) & 0xfff;
    (Some(vlan), [&frame[..at], &frame[at + 4..]].concat())
}

fn tagged(frame: &[u8], vlan: Option<u16>) -> Vec<u8> {
    let at = HEADER + ADDRESSES;
    let Some(vlan) = vlan else { return frame.to_vec() };
    [&frame[..at], &[0x81, 0x00], &vlan.to_be_bytes(), &frame[at..]].concat()
}

fn sub(port: &Resource<Port>, vlan: u16) -> SubPort {
    SubPort {
        port_id: port.name().into(),
        segmentation_type: "vlan".into(),
        segmentation_id: vlan,
    }
}

/// A port at `.last` with a group, as a subport is.
async fn subport(lab: &Lab, net: &Net, last: u8, group: &Resource<SecurityGroup>) -> Arc<Resource<Port>> {
    lab.port(PortSpec {
        security_groups: vec![group.name().into()],
        device_owner: "trunk:subport".into(),
        ..net.port(last)
    })
    .await
}

#[test]
fn tagged_frames_are_the_subports_and_untagged_ones_the_parents() {
    in_lab(|lab| async move {
        let (home, blue, red) = (
            lab.network("10.1.0.0/24").await,
            lab.network("10.2.0.0/24").await,
            lab.network("10.3.0.0/24").await,
        );
        lab.start();
        let (open, shut) = (lab.group().await, lab.group().await);
        lab.create::<Rule>(allow(&open, None, None)).await;
        let parent = PortSpec {
            security_groups: vec![open.name().into()],
            attachment: Attachment::Tap,
            ..home.port(5)
        };
        let parent = lab.port(parent).await;
        let in_blue = subport(&lab, &blue, 5, &open).await;
        let in_red = subport(&lab, &red, 5, &shut).await;
        let trunk = lab
            .create::<Trunk>(TrunkSpec {
                admin_state_up: true,
                port_id: parent.name().into(),
                sub_ports: vec![sub(&in_blue, 5), sub(&in_red, 7)],
                ..TrunkSpec::default()
            })
            .await;
        let (near, far, away) = (
            lab.guest(&home, 9, &open).await,
            lab.guest(&blue, 9, &open).await,
            lab.guest(&red, 9, &open).await,
        );
        let stack = plug(
            &lab,
            &parent,
            &[(&parent, None), (&in_blue, Some(5)), (&in_red, Some(7))],
        )
        .await;
        let [on_home, on_blue, on_red] = &stack.guests[..] else {
            panic!("three links")
        };
        for (guest, net) in [(on_home, &home), (on_blue, &blue), (on_red, &red)] {
            guest.configure(net).await;
        }
        // Each reaches its own network, both ways, and what its groups say holds.
        assert!(on_home.pings(near.address()).await, "untagged");
        assert!(on_blue.pings(far.address()).await, "tagged 5");
        assert!(on_red.pings(away.address()).await, "tagged 7");
        assert!(near.pings(on_home.address()).await);
        assert!(far.pings(on_blue.address()).await, "to the guest, tagged 5");
        assert!(
            !away.pings(on_red.address()).await,
            "the group of the red subport lets nothing in"
        );
        assert!(!on_blue.pings(near.address()).await, "blue is not home");
        // Nobody else's address goes out of a subport.
        on_red
            .links
            .set_addresses("eth0", &["10.3.0.77/24".parse().unwrap()])
            .await
            .unwrap();
        assert!(!on_red.pings(away.address()).await, "a forged address");
        // DHCP answers for the subport's own address.
        let lease = super::root_address::udhcpc(&lab, on_blue, &[]).await.expect("no lease");
        assert_eq!(lease["ip"], "10.2.0.5");
        on_blue.configure(&blue).await;

        // Red leaves the trunk while blue talks on; its frames are nobody's then.
        lab.modify::<Trunk>(&trunk, |trunk| trunk.spec.sub_ports.truncate(1))
            .await;
        lab.delete(&*in_red).await;
        assert!(on_blue.pings(far.address()).await);
        on_red
            .links
            .set_addresses("eth0", &["10.3.0.5/24".parse().unwrap()])
            .await
            .unwrap();
        assert!(!on_red.pings(away.address()).await);
        // A restart of the agent finds everything as it was, and mends what somebody took away meanwhile.
        lab.stop().await;
        assert!(
            on_blue.pings(far.address()).await,
            "frames pass while nobody looks after them"
        );
        let fabric = Links::open(&lab.instance.fabric()).await.unwrap();
        let number = fabric.index(&names::device(parent.metadata.uid)).await.unwrap();
        fabric.stop_tagging(number).await.unwrap();
        assert!(!on_blue.pings(far.address()).await);
        lab.start();
        super::lab::until_async("blue to be mended", || async { on_blue.pings(far.address()).await }).await;
        // Without the trunk, the device of its parent is as any other.
        lab.delete(&*trunk).await;
        lab.delete(&*in_blue).await;
        let until_gone = || async { fabric.tagging().await.unwrap().is_empty() };
        super::lab::until_async("the programs to go", until_gone).await;
        assert!(on_home.pings(near.address()).await);
        until("the parent to stay wired", || {
            lab.store.get::<Port>(&parent.key()).unwrap().status.wired_on.as_deref() == Some(HOST)
        })
        .await;
        drop(stack);
    });
}
