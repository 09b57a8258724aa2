//! Objects that stand for others.

use http::StatusCode;
use madang_http::Failure;

use super::ask::{Ask, quote, refuse, unquote};
use crate::objects::{Headers, Object, Which};

/// How many links are followed: Swift's `symloop_max`.
pub const MOST: usize = 2;

/// What a link stands for, where an object is one.
pub fn target(account: &str, object: &Object) -> Option<Which> {
    let target = object.headers.get("x-symlink-target")?;
    let account = object
        .headers
        .get("x-symlink-target-account")
        .map_or(account, String::as_str);
    let target = unquote(target);
    let (container, name) = target.split_once('/')?;
    Some(Which::new(account, container, name))
}

/// The path of what a link stands for, as lists show it.
pub fn path(object: &Object, target: &str) -> String {
    let account = object.headers.get("x-symlink-target-account");
    let account = account.map_or_else(String::new, |account| quote(account));
    format!("/v1/{account}/{target}")
}

/// What a request says of a link that it makes: none where it makes none.
///
/// # Errors
/// What cannot be a link.
pub fn asked(ask: &Ask) -> Result<Option<Headers>, Failure> {
    let bad = |status, text: &str| Err(refuse(status, text));
    let Some(target) = ask.header("x-symlink-target") else {
        return Ok(None);
    };
    let text = unquote(target);
    let text = text.trim_start_matches('/');
    let Some((container, name)) = text.split_once('/').filter(|(c, o)| !c.is_empty() && !o.is_empty()) else {
        return bad(
            StatusCode::PRECONDITION_FAILED,
            "X-Symlink-Target header must be of the form <container name>/<object name>",
        );
    };
    let account = ask.header("x-symlink-target-account").map(unquote);
    if account
        .as_ref()
        .is_some_and(|account| account.is_empty() || account.contains('/'))
    {
        return bad(StatusCode::PRECONDITION_FAILED, "Account name cannot contain slashes");
    }
    let of = account.as_deref().unwrap_or(&ask.target.account);
    if (of, container, name) == (&*ask.target.account, &*ask.target.container, &*ask.target.object) {
        return bad(StatusCode::BAD_REQUEST, "Symlink cannot target itself");
    }
    let mut kept = Headers::new();
    kept.insert(
        "x-symlink-target".to_owned(),
        format!("{}/{}", quote(container), quote(name)),
    );
    kept.extend(account.map(|account| ("x-symlink-target-account".to_owned(), account)));
    if let Some(etag) = ask.header("x-symlink-target-etag") {
        let etag = etag.trim_matches('"').to_owned();
        kept.insert("x-symlink-target-etag".to_owned(), etag);
    }
    Ok(Some(kept))
}
