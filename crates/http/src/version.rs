//! Version documents: what clients read first to find their way.

use serde::Serialize;
use serde_json::{Value, json};

/// A link of a version document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// `self` mostly.
    pub rel: &'static str,
    /// The whole URL.
    pub href: String,
}

/// One version of a service. What is `None` or empty is left out, as each original leaves out other things.
#[derive(Clone, Debug, Serialize)]
pub struct VersionDocument {
    /// `v2.1`, `v3.14`.
    pub id: &'static str,
    /// `CURRENT`, `SUPPORTED`, or Keystone's `stable`.
    pub status: &'static str,
    /// The newest microversion (Nova, Cinder).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The newest microversion (Placement).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_version: Option<String>,
    /// The oldest microversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_version: Option<String>,
    /// When the version was last changed, as the original says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated: Option<&'static str>,
    /// Where it is.
    pub links: Vec<Link>,
    /// `[{"base": "application/json", "type": "application/vnd…"}]`.
    #[serde(rename = "media-types", skip_serializing_if = "Vec::is_empty")]
    pub media_types: Vec<Value>,
}

impl VersionDocument {
    /// A version at `href`, without microversions.
    pub fn new(id: &'static str, status: &'static str, href: impl Into<String>) -> Self {
        let links = vec![Link {
            rel: "self",
            href: href.into(),
        }];
        Self {
            id,
            status,
            version: None,
            max_version: None,
            min_version: None,
            updated: None,
            links,
            media_types: Vec::new(),
        }
    }

    /// Says which media type its answers have, as Nova, Cinder and Keystone do.
    #[must_use]
    pub fn media_type(mut self, media_type: &'static str) -> Self {
        self.media_types
            .push(json!({ "base": "application/json", "type": media_type }));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_said() {
        let mut version = VersionDocument::new("v2.0", "CURRENT", "http://c/network/v2.0/");
        let document = json!({ "id": "v2.0", "status": "CURRENT", "links": [{ "rel": "self", "href": "http://c/network/v2.0/" }] });
        assert_eq!(serde_json::to_value(&version).unwrap(), document);
        version.min_version = Some("2.1".into());
        assert_eq!(serde_json::to_value(&version).unwrap()["min_version"], "2.1");
    }
}
