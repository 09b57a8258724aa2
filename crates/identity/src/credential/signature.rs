//! Requests signed with an access key: `/v3/ec2tokens`, `/v3/s3tokens`. Services that get such a request ask here whose it
//! is, and get a token for it.

use std::sync::Arc;

use axum::{Router, body::Body, extract::State, response::Response, routing::post};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use http::{HeaderValue, header};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use madang_http::{Failure, Json};
use madang_store::Resource;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Credential, EC2, access_key};
use crate::{Caller, Identity, hmac};

/// What both versions leave as it is.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Keystone's `auth_ttl`: how old a signature may be.
const LIFE: SignedDuration = SignedDuration::from_mins(15);
/// For what services a signature of S3's fourth version may be.
const SERVICES: [&str; 3] = ["s3", "iam", "sts"];

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/ec2tokens", post(ec2))
        .route("/s3tokens", post(s3))
}

/// The request as the service describes it, under any of the names that clients use.
fn described(body: &Value) -> Result<&Map<String, Value>, Failure> {
    let mut names = ["credentials", "credential", "ec2Credentials"].into_iter();
    let found = names.find_map(|name| body.get(name)?.as_object());
    found.ok_or_else(|| Failure::unauthenticated("EC2 Signature not supplied"))
}

fn text<'v>(request: &'v Map<String, Value>, name: &str) -> &'v str {
    request.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The secret of the access key that a request names.
fn find(identity: &Identity, request: &Map<String, Value>) -> Result<(Arc<Resource<Credential>>, String), Failure> {
    let access = text(request, "access");
    if access.is_empty() {
        return Err(Failure::unauthenticated("EC2 Signature not supplied"));
    }
    let missing = || Failure::not_found("EC2 access key not found.");
    let found = identity
        .store
        .get::<Credential>(&Credential::key(&Credential::ec2_id(access)));
    let found = found
        .filter(|found| found.spec.credential_type == EC2)
        .ok_or_else(missing)?;
    let (_, secret) = access_key(&identity.open_credential(&found)?).ok_or_else(missing)?;
    Ok((found, secret))
}

async fn ec2(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("identity:ec2tokens_validate", &[])?;
    let request = described(&body)?;
    let (credential, secret) = find(&identity, request)?;
    let shown = text(request, "signature");
    if shown.is_empty() {
        return Err(Failure::unauthenticated("EC2 signature not supplied."));
    }
    let host = text(request, "host");
    let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
    // Clients disagree about whether the port is part of the host.
    let fits = [host, bare].iter().any(|host| {
        let signature = ec2_signature(request, host, &secret);
        signature.is_some_and(|signature| hmac::same(&signature, shown))
    });
    if !fits {
        return Err(Failure::unauthenticated("Invalid EC2 signature."));
    }
    let (token, mut response) = answer(&identity, &credential, request)?;
    if let Ok(mut value) = HeaderValue::from_str(&token) {
        value.set_sensitive(true);
        response.headers_mut().insert(crate::auth::api::SUBJECT_TOKEN, value);
    }
    Ok(response)
}

async fn s3(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("identity:s3tokens_validate", &[])?;
    let request = described(&body)?;
    let (credential, secret) = find(&identity, request)?;
    let mismatch = || Failure::unauthenticated("Credential signature mismatch");
    let signed = text(request, "token");
    let signed = URL_SAFE.decode(signed).or_else(|_| STANDARD.decode(signed));
    let signature = s3_signature(&signed.map_err(|_| mismatch())?, &secret).ok_or_else(mismatch)?;
    if !hmac::same(&signature, text(request, "signature")) {
        return Err(mismatch());
    }
    Ok(answer(&identity, &credential, request)?.1)
}

