//! Calls to whichever member answers.
//!
//! A member that does not answer is left for the next one. Repeating a call is up to the caller: what a failed one has done
//! is not known.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use prost::Message;
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{
    EtcdOptions,
    wire::{
        CompactionRequest, Done, RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreate, WatchRequest,
        WatchResponse,
    },
};
use crate::StoreError;

/// How long one member may take for one call, before another one is asked.
const CALL: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(2);
/// etcd ends connections that ask more often than every 5 s whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long reads are tried before they fail.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Client {
    members: Vec<(String, Channel)>,
    current: AtomicUsize,
}

impl Client {
    /// Nothing is connected yet.
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let mut members = Vec::new();
        for member in &options.members {
            let wrong = |e: tonic::transport::Error| {
                let mut reason = format!("{member}: {e}");
                let mut source = std::error::Error::source(&e);
                while let Some(e) = source {
                    reason.push_str(&format!(": {e}"));
                    source = e.source();
                }
                StoreError::Invalid(format!(
                    "{reason}; the store's address is etcd://HOST:PORT[,HOST:PORT…][/PREFIX]"
                ))
            };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{member}"))
                .map_err(wrong)?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true);
            if let Some(tls) = &options.tls {
                let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
                if let Some((certificate, key)) = &tls.identity {
                    config = config.identity(Identity::from_pem(certificate, key));
                }
                endpoint = endpoint.tls_config(config).map_err(wrong)?;
            }
            members.push((member.clone(), endpoint.connect_lazy()));
        }
        if members.is_empty() {
            return Err(StoreError::Invalid(
                "the store's address names no member of etcd".to_owned(),
            ));
        }
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
        })
    }

    pub(super) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        self.call("/etcdserverpb.KV/Txn", request.clone()).await
    }

    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", request.clone()).await
    }

    /// Forgets etcd's own past before a revision of its own.
    pub(super) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let done: Result<Done, Status> = self
            .call("/etcdserverpb.KV/Compact", CompactionRequest { revision })
            .await;
        match done {
            // Somebody else has done so, or there is nothing yet.
            Err(refused) if refused.code() == Code::OutOfRange => Ok(()),
            done => done.map(drop),
        }
    }

    /// Changes of one key from now on; the first message says that it has begun.
    pub(super) async fn watch(&self, key: bytes::Bytes) -> Result<Streaming<WatchResponse>, Status> {
        let at = self.current.load(Ordering::Relaxed);
        let create = WatchRequest {
            create: Some(WatchCreate { key }),
        };
        // The stream of requests stays open for as long as that of answers does.
        let requests = tokio_stream::once(create).chain(tokio_stream::pending());
        let mut request = Request::new(requests);
        // Without a leader a member would go on saying nothing.
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        let mut grpc = self.grpc(at);
        let opened = async {
            grpc.ready().await.map_err(unready)?;
            let path = http::uri::PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(request, path, ProstCodec::default()).await
        };
        let opened = tokio::time::timeout(CALL, opened).await;
        let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        self.note(at, opened.map(tonic::Response::into_inner))
    }

    /// Repeats what has no effect until it is answered, for a while.
    pub(super) async fn read<T, F: Future<Output = Result<T, Status>>>(
        &self,
        action: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let patience = tokio::time::Instant::now() + PATIENCE;
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(failed) if is_refusal(&failed) || tokio::time::Instant::now() > patience => {
                    return Err(backend(action, &failed));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let at = self.current.load(Ordering::Relaxed);
        let mut grpc = self.grpc(at);
        let answered = async {
            grpc.ready().await.map_err(unready)?;
            let path = http::uri::PathAndQuery::from_static(path);
            grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default())
                .await
        };
        let answered = tokio::time::timeout(CALL, answered).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        self.note(at, answered.map(tonic::Response::into_inner))
    }

    fn grpc(&self, at: usize) -> Grpc<Channel> {
        let (_, channel) = &self.members[at % self.members.len()];
        Grpc::new(channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// Goes on to the next member when this one did not answer, unless somebody else has.
    fn note<T>(&self, at: usize, answer: Result<T, Status>) -> Result<T, Status> {
        answer.map_err(|mut failed| {
            if !is_refusal(&failed) {
                _ = self
                    .current
                    .compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
                let (member, _) = &self.members[at % self.members.len()];
                failed = Status::new(failed.code(), format!("{member}: {}", said(&failed)));
            }
            failed
        })
    }
}

fn unready(e: tonic::transport::Error) -> Status {
    Status::from_error(Box::new(e))
}

/// The whole of what went wrong: the transport's own words say little without their causes.
fn said(status: &Status) -> String {
    let mut said = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(e) = source {
        let more = e.to_string();
        if !said.contains(&more) {
            said.push_str(&format!(": {more}"));
        }
        source = e.source();
    }
    said
}

/// Whether etcd has understood and does not want to: asking again, or another member, changes nothing.
pub(super) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

pub(super) fn backend(action: &'static str, failed: &Status) -> StoreError {
    let advice = match failed.message() {
        m if m.contains("database space exceeded") => {
            "; give it room: etcd's --quota-backend-bytes, then `etcdctl defrag` and `etcdctl alarm disarm`"
        }
        m if m.contains("too many operations") => "; raise etcd's --max-txn-ops",
        m if m.contains("too large") => "; raise etcd's --max-request-bytes",
        _ => "",
    };
    StoreError::Backend {
        action,
        reason: format!("etcd: {}{advice}", said(failed)),
    }
}
