//! Microversions: which form of a service's answers a request asks for.
//!
//! A domain wraps its router with its [`Microversions`]; handlers take a [`Microversion`] and compare it. Source: the
//! API working group's microversion specification, and what Nova, Cinder and Placement do where it is silent.

use std::{fmt, str::FromStr, sync::Arc};

use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};

use crate::Failure;

const STANDARD: HeaderName = HeaderName::from_static("openstack-api-version");

/// A version such as 2.53. Ordered, so that `version >= Microversion(2, 53)` asks whether a feature is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Microversion(pub u16, pub u16);

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Microversion {
    type Err = ();

    /// Reads `X.Y`, where neither has leading zeros (`2.0` is fine), as the originals do.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let plain = digits && (part == "0" || !part.starts_with('0'));
            if plain { part.parse().map_err(|_| ()) } else { Err(()) }
        };
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self(number(major)?, number(minor)?))
    }
}

impl<S: Sync> FromRequestParts<S> for Microversion {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let missing = || Failure::internal("the router has no microversions around it");
        parts.extensions.get().copied().ok_or_else(missing)
    }
}

/// The microversions that a service knows.
#[derive(Clone, Debug)]
pub struct Microversions {
    service: &'static str,
    legacy: Option<HeaderName>,
    min: Microversion,
    max: Microversion,
    names_range: bool,
}

impl Microversions {
    /// A service (`compute`, `volume`, `placement`) with all versions from `min`, which is also what a request without
    /// the header gets, to `max`.
    pub fn new(service: &'static str, min: Microversion, max: Microversion) -> Self {
        Self {
            service,
            legacy: None,
            min,
            max,
            names_range: false,
        }
    }

    /// Also reads and answers an older header with the bare version, in lower case: `x-openstack-nova-api-version`.
    #[must_use]
    pub fn legacy(mut self, header: &'static str) -> Self {
        self.legacy = Some(HeaderName::from_static(header));
        self
    }

    /// Puts `min_version` and `max_version` into the body of 406, as Placement does.
    #[must_use]
    pub fn naming_range(mut self) -> Self {
        self.names_range = true;
        self
    }

    /// The oldest version.
    pub fn min(&self) -> Microversion {
        self.min
    }

    /// The newest version.
    pub fn max(&self) -> Microversion {
        self.max
    }

    /// The version that these headers ask for.
    ///
    /// # Errors
    /// 400 when it is not of the form `X.Y`, 406 when the service does not have it.
    pub fn negotiate(&self, headers: &HeaderMap) -> Result<Microversion, Failure> {
        let Some(asked) = self.asked(headers) else {
            return Ok(self.min);
        };
        if asked.eq_ignore_ascii_case("latest") {
            return Ok(self.max);
        }
        let version: Microversion = asked.parse().map_err(|()| {
            // Placement leaves the words to the library that reads the header.
            Failure::invalid(if self.names_range {
                format!("invalid version string: {asked}")
            } else {
                format!("API Version String {asked} is of invalid format. Must be of format MajorNum.MinorNum.")
            })
        })?;
        if version < self.min || version > self.max {
            return Err(self.not_acceptable(version));
        }
        Ok(version)
    }

    /// The last mention of the service in `OpenStack-API-Version` counts; the older header only where there is none.
    fn asked<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let standard = headers
            .get_all(&STANDARD)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut mentions = standard.flat_map(|value| value.split(',')).filter_map(|one| {
            let (service, version) = one.trim().split_once(char::is_whitespace)?;
            service.eq_ignore_ascii_case(self.service).then(|| version.trim())
        });
        let legacy = || headers.get(self.legacy.as_ref()?)?.to_str().ok().map(str::trim);
        mentions.next_back().or_else(legacy)
    }

    fn not_acceptable(&self, version: Microversion) -> Failure {
        let (min, max) = (self.min, self.max);
        let message = if self.names_range {
            format!("Unacceptable version header: {version}")
        } else {
            format!("Version {version} is not supported by the API. Minimum is {min} and maximum is {max}.")
        };
        let failure = Failure::invalid(message).with_status(StatusCode::NOT_ACCEPTABLE);
        if self.names_range {
            return failure
                .with_member("max_version", max.to_string())
                .with_member("min_version", min.to_string());
        }
        failure
    }

    /// The router, with the version of each request for its handlers, and named in each answer. Goes inside of the
    /// face.
    pub fn wrap(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::new(self), negotiate))
    }

    fn name(&self, headers: &mut HeaderMap, version: Option<Microversion>) {
        let mut varies = STANDARD.as_str().to_owned();
        if let Some(legacy) = &self.legacy {
            varies.push_str(", ");
            varies.push_str(legacy.as_str());
        }
        if let Ok(varies) = HeaderValue::try_from(varies) {
            headers.append(header::VARY, varies);
        }
        let Some(version) = version else { return };
        if let Ok(value) = HeaderValue::try_from(format!("{} {version}", self.service)) {
            headers.insert(STANDARD, value);
        }
        if let (Some(legacy), Ok(value)) = (&self.legacy, HeaderValue::try_from(version.to_string())) {
            headers.insert(legacy.clone(), value);
        }
    }
}

async fn negotiate(State(versions): State<Arc<Microversions>>, mut request: Request, next: Next) -> Response {
    match versions.negotiate(request.headers()) {
        Ok(version) => {
            request.extensions_mut().insert(version);
            let mut response = next.run(request).await;
            versions.name(response.headers_mut(), Some(version));
            response
        }
        Err(failure) => {
            let mut response = failure.into_response();
            versions.name(response.headers_mut(), None);
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nova() -> Microversions {
        Microversions::new("compute", Microversion(2, 1), Microversion(2, 96)).legacy("x-openstack-nova-api-version")
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn the_version_asked_for_is_found_in_either_header() {
        let table: [(&[(&str, &str)], Microversion); 8] = [
            (&[], Microversion(2, 1)),
            (&[("openstack-api-version", "compute 2.53")], Microversion(2, 53)),
            (&[("openstack-api-version", "Compute LATEST")], Microversion(2, 96)),
            (
                &[("openstack-api-version", "volume 3.1, compute 2.9")],
                Microversion(2, 9),
            ),
            (&[("openstack-api-version", "volume 3.1")], Microversion(2, 1)),
            (&[("x-openstack-nova-api-version", "2.10")], Microversion(2, 10)),
            (&[("x-openstack-nova-api-version", "latest")], Microversion(2, 96)),
            (
                &[
                    ("x-openstack-nova-api-version", "2.10"),
                    ("openstack-api-version", "compute 2.11"),
                ],
                Microversion(2, 11),
            ),
        ];
        for (pairs, version) in table {
            assert_eq!(nova().negotiate(&headers(pairs)).unwrap(), version, "{pairs:?}");
        }
    }

    #[test]
    fn a_bad_version_is_400_and_an_unknown_one_406() {
        for bad in ["2", "2.", "two.one", "2.01", "2.1.1", "-2.1", "2.99999999"] {
            let asked: &'static str = format!("compute {bad}").leak();
            let failure = nova()
                .negotiate(&headers(&[("openstack-api-version", asked)]))
                .unwrap_err();
            assert_eq!(failure.status(), None, "{bad}");
        }
        let failure = nova()
            .negotiate(&headers(&[("openstack-api-version", "compute 2.97")]))
            .unwrap_err();
        assert_eq!(failure.status(), Some(StatusCode::NOT_ACCEPTABLE));
        assert_eq!(
            failure.message,
            "Version 2.97 is not supported by the API. Minimum is 2.1 and maximum is 2.96."
        );
    }
}