/// A token for who signed, and what it says. The services that ask see it; S3's get no token to use.
fn answer(
    identity: &Identity,
    credential: &Resource<Credential>,
    request: &Map<String, Value>,
) -> Result<(String, Response), Failure> {
    check_time(request, Timestamp::now())?;
    let (token, validated) = identity.login_with_access_key(credential)?;
    let mut response = Response::new(Body::from(validated.body(identity, true)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok((token, response))
}

/// The parameter `name` of the described request.
fn parameter<'v>(request: &'v Map<String, Value>, name: &str) -> &'v str {
    let parameters = request.get("params").and_then(Value::as_object);
    parameters.map_or("", |parameters| text(parameters, name))
}

/// A signature that is too old does not count. One that says no time has none that could be too old.
fn check_time(request: &Map<String, Value>, now: Timestamp) -> Result<(), Failure> {
    let said = [
        parameter(request, "Timestamp"),
        header_of(request, "x-amz-date").unwrap_or_default(),
        parameter(request, "X-Amz-Date"),
    ];
    let Some(said) = said.into_iter().find(|said| !said.is_empty()) else {
        return Ok(());
    };
    let invalid = || Failure::unauthenticated(format!("Credential timestamp is invalid: {said}"));
    let time = read_time(said).ok_or_else(invalid)?;
    if now.duration_since(time) > LIFE {
        return Err(Failure::unauthenticated("Credential is expired"));
    }
    Ok(())
}

/// `2026-01-02T03:04:05Z` or `20260102T030405Z`.
fn read_time(text: &str) -> Option<Timestamp> {
    let long = || crate::application_credential::api::read_time(text);
    let short = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok();
    short
        .and_then(|time| Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp()))
        .or_else(long)
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, KEEP).to_string()
}

/// The parameters in order, without the signature itself.
fn query(request: &Map<String, Value>, without: &str) -> String {
    let parameters = request.get("params").and_then(Value::as_object);
    let mut parameters: Vec<_> = parameters.into_iter().flatten().collect();
    parameters.retain(|(name, _)| *name != without);
    parameters.sort_by_key(|(name, _)| *name);
    let pair = |(name, value): &(&String, &Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", escape(name), escape(&value))
    };
    let pairs: Vec<String> = parameters.iter().map(pair).collect();
    pairs.join("&")
}

/// What the signature of a request to EC2 has to be; none for a version other than the second, always with SHA-256, and
/// the fourth.
fn ec2_signature(request: &Map<String, Value>, host: &str, secret: &str) -> Option<String> {
    let algorithm = "AWS4-HMAC-SHA256";
    let authorization = header_of(request, "authorization").unwrap_or_default();
    if parameter(request, "SignatureVersion") == "2" {
        let (verb, path) = (text(request, "verb"), text(request, "path"));
        let text = format!("{verb}\n{host}\n{path}\n{}", query(request, "Signature"));
        return Some(STANDARD.encode(hmac::sha256(secret.as_bytes(), text.as_bytes())));
    }
    if authorization.starts_with(algorithm) || parameter(request, "X-Amz-Algorithm") == algorithm {
        return version_4(request, host, secret, authorization);
    }
    None
}

/// A header of the described request; `name` in lower case.
fn header_of<'v>(request: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    let mut headers = request.get("headers").and_then(Value::as_object).into_iter().flatten();
    let (_, value) = headers.find(|(known, _)| known.trim().eq_ignore_ascii_case(name))?;
    value.as_str().map(str::trim)
}

/// `Credential=…` and the like in the header of the fourth version.
fn part<'a>(authorization: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = authorization.split_once(' ')?;
    rest.split(',')
        .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

