//! Forms of web pages: whoever has one that the owner signed may send files, as many and as large as the form says.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{Method, StatusCode, header};
use madang_http::Failure;

use super::{
    ask::{Ask, Target, quote, refuse, refused},
    container::empty,
    describe, put, tempurl,
};
use crate::{
    Stamp,
    objects::{Bytes, Object},
};

/// The longest field that is no file.
const FIELD_BYTES: usize = 8192;

/// What a form says of itself.
#[derive(Default)]
struct Form {
    redirect: String,
    max_file_size: String,
    max_file_count: String,
    expires: String,
    signature: String,
    x_delete_at: Option<String>,
    x_delete_after: Option<String>,
    content_type: Option<String>,
}

/// Whether a request is a form.
pub fn is_meant(ask: &Ask) -> bool {
    ask.method == Method::POST
        && !ask.target.container.is_empty()
        && ask
            .header("content-type")
            .is_some_and(|kind| kind.trim_start().starts_with("multipart/form-data"))
}

fn unauthorized(text: &str) -> Failure {
    refuse(StatusCode::UNAUTHORIZED, &format!("FormPost: {text}"))
}

/// Takes a form's files.
///
/// # Errors
/// Where it was not signed so, or is over what was signed.
pub async fn answer(ask: &Ask, body: Body) -> Result<Response, Failure> {
    ask.info.allow(None);
    let bad = |text: &str| refuse(StatusCode::BAD_REQUEST, &format!("FormPost: {text}"));
    let boundary = ask
        .header("content-type")
        .and_then(|kind| multer::parse_boundary(kind).ok());
    let boundary = boundary.ok_or_else(|| bad("invalid starting boundary"))?;
    let mut parts = multer::Multipart::new(body.into_data_stream(), boundary);
    let mut form = Form::default();
    let mut count = 0;
    while let Some(field) = parts.next_field().await.map_err(|error| bad(&error.to_string()))? {
        let name = field.name().unwrap_or_default().to_lowercase();
        let Some(filename) = field.file_name().map(str::to_owned) else {
            let text = field.text().await.map_err(|error| bad(&error.to_string()))?;
            form.take(&name, text.get(..FIELD_BYTES).unwrap_or(&text).trim().to_owned());
            continue;
        };
        if filename.is_empty() {
            continue;
        }
        count += 1;
        check(ask, &form).await?;
        if form.max_file_count.parse::<usize>().is_ok_and(|most| count > most) {
            return Ok(finish(&form, StatusCode::BAD_REQUEST, "max file count exceeded"));
        }
        if let Err(failure) = one_file(ask, &form, &filename, field).await {
            return Ok(finish(&form, put::status_of(&failure), &failure.message));
        }
    }
    if count == 0 {
        check(ask, &form).await?;
        return Ok(finish(&form, StatusCode::BAD_REQUEST, "no files to process"));
    }
    Ok(finish(&form, StatusCode::CREATED, ""))
}

impl Form {
    fn take(&mut self, name: &str, text: String) {
        match name {
            "redirect" => self.redirect = text,
            "max_file_size" => self.max_file_size = text,
            "max_file_count" => self.max_file_count = text,
            "expires" => self.expires = text,
            "signature" => self.signature = text,
            "x_delete_at" => self.x_delete_at = Some(text),
            "x_delete_after" => self.x_delete_after = Some(text),
            "content-type" => self.content_type = Some(text),
            _ => {}
        }
    }
}

/// Whether the form was signed as it says.
async fn check(ask: &Ask, form: &Form) -> Result<(), Failure> {
    let ends: u64 = form
        .expires
        .parse()
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "FormPost: expired not an integer"))?;
    if ends <= Stamp::now().seconds() {
        return Err(unauthorized("Form Expired"));
    }
    for (number, name) in [
        (&form.max_file_size, "max_file_size"),
        (&form.max_file_count, "max_file_count"),
    ] {
        if number.parse::<u64>().is_err() {
            let text = format!("FormPost: {name} not an integer");
            return Err(refuse(StatusCode::BAD_REQUEST, &text));
        }
    }
    let target = &ask.target;
    let messages: Vec<String> = ["", ask.info.mount()]
        .iter()
        .flat_map(|mount| {
            let path = format!("{mount}/v1/{}/{}", target.account, target.container);
            let paths = match target.object.is_empty() {
                true => vec![path.clone(), format!("{path}/")],
                false => vec![format!("{path}/{}", target.object)],
            };
            paths.into_iter().map(|path| {
                format!(
                    "{path}\n{}\n{}\n{}\n{}",
                    form.redirect, form.max_file_size, form.max_file_count, form.expires
                )
            })
        })
        .collect();
    let keys = tempurl::keys(ask).await?;
    if tempurl::is_signed_by(&form.signature, &keys, &messages) {
        return Ok(());
    }
    Err(unauthorized("Invalid Signature"))
}

async fn one_file(ask: &Ask, form: &Form, filename: &str, mut field: multer::Field<'_>) -> Result<(), Failure> {
    let target = Target {
        object: format!("{}{filename}", ask.target.object),
        ..ask.target.clone()
    };
    let mut there = put::about(ask, Method::PUT, target);
    there.is_signed = true;
    for (name, value) in [
        ("x-delete-at", &form.x_delete_at),
        ("x-delete-after", &form.x_delete_after),
    ] {
        if let Some(value) = value {
            describe::put(&mut there.headers, name, value);
        }
    }
    let said = field.content_type().map(ToString::to_string);
    super::object::writable(&there).await?;
    let most: u64 = form.max_file_size.parse().unwrap_or_default();
    let mut upload = ask.api.objects.disk().upload();
    let broken = |error: multer::Error| refuse(StatusCode::BAD_REQUEST, &error.to_string());
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        upload.write(&piece).await.map_err(|error| refused(error.into()))?;
        if upload.length() > most.min(put::FILE_BYTES) {
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "max_file_size exceeded"));
        }
    }
    let uploaded = upload.finish().await.map_err(|error| refused(error.into()))?;
    let content_type = said.or_else(|| form.content_type.clone());
    let object = Object {
        bytes: uploaded.length(),
        etag: uploaded.md5().to_owned(),
        content_type: content_type.unwrap_or_else(|| put::content_type(&there)),
        headers: describe::of_object(&there.headers)?,
        ..Object::default()
    };
    put::put(&there, object, Bytes::Uploaded(Arc::new(uploaded))).await?;
    Ok(())
}

/// The answer: in a status, or in the address of the next page.
fn finish(form: &Form, status: StatusCode, message: &str) -> Response {
    if form.redirect.is_empty() {
        let mut response = Response::new(Body::from(format!("{}\r\nFormPost: {message}\r\n", put::line(status))));
        if status.is_success() {
            response = empty(status);
        }
        *response.status_mut() = status;
        return response;
    }
    let separator = if form.redirect.contains('?') { '&' } else { '?' };
    let location = format!(
        "{}{separator}status={}&message={}",
        form.redirect,
        status.as_u16(),
        quote(message)
    );
    let mut response = Response::new(Body::from(format!(
        "<html><body><p><a href=\"{0}\">Click to continue...</a></p></body></html>",
        super::listing::escape(&location)
    )));
    *response.status_mut() = StatusCode::SEE_OTHER;
    describe::put(response.headers_mut(), header::LOCATION.as_str(), location);
    response
}
