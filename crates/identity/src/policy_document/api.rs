//! `/v3/policies`.

use std::sync::{Arc, LazyLock};

use axum::Router;
use madang_http::{Failure, Query, RequestInfo};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{PolicyDocument, PolicyDocumentSpec};
use crate::{
    Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::{Input, schemas},
        links, merge,
    },
};

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = json!({ "blob": { "type": "string" }, "type": { "type": "string", "maxLength": 255 } });
    schemas("policy", properties, &["blob", "type"])
});

/// A policy document as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    #[serde(rename = "type")]
    media_type: String,
    blob: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::routes::<PolicyDocument>("/policies")
}

impl Collection for PolicyDocument {
    const ONE: &'static str = "policy";
    const MANY: &'static str = "policies";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, document: &Resource<Self>) -> View {
        View {
            id: document.name().to_owned(),
            media_type: document.spec.media_type.clone(),
            blob: document.spec.blob.clone(),
            extra: document.spec.extra.clone(),
            links: links(info, "policies", document.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, PolicyDocumentSpec), Failure> {
        let spec = PolicyDocumentSpec {
            media_type: input.text("type").unwrap_or_default(),
            blob: input.text("blob").unwrap_or_default(),
            extra: input.rest(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut PolicyDocumentSpec, mut input: Input) {
        input.set("type", &mut spec.media_type);
        input.set("blob", &mut spec.blob);
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, document: &Resource<Self>) -> bool {
        query
            .get("type")
            .is_none_or(|wanted| document.spec.media_type == wanted)
    }
}
