//! The server: connections, TLS, and an orderly end.
//!
//! Plain HTTP is for loopback addresses only; on any other, [`Server::bind`] asks for certificates. HTTP/1.1 with
//! keep-alive and HTTP/2 are both spoken, also in plain text. Each connection is a task of the caller's group.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use jiff::Timestamp;
use madang_control::TaskGroup;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Certificates, Peer, Scheme};

/// How often certificates are looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(12 * 3600);
/// After an accept that failed for want of file descriptors or memory; trying again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where and how to serve.
#[derive(Debug)]
pub struct ServerOptions {
    /// The address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificates; needed unless the address is a loopback one.
    pub certificates: Option<Arc<Certificates>>,
    /// Connections at a time; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a connection may be idle, and how long a client may take to send a request's head.
    pub idle: Duration,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
}

impl ServerOptions {
    /// Serving `address` with the usual limits.
    pub fn new(address: SocketAddr, certificates: Option<Arc<Certificates>>) -> Self {
        Self {
            address,
            certificates,
            // Clients that poll hold one each while idle; a connection costs some kilobytes and a file descriptor, of
            // which the binary asks the system for many.
            max_connections: 4096,
            idle: Duration::from_secs(75),
            handshake: Duration::from_secs(10),
        }
    }
}

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Tokens and passwords would cross the network readable.
    #[error("{address} is not a loopback address, so it needs certificates")]
    PlainText {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The certificates cannot be used.
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
}

/// A bound server.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    options: ServerOptions,
}

impl Server {
    /// Listens; nothing is answered before [`Server::serve`].
    ///
    /// # Errors
    /// When the address is taken or not ours, or is not a loopback address and there are no certificates.
    pub async fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        let asked = options.address;
        if options.certificates.is_none() && !asked.ip().is_loopback() {
            return Err(ServerError::PlainText { address: asked });
        }
        let acceptor = match &options.certificates {
            Some(certificates) => Some(TlsAcceptor::from(Arc::new(certificates.server_config()?))),
            None => None,
        };
        let failed = |source| ServerError::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            acceptor,
            options,
        })
    }

    /// The address listened on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:8000`, or `https://…` with certificates.
    pub fn url(&self) -> String {
        let scheme = if self.acceptor.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves `router` until the group is shut down. Then the listener closes at once, connections finish the requests
    /// they are answering, and idle ones close. Returns immediately; all work happens in the group.
    pub fn serve(self, router: Router, group: &TaskGroup) {
        let Self {
            listener,
            address,
            acceptor,
            options,
        } = self;
        if let Some(certificates) = options.certificates.clone() {
            group.spawn_until_stopped("certificates", renew(certificates));
        }
        let scheme = if acceptor.is_some() {
            Scheme::Https
        } else {
            Scheme::Http
        };
        let connections = group.child("connections");
        let seats = Arc::new(Semaphore::new(options.max_connections));
        let door = Arc::new(Door {
            acceptor,
            builder: builder(&options),
            router,
            scheme,
            handshake: options.handshake,
        });
        let stop = group.token();
        group.spawn(format!("listener {address}"), async move {
            info!(%address, ?scheme, "listening");
            loop {
                let next = async {
                    let seat = Arc::clone(&seats).acquire_owned().await;
                    (seat, listener.accept().await)
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    (seat, accepted) = next => match (seat, accepted) {
                        (Ok(seat), Ok((stream, peer))) => {
                            let connection = Arc::clone(&door).welcome(stream, peer, seat, stop.clone());
                            connections.spawn("connection", connection);
                        }
                        (Err(_closed), _) => return,
                        (_, Err(error)) => {
                            warn!(%address, %error, "could not accept a connection");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    },
                }
            }
        });
    }
}

fn builder(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // hyper runs this timeout also while it waits for the first byte, so it bounds idling too.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.idle)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(options.idle))
        .max_concurrent_streams(256)
        .max_header_list_size(64 * 1024);
    builder
}

async fn renew(certificates: Arc<Certificates>) {
    loop {
        sleep(RENEWAL_CHECK).await;
        let certificates = Arc::clone(&certificates);
        match tokio::task::spawn_blocking(move || certificates.renew_if_due(Timestamp::now())).await {
            Ok(Ok(true)) => info!("certificates renewed"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "could not renew certificates"),
            Err(error) => warn!(%error, "could not renew certificates"),
        }
    }
}

/// What a connection needs, the same for all of them.
struct Door {
    acceptor: Option<TlsAcceptor>,
    builder: Builder<TokioExecutor>,
    router: Router,
    scheme: Scheme,
    handshake: Duration,
}

impl Door {
    async fn welcome(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        seat: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        // Answers are small and wait for nothing; Nagle would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection is gone already");
            return;
        }
        match &self.acceptor {
            None => self.talk(stream, peer, stop).await,
            Some(acceptor) => match timeout(self.handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.talk(stream, peer, stop).await,
                Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => debug!(%peer, "TLS handshake took too long"),
            },
        }
        drop(seat);
    }

    async fn talk<I>(&self, stream: I, peer: SocketAddr, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let router = self.router.clone();
        let scheme = self.scheme;
        let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(scheme);
            request.extensions_mut().insert(Peer(peer));
            tower::ServiceExt::oneshot(router.clone(), request)
        });
        let connection = self
            .builder
            .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, error = &*error, "connection ended early");
        }
    }
}
