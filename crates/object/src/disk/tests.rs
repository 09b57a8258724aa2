use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn options() -> DiskOptions {
    DiskOptions {
        segment_bytes: 16 << 10,
        grace: Duration::ZERO,
    }
}

async fn put(disk: &Disk, key: &str, bytes: Vec<u8>) -> Result<(), DiskError> {
    let mut upload = disk.upload();
    for piece in bytes.chunks(100_000) {
        upload.write(piece).await?;
    }
    let uploaded = Arc::new(upload.finish().await?);
    let key = key.as_bytes().to_vec();
    let value = uploaded.md5().to_owned();
    disk.transact(move |tx| tx.put_uploaded(&key, value, &uploaded).map(|_| ()))
        .await
}

async fn delete(disk: &Disk, key: &str) {
    let key = key.as_bytes().to_vec();
    disk.transact(move |tx| tx.delete(&key).map(|_| ())).await.unwrap();
}

async fn read(disk: &Disk, key: &str) -> Option<Result<Bytes, DiskError>> {
    let key = key.as_bytes().to_vec();
    let found = disk
        .view(move |view| {
            let Some(entry) = view.get(&key)? else { return Ok(None) };
            view.open(&entry.place).map(Some)
        })
        .await;
    match found {
        Ok(None) => None,
        Ok(Some(stream)) => Some(stream.all().await),
        Err(error) => Some(Err(error)),
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + seed * 7 + i / 251) as u8).collect()
}

fn bytes_below(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let lengths = entries.map(|entry| match entry.metadata().unwrap() {
        about if about.is_dir() => bytes_below(&entry.path()),
        about => about.len(),
    });
    lengths.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_there_after_a_restart_and_in_ranges() {
    let directory = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 4096, SMALL_BYTES, SMALL_BYTES + 1, 1 << 20, (3 << 20) + 17];
    let disk = Disk::open(directory.path(), options()).unwrap();
    for (i, size) in sizes.iter().enumerate() {
        put(&disk, &format!("k{i}"), pattern(*size, i)).await.unwrap();
    }
    disk.close().await;
    drop(disk);
    let disk = Disk::open(directory.path(), options()).unwrap();
    for (i, size) in sizes.iter().enumerate() {
        let bytes = read(&disk, &format!("k{i}")).await.unwrap().unwrap();
        assert!(bytes == pattern(*size, i), "{size}");
    }
    let last = sizes.len() - 1;
    let key = format!("k{last}").into_bytes();
    let stream = disk
        .view(move |view| view.open(&view.get(&key)?.unwrap().place))
        .await
        .unwrap();
    for (from, length) in [(0, 1), (65_535, 2), (1 << 20, 70_000), ((3 << 20) + 16, 1)] {
        let piece = stream.piece(from, length).await.unwrap();
        assert!(piece == pattern(sizes[last], last)[from as usize..(from + length) as usize]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_look() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("objects");
    // As an older madang may have left it.
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
    let disk = Disk::open(&place, options()).unwrap();
    put(&disk, "small", pattern(10, 0)).await.unwrap();
    put(&disk, "large", pattern(1 << 20, 0)).await.unwrap();
    let mut seen = Vec::new();
    let mut left = vec![place];
    while let Some(path) = left.pop() {
        let about = fs::metadata(&path).unwrap();
        assert_eq!(about.permissions().mode() & 0o077, 0, "{}", path.display());
        if about.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            seen.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    for name in ["lock", "index.db", "index.db-wal", "index.db-shm", "000000000001"] {
        assert!(seen.iter().any(|seen| seen == name), "{name} of {seen:?}");
    }
    assert_eq!(seen.len(), 6, "and the large one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_leaves_nothing_and_its_neighbours_stay() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path(), options()).unwrap();
    let tasks = (0..200).map(|n: u32| {
        let disk = disk.clone();
        async move {
            disk.transact(move |tx| {
                tx.put(format!("k{n:03}").as_bytes(), "x")?;
                if n.is_multiple_of(3) {
                    Err(DiskError::Full)
                } else {
                    Ok(())
                }
            })
            .await
        }
    });
    let outcomes = futures_util::future::join_all(tasks).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 67);
    let keys = disk.view(|view| view.range(b"k", b"l", false, 1000)).await.unwrap();
    assert_eq!(keys.len(), 133);
    assert!(keys.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
    let disk_again = Disk::open(directory.path(), options());
    assert!(matches!(disk_again, Err(DiskError::Io { .. })), "one process at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_told_and_never_given_out() {
    for size in [4096, 2 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), options()).unwrap();
        put(&disk, "k", pattern(size, 1)).await.unwrap();
        disk.close().await;
        drop(disk);
        let needle = &pattern(size, 1)[1000..1100];
        let flipped = flip(directory.path(), needle);
        assert_eq!(flipped, 1, "{size}");
        let disk = Disk::open(directory.path(), options()).unwrap();
        assert!(
            matches!(read(&disk, "k").await, Some(Err(DiskError::Damaged { .. }))),
            "{size}"
        );
    }
}

/// Flips a bit of the one place below a directory where these bytes are.
fn flip(path: &Path, needle: &[u8]) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
        if entry.metadata().unwrap().is_dir() {
            count += flip(&entry.path(), needle);
            continue;
        }
        let mut bytes = fs::read(entry.path()).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at + 5] ^= 4;
            fs::write(entry.path(), bytes).unwrap();
            count += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn space_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path(), options()).unwrap();
    for n in 0..200 {
        put(&disk, &format!("small{n:03}"), pattern(4000, n)).await.unwrap();
    }
    for n in 0..4 {
        put(&disk, &format!("large{n}"), pattern(300_000, n)).await.unwrap();
    }
    for n in (0..200_usize).filter(|n| !n.is_multiple_of(10)) {
        delete(&disk, &format!("small{n:03}")).await;
    }
    delete(&disk, "large0").await;
    put(&disk, "large1", pattern(300_000, 9)).await.unwrap();
    drop(disk.upload());
    let mut broken_off = disk.upload();
    broken_off.write(&pattern(2 << 20, 0)).await.unwrap();
    drop(broken_off);
    // What it was writing just then is written first.
    for _ in 0..500 {
        if bytes_below(&directory.path().join("large")) < 1_500_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    disk.give_all_back().await.unwrap();
    let large = bytes_below(&directory.path().join("large"));
    assert!((900_000..910_000).contains(&large), "{large}");
    let log = bytes_below(&directory.path().join("log"));
    assert!(log < 200_000, "{log} bytes for 80,000 that are needed");
    for n in (0..200).step_by(10) {
        let bytes = read(&disk, &format!("small{n:03}")).await.unwrap().unwrap();
        assert!(bytes == pattern(4000, n));
    }
    disk.close().await;
    drop(disk);
    let disk = Disk::open(directory.path(), options()).unwrap();
    for n in (0..200).step_by(10) {
        assert!(read(&disk, &format!("small{n:03}")).await.unwrap().unwrap() == pattern(4000, n));
    }
    assert_eq!(disk.sweep().await.unwrap(), 0, "all that is there is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_off_and_damage_before_it_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let whole = DiskOptions::default();
    let disk = Disk::open(directory.path(), whole).unwrap();
    for n in 0..3 {
        put(&disk, &format!("k{n}"), pattern(1000, n)).await.unwrap();
    }
    disk.close().await;
    drop(disk);
    fs::remove_file(directory.path().join("index.db")).unwrap();
    let segment = directory.path().join("log/000000000001");
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 10]).unwrap();
    let disk = Disk::open(directory.path(), whole).unwrap();
    assert!(
        read(&disk, "k1").await.unwrap().is_ok(),
        "the index is made anew from the log"
    );
    assert!(read(&disk, "k2").await.is_none(), "it was half there");
    put(&disk, "k3", pattern(1000, 3)).await.unwrap();
    disk.close().await;
    drop(disk);
    fs::remove_file(directory.path().join("index.db")).unwrap();
    assert_eq!(flip(&directory.path().join("log"), &pattern(1000, 1)[10..60]), 1);
    let opened = Disk::open(directory.path(), whole);
    assert!(
        matches!(opened, Err(DiskError::Damaged { .. })),
        "what was acknowledged is behind it"
    );
}

