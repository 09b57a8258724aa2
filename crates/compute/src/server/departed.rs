//! Servers that are gone, as lists with `deleted=true` and `changes-since` still show them for a while.

use jiff::Timestamp;
use madang_store::{Indexes, Kind, Metadata, Resource, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Injected, Server, ServerSpec, ServerStatus};

/// The kind of what is gone. `metadata.name` is the server's id.
pub struct Departed;

impl Kind for Departed {
    const NAME: &'static str = "departedservers";
    type Spec = DepartedSpec;
    type Status = DepartedStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
    }
}

/// A server as it was in the end. Written by the rule of servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DepartedSpec {
    /// Its uid.
    pub uid: Uuid,
    /// When it was made.
    pub created: Timestamp,
    /// When it went.
    pub ended: Timestamp,
    /// What was asked of it.
    pub spec: ServerSpec,
    /// What was seen of it.
    pub status: ServerStatus,
}

/// Nothing happens to it any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DepartedStatus {}

/// Keeps what is to be told of a server that goes.
pub(super) fn keep(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    let mut spec = server.spec.clone();
    // Nobody is told these any more.
    spec.user_data = None;
    spec.injected = Injected::default();
    let mut status = server.status.clone();
    status.base = None;
    let spec = DepartedSpec {
        uid: server.metadata.uid,
        created: server.metadata.created,
        ended: tx.at(),
        spec,
        status,
    };
    let metadata = Metadata::new(server.project(), server.name());
    tx.create(Resource::<Departed>::new(metadata, spec)).map(|_| ())
}

/// It, in the form that views and filters take: marked deleted.
pub fn as_server(departed: &Resource<Departed>) -> Resource<Server> {
    let spec = &departed.spec;
    let mut metadata = Metadata::with_uid(spec.uid, departed.project(), departed.name());
    metadata.created = spec.created;
    metadata.updated = spec.ended;
    metadata.deleted = Some(spec.ended);
    let mut server = Resource::<Server>::new(metadata, spec.spec.clone());
    server.status = spec.status.clone();
    server.status.host = None;
    server
}
