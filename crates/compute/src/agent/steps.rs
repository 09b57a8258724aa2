//! The longer steps: rebuild, rescue, copies of roots, the shelf, and moves.
//!
//! Each ends with one transaction that says what is so now. Cut off before it, the step is done again from its beginning.

use std::sync::Arc;

use madang_control::Next;
use madang_host::workload::{Driver, State};
use madang_image::{Image, IntakeError};
use madang_store::{Resource, StoreError, Tx};
use tracing::{info, warn};

use super::{Agent, AgentError, GRACE, filing, host_of, volumes::Ready, workload};
use crate::server::{
    AGENT_FINALIZER, Fault, Move, MoveKind, Phase, Power, Rotation, Server, Snapshot, Stage, migration, moves, volumes,
};

type Host = Arc<dyn Driver>;

impl Agent {
    pub(super) async fn rebuild(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        let asked = server.spec.asked.rebuilds;
        driver.remove(server.metadata.uid).await?;
        self.transact(server, |tx, changed| {
            if let Some(image) = changed.spec.asked.reimage.take() {
                volumes::reimage(tx, changed.name(), &image)?;
            }
            filing::cleared(changed, asked);
            Ok(())
        })
        .await
    }

    pub(super) async fn rescue(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        driver.stop(server.metadata.uid, Some(GRACE)).await?;
        self.start_as(server, driver, filing::rescued).await
    }

    pub(super) async fn unrescue(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        driver.stop(server.metadata.uid, None).await?;
        self.start_as(server, driver, filing::active).await
    }

    pub(super) async fn snapshot(
        &self,
        server: &Resource<Server>,
        driver: &Host,
        snapshot: &Snapshot,
    ) -> Result<Next, AgentError> {
        let failure = self.copy_root(server, driver, &snapshot.image).await.err();
        if let Some(reason) = &failure {
            warn!(server = server.name(), reason, "could not make an image of it");
        }
        self.transact(server, |tx, changed| {
            match (&failure, &snapshot.rotation) {
                (Some(_), _) => discard(tx, &snapshot.image)?,
                (None, Some(rotation)) => rotate(tx, changed, rotation)?,
                (None, None) => {}
            }
            filing::copied(changed, failure.as_deref());
            Ok(())
        })
        .await
    }

