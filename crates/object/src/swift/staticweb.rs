//! Containers as web sites, for those who come without a token: an index, lists as pages, pages for what is not there.

use axum::{body::Body, response::Response};
use http::{Method, StatusCode, header};
use madang_http::Failure;

use super::{
    access,
    ask::{Ask, Target, quote, refused},
    describe,
    listing::{MOST, escape},
    object, put,
};
use crate::{
    listing::{Line, Wanted},
    objects::{Container, Listed},
};

fn meta<'c>(container: &'c Container, name: &str) -> Option<&'c str> {
    container.header(&format!("x-container-meta-web-{name}"))
}

/// Those with a token want the API, unless they say otherwise.
fn wants_pages(ask: &Ask) -> bool {
    ask.reads() && !ask.is_signed && (!ask.headers.contains_key("x-auth-token") || ask.flag("x-web-mode"))
}

fn at(ask: &Ask, name: String) -> Ask {
    Ask {
        target: Target {
            object: name,
            ..ask.target.clone()
        },
        ..ask.clone()
    }
}

/// The page that a container is; none where it is none.
///
/// # Errors
/// What is refused.
pub async fn container(ask: &Ask, listed: &Listed) -> Result<Option<Response>, Failure> {
    let container = &listed.container;
    if !wants_pages(ask) || (meta(container, "index").is_none() && meta(container, "listings").is_none()) {
        return Ok(None);
    }
    directory(ask, container, "").await.map(Some)
}

/// The page for an object that cannot be shown.
///
/// # Errors
/// What it was refused with, where there is no page for that.
pub async fn object(ask: &Ask, failure: Failure) -> Result<Response, Failure> {
    let status = put::status_of(&failure);
    if !wants_pages(ask) || ![404, 401, 403].contains(&status.as_u16()) {
        return Err(failure);
    }
    let found = ask
        .api
        .objects
        .container(&ask.target.account, &ask.target.container)
        .await;
    let Some(listed) = found.map_err(refused)? else {
        return Err(failure);
    };
    let container = &listed.container;
    let is_site = ["index", "listings", "error"]
        .iter()
        .any(|name| meta(container, name).is_some());
    if !is_site {
        return Err(failure);
    }
    if status == StatusCode::NOT_FOUND && (meta(container, "index").is_some() || meta(container, "listings").is_some())
    {
        let prefix = format!("{}/", ask.target.object.trim_end_matches('/'));
        if ask.target.object.ends_with('/') {
            return directory(ask, container, &prefix).await;
        }
        let wanted = Wanted {
            prefix,
            limit: 1,
            ..Wanted::default()
        };
        let below = ask.api.objects.objects(container.id, wanted).await.map_err(refused)?;
        if !below.is_empty() {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let location = format!("{}/", ask.info.path());
            describe::put(response.headers_mut(), "location", location);
            return Ok(response);
        }
    }
    error_page(ask, container, failure).await
}

async fn directory(ask: &Ask, container: &Container, prefix: &str) -> Result<Response, Failure> {
    // A page's own links are relative to it.
    if prefix.is_empty() && !ask.info.path().ends_with('/') && meta(container, "index").is_none() {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        describe::put(response.headers_mut(), "location", format!("{}/", ask.info.path()));
        let may = access::object(ask, Some(container));
        return match may {
            Ok(_) => Ok(response),
            Err(failure) => error_page(ask, container, failure).await,
        };
    }
    if let Some(index) = meta(container, "index") {
        match object::show(&at(ask, format!("{prefix}{index}"))).await {
            Err(failure) if put::status_of(&failure) == StatusCode::NOT_FOUND => {
                if meta(container, "listings").is_none() {
                    return error_page(ask, container, failure).await;
                }
            }
            Err(failure) => return error_page(ask, container, failure).await,
            shown => return shown,
        }
    }
    if !meta(container, "listings").is_some_and(super::ask::is_yes) {
        let failure = super::ask::refuse(StatusCode::NOT_FOUND, "");
        return error_page(ask, container, failure).await;
    }
    match access::container(ask, Some(container)) {
        Ok(_) => list(ask, container, prefix).await,
        Err(failure) => error_page(ask, container, failure).await,
    }
}

