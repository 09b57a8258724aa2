//! Signed URLs: whoever has one may do with one object, or with all of a prefix, what it was signed for, until it ends.

use axum::response::Response;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, StatusCode, header};
use ipnet::IpNet;
use jiff::Timestamp;
use madang_http::Failure;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::{
    access,
    ask::{Ask, refuse, refused},
    describe,
};
use crate::{Stamp, objects::Headers};

/// The digests that signatures may have.
pub const DIGESTS: [&str; 3] = ["sha1", "sha256", "sha512"];
/// The methods that may be signed for.
pub const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "POST", "DELETE"];

/// A signature, and what it is of.
struct Signature {
    digest: &'static str,
    bytes: Vec<u8>,
}

impl Signature {
    fn parse(text: &str) -> Option<Self> {
        if let Some((digest, text)) = text.split_once(':') {
            let digest = DIGESTS.iter().find(|known| **known == digest)?;
            let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            return Some(Self { digest, bytes });
        }
        let digest = match text.len() {
            40 => "sha1",
            64 => "sha256",
            128 => "sha512",
            _ => return None,
        };
        let pair = |i: usize| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
        let bytes = (0..text.len()).step_by(2).map(pair).collect::<Option<_>>()?;
        Some(Self { digest, bytes })
    }

    fn is_of(&self, key: &str, message: &str) -> bool {
        sign(self.digest, key.as_bytes(), message.as_bytes())
            .is_some_and(|wanted| bool::from(wanted.ct_eq(&self.bytes)))
    }
}

/// The signature of a message.
pub fn sign(digest: &str, key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    match digest {
        "sha1" => {
            let mut mac = Hmac::<Sha1>::new_from_slice(key).ok()?;
            mac.update(message);
            Some(mac.finalize().into_bytes().to_vec())
        }
        "sha256" => {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(message);
            Some(mac.finalize().into_bytes().to_vec())
        }
        "sha512" => {
            let mut mac = Hmac::<Sha512>::new_from_slice(key).ok()?;
            mac.update(message);
            Some(mac.finalize().into_bytes().to_vec())
        }
        _ => None,
    }
}

/// Whether a signature is one of a message, with one of some keys.
pub fn is_signed_by(signature: &str, keys: &[String], messages: &[String]) -> bool {
    let Some(signature) = Signature::parse(signature) else {
        return false;
    };
    // All are looked at, so that the time says nothing.
    let mut found = false;
    for key in keys {
        for message in messages {
            found |= signature.is_of(key, message);
        }
    }
    found
}

/// The keys of an account and a container.
///
/// # Errors
/// When they cannot be read.
pub async fn keys(ask: &Ask) -> Result<Vec<String>, Failure> {
    let (objects, target) = (&ask.api.objects, &ask.target);
    let account = objects.account(&target.account).await.map_err(refused)?;
    let container = objects
        .container(&target.account, &target.container)
        .await
        .map_err(refused)?;
    let of = |headers: &Headers, what: &str| {
        let names = [
            format!("x-{what}-meta-temp-url-key"),
            format!("x-{what}-meta-temp-url-key-2"),
        ];
        names
            .iter()
            .filter_map(|name| headers.get(name).cloned())
            .filter(|key| !key.is_empty())
            .collect::<Vec<_>>()
    };
    let mut keys = account.map(|(row, _)| of(&row.headers, "account")).unwrap_or_default();
    keys.extend(
        container
            .map(|listed| of(&listed.container.headers, "container"))
            .unwrap_or_default(),
    );
    Ok(keys)
}

/// Whether a request has a signature, be it good or bad.
pub fn is_meant(ask: &Ask) -> bool {
    ask.query.has("temp_url_sig") || ask.query.has("temp_url_expires")
}

fn invalid(ask: &Ask) -> Failure {
    let anonymous = Ask {
        caller: None,
        ..ask.clone()
    };
    let mut failure = access::denied(&anonymous);
    failure.message = "401 Unauthorized: Temp URL invalid\n".to_owned();
    failure
}

/// When it ends: seconds, or a time in words.
fn ends(text: &str) -> Option<u64> {
    let parsed = text.parse::<u64>().ok();
    parsed.or_else(|| u64::try_from(text.parse::<Timestamp>().ok()?.as_second()).ok())
}

