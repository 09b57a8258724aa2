//! Lists of images: which the caller sees, filtered, sorted, in pages.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Direction, Failure, LimitRules, PageQuery, Query, SortKeys, SortValue, ZeroLimit, json, parse_bool};
use madang_identity::Caller;
use madang_store::Resource;
use serde::Serialize;

use super::{
    super::{Image, MemberStatus, Visibility, is_visible},
    view::{View, view},
};
use crate::library::Library;

/// Glance's `limit_param_default` and `api_limit_max`.
const LIMITS: LimitRules = LimitRules {
    max: Some(1000),
    default: Some(25),
    zero: ZeroLimit::Empty,
};

const SORT_KEYS: &[&str] = &[
    "name",
    "status",
    "container_format",
    "disk_format",
    "size",
    "id",
    "created_at",
    "updated_at",
    "owner",
    "visibility",
    "protected",
    "min_disk",
    "min_ram",
    "os_hidden",
];
const DEFAULT_SORT: &[(&str, Direction)] = &[("created_at", Direction::Descending), ("id", Direction::Descending)];

#[derive(Serialize)]
struct Page<'a> {
    images: Vec<View<'a>>,
    first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    schema: &'static str,
}

pub(crate) async fn list(
    State(library): State<Arc<Library>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("get_images", &[])?;
    let filters = Filters::from(&query)?;
    let sort = SortKeys::from(&query, SORT_KEYS, DEFAULT_SORT)?;
    let page = PageQuery::from(&query, LIMITS)?;
    let mut images = candidates(&library, &caller, &filters);
    images.retain(|image| filters.accept(image));
    sort.sort(&mut images, |image, key| sort_value(image, key));
    let page = page.cut(images, |image| image.name())?;
    let next = page.next_path("/v2/images", &query, |image| image.name());
    let first = query.with(&[("marker", None)]).encode();
    let first = if first.is_empty() {
        "/v2/images".to_owned()
    } else {
        format!("/v2/images?{first}")
    };
    let images = page.items.iter().map(|image| view(image)).collect();
    Ok(json(
        StatusCode::OK,
        &Page {
            images,
            first,
            next,
            schema: "/v2/schemas/images",
        },
    ))
}

/// The images that this caller has in its lists, through the indexes: its own, the public ones, those shared with it
/// that it has accepted (or as `member_status` says); of the community's only its own, unless asked for. Admins see all.
fn candidates(library: &Library, caller: &Caller, filters: &Filters) -> Vec<Arc<Resource<Image>>> {
    let cache = library.store.cache::<Image>();
    let project = caller.subject.project_id().unwrap_or_default();
    let is_listed = |image: &Resource<Image>| {
        let is_own = image.project() == project && !project.is_empty();
        match image.spec.visibility {
            _ if is_own => true,
            Visibility::Community => matches!(filters.visibility, Asked::All | Asked::Only(Visibility::Community)),
            _ if caller.is_admin() => true,
            Visibility::Public => true,
            Visibility::Private => false,
            Visibility::Shared => {
                let member = image.spec.member(project);
                member.is_some_and(|member| filters.member_status.is_none_or(|wanted| member.status == wanted))
            }
        }
    };
    let mut images = if caller.is_admin() {
        cache.all()
    } else {
        let mut images = cache.in_project(project);
        images.extend(cache.by("visibility", Visibility::Public.as_str()));
        images.extend(cache.by("member", project));
        if matches!(filters.visibility, Asked::All | Asked::Only(Visibility::Community)) {
            images.extend(cache.by("visibility", Visibility::Community.as_str()));
        }
        images.retain(|image| is_visible(image, project));
        images
    };
    images.retain(|image| is_listed(image));
    images.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    images.dedup_by(|a, b| a.name() == b.name());
    images
}

/// What `visibility` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Usual,
    All,
    Only(Visibility),
}