async fn list(ask: &Ask, container: &Container, prefix: &str) -> Result<Response, Failure> {
    let wanted = Wanted {
        prefix: prefix.to_owned(),
        delimiter: "/".to_owned(),
        limit: MOST,
        ..Wanted::default()
    };
    let lines = ask.api.objects.objects(container.id, wanted).await.map_err(refused)?;
    let label = meta(container, "listings-label").map_or_else(
        || ask.info.path().to_owned(),
        |label| format!("{}/{prefix}", label.trim_end_matches('/')),
    );
    let title = escape(&format!("Listing of {label}"));
    let style = match meta(container, "listings-css") {
        Some(css) => {
            let up = "../".repeat(prefix.matches('/').count());
            let css = if css.contains("://") || css.starts_with('/') {
                css.to_owned()
            } else {
                format!("{up}{}", quote(css))
            };
            format!("  <link rel=\"stylesheet\" type=\"text/css\" href=\"{css}\" />\n")
        }
        None => "  <style type=\"text/css\">\n   h1 {font-size: 1em; font-weight: bold;}\n   th {text-align: left; \
                 padding: 0px 1em 0px 1em;}\n   td {padding: 0px 1em 0px 1em;}\n   a {text-decoration: none;}\n  \
                 </style>\n"
            .to_owned(),
    };
    let mut page = format!(
        "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\" \
         \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n<html>\n <head>\n  <title>{title}</title>\n{style} \
         </head>\n <body>\n  <h1 id=\"title\">{title}</h1>\n  <table id=\"listing\">\n   <tr id=\"heading\">\n    <th \
         class=\"colname\">Name</th>\n    <th class=\"colsize\">Size</th>\n    <th class=\"coldate\">Date</th>\n   </tr>\n"
    );
    if !prefix.is_empty() {
        page.push_str(
            "   <tr id=\"parent\" class=\"item\">\n    <td class=\"colname\"><a href=\"../\">../</a></td>\n    <td \
             class=\"colsize\">&nbsp;</td>\n    <td class=\"coldate\">&nbsp;</td>\n   </tr>\n",
        );
    }
    for line in lines {
        let (class, name, size, date) = match &line {
            Line::Group(name) => ("subdir", name, "&nbsp;".to_owned(), "&nbsp;".to_owned()),
            Line::One(name, (object, _)) => (
                "object",
                name,
                object
                    .large
                    .as_ref()
                    .map_or(object.bytes, |large| large.bytes)
                    .to_string(),
                object
                    .at
                    .iso()
                    .replace('T', " ")
                    .split('.')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            ),
        };
        let short = &name[prefix.len()..];
        page.push_str(&format!(
            "   <tr class=\"item {class}\">\n    <td class=\"colname\"><a href=\"{}\">{}</a></td>\n    <td \
             class=\"colsize\">{size}</td>\n    <td class=\"coldate\">{date}</td>\n   </tr>\n",
            escape(&quote(short)),
            escape(short)
        ));
    }
    page.push_str("  </table>\n </body>\n</html>\n");
    let length = page.len();
    let mut response = Response::new(if ask.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(page)
    });
    describe::put(response.headers_mut(), "content-length", length);
    describe::put(response.headers_mut(), "content-type", "text/html; charset=UTF-8");
    Ok(response)
}

/// The owner's own page for a status, such as `404error.html`.
async fn error_page(ask: &Ask, container: &Container, failure: Failure) -> Result<Response, Failure> {
    let Some(suffix) = meta(container, "error") else {
        return Err(failure);
    };
    let status = put::status_of(&failure);
    let mut page = at(ask, format!("{}{suffix}", status.as_u16()));
    for name in [
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
    ] {
        page.headers.remove(name);
    }
    match object::show(&page).await {
        Ok(mut response) => {
            *response.status_mut() = status;
            Ok(response)
        }
        Err(_) => Err(failure),
    }
}
