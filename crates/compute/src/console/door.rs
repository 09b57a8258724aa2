//! Where consoles are entered: a page with the screen, and the websocket that carries a session's bytes.
//!
//! A token is all it takes; nobody else gets in, and a page of another origin does not get in even with one. Bytes pass
//! through buffers of bounded size: a client that reads slowly slows its own session and nothing else.

use axum::{
    Router,
    extract::{
        Query, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use madang_host::workload::Session;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    time::{Duration, timeout},
};

use crate::{Server, api::ComputeApi};

/// The websocket, as seen from where the API is.
pub(super) const WEBSOCKET: &str = "console/websockify";
/// The page with a screen.
pub(super) const PAGE: &str = "console/vnc.html";

/// The page with a terminal, for consoles of type `serial`: `?path=` is that of the websocket's URL.
pub(super) const TERMINAL: &str = "console/serial.html";

/// Nothing passes either way for so long: nobody is there.
const IDLE: Duration = Duration::from_secs(3600);

/// How much is carried at once, in bytes.
const PIECE: usize = 32 << 10;

/// Longest message that a client may send, in bytes: pasted text at most.
const LONGEST: usize = 1 << 20;

/// The routes that need no token of identity.
pub fn router(api: ComputeApi) -> Router {
    Router::new()
        .route(&format!("/{PAGE}"), get(|| page(include_str!("vnc.html"))))
        .route(&format!("/{TERMINAL}"), get(|| page(include_str!("serial.html"))))
        .route(&format!("/{WEBSOCKET}"), get(enter))
        .with_state(api)
}

async fn page(html: &'static str) -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self' ws: wss:; \
                  frame-ancestors *";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, Html(html))
}

#[derive(Deserialize)]
struct Ticket {
    #[serde(default)]
    token: String,
}

async fn enter(
    State(api): State<ComputeApi>,
    Query(ticket): Query<Ticket>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    if !is_own_origin(&headers) {
        return closed(StatusCode::FORBIDDEN);
    }
    let Some(grant) = api.consoles.tokens().find(&ticket.token) else {
        return closed(StatusCode::FORBIDDEN);
    };
    let Some(server) = api.store.get::<Server>(&grant.server) else {
        return closed(StatusCode::NOT_FOUND);
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    match api.consoles.open(&server, grant.kind).await {
        Ok(session) => upgrade
            .protocols(["binary"])
            .max_message_size(LONGEST)
            .on_upgrade(move |socket| carry(socket, session)),
        Err(error) => {
            tracing::info!(server = server.name(), %error, "could not open a console");
            closed(StatusCode::CONFLICT)
        }
    }
}

/// A refusal without a word, after which the connection ends.
fn closed(status: StatusCode) -> Response {
    (status, [(header::CONNECTION, HeaderValue::from_static("close"))]).into_response()
}

/// Browsers say whose page asks; others say nothing.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text(header::HOST)
        }
    }
}

/// What a page says of its terminal, as a text message; bytes for the guest are binary ones.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    columns: u16,
    rows: u16,
}

impl Size {
    fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Carries bytes both ways until either side ends it.
async fn carry(socket: WebSocket, session: Box<dyn Session>) {
    let (mut to_client, mut from_client) = socket.split();
    let terminal = session.terminal();
    let (mut from_guest, mut to_guest) = split(session);
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        let step = async {
            tokio::select! {
                read = from_guest.read_buf(&mut buffer) => match read {
                    Ok(count) if count > 0 => to_client.send(Message::Binary(buffer.split().freeze())).await.is_ok(),
                    _ => false,
                },
                message = from_client.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => to_guest.write_all(&bytes).await.is_ok(),
                    Some(Ok(Message::Text(text))) => match Size::parse(&text) {
                        Some(size) => {
                            // What has no size, or cannot be resized, goes on as it is.
                            let _ = terminal.as_ref().map(|terminal| terminal.resize(size.columns, size.rows));
                            true
                        }
                        None => to_guest.write_all(text.as_bytes()).await.is_ok(),
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => true,
                    _ => false,
                },
            }
        };
        match timeout(IDLE, step).await {
            Ok(true) => buffer.reserve(PIECE),
            _ => break,
        }
    }
    let _ = timeout(Duration::from_secs(5), to_client.close()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_told_from_what_is_typed() {
        let size = Size { columns: 80, rows: 24 };
        assert_eq!(Size::parse(r#"{"columns":80,"rows":24}"#), Some(size));
        for typed in [
            "80",
            "{}",
            r#"{"columns":80,"rows":24,"x":1}"#,
            r#"{"columns":-1,"rows":24}"#,
            "ls\r",
        ] {
            assert_eq!(Size::parse(typed), None, "{typed}");
        }
    }

    #[test]
    fn pages_of_others_stay_outside() {
        let headers = |pairs: &[(http::HeaderName, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            pairs.collect::<HeaderMap>()
        };
        assert!(is_own_origin(&headers(&[(header::HOST, "cloud:8774")])));
        assert!(is_own_origin(&headers(&[
            (header::HOST, "cloud:8774"),
            (header::ORIGIN, "https://cloud:8774")
        ])));
        for origin in ["https://evil", "null", "https://cloud"] {
            let headers = headers(&[(header::HOST, "cloud:8774"), (header::ORIGIN, origin)]);
            assert!(!is_own_origin(&headers), "{origin}");
        }
    }
}
