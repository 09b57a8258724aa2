//! Resources, revisions, transactions, watch and caches: the only meeting place of madang's parts.
//!
//! Faces write what was asked, controllers and agents watch, act and write what is. From the bottom:
//! - [`Backend`]: an engine of versioned records (`sqlite`, `etcd`), see [`backend`] for what it promises and [`contract`]
//!   for the suite that an engine has to pass;
//! - [`Resource`]: typed kinds over it, with metadata, spec and status; [`samples`] of every released version are kept;
//! - [`Cache`]: every kind in memory with its indexes, kept current by one watch;
//! - [`Store`]: reads from the caches, transactions through the kinds' rules, read-your-writes.
//!
//! A history of who changed what, when and by which request is kept beside the records, as long as [`SqliteOptions`] and
//! [`EtcdOptions`] say: watchers that come back read it, and it is the audit trail of that time.

mod applied;
pub mod backend;
mod batch;
mod cache;
mod cascade;
pub mod contract;
mod counting;
mod error;
mod etcd;
mod fresh;
mod key;
mod log;
mod pages;
mod prepared;
mod recent;
mod recount;
mod resource;
mod rules;
pub mod samples;
mod sqlite;
mod store;
mod turns;
mod tx;
mod watcher;

pub use backend::{
    Backend, Batch, Cause, Delta, Event, Expect, MAX_VALUE_BYTES, Page, Record, Revision, Scan, Txn, Watch, Write,
};
pub use cache::{Cache, Change, View};
pub use error::{ErrorKind, Rejection, StoreError};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use key::{Key, MAX_KEY_BYTES, Prefix};
pub use pages::Pages;
pub use recount::{Drift, Sums};
pub use resource::{IndexFn, Indexes, Kind, Metadata, OwnerReference, Resource};
pub use rules::Op;
pub use sqlite::{Sqlite, SqliteOptions};
pub use store::{Counters, Moment, Store, StoreBuilder};
pub use tx::Tx;
