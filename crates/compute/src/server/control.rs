//! What becomes of servers without a host's doing: moves that found no place, windows and retentions that run out.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use madang_control::{Controller, Next, TaskGroup};
use madang_store::{Cause, Key, Kind, Resource, Store, StoreError};
use tracing::{info, warn};

use super::{Action, Departed, Doing, Migration, MoveKind, Phase, Server, Stage, moves, verbs};

/// How often windows and retentions are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// Records deleted in one transaction at most.
const AT_A_TIME: usize = 256;

/// What operators choose. The defaults are Nova's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A resize is confirmed by itself after this; never when zero. Nova's `resize_confirm_window`.
    pub resize_confirm_window: Duration,
    /// A deleted server can be restored for this long; not at all when zero. Nova's `reclaim_instance_interval`.
    pub reclaim_instance_interval: Duration,
    /// A shelved server leaves its host after this; at once when zero, never when none. Nova's `shelved_offload_time`.
    pub shelved_offload_time: Option<Duration>,
    /// How long a console's token opens it. Nova's `token_ttl`.
    pub console_token_life: Duration,
    /// How long what is told of servers that are gone is kept, and the records of what was done to them.
    pub keep_deleted: Duration,
    /// How many servers that are gone are told of at most.
    pub keep_deleted_count: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resize_confirm_window: Duration::ZERO,
            reclaim_instance_interval: Duration::ZERO,
            shelved_offload_time: Some(Duration::ZERO),
            console_token_life: Duration::from_secs(600),
            keep_deleted: Duration::from_secs(24 * 3600),
            keep_deleted_count: 10_000,
        }
    }
}

/// Starts the reconcilers in `group`.
pub fn run(store: &Store, options: Options, group: &TaskGroup) {
    let all = store.clone();
    let waiting = |server: &Resource<Server>| is_to_settle(server).then(|| server.key());
    let controller = Controller::<Key>::new("server-moves")
        .workers(1)
        .resync(Duration::from_secs(60))
        .watch::<Server>(store, move |change| {
            change.new.iter().filter_map(|server| waiting(server)).collect()
        });
    let moving = store.clone();
    controller.run(
        group,
        move || {
            all.cache::<Server>()
                .all()
                .iter()
                .filter_map(|server| waiting(server))
                .collect()
        },
        move |key| {
            let store = moving.clone();
            async move { settle(&store, &key).await }
        },
    );
    let clock = Arc::new((store.clone(), options));
    group.spawn_until_stopped("server-windows", async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let (store, options) = &*clock;
            if let Err(error) = look(store, options).await {
                warn!(%error, "could not see to the windows of servers");
            }
        }
    });
}

fn cause() -> Cause {
    Cause::system("servers")
}

/// Whether a move of it waits for this reconciler: one without a place, or an evacuation that has one.
fn is_to_settle(server: &Resource<Server>) -> bool {
    server
        .spec
        .asked
        .moving
        .as_ref()
        .is_some_and(|moving| match moving.stage {
            Stage::Failed => true,
            Stage::Arrived => moving.kind == MoveKind::Evacuation,
            _ => false,
        })
}

async fn settle(store: &Store, key: &Key) -> Result<Next, StoreError> {
    let settled = store.transact::<(), StoreError>(cause(), |tx| {
        let Some(server) = tx.get::<Server>(key).filter(|server| is_to_settle(server)) else {
            return Ok(());
        };
        let mut changed = (*server).clone();
        match server.spec.asked.stage() {
            Some(Stage::Failed) => moves::fail(tx, &mut changed)?,
            _ => moves::settle(tx, &mut changed, "done")?,
        }
        tx.update(&server, changed).map(|_| ())
    });
    settled.await?;
    Ok(Next::Done)
}

async fn look(store: &Store, options: &Options) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let is_past = |since: Timestamp, window: Duration| now.duration_since(since).unsigned_abs() >= window;
    for server in store.cache::<Server>().all() {
        let (status, asked) = (&server.status, &server.spec.asked);
        let updated = server.metadata.updated;
        let confirms = !options.resize_confirm_window.is_zero();
        if status.phase == Phase::Resized && confirms && is_past(updated, options.resize_confirm_window) {
            info!(server = server.name(), "confirming a resize that nobody reverted");
            change(store, &server, |tx, changed| {
                changed.status.action = Some(Doing::new("confirmResize", tx.cause()));
                verbs::resize::confirm_in(tx, changed)
            })
            .await?;
        }
        let stays = asked.shelf.as_ref().is_some_and(|shelf| !shelf.offload);
        if status.phase == Phase::Shelved
            && stays
            && options
                .shelved_offload_time
                .is_some_and(|window| is_past(updated, window))
        {
            change(store, &server, |_, changed| {
                if let Some(shelf) = &mut changed.spec.asked.shelf {
                    shelf.offload = true;
                }
                Ok(())
            })
            .await?;
        }
        if let Some(since) = status.soft_deleted
            && is_past(since, options.reclaim_instance_interval)
        {
            info!(server = server.name(), "nobody wanted it back");
            let key = server.key();
            store
                .transact::<(), StoreError>(cause(), |tx| match tx.get::<Server>(&key) {
                    Some(server) if server.status.phase == Phase::SoftDeleted => tx.delete(&*server),
                    _ => Ok(()),
                })
                .await?;
        }
    }
    forget(store, options, now).await
}

async fn change(
    store: &Store,
    server: &Resource<Server>,
    change: impl Fn(&mut madang_store::Tx<'_>, &mut Resource<Server>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let key = server.key();
    store
        .transact::<(), StoreError>(cause(), |tx| {
            let Some(server) = tx.get::<Server>(&key) else {
                return Ok(());
            };
            let mut changed = (*server).clone();
            change(tx, &mut changed)?;
            tx.update(&server, changed).map(|_| ())
        })
        .await
}

/// Deletes what has been told long enough.
async fn forget(store: &Store, options: &Options, now: Timestamp) -> Result<(), StoreError> {
    let mut departed = store.cache::<Departed>().all();
    departed.sort_unstable_by_key(|one| one.spec.ended);
    let surplus = departed.len().saturating_sub(options.keep_deleted_count);
    let is_old = |at: Timestamp| now.duration_since(at).unsigned_abs() >= options.keep_deleted;
    let gone: Vec<_> = departed
        .into_iter()
        .enumerate()
        .filter(|(place, one)| *place < surplus || is_old(one.spec.ended))
        .map(|(_, one)| one)
        .collect();
    delete_all(store, gone).await?;
    let has_owner = |server: &str| {
        store.cache::<Server>().by_name(server).is_some() || store.cache::<Departed>().by_name(server).is_some()
    };
    let actions = store.cache::<Action>().all();
    let actions = actions.into_iter().filter(|one| !has_owner(&one.metadata.namespace));
    delete_all(store, actions.collect()).await?;
    let migrations = store.cache::<Migration>().all();
    let migrations = migrations.into_iter().filter(|one| !has_owner(&one.spec.server));
    delete_all(store, migrations.collect()).await
}

async fn delete_all<K: Kind>(store: &Store, records: Vec<Arc<Resource<K>>>) -> Result<(), StoreError> {
    for some in records.chunks(AT_A_TIME) {
        store
            .transact::<(), StoreError>(cause(), |tx| some.iter().try_for_each(|record| tx.delete::<K>(record)))
            .await?;
    }
    Ok(())
}
