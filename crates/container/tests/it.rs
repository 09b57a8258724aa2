//! Images, good and bad, without root: archives read, single layers unpacked.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy only knows those functions that are marked so"
)]

#[path = "support/images.rs"]
mod images;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use images::{Image, Item, Stored, archive, file, gzip, layer, save};
use madang_container::{
    archive::{Archive, ImageError},
    layers::{LayerStore, Prepared},
};
use serde_json::json;

/// Unpacks an image; returns the directory it happened in and what came of it.
fn prepare(bytes: &[u8]) -> (tempfile::TempDir, Result<(Prepared, PathBuf), ImageError>) {
    let dir = tempfile::tempdir().unwrap();
    let (path, hash) = save(dir.path(), "image.tar", bytes);
    let store = LayerStore::open(&dir.path().join("containers")).unwrap();
    let result = store.prepare(&path, &hash).map(|prepared| {
        let tree = store.tree(prepared.layers.last().unwrap());
        (prepared, tree)
    });
    (dir, result)
}

fn unpack(items: &[Item]) -> (tempfile::TempDir, PathBuf) {
    let (dir, result) = prepare(&Image::new(vec![layer(items)], &["/app"]).oci());
    let (_, tree) = result.unwrap();
    (dir, tree)
}

/// The message with which a layer is refused; nothing of it may stay.
fn refusal(items: &[Item]) -> String {
    let (dir, result) = prepare(&Image::new(vec![layer(items)], &["/app"]).oci());
    let error = result.unwrap_err();
    assert!(matches!(error, ImageError::Broken(_)), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path().join("containers/layers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    error.to_string()
}

#[test]
fn both_forms_and_all_compressions_are_read() {
    let mut image = Image::new(vec![layer(&[file("hello", "world")])], &["-v"])
        .with("Entrypoint", json!(["/app"]))
        .with("Env", json!(["A=1"]))
        .with("WorkingDir", json!("/srv"))
        .with("User", json!("www:www"))
        .with("StopSignal", json!("SIGQUIT"))
        .with("ExposedPorts", json!({ "80/tcp": {} }));
    let mut archives = vec![
        image.docker_save(),
        gzip(&image.docker_save()),
        zstd::encode_all(image.oci().as_slice(), 1).unwrap(),
    ];
    for stored in [Stored::Plain, Stored::Gzip, Stored::Zstd] {
        image.layers[0].1 = stored;
        archives.push(image.oci());
    }
    for bytes in archives {
        let (_dir, result) = prepare(&bytes);
        let (prepared, tree) = result.unwrap();
        assert_eq!(prepared.config.command, ["/app", "-v"]);
        assert_eq!(prepared.config.env, ["A=1"]);
        assert_eq!(
            (prepared.config.working_dir.as_str(), prepared.config.user.as_str()),
            ("/srv", "www:www")
        );
        assert_eq!(
            (prepared.config.stop_signal, prepared.config.exposed_ports),
            (3, vec!["80/tcp".to_owned()])
        );
        assert_eq!(fs::read_to_string(tree.join("hello")).unwrap(), "world");
    }
}

#[test]
fn an_image_is_unpacked_once_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, hash) = save(
        dir.path(),
        "image.tar",
        &Image::new(vec![layer(&[file("a", "1")])], &["/a"]).oci(),
    );
    let store = LayerStore::open(&dir.path().join("containers")).unwrap();
    let first = store.prepare(&path, &hash).unwrap();
    let tree = store.tree(&first.layers[0]);
    let made = fs::metadata(&tree).unwrap().ino();
    fs::remove_file(&path).unwrap();
    let store = LayerStore::open(&dir.path().join("containers")).unwrap();
    assert_eq!(
        store.prepare(&path, &hash).unwrap(),
        first,
        "the archive is not needed any more"
    );
    assert_eq!(fs::metadata(&tree).unwrap().ino(), made);
    assert_eq!(
        fs::metadata(dir.path().join("containers/layers"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
}

#[test]
fn several_starts_at_once_unpack_once() {
    let dir = tempfile::tempdir().unwrap();
    let (path, hash) = save(
        dir.path(),
        "image.tar",
        &Image::new(vec![layer(&[file("a", &"x".repeat(1 << 20))])], &["/a"]).oci(),
    );
    let store = LayerStore::open(&dir.path().join("containers")).unwrap();
    let results: Vec<Prepared> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| store.prepare(&path, &hash).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(dir.path().join("containers/layers")).unwrap().count(), 1);
}

#[test]
fn attributes_are_kept_as_far_as_they_are_harmless() {
    let (_dir, tree) = unpack(&[
        Item::Dir("./", 0o751),
        Item::Dir("tmp", 0o1777),
        Item::Attributes("trusted.overlay.opaque", b"y"),
        Item::Dir("hidden", 0o755),
        Item::File("su", 0o4755, b"x".to_vec()),
        Item::Hard("su2", "su"),
        Item::Symlink("link", "/su"),
        Item::Fifo("pipe"),
        Item::File("deep/er/file", 0o600, b"x".to_vec()),
    ]);
    let mode = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode(""), mode("tmp"), mode("su"), mode("deep/er"), mode("deep/er/file")),
        (0o751, 0o1777, 0o4755, 0o755, 0o600)
    );
    assert_eq!(
        fs::metadata(tree.join("su")).unwrap().ino(),
        fs::metadata(tree.join("su2")).unwrap().ino()
    );
    assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("/su"));
    assert_eq!(fs::metadata(tree.join("su")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(tree.join("tmp")).unwrap().mtime(), 1_000_000_000);
    assert!(
        !xattr::list(tree.join("hidden"))
            .unwrap()
            .any(|name| name.to_string_lossy().starts_with("trusted."))
    );
}

