//! What gives space back: files that nobody names any more, files of uploads that a crash ended, segments with little
//! alive in them.
//!
//! A segment goes when all that is alive in it has been written anew at the end of the log and the index that says so is
//! durable. What was given up is kept for a while, for who has just looked it up.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use madang_control::TaskGroup;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    Disk, DiskError, blocking, catch_up,
    index::{self, Position},
    record::{Effect, Place},
    writer::Job,
};

/// How often it is looked for something to do.
const EVERY: Duration = Duration::from_secs(5);
/// Files removed at a time.
const FILES: usize = 1000;
/// A segment of which less than this part is alive is rewritten, in percent.
const WORTH_PERCENT: u64 = 50;

/// What is on its way out, and since when.
#[derive(Default)]
struct Leaving {
    files: Vec<u64>,
    segments: BTreeSet<u64>,
    since: Option<Instant>,
}

impl Disk {
    /// Gives space back, until the group is stopped.
    pub fn tend(&self, group: &TaskGroup) {
        let disk = self.clone();
        group.spawn_until_stopped("object space", async move {
            if let Err(error) = disk.sweep().await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "could not look for files that nobody uses"
                );
            }
            let mut leaving = Leaving::default();
            loop {
                sleep(EVERY).await;
                if let Err(error) = disk.give_back(&mut leaving).await {
                    warn!(error = &error as &dyn std::error::Error, "could not give space back");
                }
            }
        });
    }

    /// Removes files that a crash left: whole or half, but named by nothing. How many.
    ///
    /// # Errors
    /// When the directory or the index cannot be read.
    pub async fn sweep(&self) -> Result<usize, DiskError> {
        let files = Arc::clone(&self.0.files);
        let all = blocking(move || files.all()).await?;
        let mut count = 0;
        for ids in all.chunks(FILES) {
            let (ids, files) = (ids.to_vec(), Arc::clone(&self.0.files));
            count += self
                .view(move |view| {
                    let mut count = 0;
                    for id in ids {
                        if !index::knows_file(view.look.connection, id)? {
                            files.remove(id)?;
                            count += 1;
                        }
                    }
                    Ok::<_, DiskError>(count)
                })
                .await?;
        }
        if count > 0 {
            info!(files = count, "removed what interrupted uploads left");
        }
        Ok(count)
    }

    /// One round: removes what was given up a while ago, and gives up more.
    async fn give_back(&self, leaving: &mut Leaving) -> Result<(), DiskError> {
        match leaving.since {
            Some(since) if since.elapsed() < self.0.options.grace => return Ok(()),
            Some(_) => self.remove(std::mem::take(leaving)).await?,
            None => {}
        }
        let files = self.view(|view| index::garbage(view.look.connection, FILES)).await?;
        let segments = self.empty_one().await?;
        if !files.is_empty() || !segments.is_empty() {
            *leaving = Leaving {
                files,
                segments,
                since: Some(Instant::now()),
            };
        }
        Ok(())
    }

    async fn remove(&self, leaving: Leaving) -> Result<(), DiskError> {
        let disk = self.clone();
        let Leaving { files, segments, .. } = leaving;
        let removed = files.clone();
        blocking(move || {
            files.iter().try_for_each(|id| disk.0.files.remove(*id))?;
            segments.iter().try_for_each(|segment| disk.0.segments.remove(*segment))
        })
        .await?;
        if removed.is_empty() {
            return Ok(());
        }
        self.ask(|reply| Job::Forget(removed, reply)).await
    }

    /// Gives up and removes everything that can be, at once. For tests and for who closes a disk.
    ///
    /// # Errors
    /// What cannot be read, written or removed.
    pub async fn give_all_back(&self) -> Result<(), DiskError> {
        loop {
            let files = self.view(|view| index::garbage(view.look.connection, FILES)).await?;
            let segments = self.empty_one().await?;
            if files.is_empty() && segments.is_empty() {
                return Ok(());
            }
            self.remove(Leaving {
                files,
                segments,
                since: None,
            })
            .await?;
        }
    }

    /// The segments that nothing is alive in. Where there are none, the emptiest is emptied, if that is worth it.
    async fn empty_one(&self) -> Result<BTreeSet<u64>, DiskError> {
        let disk = self.clone();
        let (empty, emptiest) = blocking(move || disk.candidates()).await?;
        let segments = match emptiest {
            _ if !empty.is_empty() => empty,
            Some(segment) => {
                self.move_out_of(segment).await?;
                let alive = self.view(|view| index::alive(view.look.connection)).await?;
                if alive.get(&segment).copied().unwrap_or_default() > 0 {
                    return Ok(BTreeSet::new());
                }
                BTreeSet::from([segment])
            }
            None => return Ok(BTreeSet::new()),
        };
        // The index of before would still need them.
        match self.checkpoint().await {
            Err(DiskError::Busy) => Ok(BTreeSet::new()),
            done => done.map(|()| segments),
        }
    }

    fn candidates(&self) -> Result<(BTreeSet<u64>, Option<u64>), DiskError> {
        let (alive, head) = self.look(|view| {
            let connection = view.look.connection;
            Ok::<_, DiskError>((index::alive(connection)?, index::head(connection)?))
        })?;
        let Some(head) = head else {
            return Ok((BTreeSet::new(), None));
        };
        let mut empty = BTreeSet::new();
        let mut emptiest = None;
        // The last one is still written to, and nothing behind it is known here.
        for segment in self.0.segments.all()?.range(..head.segment) {
            let alive = alive.get(segment).copied().unwrap_or_default();
            if alive == 0 {
                empty.insert(*segment);
                continue;
            }
            let path = self.0.segments.path(*segment);
            let length = std::fs::metadata(&path).map_err(DiskError::io("look at", &path))?.len();
            let percent = alive * 100 / length.max(1);
            if percent < WORTH_PERCENT && emptiest.is_none_or(|(least, _)| percent < least) {
                emptiest = Some((percent, *segment));
            }
        }
        Ok((empty, emptiest.map(|(_, segment)| segment)))
    }

    /// Writes what is alive in a segment anew, at the end of the log.
    async fn move_out_of(&self, segment: u64) -> Result<(), DiskError> {
        let disk = self.clone();
        let mut at = Position { segment, offset: 0 };
        loop {
            let (disk, here) = (disk.clone(), at);
            let found = blocking(move || {
                let file = disk.0.segments.file(segment)?;
                let path = disk.0.segments.path(segment);
                catch_up::record_at(&file, here, false).map_err(DiskError::io("read", &path))
            });
            let Some(found) = found.await? else { return Ok(()) };
            at.offset += found.bytes;
            for effect in found.effects {
                let Effect::Put(key, _, place @ Place::Segment { .. }) = effect else {
                    continue;
                };
                self.transact(move |tx| {
                    if let Some(entry) = tx.get(&key)?.filter(|entry| entry.place == place) {
                        tx.put_copy(&key, entry.value, &entry.place)?;
                    }
                    Ok::<_, DiskError>(())
                })
                .await?;
            }
        }
    }
}
