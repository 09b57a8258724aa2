//! Copies: out of a store that goes on working, and into an empty place.

use std::path::Path;

use super::{
    Etcd, EtcdOptions,
    client::Client,
    layout::{Head, Layout, encode_record},
    put,
    read::{Place, Shared},
    wire::{Compare, DeleteRequest, RangeRequest, Request, TxnRequest},
};
use crate::{Backend, Prefix, Revision, StoreError, pages::Pages, sqlite::NewDatabase};

/// Records that are read at a time.
const AT_ONCE: usize = 1000;
/// Bytes of records that are written at a time, more than one aside.
const WRITE_BYTES: usize = 256 << 10;

/// Writes an SQLite database as [`crate::Sqlite`] keeps it: everything at one revision.
pub(super) async fn backup(shared: &Shared, to: &Path) -> Result<(), StoreError> {
    let to = to.to_owned();
    let mut new = blocking(move || NewDatabase::create(&to)).await?;
    let (start, end) = shared.layout.records(&Prefix::all(), None);
    let mut place = Place { start, end, at: 0 };
    loop {
        let page = shared.page(&mut place, AT_ONCE).await?;
        let (revision, more) = (page.revision, page.more);
        new = blocking(move || {
            new.add(&page.records)?;
            Ok(new)
        })
        .await?;
        if !more {
            return blocking(move || new.finish(revision)).await;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| StoreError::Closed)?
}

impl Etcd {
    /// Makes a store at an empty place of all records of another engine that nobody writes to. Records keep their
    /// revisions; the history stays behind. One that breaks off leaves what no store is opened on.
    ///
    /// # Errors
    /// `Invalid` when there is something already, or somebody does write; `Backend`.
    pub async fn copy_from(from: &dyn Backend, options: &EtcdOptions) -> Result<Revision, StoreError> {
        let client = Client::new(options)?;
        let layout = Layout::new(&options.prefix);
        let at = begin(&client, &layout).await?;
        let mut pages = Pages::new(from);
        while let Some(records) = pages.next().await? {
            let (mut some, mut bytes) = (Vec::new(), 0);
            for record in records {
                bytes += record.value.len();
                if !some.is_empty() && (bytes > WRITE_BYTES || some.len() >= options.max_txn_ops) {
                    write(&client, std::mem::take(&mut some)).await?;
                    bytes = record.value.len();
                }
                let value = encode_record(record.created, record.modified, &record.value);
                some.push(put(layout.record(&record.key.encode()?), value));
            }
            write(&client, some).await?;
        }
        let revision = pages.revision();
        let head = Head {
            revision,
            compacted: revision,
            written: 0,
        };
        let delete = DeleteRequest {
            key: layout.importing(),
            range_end: bytes::Bytes::new(),
        };
        let request = TxnRequest {
            compare: vec![Compare::modified_at(layout.importing(), at)],
            success: vec![put(layout.head(), head.encode()), Request::Delete(delete).into()],
            failure: Vec::new(),
        };
        client.read("make a copy", || client.txn(&request)).await?;
        Ok(revision)
    }
}

/// Marks an empty place; etcd's revision of that.
async fn begin(client: &Client, layout: &Layout) -> Result<i64, StoreError> {
    let (all, end) = layout.all();
    let count = RangeRequest {
        key: all,
        range_end: end,
        count_only: true,
        ..RangeRequest::default()
    };
    let found = client.read("make a copy", || client.range(&count)).await?;
    let mut request = TxnRequest {
        compare: vec![Compare::modified_at(layout.importing(), 0)],
        success: vec![put(layout.importing(), "by madang".into())],
        failure: Vec::new(),
    };
    request.compare.push(Compare::modified_at(layout.head(), 0));
    let answer = match found.count {
        0 => Some(client.read("make a copy", || client.txn(&request)).await?),
        _ => None,
    };
    let at = answer.filter(|answer| answer.succeeded);
    let at = at.and_then(|answer| Some(answer.header?.revision));
    at.ok_or_else(|| {
        StoreError::Invalid(format!(
            "there is something in etcd below {} already ({} keys): a copy never goes over it",
            layout.prefix(),
            found.count
        ))
    })
}

async fn write(client: &Client, success: Vec<super::wire::RequestOp>) -> Result<(), StoreError> {
    if success.is_empty() {
        return Ok(());
    }
    let request = TxnRequest {
        success,
        ..TxnRequest::default()
    };
    client.read("make a copy", || client.txn(&request)).await.map(drop)
}