    /// Copies its root into an image; an error says why not. An image that was deleted meanwhile is nobody's fault.
    async fn copy_root(&self, server: &Resource<Server>, driver: &Host, image: &str) -> Result<(), String> {
        let ports = workload::ports(&self.store, server);
        let uid = self.uid(server).await.map_err(|error| error.to_string())?;
        let workload = self.workload(server, &ports, uid).await;
        let workload = workload.map_err(|error| error.to_string())?;
        let path = self.options.intake.scratch();
        let made = driver.snapshot(&workload, &path).await;
        if let Err(error) = made {
            // A part of it may be there.
            let _ = tokio::fs::remove_file(&path).await;
            return Err(error.to_string());
        }
        match self.options.intake.take(image, &path).await {
            Ok(()) | Err(IntakeError::Gone(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) async fn shelve(
        &self,
        server: &Resource<Server>,
        driver: &Host,
        seen: &State,
    ) -> Result<Next, AgentError> {
        if !matches!(seen, State::Stopped { .. } | State::Absent) {
            driver.stop(server.metadata.uid, Some(GRACE)).await?;
        }
        let shelf = server.spec.asked.shelf.as_ref();
        if let Some(image) = shelf.and_then(|shelf| shelf.image.as_deref())
            && let Err(reason) = self.copy_root(server, driver, image).await
        {
            self.transact(server, |tx, _| discard(tx, image)).await?;
            self.record_failure(server, &format!("it could not be shelved: {reason}"))
                .await?;
            return Ok(Next::Done);
        }
        self.record(server, |server| {
            server.spec.power = Power::Off;
            filing::reached(server, Phase::Shelved);
        })
        .await
    }

    pub(super) async fn offload(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        driver.remove(server.metadata.uid).await?;
        self.remove_directory(server).await?;
        self.slots.free(server);
        info!(server = server.name(), "offloaded");
        self.transact(server, |tx, changed| {
            changed.status.phase = Phase::Offloaded;
            changed.metadata.finalizers.retain(|one| one != AGENT_FINALIZER);
            moves::leave(tx, changed)
        })
        .await
    }

    /// The image that it came off the shelf with has done its work.
    pub(super) async fn discard(&self, server: &Resource<Server>, image: &str) -> Result<Next, AgentError> {
        self.transact(server, |tx, changed| {
            changed.status.unshelved = None;
            discard(tx, image)
        })
        .await
    }

    pub(super) async fn leave(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        let Some(moving) = &server.spec.asked.moving else {
            return Ok(Next::Done);
        };
        let target = moving.target.clone().unwrap_or_else(|| moving.source.clone());
        if moving.kind == MoveKind::LiveMigration {
            return self.travel(server, driver, moving, &target).await;
        }
        if server.spec.driver == "oci" && target == moving.source && self.resize_running(server, driver).await? {
            return self.transact(server, arrived).await;
        }
        driver.stop(server.metadata.uid, Some(GRACE)).await?;
        self.transact(server, |tx, changed| {
            if set_stage(changed, Stage::Leaving, Stage::Arriving) {
                moves::stand_on(tx, changed, &target)?;
            }
            Ok(())
        })
        .await
    }

    /// Goes on elsewhere as it runs; where that cannot be, it stays and says why.
    async fn travel(
        &self,
        server: &Resource<Server>,
        driver: &Host,
        moving: &Move,
        target: &str,
    ) -> Result<Next, AgentError> {
        if moving.failure.is_some() {
            return self
                .transact(server, |tx, changed| moves::give_up(tx, changed, "cancelled"))
                .await;
        }
        let failure = driver.travel(server.metadata.uid, target).await.err();
        self.transact(server, |tx, changed| {
            let Some(moving) = &mut changed.spec.asked.moving else {
                return Ok(());
            };
            match &failure {
                None => {
                    moves::stand_on(tx, changed, target)?;
                    moves::settle(tx, changed, "completed")
                }
                Some(error) => {
                    moving.failure = Some(error.to_string());
                    moves::fail(tx, changed)
                }
            }
        })
        .await
    }

    /// Gives what runs its new size without ending it; says whether that can be.
    async fn resize_running(&self, server: &Resource<Server>, driver: &Host) -> Result<bool, AgentError> {
        if !matches!(driver.state(server.metadata.uid).await?, State::Running { .. }) {
            return Ok(false);
        }
        let ports = workload::ports(&self.store, server);
        let uid = self.uid(server).await?;
        let workload = self.workload(server, &ports, uid).await?;
        match driver.resize(&workload).await {
            Ok(()) => Ok(true),
            Err(error) => {
                // Mostly less memory than it uses now: it starts anew in its new size.
                info!(server = server.name(), %error, "could not be resized while it runs");
                Ok(false)
            }
        }
    }

    pub(super) async fn come_back(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        let Some(moving) = &server.spec.asked.moving else {
            return Ok(Next::Done);
        };
        let source = moving.source.clone();
        let stays = server.status.host.as_deref() == Some(source.as_str()) && moving.power == Power::On;
        if stays && server.spec.driver == "oci" && self.resize_running(server, driver).await? {
            return self.transact(server, returned).await;
        }
        driver.stop(server.metadata.uid, Some(GRACE)).await?;
        self.transact(server, |tx, changed| {
            if set_stage(changed, Stage::Reverting, Stage::Returning) {
                moves::stand_on(tx, changed, &source)?;
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn arrive(&self, server: &Resource<Server>, driver: &Host) -> Result<Next, AgentError> {
        let Some(moving) = &server.spec.asked.moving else {
            return Ok(Next::Done);
        };
        if moving.power == Power::On {
            let ports = workload::ports(&self.store, server);
            if let Some(next) = self.wait_for(server, &ports).await? {
                return Ok(next);
            }
            match self.hold_volumes(server).await? {
                Ready::Yes => {}
                Ready::Wait => return Ok(Self::wait_for_volumes()),
                Ready::Never(reason) => return self.could_not_arrive(server, moving.stage, &reason).await,
            }
            let uid = self.uid(server).await?;
            let started = match self.workload(server, &ports, uid).await {
                Ok(workload) => driver.start(&workload).await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                return self.could_not_arrive(server, moving.stage, &error.to_string()).await;
            }
        }
        match moving.stage {
            Stage::Returning => self.transact(server, returned).await,
            _ => self.transact(server, arrived).await,
        }
    }

    /// What cannot start in its new place goes back; what cannot even start where it was is in error.
    async fn could_not_arrive(
        &self,
        server: &Resource<Server>,
        stage: Stage,
        reason: &str,
    ) -> Result<Next, AgentError> {
        warn!(
            server = server.name(),
            host = host_of(server),
            reason,
            "could not start after a move"
        );
        self.transact(server, |tx, changed| {
            if stage == Stage::Returning {
                moves::give_up(tx, changed, "error")?;
                filing::failed(changed, reason);
                return Ok(());
            }
            if let Some(moving) = &mut changed.spec.asked.moving {
                moving.stage = Stage::Reverting;
                moving.failure = Some(reason.to_owned());
                moving.clone().give_size_back(&mut changed.spec);
            }
            Ok(())
        })
        .await
    }

    /// One transaction over a server and what goes with it; a server that is gone meanwhile is no error.
    async fn transact(
        &self,
        server: &Resource<Server>,
        change: impl Fn(&mut Tx<'_>, &mut Resource<Server>) -> Result<(), StoreError>,
    ) -> Result<Next, AgentError> {
        let key = server.key();
        let done = self
            .store
            .transact::<(), StoreError>(filing::cause(host_of(server)), |tx| {
                let Some(server) = tx.get::<Server>(&key) else {
                    return Ok(());
                };
                let mut changed = (*server).clone();
                change(tx, &mut changed)?;
                tx.update(&server, changed).map(|_| ())
            });
        done.await?;
        Ok(Next::Done)
    }
}

fn set_stage(server: &mut Resource<Server>, from: Stage, to: Stage) -> bool {
    match &mut server.spec.asked.moving {
        Some(moving) if moving.stage == from => {
            moving.stage = to;
            true
        }
        _ => false,
    }
}

/// It is in its new place and size, and waits for a word.
fn arrived(tx: &mut Tx<'_>, server: &mut Resource<Server>) -> Result<(), StoreError> {
    let Some(moving) = &mut server.spec.asked.moving else {
        return Ok(());
    };
    moving.stage = Stage::Arrived;
    let (id, power) = (moving.migration, moving.power);
    server.spec.power = power;
    filing::reached(server, Phase::Resized);
    migration::set(tx, &server.metadata.project, id, "finished", None)
}

/// It is where and what it was.
fn returned(tx: &mut Tx<'_>, server: &mut Resource<Server>) -> Result<(), StoreError> {
    let Some(moving) = server.spec.asked.moving.clone() else {
        return Ok(());
    };
    let state = if moving.failure.is_some() { "error" } else { "reverted" };
    moves::give_up(tx, server, state)?;
    server.spec.power = moving.power;
    filing::reached(
        server,
        if moving.power == Power::On {
            Phase::Active
        } else {
            Phase::Stopped
        },
    );
    server.status.fault = moving.failure.map(|message| Fault::new(500, message, tx.at()));
    Ok(())
}

/// Deletes an image that was made for a server.
fn discard(tx: &mut Tx<'_>, id: &str) -> Result<(), StoreError> {
    let image = tx.store().cache::<Image>().by_name(id);
    match image.and_then(|image| tx.get::<Image>(&image.key())) {
        Some(image) => tx.delete::<Image>(&image),
        None => Ok(()),
    }
}

/// Deletes the oldest backups beyond those that are to stay. Protected ones stay, too, and count.
fn rotate(tx: &mut Tx<'_>, server: &Resource<Server>, rotation: &Rotation) -> Result<(), StoreError> {
    let is = |image: &Resource<Image>, name: &str, value: &str| {
        image.spec.properties.get(name).is_some_and(|found| found == value)
    };
    let mut backups = tx.store().cache::<Image>().in_project(server.project());
    backups.retain(|image| {
        is(image, "instance_uuid", server.name())
            && is(image, "image_type", "backup")
            && is(image, "backup_type", &rotation.sort)
    });
    backups.sort_unstable_by_key(|image| std::cmp::Reverse((image.metadata.created, image.metadata.uid)));
    for old in backups.iter().skip(rotation.keep as usize) {
        if !old.spec.is_protected {
            tx.delete::<Image>(old)?;
        }
    }
    Ok(())
}