#[test]
fn names_cannot_leave_the_layer() {
    for items in [
        vec![file("../evil", "x")],
        vec![file("a/../../evil", "x")],
        vec![Item::Symlink("..", "/tmp")],
        vec![Item::Hard("a", "../../../../etc/passwd")],
    ] {
        let message = refusal(&items);
        assert!(message.contains("`..`"), "{message}");
    }
}

#[test]
fn links_cannot_lead_out_of_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let target: &'static str = outside.path().to_str().unwrap().to_owned().leak();
    let up: &'static str = format!("../../../../../../../../{target}").leak();
    for link in [target, up] {
        // Writing through the link: the host's directory is not there inside the layer, so it leads nowhere.
        let message = refusal(&[Item::Symlink("out", link), file("out/evil", "x")]);
        assert!(message.contains("leads nowhere"), "{message}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
    fs::write(outside.path().join("secret"), "s").unwrap();
    let secret: &'static str = format!("{target}/secret").leak();
    let message = refusal(&[Item::Hard("copy", secret)]);
    assert!(message.contains("does not exist"), "{message}");
    let message = refusal(&[Item::Symlink("d", target), Item::Hard("copy", "d/secret")]);
    assert!(message.contains("does not exist"), "{message}");
}

#[test]
fn links_are_followed_inside_the_layer_and_absolute_names_stay_in_it() {
    let (_dir, tree) = unpack(&[
        Item::Dir("usr/bin", 0o755),
        Item::Symlink("bin", "/usr/bin"),
        file("bin/tool", "1"),
        file("/etc/absolute", "2"),
        // Replaces the link itself, not what it points to.
        Item::Symlink("etc/over", "/usr/bin/tool"),
        file("etc/over", "3"),
    ]);
    assert_eq!(fs::read_to_string(tree.join("usr/bin/tool")).unwrap(), "1");
    assert_eq!(fs::read_to_string(tree.join("etc/absolute")).unwrap(), "2");
    assert_eq!(fs::read_to_string(tree.join("etc/over")).unwrap(), "3");
}

#[test]
fn links_in_circles_devices_and_strange_owners_are_refused() {
    let message = refusal(&[Item::Symlink("a", "b"), Item::Symlink("b", "a"), file("a/x", "x")]);
    assert!(message.contains("circle"), "{message}");
    let message = refusal(&[Item::Device("sda")]);
    assert!(message.contains("device node"), "{message}");
    let (_dir, tree) = unpack(&[Item::Device("dev/sda"), file("a", "")]);
    assert!(!tree.join("dev/sda").exists());
    let message = refusal(&[file("a", ""), file("a/b", "")]);
    assert!(message.contains("no directory"), "{message}");
    if nix::unistd::geteuid().is_root() {
        let message = refusal(&[Item::Owner(70000, 0), file("a", "")]);
        assert!(message.contains("70000:0"), "{message}");
    }
}

#[test]
fn a_bomb_is_stopped_by_its_claimed_and_by_its_true_size() {
    // A file that claims more than a layer may hold is refused before its first byte.
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_cksum();
    let mut image = Image::new(vec![header.as_bytes().to_vec()], &["/app"]);
    image.layers[0].1 = Stored::Gzip;
    let (_dir, result) = prepare(&image.oci());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("1099511627776"), "{message}");
}

