//! Accounts: what a project has.

use axum::{body::Body, response::Response};
use http::{HeaderMap, Method, StatusCode};
use madang_http::Failure;

use super::{
    access::{self, PREFIX, Standing},
    ask::{Ask, refuse, refused},
    describe,
    listing::{self, Format},
};
use crate::{
    Stamp,
    objects::{Account, Headers, ObjectError, Use},
};

/// Headers that only a reseller sets: what an account may use.
const LIMITS: [&str; 6] = [
    "x-account-meta-quota-bytes",
    "x-account-quota-bytes",
    "x-account-quota-count",
    "x-account-quota-bytes-policy-policy-0",
    "x-account-quota-count-policy-policy-0",
    "x-account-meta-quota-count",
];
/// What is said to owners only.
const OWNERS: [&str; 2] = ["x-account-meta-temp-url-key", "x-account-meta-temp-url-key-2"];

/// Answers what is about an account.
///
/// # Errors
/// What is refused.
pub async fn answer(ask: &Ask) -> Result<Response, Failure> {
    let standing = access::account(ask)?;
    if !ask.target.account.starts_with(PREFIX) {
        return Err(access::denied(ask));
    }
    match ask.method {
        Method::GET | Method::HEAD => show(ask, standing).await,
        Method::POST => change(ask, standing, StatusCode::NO_CONTENT).await,
        Method::PUT if standing == Standing::Reseller => change(ask, standing, StatusCode::CREATED).await,
        Method::PUT | Method::DELETE => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "")),
        _ => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "")),
    }
}

async fn show(ask: &Ask, standing: Standing) -> Result<Response, Failure> {
    let account = &ask.target.account;
    let found = ask.api.objects.account(account).await.map_err(refused)?;
    let new = || {
        let created = Stamp::now();
        let row = Account {
            created,
            headers: Headers::new(),
        };
        (row, Use::default())
    };
    let (row, used) = found.unwrap_or_else(new);
    let format = Format::of(ask)?;
    let mut response = if ask.method == Method::HEAD {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, format.content_type());
        response
    } else {
        let wanted = listing::wanted(ask)?;
        let lines = ask.api.objects.containers(account, wanted).await.map_err(refused)?;
        listing::answer(format, ("account", account), &listing::containers(lines))
    };
    describe_account(&row, used, standing, response.headers_mut());
    Ok(response)
}

fn describe_account(row: &Account, used: Use, standing: Standing, headers: &mut HeaderMap) {
    let mut kept = row.headers.clone();
    if !standing.is_owner() {
        OWNERS.iter().for_each(|name| _ = kept.remove(*name));
    }
    describe::show(&kept, headers);
    let numbers = [
        ("x-account-container-count", used.containers),
        ("x-account-object-count", used.objects),
        ("x-account-bytes-used", used.bytes),
        ("x-account-storage-policy-policy-0-container-count", used.containers),
        ("x-account-storage-policy-policy-0-object-count", used.objects),
        ("x-account-storage-policy-policy-0-bytes-used", used.bytes),
    ];
    for (name, number) in numbers {
        describe::put(headers, name, number);
    }
    if let Some(quota) = row.headers.get("x-account-meta-quota-bytes") {
        describe::put(headers, "x-account-quota-bytes", quota);
    }
    describe::put(headers, "x-timestamp", row.created);
    describe::put(headers, "x-put-timestamp", row.created);
    describe::put(headers, "accept-ranges", "bytes");
}

async fn change(ask: &Ask, standing: Standing, made: StatusCode) -> Result<Response, Failure> {
    let mut headers = ask.headers.clone();
    let limits = LIMITS.iter().filter(|name| {
        let removed = name.replacen("x-account-", "x-remove-account-", 1);
        headers.contains_key(**name) || headers.contains_key(removed)
    });
    if limits.count() > 0 && standing != Standing::Reseller {
        return Err(refuse(StatusCode::FORBIDDEN, ""));
    }
    // Two names for one thing; metadata is where clients have always looked for it.
    if let Some(value) = headers.remove("x-account-quota-bytes") {
        headers.insert("x-account-meta-quota-bytes", value);
    }
    if let Some(value) = headers.remove("x-remove-account-quota-bytes") {
        headers.insert("x-remove-account-meta-quota-bytes", value);
    }
    for name in LIMITS {
        let value = headers.get(name).map(|value| value.to_str().unwrap_or_default());
        if value.is_some_and(|value| !value.is_empty() && value.parse::<u64>().is_err()) {
            return Err(refuse(StatusCode::BAD_REQUEST, ""));
        }
    }
    let set = ask.api.objects.set_account(&ask.target.account, move |kept| {
        describe::change("account", kept, &headers, &LIMITS).map_err(|failure| ObjectError::Invalid(failure.message))
    });
    let was_there = set.await.map_err(refused)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = match (made, was_there) {
        (StatusCode::CREATED, true) => StatusCode::ACCEPTED,
        (made, _) => made,
    };
    Ok(response)
}