/// The filters of a list.
struct Filters {
    visibility: Asked,
    /// None for any.
    member_status: Option<MemberStatus>,
    is_hidden: bool,
    is_protected: Option<bool>,
    size_min: Option<u64>,
    size_max: Option<u64>,
    tags: Vec<String>,
    created: Option<(Comparison, Timestamp)>,
    updated: Option<(Comparison, Timestamp)>,
    /// Attributes and the user's own properties, with the values that are accepted.
    values: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filters {
    fn from(query: &Query) -> Result<Self, Failure> {
        let mut filters = Self {
            visibility: Asked::Usual,
            member_status: Some(MemberStatus::Accepted),
            is_hidden: query.flag("os_hidden")?.unwrap_or(false),
            is_protected: query.flag("protected")?,
            size_min: number(query, "size_min")?,
            size_max: number(query, "size_max")?,
            tags: query.all("tag").map(str::to_owned).collect(),
            created: moment(query, "created_at")?,
            updated: moment(query, "updated_at")?,
            values: Vec::new(),
        };
        if let Some(word) = query.get("visibility") {
            let bad = |_| Failure::invalid(format!("Invalid visibility value: {word}")).at("visibility");
            filters.visibility = if word == "all" {
                Asked::All
            } else {
                Asked::Only(word.parse().map_err(bad)?)
            };
        }
        if let Some(word) = query.get("member_status") {
            let bad = |_| Failure::invalid(format!("Invalid status: {word}")).at("member_status");
            filters.member_status = if word == "all" {
                None
            } else {
                Some(word.parse().map_err(bad)?)
            };
        }
        const OTHERS: &[&str] = &[
            "limit",
            "marker",
            "sort",
            "sort_key",
            "sort_dir",
            "visibility",
            "member_status",
            "os_hidden",
            "protected",
            "size_min",
            "size_max",
            "tag",
            "created_at",
            "updated_at",
        ];
        for (name, value) in query.iter().filter(|(name, _)| !OTHERS.contains(name)) {
            // Only these take a list; in a property of the user's own, `in:` is text.
            let takes_list = matches!(name, "id" | "name" | "status" | "container_format" | "disk_format");
            let values = if takes_list {
                query.any_of(name)?
            } else {
                vec![value.to_owned()]
            };
            filters.values.push((name.to_owned(), values));
        }
        Ok(filters)
    }

    fn accept(&self, image: &Resource<Image>) -> bool {
        let size = image.status.content.as_ref().map(|content| content.size);
        image.spec.is_hidden == self.is_hidden
            && self.is_protected.is_none_or(|wanted| image.spec.is_protected == wanted)
            && self.size_min.is_none_or(|least| size.is_some_and(|size| size >= least))
            && self.size_max.is_none_or(|most| size.is_some_and(|size| size <= most))
            && self.tags.iter().all(|tag| image.spec.tags.contains(tag))
            && !matches!(self.visibility, Asked::Only(wanted) if image.spec.visibility != wanted)
            && self.created.is_none_or(|asked| holds(asked, image.metadata.created))
            && self.updated.is_none_or(|asked| holds(asked, image.metadata.updated))
            && self.values.iter().all(|(name, values)| has(image, name, values))
    }
}

fn has(image: &Resource<Image>, name: &str, values: &[String]) -> bool {
    let spec = &image.spec;
    let one_of = |text: Option<&str>| text.is_some_and(|text| values.iter().any(|value| value == text));
    let number = |number: u64| one_of(Some(&number.to_string()));
    match name {
        "id" => one_of(Some(image.name())),
        "name" => one_of(spec.name.as_deref()),
        "status" => one_of(Some(image.status.state.as_str())),
        "owner" => one_of(Some(image.project())),
        "container_format" => one_of(spec.container_format.map(super::super::ContainerFormat::as_str)),
        "disk_format" => one_of(spec.disk_format.map(super::super::DiskFormat::as_str)),
        "min_disk" => number(spec.min_disk.into()),
        "min_ram" => number(spec.min_ram.into()),
        "size" => image
            .status
            .content
            .as_ref()
            .is_some_and(|content| number(content.size)),
        "checksum" => one_of(image.status.content.as_ref().map(|content| content.md5.as_str())),
        "os_hash_value" => one_of(image.status.content.as_ref().map(|content| content.sha512.as_str())),
        "os_hash_algo" => image.status.content.is_some() && one_of(Some("sha512")),
        "is_public" => {
            let wanted = values.last().and_then(|value| parse_bool(value));
            wanted == Some(spec.visibility == Visibility::Public)
        }
        _ => one_of(spec.properties.get(name).map(String::as_str)),
    }
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Failure> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let bad = |_| {
        Failure::invalid(format!(
            "Invalid value '{text}' for parameter '{name}': it is not a size"
        ))
        .at(name)
    };
    text.parse().map(Some).map_err(bad)
}

/// `gt:2026-01-01T00:00:00Z`; without an operator, equal.
fn moment(query: &Query, name: &str) -> Result<Option<(Comparison, Timestamp)>, Failure> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let operators = [
        ("eq:", Comparison::Equal),
        ("neq:", Comparison::NotEqual),
        ("lte:", Comparison::LessOrEqual),
        ("lt:", Comparison::Less),
        ("gte:", Comparison::GreaterOrEqual),
        ("gt:", Comparison::Greater),
    ];
    let found = operators
        .iter()
        .find_map(|(prefix, comparison)| Some((*comparison, text.strip_prefix(prefix)?)));
    let (comparison, rest) = found.unwrap_or((Comparison::Equal, text));
    let bad = || Failure::invalid(format!("Invalid time format: {rest}.")).at(name);
    let at = rest
        .parse::<Timestamp>()
        .or_else(|_| format!("{rest}Z").parse())
        .map_err(|_| bad())?;
    Ok(Some((comparison, at)))
}

/// Glance keeps whole seconds.
fn holds((comparison, than): (Comparison, Timestamp), at: Timestamp) -> bool {
    let (at, than) = (at.as_second(), than.as_second());
    match comparison {
        Comparison::Equal => at == than,
        Comparison::NotEqual => at != than,
        Comparison::Less => at < than,
        Comparison::LessOrEqual => at <= than,
        Comparison::Greater => at > than,
        Comparison::GreaterOrEqual => at >= than,
    }
}

fn sort_value<'a>(image: &'a Resource<Image>, key: &str) -> SortValue<'a> {
    let spec = &image.spec;
    match key {
        "name" => spec.name.as_deref().into(),
        "status" => image.status.state.as_str().into(),
        "container_format" => spec.container_format.map(super::super::ContainerFormat::as_str).into(),
        "disk_format" => spec.disk_format.map(super::super::DiskFormat::as_str).into(),
        "size" => match &image.status.content {
            Some(content) => i64::try_from(content.size).unwrap_or(i64::MAX).into(),
            None => SortValue::Nothing,
        },
        "created_at" => image.metadata.created.into(),
        "updated_at" => image.metadata.updated.into(),
        "owner" => image.project().into(),
        "visibility" => spec.visibility.as_str().into(),
        "protected" => spec.is_protected.into(),
        "os_hidden" => spec.is_hidden.into(),
        "min_disk" => i64::from(spec.min_disk).into(),
        "min_ram" => i64::from(spec.min_ram).into(),
        _ => image.name().into(),
    }
}