/// Lets a request through that has a signature which holds.
///
/// # Errors
/// 401 where it does not.
pub async fn check(ask: &mut Ask) -> Result<(), Failure> {
    let refusal = || invalid(ask);
    let (Some(signature), Some(expires)) = (ask.query.get("temp_url_sig"), ask.query.get("temp_url_expires")) else {
        return Err(refusal());
    };
    let ends = ends(expires).ok_or_else(refusal)?;
    let is_of_object = !ask.target.object.is_empty();
    if ends <= Stamp::now().seconds() || !is_of_object || !METHODS.contains(&ask.method.as_str()) {
        return Err(refusal());
    }
    if let Some(range) = ask.query.get("temp_url_ip_range") {
        let range = range
            .parse::<IpNet>()
            .ok()
            .or_else(|| Some(range.parse::<std::net::IpAddr>().ok()?.into()));
        let peer = ask.info.peer().map(|peer| peer.ip().to_canonical());
        if !range.zip(peer).is_some_and(|(range, peer)| range.contains(&peer)) {
            return Err(refusal());
        }
    }
    let signature = signature.to_owned();
    let messages = messages(ask, ends).ok_or_else(refusal)?;
    let keys = keys(ask).await?;
    if !is_signed_by(&signature, &keys, &messages) {
        return Err(invalid(ask));
    }
    if ask.method == Method::PUT || ask.method == Method::POST {
        let forbidden = ["x-object-manifest", "x-symlink-target", "x-copy-from"];
        if let Some(name) = forbidden.iter().find(|name| ask.headers.contains_key(**name)) {
            let text = format!("The header '{name}' is not allowed in this tempurl");
            return Err(refuse(StatusCode::BAD_REQUEST, &text));
        }
    }
    ask.is_signed = true;
    Ok(())
}

/// What may have been signed: for the path below `/v1`, or as clients see it.
fn messages(ask: &Ask, ends: u64) -> Option<Vec<String>> {
    let target = &ask.target;
    let name = match ask.query.get("temp_url_prefix") {
        Some(prefix) if !target.object.starts_with(prefix) => return None,
        Some(prefix) => prefix,
        None => &target.object,
    };
    let kind = if ask.query.has("temp_url_prefix") {
        "prefix:"
    } else {
        ""
    };
    let ip = ask.query.get("temp_url_ip_range").map(|range| format!("ip={range}\n"));
    let ip = ip.unwrap_or_default();
    // A HEAD is also let through by what was signed for the others.
    let methods: &[&str] = match ask.method.as_str() {
        "HEAD" => &["HEAD", "GET", "PUT", "POST"],
        method => &[METHODS.iter().find(|known| **known == method)?],
    };
    let mut messages = Vec::new();
    for mount in ["", ask.info.mount()] {
        for method in methods {
            let path = format!("{mount}/v1/{}/{}/{name}", target.account, target.container);
            messages.push(format!("{ip}{method}\n{ends}\n{kind}{path}"));
        }
    }
    Some(messages)
}

/// What an answer through a signature does and does not say.
pub fn finish(ask: &Ask, response: &mut Response) {
    if !response.status().is_success() {
        return;
    }
    let headers = response.headers_mut();
    let hidden: Vec<_> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("x-object-meta-") && !name.starts_with("x-object-meta-public-")
        })
        .cloned()
        .collect();
    hidden.iter().for_each(|name| _ = headers.remove(name));
    if !ask.reads() {
        return;
    }
    let filename = ask.query.get("filename").filter(|name| !name.is_empty());
    let own = headers.contains_key(header::CONTENT_DISPOSITION);
    let disposition = match (ask.query.has("inline"), filename) {
        (true, None) => Some("inline".to_owned()),
        (true, Some(name)) => Some(named("inline", name)),
        (false, Some(name)) => Some(named("attachment", name)),
        (false, None) if own => None,
        (false, None) => {
            let name = ask.target.object.trim_end_matches('/').rsplit('/').next();
            Some(named("attachment", name.unwrap_or_default()))
        }
    };
    if let Some(disposition) = disposition {
        describe::put(headers, "content-disposition", disposition);
    }
    let expires = ask.query.get("temp_url_expires").and_then(ends);
    if let Some(expires) = expires {
        describe::put(headers, "expires", Stamp(expires.saturating_mul(1_000_000)).http());
    }
}

fn named(how: &str, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c == '"' { "%22".to_owned() } else { c.to_string() })
        .collect();
    format!(
        "{how}; filename=\"{plain}\"; filename*=UTF-8''{}",
        super::ask::quote(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_python() {
        // hmac.new(b"mykey", b"GET\n1\n/v1/a/c/o", "sha256").hexdigest(), and the same in base 64.
        let message = "GET\n1\n/v1/a/c/o".to_owned();
        let wanted = sign("sha256", b"mykey", message.as_bytes()).unwrap();
        let hexadecimal = crate::disk::hex(&wanted);
        let keys = ["other".to_owned(), "mykey".to_owned()];
        let holds = |signature: &str| is_signed_by(signature, &keys, std::slice::from_ref(&message));
        assert!(holds(&hexadecimal) && holds(&format!("sha256:{}", URL_SAFE_NO_PAD.encode(&wanted))));
        assert!(!holds(&hexadecimal.replacen(|_: char| true, "0", 4)) && !holds(&format!("sha512:{hexadecimal}")));
        assert!(!holds("") && !holds("ü") && !is_signed_by(&hexadecimal, &[], std::slice::from_ref(&message)));
        let long = crate::disk::hex(&sign("sha512", b"mykey", message.as_bytes()).unwrap());
        assert!(holds(&long));
        assert_eq!(
            (ends("12"), ends("1970-01-01T00:00:12Z"), ends("x")),
            (Some(12), Some(12), None)
        );
    }
}
