//! Lists as Cinder gives them: sorted, cut into pages, linked and counted.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use madang_http::{
    Direction, Failure, LimitRules, Microversion, Page, PageQuery, Query, RequestInfo, SortKeys, SortValue, ZeroLimit,
    json,
};
use madang_identity::Caller;
use madang_store::{Cache, Kind, Resource};
use serde_json::{Map, Value, json};

/// Cinder's `osapi_max_limit`; 0 asks for nothing.
const LIMITS: LimitRules = LimitRules {
    max: Some(1000),
    default: None,
    zero: ZeroLimit::Empty,
};

/// The resources that a caller may list: its project's, or for admins who ask everyone's or another project's.
pub fn visible<K: Kind>(cache: &Cache<K>, caller: &Caller, query: &Query) -> Vec<Arc<Resource<K>>> {
    if caller.is_admin() {
        if let Some(project) = query.get("project_id").filter(|_| is_for_all(query)) {
            return cache.in_project(project);
        }
        if is_for_all(query) {
            return cache.all();
        }
    }
    cache.in_project(caller.subject.project_id().unwrap_or_default())
}

/// Whether all projects' things are asked for.
pub fn is_for_all(query: &Query) -> bool {
    query.has("all_tenants") && query.switch("all_tenants") || query.switch("all_projects")
}

/// The page of a list that is asked for, and how many there are in all.
///
/// # Errors
/// 400 for a sort key, direction or limit that cannot be; 404 for a marker that is not there.
pub fn page<K: Kind>(
    mut items: Vec<Arc<Resource<K>>>,
    query: &Query,
    keys: &[&str],
    value: impl for<'t> Fn(&'t Arc<Resource<K>>, &str) -> SortValue<'t>,
) -> Result<(Page<Arc<Resource<K>>>, usize), Failure> {
    let default = [("created_at", Direction::Descending), ("id", Direction::Descending)];
    let sort = SortKeys::from(query, keys, &default)?;
    let asked = PageQuery::from(query, LIMITS)?;
    sort.sort(&mut items, value);
    if let Some(marker) = query
        .get("marker")
        .filter(|marker| !items.iter().any(|item| item.name() == *marker))
    {
        return Err(Failure::not_found(format!("The marker {marker} could not be found.")).at("marker"));
    }
    let count = items.len();
    if let Some(offset) = query.get("offset") {
        let offset: usize = offset
            .parse()
            .map_err(|_| Failure::invalid("offset param must be an integer").at("offset"))?;
        items.drain(..offset.min(items.len()));
    }
    let mut page = asked.cut(items, |item| item.name())?;
    // A page that is full links to the next one, be that empty.
    let limit = query.get("limit").and_then(|limit| limit.parse::<usize>().ok());
    page.has_next |= limit.is_some_and(|limit| limit > 0 && page.items.len() == limit);
    Ok((page, count))
}

/// The answer to a list: the items under their collection's name, a link to the next page, and the count where asked.
///
/// # Errors
/// 400 when the count is asked for in words that are no boolean.
pub fn answer<K: Kind>(
    collection: &str,
    items: Vec<Value>,
    (page, count): &(Page<Arc<Resource<K>>>, usize),
    (info, query, version): (&RequestInfo, &Query, Microversion),
) -> Result<Response, Failure> {
    let mut body = Map::new();
    body.insert(collection.to_owned(), Value::Array(items));
    if let Some(next) = page.next_link(info, query, |item| item.name()) {
        body.insert(format!("{collection}_links"), json!([next]));
    }
    if version >= Microversion(3, 45) && query.flag("with_count")?.unwrap_or(false) {
        body.insert("count".to_owned(), json!(count));
    }
    Ok(json(StatusCode::OK, &body))
}

/// A filter's value that is a dictionary: JSON, or as Python writes it.
///
/// # Errors
/// 400 for what is neither.
pub fn dictionary(query: &Query, name: &str) -> Result<Option<Map<String, Value>>, Failure> {
    let Some(said) = query.get(name) else { return Ok(None) };
    let read = serde_json::from_str(said).or_else(|_| {
        let python = said.replace("u'", "'").replace('\'', "\"");
        serde_json::from_str(&python)
    });
    let bad = |_| Failure::invalid(format!("Invalid filter value {said} for {name}")).at(name);
    read.map(Some).map_err(bad)
}

/// Whether all pairs of a filter are in a dictionary.
pub fn has_all(of: &std::collections::BTreeMap<String, String>, wanted: &Map<String, Value>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| of.get(key).is_some_and(|is| Some(is.as_str()) == value.as_str()))
}

/// Whether a time fits `gt:2026-01-01T00:00:00,lt:…`.
///
/// # Errors
/// 400 for an operator or a time that is none.
pub fn fits_time(at: jiff::Timestamp, said: &str, name: &str) -> Result<bool, Failure> {
    let mut fits = true;
    for part in said.split(',') {
        let (operator, time) = part.split_once(':').unwrap_or((part, ""));
        let bad = || Failure::invalid(format!("Invalid {time} value")).at(name);
        let time: jiff::Timestamp = time
            .parse()
            .or_else(|_| format!("{time}Z").parse())
            .map_err(|_: jiff::Error| bad())?;
        fits &= match operator {
            "gt" => at > time,
            "gte" => at >= time,
            "lt" => at < time,
            "lte" => at <= time,
            "eq" => at == time,
            "neq" => at != time,
            other => return Err(Failure::invalid(format!("Invalid {other} operator")).at(name)),
        };
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_come_as_json_and_as_python() {
        for said in [
            "metadata={\"a\":\"b\"}",
            "metadata=%7B%27a%27:%20%27b%27%7D",
            "metadata={u'a':%20u'b'}",
        ] {
            let read = dictionary(&Query::parse(said), "metadata").unwrap().unwrap();
            assert_eq!(read["a"], "b", "{said}");
        }
        assert!(dictionary(&Query::parse("metadata=x"), "metadata").is_err());
    }

    #[test]
    fn times_are_compared() {
        let at: jiff::Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        assert!(fits_time(at, "gt:2026-01-01T00:00:00,lt:2026-03-01T00:00:00Z", "created_at").unwrap());
        assert!(!fits_time(at, "lt:2026-01-01T00:00:00", "created_at").unwrap());
        assert!(fits_time(at, "up:2026-01-01T00:00:00", "created_at").is_err());
        assert!(fits_time(at, "gt:yesterday", "created_at").is_err());
    }
}
