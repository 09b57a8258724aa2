//! Metadata for guests: requests to 169.254.169.254 are answered for the port they come from.
//!
//! The source address, which the fabric keeps from being forged, and the network say which port asks. What there is to
//! say is not ours: a [`MetadataSource`] answers.

use std::{convert::Infallible, io, net::SocketAddrV4, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use madang_control::TaskGroup;
use madang_host::{Error, Result, netns::Netns};
use madang_store::Resource;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::{debug, warn};

use super::Context;
use crate::{Port, agent::wanted::METADATA};

/// Connections of one network at a time; the next waits to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Guests send next to nothing (a password, at most).
const MAX_BODY_BYTES: usize = 64 * 1024;
/// For the head of a request; also how long a connection may idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// For the body and the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The longest a connection lives, whatever it does.
const CONNECTION_WITHIN: Duration = Duration::from_secs(120);

/// Who knows what guests may know about themselves. Compute implements it; the binary plugs it in.
#[async_trait]
pub trait MetadataSource: Send + Sync {
    /// Answers a request that came from `port`. The request's path is as the guest sent it, such as
    /// `/openstack/latest/meta_data.json`.
    async fn answer(&self, port: Arc<Resource<Port>>, request: Request<Bytes>) -> Response<Bytes>;
}

/// Opens the socket and answers until the group stops.
pub(super) async fn start(context: &Arc<Context>, netns: &Netns, group: &TaskGroup) -> Result<()> {
    let listen = Error::io(format!(
        "listen for metadata requests in {}",
        netns.name().unwrap_or_default()
    ));
    let listener = netns.run(open).await?.map_err(listen)?;
    let context = Arc::clone(context);
    let connections = group.clone();
    group.spawn_until_stopped("metadata", async move { accept(context, listener, connections).await });
    Ok(())
}

fn open() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(METADATA, 80).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(context: Arc<Context>, listener: TcpListener, group: TaskGroup) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let context = Arc::clone(&context);
                group.spawn_until_stopped("metadata-connection", async move {
                    let _place = place;
                    let _ = tokio::time::timeout(CONNECTION_WITHIN, serve(context, stream)).await;
                });
            }
            Err(error) => {
                warn!(networks = ?context.networks, %error, "could not accept a metadata connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(context: Arc<Context>, stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let context = Arc::clone(&context);
        async move {
            let answered = tokio::time::timeout(ANSWER_WITHIN, answer(&context, peer.ip(), request)).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|_| plain(StatusCode::GATEWAY_TIMEOUT)))
        }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        debug!(%peer, %error, "a metadata connection ended early");
    }
}

async fn answer(context: &Context, peer: std::net::IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(port) = context.port_at(peer) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let Some(source) = &context.metadata else {
        return plain(StatusCode::SERVICE_UNAVAILABLE);
    };
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let port = crate::trunk::plugged(&context.store, port);
    source
        .answer(port, Request::from_parts(head, body.to_bytes()))
        .await
        .map(Full::new)
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let text = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
