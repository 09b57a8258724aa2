//! Migrations: what moved which server, from where to where, and what became of it. Records only: what is to happen is
//! in the server ([`super::asked::Move`]).

use madang_store::{Indexes, Key, Kind, Metadata, Resource, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{MoveKind, Server};

/// The kind of records. `metadata.project` is the server's.
pub struct Migration;

impl Kind for Migration {
    const NAME: &'static str = "migrations";
    type Spec = MigrationSpec;
    type Status = MigrationStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("server", |r| vec![r.spec.server.clone()])
    }
}

/// What was begun. Written by the verb that began it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationSpec {
    /// The server's id.
    pub server: String,
    /// What sort it is.
    pub kind: MoveKind,
    /// From this host.
    pub source: String,
    /// The flavor before, by id.
    pub old_flavor_id: String,
    /// The flavor after, by id.
    pub new_flavor_id: String,
    /// Who asked.
    pub user: String,
}

/// What became of it. Written by the rules and reconcilers that bring the server on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// To this host, once that is known.
    #[serde(default)]
    pub target: Option<String>,
    /// Nova's word: `pre-migrating`, `migrating`, `finished`, `confirmed`, `reverted`, `error`, `done`, …
    #[serde(default)]
    pub state: String,
}

/// The number that old clients know a migration by: of its uid, from 1.
pub fn number(id: Uuid) -> u32 {
    let bytes = id.as_bytes();
    (u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) & 0x7fff_ffff).max(1)
}

/// Records that a server is about to be moved.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    server: &Resource<Server>,
    id: Uuid,
    kind: MoveKind,
    new_flavor_id: &str,
) -> Result<(), StoreError> {
    let spec = MigrationSpec {
        server: server.name().to_owned(),
        kind,
        source: server.status.host.clone().unwrap_or_default(),
        old_flavor_id: server.spec.flavor_id.clone(),
        new_flavor_id: new_flavor_id.to_owned(),
        user: tx.cause().actor.to_string(),
    };
    let metadata = Metadata::with_uid(id, server.project(), id.to_string());
    let mut migration = Resource::<Migration>::new(metadata, spec);
    migration.status.state = match kind {
        MoveKind::Evacuation | MoveKind::LiveMigration => "accepted",
        MoveKind::Resize | MoveKind::Migration => "pre-migrating",
    }
    .to_owned();
    tx.create(migration).map(|_| ())
}

/// Says how far a migration is, and where it goes when that is new.
pub(crate) fn set(
    tx: &mut Tx<'_>,
    project: &str,
    id: Uuid,
    state: &str,
    target: Option<&str>,
) -> Result<(), StoreError> {
    let key = Key::new(Migration::NAME, project, "", id.to_string());
    let Some(migration) = tx.get::<Migration>(&key) else {
        return Ok(());
    };
    let mut changed = (*migration).clone();
    changed.status.state = state.to_owned();
    if let Some(target) = target {
        changed.status.target = Some(target.to_owned());
    }
    tx.update(&migration, changed).map(|_| ())
}
