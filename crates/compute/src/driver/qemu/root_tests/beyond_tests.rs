//! What QEMU does beyond power: the bytes of copies, disks that are swapped and grow, booting from another disk.

use super::*;

/// The bytes of an image as its guest sees them.
fn content(image: &std::path::Path) -> Vec<u8> {
    let raw = image.with_extension("raw");
    let status = std::process::Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([image, &raw])
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(raw).unwrap()
}

#[tokio::test]
async fn a_snapshot_stands_alone_and_boots() {
    let fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    let id = workload.id;
    fixture.driver.start(&workload).await.unwrap();
    fixture.prints(id, "the guest is up").await;
    let running = fixture.image(id).with_file_name("running.qcow2");
    fixture.driver.snapshot(&workload, &running).await.unwrap();
    fixture.driver.stop(id, None).await.unwrap();
    let stopped = running.with_file_name("stopped.qcow2");
    fixture.driver.snapshot(&workload, &stopped).await.unwrap();
    let bytes = content(&running);
    assert_eq!(bytes.len() as u64, 8 * MIB);
    assert_eq!(&bytes[..512], &GUEST[..512]);
    assert!(bytes == content(&stopped), "both ways copy the same");

    let mut again = fixture.workload().await;
    if let Root::Disk { base, format, .. } = &mut again.root {
        (*base, *format) = (running, DiskFormat::Qcow2);
    }
    fixture.driver.start(&again).await.unwrap();
    fixture.prints(again.id, "the guest is up").await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_disk_is_swapped_and_grows() {
    let fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    let id = workload.id;
    fixture.driver.start(&workload).await.unwrap();
    let (old, new) = (fixture.volume(), fixture.volume());
    let DiskSource::File { path, .. } = &new.source else {
        unreachable!()
    };
    fs::write(path, vec![0; 4 * MIB as usize]).unwrap();
    fixture.driver.attach_disk(id, &old).await.unwrap();
    fixture.driver.swap_disk(id, old.id, &new).await.unwrap();
    fixture.driver.swap_disk(id, old.id, &new).await.unwrap();
    assert!(
        fs::read(path).unwrap().iter().all(|byte| *byte == b'v'),
        "it was copied"
    );
    let usage = fixture.driver.usage(id).await.unwrap();
    let disks: Vec<&DiskName> = usage.disks.iter().map(|disk| &disk.disk).collect();
    assert_eq!(disks, [&DiskName::Root, &DiskName::Disk(new.id)]);

    fixture.driver.grow_disk(id, &new, 6 * MIB).await.unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), 6 * MIB);

    // Its device has the first disk's name; memory finds the same board again.
    let mut workload = workload;
    workload.disks.push(new.clone());
    fixture.driver.suspend(id).await.unwrap();
    fixture.driver.start(&workload).await.unwrap();
    fixture.driver.detach_disk(id, new.id).await.unwrap();
    let nodes = fixture.machine(id).await;
    let nodes = nodes
        .ask("query-named-block-nodes", serde_json::json!({ "flat": true }))
        .await
        .unwrap();
    assert_eq!(
        nodes.as_array().unwrap().len(),
        4,
        "only those of the root are left: {nodes}"
    );
    fixture.finish().await;
}

#[tokio::test]
async fn a_disk_goes_on_in_layers_that_are_put_on_it() {
    let fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    let id = workload.id;
    fixture.driver.start(&workload).await.unwrap();
    let below = fixture.volume();
    fixture.driver.attach_disk(id, &below).await.unwrap();
    let mut top = below.clone();
    for number in 0..2 {
        let DiskSource::File { path, format } = &top.source else {
            unreachable!()
        };
        let layer = path.with_file_name(format!("{}-{number}", below.id));
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", format.as_str(), "-b"])
            .args([path.file_name().unwrap(), layer.as_os_str()])
            .status()
            .unwrap();
        assert!(made.success());
        top.source = DiskSource::File {
            path: layer,
            format: DiskFormat::Qcow2,
        };
        fixture.driver.stack_disk(id, &top).await.unwrap();
        fixture.driver.stack_disk(id, &top).await.unwrap();
    }
    let machine = fixture.machine(id).await;
    let blocks = machine.ask("query-block", serde_json::Value::Null).await.unwrap();
    let text = blocks.to_string();
    assert!(text.contains("\"backing_file_depth\":2"), "{text}");
    fixture.driver.grow_disk(id, &top, 6 * MIB).await.unwrap();
    let DiskSource::File { path, .. } = &top.source else {
        unreachable!()
    };
    assert_eq!(disk::size(path).unwrap(), 6 * MIB);
    fixture.driver.detach_disk(id, below.id).await.unwrap();
    let nodes = machine
        .ask("query-named-block-nodes", serde_json::json!({ "flat": true }))
        .await
        .unwrap();
    assert_eq!(
        nodes.as_array().unwrap().len(),
        4,
        "only those of the root are left: {nodes}"
    );
    // What nobody has open grows, too.
    fixture.driver.grow_disk(id, &top, 8 * MIB).await.unwrap_err();
    fixture.driver.stop(id, None).await.unwrap();
    fixture.driver.grow_disk(id, &top, 8 * MIB).await.unwrap();
    assert_eq!(disk::size(path).unwrap(), 8 * MIB);
    fixture.finish().await;
}

