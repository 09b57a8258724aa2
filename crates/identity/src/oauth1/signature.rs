//! Signed requests (RFC 5849): what the `Authorization` header says, and whether its signature fits.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, header};
use jiff::{SignedDuration, Timestamp};
use madang_http::RequestInfo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::hmac;

/// What RFC 3986 leaves as it is.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How far a client's clock may be off.
const CLOCK: SignedDuration = SignedDuration::from_mins(10);
/// More parameters than anybody sends.
const MAX_PARAMETERS: usize = 64;

/// A request that says it is signed.
#[derive(Clone)]
pub struct Signed {
    method: Method,
    url: String,
    query: String,
    parameters: BTreeMap<String, String>,
}

impl Signed {
    /// What the request says; none where it has no such header.
    pub(crate) fn read(info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Option<Self> {
        let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        Some(Self {
            method: method.clone(),
            url: info.url(),
            query: info.query().to_owned(),
            parameters: parameters(header)?,
        })
    }

    /// A parameter such as `oauth_token`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// A word that a client uses once, with its time; for [`crate::Identity`] to see that it does.
    pub(crate) fn nonce(&self) -> Option<String> {
        let (consumer, nonce) = (self.get("oauth_consumer_key")?, self.get("oauth_nonce")?);
        Some(format!("{consumer}\n{nonce}\n{}", self.get("oauth_timestamp")?))
    }

    /// Whether it was signed about now with these secrets: the consumer's, and that of a request or access token.
    pub(crate) fn fits(&self, consumer_secret: &str, token_secret: &str, now: Timestamp) -> bool {
        let time = self.get("oauth_timestamp").and_then(|text| text.parse::<i64>().ok());
        let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
        if time.is_none_or(|time| now.duration_since(time).abs() > CLOCK) {
            return false;
        }
        let key = format!("{}&{}", escape(consumer_secret), escape(token_secret));
        let text = self.base_string();
        let signature = match self.get("oauth_signature_method") {
            Some("HMAC-SHA1") => hmac::sha1(key.as_bytes(), text.as_bytes()),
            Some("HMAC-SHA256") => hmac::sha256(key.as_bytes(), text.as_bytes()),
            _ => return false,
        };
        let shown = self.get("oauth_signature").unwrap_or_default();
        hmac::same(&STANDARD.encode(signature), shown)
    }

    /// Section 3.4.1.
    fn base_string(&self) -> String {
        let own = self.parameters.iter().filter(|(name, _)| *name != "oauth_signature");
        let mut pairs: Vec<(String, String)> = own.map(|(name, text)| (escape(name), escape(text))).collect();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((escape(&unescape(name)), escape(&unescape(text))));
        }
        pairs.sort();
        let pairs: Vec<String> = pairs.iter().map(|(name, text)| format!("{name}={text}")).collect();
        let parts = [self.method.as_str(), &self.url, &pairs.join("&")];
        parts.map(escape).join("&")
    }
}

/// Section 3.5.1: `OAuth realm="x", oauth_token="y", …`.
fn parameters(header: &str) -> Option<BTreeMap<String, String>> {
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("oauth") {
        return None;
    }
    let mut found = BTreeMap::new();
    for part in rest.split(',').take(MAX_PARAMETERS) {
        let (name, text) = part.trim().split_once('=')?;
        let text = text.strip_prefix('"')?.strip_suffix('"')?;
        if name != "realm" {
            found.insert(unescape(name), unescape(text));
        }
    }
    Some(found)
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, KEEP).to_string()
}

fn unescape(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 5849, section 1.2, "Temporary Credentials".
    fn photos() -> Signed {
        let header = "OAuth realm=\"Photos\", oauth_consumer_key=\"dpf43f3p2l4k3l03\", \
            oauth_signature_method=\"HMAC-SHA1\", oauth_timestamp=\"137131200\", oauth_nonce=\"wIjqoxSu6Jf\", \
            oauth_callback=\"http%3A%2F%2Fprinter.example.com%2Fready\", \
            oauth_signature=\"74KNZJeDHnMBp0EMJ9ZHt%2FXKycU%3D\"";
        Signed {
            method: Method::POST,
            url: "https://photos.example.net/initiate".to_owned(),
            query: String::new(),
            parameters: parameters(header).unwrap(),
        }
    }

    #[test]
    fn only_the_right_secrets_fit_and_only_in_time() {
        let mut signed = photos();
        let now = Timestamp::from_second(137_131_210).unwrap();
        let key = "kd94hf93k423kf44";
        let text = signed.base_string();
        let signature = STANDARD.encode(hmac::sha1(format!("{key}&").as_bytes(), text.as_bytes()));
        signed.parameters.insert("oauth_signature".to_owned(), signature);
        assert!(
            text.starts_with("POST&https%3A%2F%2Fphotos.example.net%2Finitiate&oauth_callback%3Dhttp%253A%252F%252F")
        );
        assert!(signed.fits(key, "", now));
        assert!(!signed.fits("other", "", now) && !signed.fits(key, "x", now));
        assert!(!signed.fits(key, "", now + SignedDuration::from_mins(20)));
        signed.url.push('s');
        assert!(!signed.fits(key, "", now));
    }

    #[test]
    fn other_headers_are_not_signatures() {
        for header in ["Basic abc", "OAuth", "OAuth x", "OAuth x=y", "Bearer \"x\""] {
            assert!(parameters(header).is_none(), "{header}");
        }
    }
}
