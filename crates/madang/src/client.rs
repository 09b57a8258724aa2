//! A client of our own APIs, for `up` (what a new cloud begins with; does it really answer?) and `status`. It reads what any client reads:
//! `admin-openrc`'s values, the catalog, JSON.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use axum::body::Bytes;
use http::Method;
use reqwest::RequestBuilder;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use serde_json::{Value, json};

use crate::credentials::Endpoint;

/// A local server answers in milliseconds; one that does not within this is not well.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest page that every service gives.
const PAGE: usize = 1000;
/// An image takes as long as the disk.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(600);

/// Speaks to the cloud at one endpoint.
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// One service of the catalog.
pub struct Service {
    /// Its type, such as `compute`.
    pub kind: String,
    /// Its public endpoint.
    pub url: String,
}

impl Client {
    /// A client without a token.
    ///
    /// # Errors
    /// When the authority's file cannot be read.
    pub fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        // Without TLS nobody is trusted, and nothing is read from disk.
        let roots = if endpoint.url.starts_with("https:") {
            trusted(endpoint.authority.as_deref())?
        } else {
            RootCertStore::empty()
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .use_preconfigured_tls(tls)
            .build();
        Ok(Self {
            http: http.context("could not make an HTTP client")?,
            url: endpoint.url.clone(),
            token: None,
        })
    }

    /// A client with a token that was come by in another way.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_token(endpoint: &Endpoint, token: String) -> anyhow::Result<Self> {
        Ok(Self {
            token: Some(token),
            ..Self::new(endpoint)?
        })
    }

    /// Asks for a path below the endpoint; its JSON.
    ///
    /// # Errors
    /// No answer, another status than success (with the answer's own words), or no JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.get_url(&format!("{}{path}", self.url)).await
    }

    /// Everything of a list that comes in pages. `path` ends in its query.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list(&self, path: &str, name: &str) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut marker = String::new();
        loop {
            let mut page = self.get(&format!("{path}&limit={PAGE}{marker}")).await?;
            let Value::Array(items) = page[name].take() else {
                bail!("{path} does not answer a list of {name}");
            };
            let last = items.last().and_then(|item| item["id"].as_str());
            marker = last.map(|id| format!("&marker={id}")).unwrap_or_default();
            let is_last = items.len() < PAGE || marker.is_empty();
            all.extend(items);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Asks for an absolute address; its JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_url(&self, url: &str) -> anyhow::Result<Value> {
        let request = self.http.get(url).header("openstack-api-version", "compute 2.88");
        parsed(url, &self.received(request, url).await?)
    }

    /// Logs in with the project of the account's own name; the catalog.
    ///
    /// # Errors
    /// No answer, or refused.
    pub async fn log_in(&mut self, account: &str, password: &str) -> anyhow::Result<Vec<Service>> {
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": account, "domain": {"name": "Default"}, "password": password}}},
            "scope": {"project": {"name": account, "domain": {"name": "Default"}}},
        }});
        let url = format!("{}/identity/v3/auth/tokens", self.url);
        let answer = self
            .http
            .post(&url)
            .json(&body)
            .send()
            .await
            .with_context(|| format!("{url} does not answer"))?;
        let status = answer.status();
        let token = answer
            .headers()
            .get("x-subject-token")
            .and_then(|token| token.to_str().ok())
            .map(str::to_owned);
        if !status.is_success() || token.is_none() {
            bail!("logging in as {account} is refused ({status}): was the password changed?");
        }
        self.token = token;
        let body: Value = answer
            .json()
            .await
            .with_context(|| format!("{url} does not answer JSON"))?;
        Ok(services(&body))
    }

    /// Sends JSON to a path below the endpoint; what it answers, null where that is nothing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.url);
        let answer = self.received(self.http.request(method, &url).json(body), &url).await?;
        if answer.is_empty() {
            Ok(Value::Null)
        } else {
            parsed(&url, &answer)
        }
    }

    /// Streams a file to a path below the endpoint.
    ///
    /// # Errors
    /// As [`Client::get`], or when the file cannot be read.
    pub async fn upload(&self, path: &str, file: &Path) -> anyhow::Result<()> {
        let url = format!("{}{path}", self.url);
        let source = tokio::fs::File::open(file)
            .await
            .with_context(|| format!("could not read {}", file.display()))?;
        let size = source.metadata().await?.len();
        let request = self
            .http
            .put(&url)
            .timeout(UPLOAD_PATIENCE)
            .body(reqwest::Body::from(source));
        let request = request
            .header("content-type", "application/octet-stream")
            .header("content-length", size);
        self.received(request, &url).await.map(|_| ())
    }

    async fn received(&self, request: RequestBuilder, url: &str) -> anyhow::Result<Bytes> {
        let mut request = request.header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("x-auth-token", token);
        }
        let answer = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = answer.status();
        let body = answer
            .bytes()
            .await
            .with_context(|| format!("{url} stopped in the middle of its answer"))?;
        // 300 is how a root with several versions lists them.
        if !status.is_success() && status != http::StatusCode::MULTIPLE_CHOICES {
            bail!(
                "{url} answers {status}: {}",
                String::from_utf8_lossy(&body[..body.len().min(300)])
            );
        }
        Ok(body)
    }
}

fn parsed(url: &str, body: &[u8]) -> anyhow::Result<Value> {
    serde_json::from_slice(body).with_context(|| format!("{url} does not answer JSON"))
}

fn services(token: &Value) -> Vec<Service> {
    let catalog = token["token"]["catalog"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let public = catalog.iter().filter_map(|entry| {
        let endpoints = entry["endpoints"].as_array()?;
        let public = endpoints.iter().find(|endpoint| endpoint["interface"] == "public")?;
        Some(Service {
            kind: entry["type"].as_str()?.to_owned(),
            url: public["url"].as_str()?.to_owned(),
        })
    });
    public.collect()
}

/// The cloud's own authority and nobody else, or whom the system trusts where the certificate was given.
fn trusted(authority: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let file = authority.unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt"));
    let certificates =
        CertificateDer::pem_file_iter(file).with_context(|| format!("could not read {}", file.display()))?;
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("could not read {}", file.display()))?;
        // The system's bundle may hold some that rustls does not take; the rest is still good.
        _ = roots.add(certificate);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_read() {
        let token = json!({"token": {"catalog": [
            {"type": "compute", "endpoints": [
                {"interface": "admin", "url": "http://a"}, {"interface": "public", "url": "http://p/compute/v2.1"}]},
            {"type": "nothing", "endpoints": []},
        ]}});
        let found = services(&token);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].kind.as_str(), found[0].url.as_str()),
            ("compute", "http://p/compute/v2.1")
        );
    }
}
