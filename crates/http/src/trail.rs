//! Who did what: one [`Event`] of every write and of every refused proof of identity, whichever face it came through.
//!
//! The gate in front of each face asks for it where the outermost router was given a [`Trail`]; who authenticates tells
//! the [`Actor`]. An event holds no body, no query and no header of the request. What must always hold: recording never
//! waits, and a request whose client went away is recorded, too.

mod named;
mod witness;

use std::{net::IpAddr, sync::Arc};

use axum::{Extension, Router};
use http::HeaderMap;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use witness::Witness;

/// The status of a request whose client went away before the answer, as nginx writes it down.
pub const CLIENT_GONE: u16 = 499;

/// Who asks, by the token that was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user's id.
    pub user_id: String,
    /// The user's name.
    pub user_name: String,
    /// The user's domain, by id.
    pub user_domain_id: String,
    /// The project that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// The domain that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_id: Option<String>,
    /// Whether the token is for the whole deployment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// The names of the roles that hold there.
    pub roles: Vec<String>,
}

/// One request that wrote, or tried to, or whose proof of identity was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When the request came.
    pub time: Timestamp,
    /// The request's own id, `req-…`.
    pub request_id: String,
    /// The id that the caller gave, shared by a chain of requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_request_id: Option<String>,
    /// Where it came from: the connection's address, or what a trusted proxy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Who asked; none where nobody was recognised.
    #[serde(flatten)]
    pub actor: Option<Arc<Actor>>,
    /// Who a refused login said to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// The face: `compute`.
    pub service: String,
    /// `create`, `update`, `delete`, `authenticate`, the name of an action such as `reboot`, or one of these with the
    /// part of the resource that it is about: `delete:metadata`.
    pub action: String,
    /// The collection: `servers`.
    pub resource: String,
    /// The resource's id, also of one that was just made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// The request's method.
    pub method: String,
    /// The path as it was asked for, without its query.
    pub path: String,
    /// The route that it took: `/compute/v2.1/servers/{id}`; empty where there is none.
    pub route: String,
    /// The answer's status; [`CLIENT_GONE`] where nobody waited for it.
    pub status: u16,
    /// Whether it was done.
    pub outcome: Outcome,
    /// Until the answer's head, in microseconds.
    pub duration_us: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As asked.
    Success,
    /// Refused or failed.
    Failure,
}

/// Where events go. Called on the way of a request's answer, so it must not wait.
pub trait Recorder: Send + Sync {
    /// Takes one.
    fn record(&self, event: Event);
}

/// Where events go, and which proxies are believed.
#[derive(Clone)]
pub struct Trail {
    recorder: Arc<dyn Recorder>,
    proxies: Arc<[IpNet]>,
}

impl Trail {
    /// Events go to `recorder`. `X-Forwarded-For` counts where the connection comes from one of `proxies`.
    pub fn new(recorder: Arc<dyn Recorder>, proxies: &[IpNet]) -> Self {
        Self {
            recorder,
            proxies: proxies.into(),
        }
    }

    /// The router, with every face in it recorded.
    pub fn over(self, router: Router) -> Router {
        router.layer(Extension(self))
    }

    /// The address that a request comes from: of a chain of trusted proxies, the last one that is none.
    fn source(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let trusted = |address: &IpAddr| self.proxies.iter().any(|range| range.contains(address));
        let mut source = peer?.to_canonical();
        if !trusted(&source) {
            return Some(source);
        }
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.rsplit(','));
        for hop in hops {
            let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
            source = hop.to_canonical();
            if !trusted(&source) {
                break;
            }
        }
        Some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Recorder for Nowhere {
        fn record(&self, _: Event) {}
    }

    #[test]
    fn only_trusted_proxies_say_where_a_request_comes_from() {
        let trail = Trail::new(Arc::new(Nowhere), &["10.0.0.0/8".parse().unwrap()]);
        let source = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            trail.source(Some(peer.parse().unwrap()), &headers).unwrap().to_string()
        };
        assert_eq!(
            source("192.0.2.1", &["198.51.100.7"]),
            "192.0.2.1",
            "anybody can send it"
        );
        assert_eq!(source("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            source("::ffff:10.0.0.1", &["1.1.1.1, 198.51.100.7", "10.0.0.2"]),
            "198.51.100.7",
            "what stands before the last stranger was written by that stranger"
        );
        assert_eq!(source("10.0.0.1", &["198.51.100.7, nonsense"]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &[]), "10.0.0.1");
    }
}