#[tokio::test]
async fn memory_is_not_used_with_other_disks() {
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    let id = workload.id;
    let disk = fixture.volume();
    workload.disks.push(disk.clone());
    fixture.driver.start(&workload).await.unwrap();
    fixture.driver.suspend(id).await.unwrap();
    workload.disks.clear();
    let error = fixture.driver.start(&workload).await.unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
    let more = fixture.volume();
    workload.disks = vec![more.clone(), disk];
    fixture.driver.start(&workload).await.unwrap();
    let usage = fixture.driver.usage(id).await.unwrap();
    assert!(
        usage.disks.iter().any(|one| one.disk == DiskName::Disk(more.id)),
        "what came meanwhile is attached"
    );
    fixture.finish().await;
}

#[tokio::test]
async fn it_boots_from_a_volume_and_from_a_rescue_disk() {
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    let root = std::mem::replace(&mut workload.root, Root::Attached);
    let error = fixture.driver.start(&workload).await.unwrap_err();
    assert!(error.to_string().contains("no disk to boot from"), "{error}");

    let mut volume = fixture.volume();
    volume.boot_index = Some(0);
    let DiskSource::File { path, .. } = &volume.source else {
        unreachable!()
    };
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(GUEST, 0)
        .unwrap();
    workload.disks.push(volume.clone());
    fixture.driver.start(&workload).await.unwrap();
    fixture.prints(workload.id, "the guest is up").await;
    let error = fixture.driver.snapshot(&workload, path).await.unwrap_err();
    assert!(matches!(error, DriverError::Unsupported { .. }));
    fixture.driver.stop(workload.id, None).await.unwrap();

    // A disk that does not boot is mended from one that does.
    fs::write(path, vec![0; 4 * MIB as usize]).unwrap();
    workload.rescue = Some(root);
    let printed = fixture.driver.console(workload.id, 1 << 16).await.unwrap().len();
    fixture.driver.start(&workload).await.unwrap();
    let rescue = workload.dir.join(record::RESCUE);
    assert!(rescue.exists());
    for _ in 0..400 {
        let console = fixture.driver.console(workload.id, 1 << 16).await.unwrap();
        if String::from_utf8_lossy(&console[printed..]).contains("the guest is up") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let console = fixture.driver.console(workload.id, 1 << 16).await.unwrap();
    assert!(String::from_utf8_lossy(&console[printed..]).contains("the guest is up"));
    fixture.driver.stop(workload.id, None).await.unwrap();
    workload.rescue = None;
    fixture.driver.start(&workload).await.unwrap();
    assert!(!rescue.exists(), "a rescue disk is used once");
    fixture.finish().await;
}

#[tokio::test]
async fn its_serial_line_leads_to_a_session_and_back() {
    use tokio::io::AsyncReadExt;
    let fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    let id = workload.id;
    fixture.driver.start(&workload).await.unwrap();
    fixture.prints(id, "the guest is up").await;
    let mut first = fixture.driver.open_console(id, ConsoleKind::Serial).await.unwrap();
    let mut second = fixture.driver.open_console(id, ConsoleKind::Serial).await.unwrap();
    let mut seen = String::new();
    first.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "", "the second took over");

    let machine = fixture.machine(id).await;
    machine.ask("system_reset", serde_json::Value::Null).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("the guest is up") {
        second.read_buf(&mut seen).await.unwrap();
    }
    let kept = || async {
        let console = fixture.driver.console(id, 1 << 16).await.unwrap();
        String::from_utf8_lossy(&console).matches("the guest is up").count()
    };
    assert_eq!(kept().await, 2, "what passed is kept");
    drop(second);
    assert_eq!(kept().await, 2);
    machine.ask("system_reset", serde_json::Value::Null).await.unwrap();
    for _ in 0..400 {
        if kept().await == 3 {
            return fixture.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("what came after the session is lost");
}

#[tokio::test]
async fn its_screen_shows_something() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    fixture.prints(workload.id, "the guest is up").await;
    let mut screen = fixture
        .driver
        .open_console(workload.id, ConsoleKind::Vnc)
        .await
        .unwrap();
    let mut buffer = [0; 64];
    screen.read_exact(&mut buffer[..12]).await.unwrap();
    assert_eq!(&buffer[..12], b"RFB 003.008\n");
    screen.write_all(b"RFB 003.008\n").await.unwrap();
    screen.read_exact(&mut buffer[..2]).await.unwrap();
    assert_eq!(buffer[..2], [1, 1], "no authentication");
    screen.write_all(&[1]).await.unwrap();
    screen.read_exact(&mut buffer[..4]).await.unwrap();
    screen.write_all(&[1]).await.unwrap();
    screen.read_exact(&mut buffer[..24]).await.unwrap();
    let width = u16::from_be_bytes([buffer[0], buffer[1]]);
    let name = u32::from_be_bytes([buffer[20], buffer[21], buffer[22], buffer[23]]);
    screen.read_exact(&mut buffer[..name as usize]).await.unwrap();
    // The first 16 lines, raw.
    let mut ask = vec![3, 0, 0, 0, 0, 0];
    ask.extend(width.to_be_bytes());
    ask.extend([0, 16]);
    screen.write_all(&ask).await.unwrap();
    screen.read_exact(&mut buffer[..16]).await.unwrap();
    let mut pixels = vec![0; 1024];
    screen.read_exact(&mut pixels).await.unwrap();
    assert!(width >= 640, "{width}");
    fixture.finish().await;
}

#[tokio::test]
async fn a_bigger_flavor_has_a_bigger_disk() {
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    fixture.driver.stop(workload.id, None).await.unwrap();
    for (asked, wanted) in [(16, 16), (8, 16)] {
        if let Root::Disk { size_bytes, .. } = &mut workload.root {
            *size_bytes = asked * MIB;
        }
        fixture.driver.start(&workload).await.unwrap();
        let size = disk::size(&workload.dir.join(record::DISK)).unwrap();
        assert_eq!(size, wanted * MIB, "asked for {asked} MiB");
        fixture.prints(workload.id, "the guest is up").await;
        fixture.driver.stop(workload.id, None).await.unwrap();
    }
    fixture.finish().await;
}

#[tokio::test]
async fn an_installer_boots_from_its_disc_beside_an_empty_disk() {
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    // No real one: its firmware finds nothing to boot on it, and the disk is as big as asked.
    workload.hardware.root_kind = DiskKind::Cdrom;
    fixture.driver.start(&workload).await.unwrap();
    assert_eq!(disk::size(&workload.dir.join(record::DISK)).unwrap(), 8 * MIB);
    let usage = fixture.driver.usage(workload.id).await.unwrap();
    assert!(usage.disks.iter().any(|disk| disk.disk == DiskName::Root));
    fixture.driver.stop(workload.id, None).await.unwrap();
    let copy = fixture.image(workload.id).with_file_name("installed.qcow2");
    fixture.driver.snapshot(&workload, &copy).await.unwrap();
    assert_eq!(content(&copy).len() as u64, 8 * MIB);
    fixture.finish().await;
}

/// OVMF says on the serial line what it tries; without it the reason is told.
#[tokio::test]
async fn uefi_firmware_starts_or_says_what_is_missing() {
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    workload.hardware.firmware = madang_host::workload::Firmware::Uefi { is_secure: false };
    match fixture.driver.start(&workload).await {
        Ok(()) => {
            let vars = workload.dir.join(record::UEFI_VARS);
            assert!(vars.exists());
            for _ in 0..1800 {
                let console = fixture.driver.console(workload.id, 1 << 16).await.unwrap();
                if String::from_utf8_lossy(&console).contains("BdsDxe") {
                    return fixture.finish().await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("the firmware never looked for something to boot");
        }
        Err(error) => assert!(error.to_string().contains("apt-get install ovmf"), "{error}"),
    }
    fixture.finish().await;
}

#[tokio::test]
async fn it_has_the_disks_made_for_it_on_every_bus() {
    use madang_host::workload::{FileSystem, LocalContent, LocalDisk};
    let fixture = Fixture::new().await;
    let buses = [DiskBus::Virtio, DiskBus::Scsi, DiskBus::Sata, DiskBus::Usb];
    for bus in buses {
        let mut workload = fixture.workload().await;
        workload.hardware.disk_limits.write_iops_sec = Some(100);
        let disk = |name: &str, content| LocalDisk {
            name: name.into(),
            size_bytes: 8 * MIB,
            content,
            bus,
        };
        workload.locals = vec![
            disk("ephemeral0", LocalContent::FileSystem(FileSystem::Ext4)),
            disk("swap", LocalContent::Swap),
        ];
        fixture.driver.start(&workload).await.unwrap();
        fixture.prints(workload.id, "the guest is up").await;
        let usage = fixture.driver.usage(workload.id).await.unwrap();
        let disks: Vec<&DiskName> = usage.disks.iter().map(|disk| &disk.disk).collect();
        let own = ["ephemeral0", "swap"].map(|name| DiskName::Local(name.into()));
        assert_eq!(disks, [&DiskName::Root, &own[0], &own[1]], "{bus:?}");
        // Memory finds the same board.
        fixture.driver.suspend(workload.id).await.unwrap();
        fixture.driver.start(&workload).await.unwrap();
        fixture.driver.remove(workload.id).await.unwrap();
        assert_eq!(fs::read_dir(&workload.dir).unwrap().count(), 0, "{bus:?}");
    }
    fixture.finish().await;
}