#[test]
fn every_digest_is_compared() {
    let image = Image::new(vec![layer(&[file("hello", "world")])], &["/app"]);
    // A layer whose content is another than the configuration says: repacked, so that it is valid in itself.
    let mut swapped = image.clone();
    swapped.layers[0] = (layer(&[file("hello", "w0rld")]), Stored::Plain);
    let honest = Image {
        layers: vec![(image.layers[0].0.clone(), Stored::Plain)],
        ..image.clone()
    };
    for (bytes, wanted) in [
        (honest.oci(), &image.layers[0].0),
        (honest.docker_save(), &image.layers[0].0),
    ] {
        let start = find(&bytes, wanted);
        let mut forged = bytes.clone();
        forged[start..start + wanted.len()].copy_from_slice(&swapped.layers[0].0);
        let (dir, result) = prepare(&forged);
        let message = result.unwrap_err().to_string();
        assert!(message.contains("does not match its digest"), "{message}");
        assert_eq!(
            fs::read_dir(dir.path().join("containers/layers")).unwrap().count(),
            0,
            "forged files must not stay"
        );
    }
    // The configuration, which says what is run.
    for mut bytes in [image.oci(), image.docker_save()] {
        let at = find(&bytes, b"\"/app\"");
        bytes[at + 1..at + 5].copy_from_slice(b"/bad");
        let message = prepare(&bytes).1.unwrap_err().to_string();
        assert!(message.contains("does not match its digest"), "{message}");
    }
}

#[test]
fn what_is_no_image_is_called_so() {
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"hello".repeat(200), "not a tar archive"),
        (vec![], "not a container image"),
        (archive(&[("readme".into(), b"x".to_vec())]), "not a container image"),
        (
            archive(&[("index.json".into(), b"{".to_vec())]),
            "index.json is malformed",
        ),
        (archive(&[("manifest.json".into(), b"[]".to_vec())]), "lists no image"),
        (
            archive(&[("index.json".into(), br#"{"schemaVersion":2,"manifests":[]}"#.to_vec())]),
            "no image for linux/amd64",
        ),
        (archive(&[("index.json".into(), vec![b' '; 5 << 20])]), "larger than"),
        (
            archive(&[(
                "manifest.json".into(),
                br#"[{"Config":"../../etc/passwd","Layers":[]}]"#.to_vec(),
            )]),
            "does not hold",
        ),
        (
            Image {
                architecture: "arm64",
                ..Image::new(vec![layer(&[])], &["/a"])
            }
            .oci(),
            "no image for linux/amd64, only for linux/arm64, linux/s390x",
        ),
        (
            Image {
                architecture: "arm64",
                ..Image::new(vec![layer(&[])], &["/a"])
            }
            .docker_save(),
            "the image is for linux/arm64",
        ),
        (
            Image::new(vec![layer(&[])], &[]).oci(),
            "neither an entrypoint nor a command",
        ),
        (Image::new(vec![], &["/a"]).oci(), "0 layers"),
        (
            Image::new((0..128).map(|_| layer(&[])).collect(), &["/a"]).oci(),
            "128 layers",
        ),
        (
            gzip(&Image::new(vec![layer(&[file("x", "y")])], &["/a"]).oci())[..400].to_vec(),
            "could not read the compressed image archive",
        ),
    ];
    for (bytes, word) in cases {
        let (dir, result) = prepare(&bytes);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(word), "{message:?} should say {word:?}");
        assert!(Archive::open(&dir.path().join("nothing"), dir.path()).is_err());
    }
}

#[test]
fn unused_layers_are_kept_while_they_are_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let (path, hash) = save(
        dir.path(),
        "image.tar",
        &Image::new(vec![layer(&[file("a", "1")])], &["/a"]).oci(),
    );
    let store = LayerStore::open(&dir.path().join("containers")).unwrap();
    let prepared = store.prepare(&path, &hash).unwrap();
    let home = store.tree(&prepared.layers[0]).parent().unwrap().to_owned();
    let none = std::collections::HashSet::new();
    assert_eq!(
        store.collect(&none, std::time::Duration::ZERO).unwrap(),
        0,
        "it was asked for a moment ago"
    );
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(600);
    fs::File::open(&home).unwrap().set_modified(old).unwrap();
    let used = prepared.layers.iter().cloned().collect();
    assert_eq!(
        store.collect(&used, std::time::Duration::ZERO).unwrap(),
        0,
        "a container uses it"
    );
    assert_eq!(store.collect(&none, std::time::Duration::ZERO).unwrap(), 1);
    assert!(!home.exists());
    assert_eq!(
        store.prepare(&path, &hash).unwrap(),
        prepared,
        "unpacked again when it is needed again"
    );
}

#[test]
fn layers_that_a_power_loss_may_have_cut_short_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (path, hash) = save(
        dir.path(),
        "image.tar",
        &Image::new(vec![layer(&[file("a", "1")])], &["/a"]).oci(),
    );
    let open = || LayerStore::open(&dir.path().join("containers")).unwrap();
    let store = open();
    let prepared = store.prepare(&path, &hash).unwrap();
    let tree = store.tree(&prepared.layers[0]);
    let marker = tree.with_file_name("unwritten");
    open();
    assert!(tree.exists(), "the machine was up all the time");
    fs::write(&marker, "another boot").unwrap();
    let store = open();
    assert!(!tree.exists());
    assert_eq!(store.prepare(&path, &hash).unwrap(), prepared);
    store.flush().unwrap();
    assert!(tree.exists() && !marker.exists());
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
        .expect("it is in there")
}
