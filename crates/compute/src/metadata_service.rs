//! Answers guests' metadata requests from what the store says of their servers.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use madang_network::{MetadataSource, Port};
use madang_store::{Resource, Store};

use crate::{Server, guest_data::GuestData, server::password};

/// The metadata service over the store.
pub struct MetadataService {
    store: Store,
}

impl MetadataService {
    /// Over a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Keeps the password that a guest posts: once, as Nova does.
    async fn take_password(&self, port: &Resource<Port>, body: &[u8]) -> StatusCode {
        let server = self.store.cache::<Server>().by_name(&port.spec.device_id);
        let (Some(server), Ok(text)) = (server, std::str::from_utf8(body)) else {
            return StatusCode::BAD_REQUEST;
        };
        if text.len() > password::MAX_BYTES {
            return StatusCode::BAD_REQUEST;
        }
        match password::post(&self.store, &server, text.trim()).await {
            Ok(true) => StatusCode::OK,
            Ok(false) => StatusCode::CONFLICT,
            Err(error) => {
                tracing::warn!(server = server.name(), %error, "could not keep a guest's password");
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn document(&self, port: &Resource<Port>, path: &str) -> Option<crate::guest_data::Document> {
        let server: Arc<Resource<Server>> = self.store.cache::<Server>().by_name(&port.spec.device_id)?;
        GuestData::read(&self.store, server).document(path)
    }
}

/// Whether a path is where guests post their password.
fn is_password(path: &str) -> bool {
    let mut parts = path.trim_matches('/').split('/');
    parts.next() == Some("openstack") && parts.nth(1) == Some("password") && parts.next().is_none()
}

#[async_trait]
impl MetadataSource for MetadataService {
    async fn answer(&self, port: Arc<Resource<Port>>, request: Request<Bytes>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        if request.method() == Method::POST && is_password(request.uri().path()) {
            *response.status_mut() = self.take_password(&port, request.body()).await;
            return response;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return response;
        }
        match self.document(&port, request.uri().path()) {
            Some(document) => {
                let content_type = HeaderValue::from_static(document.content_type);
                response.headers_mut().insert(header::CONTENT_TYPE, content_type);
                *response.body_mut() = document.body.into();
            }
            None => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    }
}
