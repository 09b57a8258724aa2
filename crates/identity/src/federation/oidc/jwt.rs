//! A provider's keys, and tokens that it signed with them.

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    jwk::{Jwk, PublicKeyUse},
};
use serde_json::Value;
use tracing::debug;

use super::{Claims, Refusal, fetch::Fetcher};

/// How many keys of a provider are looked at. Real ones have two or three.
const MAX_KEYS: usize = 64;
/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 60;
/// Signatures that only the provider can make: none of a shared secret, and not none.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// A provider's keys.
pub(super) struct Keys(Vec<Jwk>);

impl Keys {
    /// Fetches them. Those of a kind that is not known are left out.
    pub(super) async fn fetch(fetcher: &Fetcher, url: &str) -> Result<Self, Refusal> {
        let mut set = fetcher.get(url).await?;
        let Some(Value::Array(keys)) = set.remove("keys") else {
            return Err(Refusal::Provider(format!("{url} is no set of keys")));
        };
        let keys = keys.into_iter().take(MAX_KEYS);
        let keys: Vec<Jwk> = keys.filter_map(|key| serde_json::from_value(key).ok()).collect();
        debug!(url, count = keys.len(), "fetched the keys of an identity provider");
        Ok(Self(keys))
    }

    /// Whether there is a key for a token of this header.
    pub(super) fn has(&self, header: &Header) -> bool {
        self.candidates(header).next().is_some()
    }

    /// The key that a header names; all for signatures where it names none.
    fn candidates<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = &'a Jwk> {
        self.0.iter().filter(|key| {
            let signs = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
            let is_named = header.kid.is_none() || key.common.key_id == header.kid;
            let of_kind = key
                .common
                .key_algorithm
                .is_none_or(|algorithm| algorithm.to_string() == format!("{:?}", header.alg));
            signs && is_named && of_kind
        })
    }

    /// The claims of a token that one of the keys signed, of this issuer, within its time.
    pub(super) fn open(&self, token: &str, header: &Header, issuer: &str) -> Result<Claims, Refusal> {
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Refusal::Token(format!("it is signed with {:?}", header.alg)));
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        // Who it is for is looked at by who asked for it.
        validation.validate_aud = false;
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let mut last = "none of the provider's keys fits".to_owned();
        for key in self.candidates(header) {
            let opened =
                DecodingKey::from_jwk(key).and_then(|key| jsonwebtoken::decode::<Claims>(token, &key, &validation));
            match opened {
                Ok(data) => return Ok(data.claims),
                Err(error) => last = error.to_string(),
            }
        }
        Err(Refusal::Token(last))
    }
}
