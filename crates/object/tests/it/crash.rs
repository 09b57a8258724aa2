//! A process that puts and deletes is killed at random moments, again and again; afterwards everything it was told is
//! true, everything listed is readable, and no space is lost.
//!
//! The child is this test binary with [`CHILD`] set: writers work through steps that follow from their number alone and
//! note each answer in a file. The parent knows the same steps: an object is what the last noted step made of it, or what
//! the one after it did, which was under way.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use madang_object::{
    disk::{Disk, DiskOptions, SMALL_BYTES, Uploaded},
    listing::{Line, Wanted},
    objects::{Bytes, NewObject, Object, ObjectError, Objects, Which},
};
use rand::RngExt;

const CHILD: &str = "MADANG_OBJECT_CRASH_CHILD";
const WRITERS: u64 = 8;
const KEYS: u64 = 6;
const KILLS: usize = 100;
/// Lives on one disk before the next begins with none.
const LIVES: usize = 20;

fn options() -> DiskOptions {
    DiskOptions {
        segment_bytes: 256 << 10,
        grace: Duration::ZERO,
    }
}

fn key(writer: u64, n: u64) -> Which {
    Which::new("a", "c", &format!("{writer}/{}", n % KEYS))
}

/// What a step puts; none for one that deletes.
fn content(writer: u64, n: u64) -> Option<Vec<u8>> {
    if n % 5 == 4 {
        return None;
    }
    let seed = writer * 1_000_003 + n * 7919;
    let small = usize::try_from(seed % 5000).unwrap();
    let length = if n.is_multiple_of(23) {
        SMALL_BYTES + 60_000 + small
    } else {
        small
    };
    Some((0..length as u64).map(|i| ((i * 31) ^ seed ^ (i >> 8)) as u8).collect())
}

async fn take(objects: &Objects, writer: u64, n: u64) {
    let which = key(writer, n);
    let Some(bytes) = content(writer, n) else {
        let deleted = objects.delete_object(&which).await;
        assert!(matches!(deleted, Ok(_) | Err(ObjectError::NoObject)), "{deleted:?}");
        return;
    };
    let mut upload = objects.disk().upload();
    upload.write(&bytes).await.unwrap();
    let uploaded = Arc::new(upload.finish().await.unwrap());
    let new = NewObject {
        object: Object {
            bytes: uploaded.length(),
            etag: uploaded.md5().to_owned(),
            ..Object::default()
        },
        bytes: Bytes::Uploaded(uploaded),
        only_new: false,
    };
    objects.put_object(&which, new).await.unwrap();
}

fn notes(dir: &Path, writer: u64) -> u64 {
    let text = std::fs::read_to_string(dir.join(format!("notes-{writer}"))).unwrap_or_default();
    text.lines().last().map_or(0, |line| line.parse().unwrap())
}

/// Not a test by itself: what the child does.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let objects = Objects::new(Disk::open(&dir.join("disk"), options()).unwrap());
        objects.set_container("a", "c", true, |_| Ok(())).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (objects, dir) = (objects.clone(), dir.clone());
            tasks.spawn(async move {
                let path = dir.join(format!("notes-{writer}"));
                let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for n in notes(&dir, writer) + 1.. {
                    take(&objects, writer, n).await;
                    file.write_all(format!("{n}\n").as_bytes()).unwrap();
                }
            });
        }
        tasks.spawn(async move {
            loop {
                objects.disk().give_all_back().await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        // A parent that dies leaves nothing behind.
        _ = tokio::time::timeout(Duration::from_secs(20), tasks.join_all()).await;
    });
}

/// What there may be of an object: what the noted steps made of it, or the one after them.
fn may_be(dir: &Path) -> BTreeMap<String, Vec<Option<Vec<u8>>>> {
    let mut wanted = BTreeMap::new();
    for writer in 0..WRITERS {
        let noted = notes(dir, writer);
        for n in 1..=noted + 1 {
            let states: &mut Vec<_> = wanted.entry(key(writer, n).name).or_insert_with(|| vec![None]);
            if n <= noted {
                states.clear();
            }
            states.push(content(writer, n));
        }
    }
    wanted
}

/// Compares what there is with what there may be. How many objects there are.
async fn check(dir: &Path) -> usize {
    let objects = Objects::new(Disk::open(&dir.join("disk"), options()).unwrap());
    let Some(container) = objects.container("a", "c").await.unwrap() else {
        return 0;
    };
    let all = Wanted {
        limit: 10_000,
        ..Wanted::default()
    };
    let lines = objects.objects(container.container.id, all).await.unwrap();
    let (mut there, mut bytes, mut large) = (BTreeMap::new(), 0, 0);
    for line in lines {
        let Line::One(name, (object, _)) = line else {
            panic!("no group was asked for")
        };
        let (_, given) = objects.object(&Which::new("a", "c", &name)).await.unwrap();
        let body = given.unwrap().stream.all().await.unwrap();
        assert_eq!(
            Uploaded::of(body.clone()).md5(),
            object.etag,
            "{name} is not what it was"
        );
        bytes += object.bytes;
        if body.len() > SMALL_BYTES {
            large += body.len() as u64 + 4 * (body.len() as u64).div_ceil(64 << 10) + 4;
        }
        there.insert(name, body);
    }
    for (name, states) in may_be(dir) {
        let found = there.get(&name).map(|body| body.to_vec());
        assert!(states.contains(&found), "{name}: an acknowledged step is lost");
    }
    assert_eq!(
        (container.used.objects, container.used.bytes),
        (there.len() as u64, bytes)
    );
    objects.disk().sweep().await.unwrap();
    objects.disk().give_all_back().await.unwrap();
    assert_eq!(size(&dir.join("disk/large")), large, "space is lost");
    let log = size(&dir.join("disk/log"));
    assert!(log < 4 * (256 << 10) + 3 * bytes, "{log} bytes of log for {bytes}");
    objects.disk().close().await;
    there.len()
}

fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.metadata().unwrap() {
        about if about.is_dir() => size(&entry.path()),
        about => about.len(),
    });
    sizes.sum()
}

fn live(dir: &Path, span: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::crash_child", "--test-threads=1", "--nocapture"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let end = tokio::time::Instant::now() + span;
    while tokio::time::Instant::now() < end {
        std::thread::park_timeout(end - tokio::time::Instant::now());
        if let Some(status) = child.try_wait().unwrap() {
            let said = std::fs::read_to_string(dir.join("stderr")).unwrap();
            panic!("the child ended by itself: {status}\n{said}");
        }
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
}

#[test]
fn crash_loses_nothing_that_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (mut lives, mut steps) = (0, 0);
    while lives < KILLS {
        let dir = tempfile::tempdir().unwrap();
        for life in 1..=LIVES {
            // Mostly at work, sometimes while it opens.
            let most = if rand::rng().random_bool(0.2) { 60 } else { 400 };
            live(dir.path(), Duration::from_millis(rand::rng().random_range(10..most)));
            lives += 1;
            // Opening it cleanly every time would spare the child what it has to do after a crash.
            if rand::rng().random_bool(0.4) || life == LIVES {
                runtime.block_on(check(dir.path()));
            }
        }
        steps += (0..WRITERS).map(|writer| notes(dir.path(), writer)).sum::<u64>();
    }
    println!("{lives} kills, {steps} acknowledged");
    assert!(steps > KILLS as u64 * 20, "the children were hardly at work: {steps}");
}
