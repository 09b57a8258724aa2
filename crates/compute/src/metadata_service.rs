//! Answers guests' metadata requests from what the store says of their servers.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use madang_network::{MetadataSource, Port};
use madang_store::{Resource, Store};

use crate::{Server, guest_data::GuestData};

/// The metadata service over the store.
pub struct MetadataService {
    store: Store,
}

impl MetadataService {
    /// Over a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    fn document(&self, port: &Resource<Port>, path: &str) -> Option<crate::guest_data::Document> {
        let server: Arc<Resource<Server>> = self.store.cache::<Server>().by_name(&port.spec.device_id)?;
        GuestData::read(&self.store, server).document(path)
    }
}

#[async_trait]
impl MetadataSource for MetadataService {
    async fn answer(&self, port: Arc<Resource<Port>>, request: Request<Bytes>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
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