fn version_4(request: &Map<String, Value>, host: &str, secret: &str, authorization: &str) -> Option<String> {
    let or_parameter = |name: &str, parameter_name: &str| {
        part(authorization, name).unwrap_or_else(|| parameter(request, parameter_name))
    };
    let credential = or_parameter("Credential", "X-Amz-Credential");
    let signed_headers = or_parameter("SignedHeaders", "X-Amz-SignedHeaders");
    let (_, scope) = credential.split_once('/')?;
    let date = header_of(request, "x-amz-date").unwrap_or_else(|| parameter(request, "X-Amz-Date"));
    if !date.starts_with(scope.split('/').next()?) {
        return None;
    }
    let verb = text(request, "verb").to_uppercase();
    // Of a POST the parameters are in the body, whose hash is signed.
    let query = match verb.as_str() {
        "POST" => String::new(),
        _ => query(request, "X-Amz-Signature"),
    };
    let mut lines = String::new();
    for name in signed_headers.split(';') {
        let value = header_of(request, name).or((name == "host").then_some(host));
        if let Some(value) = value {
            lines += &format!("{name}:{value}\n");
        }
    }
    let (path, body_hash) = (text(request, "path"), text(request, "body_hash"));
    let canonical = format!("{verb}\n{path}\n{query}\n{lines}\n{signed_headers}\n{body_hash}");
    let digest = hmac::hex(&Sha256::digest(canonical.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    sign_4(secret, scope, text.as_bytes())
}

/// Signs with the key that follows from the secret for a date, a region and a service.
fn sign_4(secret: &str, scope: &str, text: &[u8]) -> Option<String> {
    let parts: Vec<&str> = scope.split('/').collect();
    if parts.len() != 4 || parts[3] != "aws4_request" {
        return None;
    }
    let first = format!("AWS4{secret}").into_bytes();
    let key = parts
        .iter()
        .fold(first, |key, part| hmac::sha256(&key, part.as_bytes()));
    Some(hmac::hex(&hmac::sha256(&key, text)))
}

/// What the signature of a request to S3 has to be, from the text that was signed.
fn s3_signature(signed: &[u8], secret: &str) -> Option<String> {
    if !signed.starts_with(b"AWS4") {
        return Some(STANDARD.encode(hmac::sha1(secret.as_bytes(), signed)));
    }
    let lines: Vec<&str> = std::str::from_utf8(signed).ok()?.split('\n').collect();
    if lines.len() != 4 || lines[0] != "AWS4-HMAC-SHA256" {
        return None;
    }
    let service = lines[2].split('/').nth(2)?;
    if !SERVICES.contains(&service) {
        return None;
    }
    sign_4(secret, lines[2], signed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The example of AWS's documentation of signatures of version 4.
    #[test]
    fn the_fourth_version_is_aws() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let scope = "20150830/us-east-1/iam/aws4_request";
        let text = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
            f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
        let wanted = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert_eq!(sign_4(secret, scope, text.as_bytes()).as_deref(), Some(wanted));
        assert_eq!(s3_signature(text.as_bytes(), secret).as_deref(), Some(wanted));
        assert_eq!(sign_4(secret, "20150830/us-east-1/iam", b""), None);
    }

    #[test]
    fn any_changed_parameter_changes_the_signature() {
        let request = |action: &str| {
            let params = json!({ "SignatureVersion": "2", "SignatureMethod": "HmacSHA256", "Action": action });
            let request = json!({ "verb": "GET", "path": "/", "params": params });
            request.as_object().unwrap().clone()
        };
        let signature = |action: &str, host: &str| ec2_signature(&request(action), host, "secret");
        assert!(signature("Run", "cloud").is_some());
        assert_ne!(signature("Run", "cloud"), signature("Stop", "cloud"));
        assert_ne!(signature("Run", "cloud"), signature("Run", "other"));
    }

    #[test]
    fn old_signatures_do_not_count() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let check = |request: Value| check_time(request.as_object().unwrap(), now).is_ok();
        for yes in [
            json!({ "params": { "Timestamp": "2026-01-01T11:50:00Z" } }),
            json!({ "params": { "X-Amz-Date": "20260101T115000Z" } }),
            json!({ "headers": { "X-Amz-Date": "20260101T115000Z" } }),
            json!({}),
        ] {
            assert!(check(yes.clone()), "{yes}");
        }
        for no in [
            json!({ "params": { "Timestamp": "2026-01-01T11:40:00Z" } }),
            json!({ "headers": { "x-amz-date": "20260101T114000Z" } }),
            json!({ "params": { "Timestamp": "yesterday" } }),
        ] {
            assert!(!check(no.clone()), "{no}");
        }
    }
}