/// One step of the model.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Copy(u8, u8),
    Delete(u8),
    Restart,
    GiveBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12_u8, prop_oneof![0..6000_usize, 120_000..140_000_usize]).prop_map(|(key, size)| Step::Put(key, size)),
        2 => (0..12_u8, 0..12_u8).prop_map(|(from, to)| Step::Copy(from, to)),
        3 => (0..12_u8).prop_map(Step::Delete),
        1 => Just(Step::Restart),
        1 => Just(Step::GiveBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_what_a_map_would_be(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

async fn follow(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = Disk::open(directory.path(), options()).unwrap();
    let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put(key, size) => {
                put(&disk, &format!("{key:02}"), pattern(size, n)).await.unwrap();
                model.insert(key, pattern(size, n));
            }
            Step::Copy(from, to) => {
                let keys = (format!("{from:02}"), format!("{to:02}"));
                let copy = disk.transact(move |tx| {
                    if let Some(entry) = tx.get(keys.0.as_bytes())? {
                        tx.put_copy(keys.1.as_bytes(), entry.value, &entry.place)?;
                    }
                    Ok::<_, DiskError>(())
                });
                copy.await.unwrap();
                if let Some(bytes) = model.get(&from).cloned() {
                    model.insert(to, bytes);
                }
            }
            Step::Delete(key) => {
                delete(&disk, &format!("{key:02}")).await;
                model.remove(&key);
            }
            Step::Restart => {
                disk.close().await;
                drop(disk);
                disk = Disk::open(directory.path(), options()).unwrap();
            }
            Step::GiveBack => disk.give_all_back().await.unwrap(),
        }
    }
    let entries = disk.view(|view| view.range(b"", b"z", false, 100)).await.unwrap();
    assert_eq!(entries.len(), model.len());
    for (key, wanted) in &model {
        let bytes = read(&disk, &format!("{key:02}")).await.unwrap().unwrap();
        assert!(bytes == *wanted, "{key}");
    }
    disk.give_all_back().await.unwrap();
    assert_eq!(disk.sweep().await.unwrap(), 0);
}
