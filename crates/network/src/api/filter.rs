//! Choosing, ordering and cutting lists by a query.

use std::borrow::Cow;

use madang_http::{
    Direction, Failure, Fields, LimitRules, NextLink, PageQuery, Query, RequestInfo, SortKeys, SortValue, parse_bool,
};
use serde_json::{Map, Value, json};

/// Parameters that are not filters.
const CONTROLS: [&str; 6] = ["fields", "sort_key", "sort_dir", "limit", "marker", "page_reverse"];
/// Filters by tags, for every resource.
const TAGS: [&str; 4] = ["tags", "tags-any", "not-tags", "not-tags-any"];

/// A page of a list as Neutron answers it: filtered, sorted, cut, with links and only the asked members.
///
/// # Errors
/// 400 for parameters that are no filters, bad sort keys, limits and markers.
pub(crate) fn page(
    collection: &str,
    items: Vec<Map<String, Value>>,
    attributes: &[&'static str],
    hidden: &[&'static str],
    query: &Query,
    info: &RequestInfo,
) -> Result<Value, Failure> {
    let listing = Listing {
        collection,
        attributes,
        hidden,
        marker: None,
        finish: &|_| {},
    };
    listing.page(items, query, info)
}

/// What a list is like.
pub(crate) struct Listing<'l> {
    /// Its name.
    pub(crate) collection: &'l str,
    /// What items can be filtered and sorted by.
    pub(crate) attributes: &'l [&'static str],
    /// What they can be filtered by and do not show.
    pub(crate) hidden: &'l [&'static str],
    /// An item that is not shown, which a page may start behind.
    pub(crate) marker: Option<Map<String, Value>>,
    /// Takes away what is not for who asks, of items that are to be shown.
    pub(crate) finish: &'l dyn Fn(&mut Map<String, Value>),
}

impl Listing<'_> {
    /// As [`page`].
    ///
    /// # Errors
    /// As [`page`].
    pub(crate) fn page(
        self,
        items: Vec<Map<String, Value>>,
        query: &Query,
        info: &RequestInfo,
    ) -> Result<Value, Failure> {
        let Self {
            collection,
            attributes,
            hidden,
            marker,
            finish,
        } = self;
        let known: Vec<_> = attributes.iter().chain(hidden).copied().collect();
        let mut items = choose(items, &known, query)?;
        items.extend(marker);
        let keys = SortKeys::from(query, attributes, &[("id", Direction::Ascending)])?;
        keys.sort(&mut items, |item, key| sort_value(item.get(key)));
        let wanted = PageQuery::from(query, LimitRules::unbounded())?;
        let mut page = wanted.cut(items, id)?;
        let links = links(&wanted, &page.items, query, info);
        for item in &mut page.items {
            finish(item);
            item.retain(|name, _| !hidden.contains(&name.as_str()));
        }
        let fields = Fields::from(query);
        let shown: Result<Vec<_>, _> = page.items.iter().map(|item| fields.select(item)).collect();
        let mut answer = Map::new();
        answer.insert(collection.to_owned(), Value::Array(shown?));
        if !links.is_empty() {
            answer.insert(format!("{collection}_links"), json!(links));
        }
        Ok(Value::Object(answer))
    }
}

/// As Neutron links: onward from every full page, whether or not something follows, and back from every page.
fn links(wanted: &PageQuery, items: &[Map<String, Value>], query: &Query, info: &RequestInfo) -> Vec<NextLink> {
    let (Some(limit), true) = (wanted.limit, wanted.limit_asked) else {
        return Vec::new();
    };
    let is_full = items.len() >= limit;
    let link = |rel, marker: Option<&Map<String, Value>>, reverse| {
        let there = query.with(&[("marker", marker.map(id)), ("page_reverse", reverse)]);
        NextLink {
            rel,
            href: format!("{}?{}", info.url(), there.encode()),
        }
    };
    let mut links = Vec::new();
    if is_full || wanted.reverse {
        links.push(link("next", items.last(), None));
    }
    if is_full || !wanted.reverse {
        links.push(link("previous", items.first(), Some("True")));
    }
    links
}

fn id(item: &Map<String, Value>) -> &str {
    item.get("id").and_then(Value::as_str).unwrap_or_default()
}

fn choose(
    mut items: Vec<Map<String, Value>>,
    attributes: &[&'static str],
    query: &Query,
) -> Result<Vec<Map<String, Value>>, Failure> {
    let mut names: Vec<&str> = query
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !CONTROLS.contains(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| !attributes.contains(name) && !TAGS.contains(name))
        .collect();
    if !unknown.is_empty() {
        let list: Vec<_> = unknown.iter().map(|name| format!("'{name}'")).collect();
        return Err(Failure::invalid(format!(
            "[{}] is invalid attribute for filtering",
            list.join(", ")
        )));
    }
    for name in names {
        let values: Vec<&str> = query.all(name).collect();
        if TAGS.contains(&name) {
            let wanted: Vec<&str> = values.iter().flat_map(|value| value.split(',')).collect();
            items.retain(|item| has_tags(item, name, &wanted));
        } else if name == "fixed_ips" {
            items.retain(|item| has_fixed_ips(item, &values));
        } else {
            items.retain(|item| {
                let has = item.get(name).unwrap_or(&Value::Null);
                values.iter().any(|wanted| is(has, wanted))
            });
        }
    }
    Ok(items)
}

/// Whether a member is what a filter asks for. Lists are, when one of their items is.
fn is(has: &Value, wanted: &str) -> bool {
    match has {
        Value::Null => wanted.is_empty(),
        Value::Bool(flag) => parse_bool(wanted) == Some(*flag),
        Value::Number(number) => number.to_string() == wanted,
        Value::String(text) => text == wanted,
        Value::Array(items) => (items.is_empty() && wanted.is_empty()) || items.iter().any(|item| is(item, wanted)),
        Value::Object(members) => wanted
            .split_once('=')
            .is_some_and(|(name, value)| members.get(name).is_some_and(|has| is(has, value))),
    }
}

/// `fixed_ips=subnet_id=a&fixed_ips=ip_address=b`: one of the values of each name.
fn has_fixed_ips(item: &Map<String, Value>, wanted: &[&str]) -> bool {
    let ips = item
        .get("fixed_ips")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let has = |name: &str, value: &str| {
        ips.iter().any(|ip| match name {
            "ip_address_substr" => ip["ip_address"].as_str().is_some_and(|address| address.contains(value)),
            _ => ip[name].as_str() == Some(value),
        })
    };
    ["subnet_id", "ip_address", "ip_address_substr"].iter().all(|name| {
        let mut asked = wanted
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .filter(|(n, _)| n == name)
            .peekable();
        asked.peek().is_none() || asked.any(|(name, value)| has(name, value))
    })
}

fn has_tags(item: &Map<String, Value>, how: &str, wanted: &[&str]) -> bool {
    let tags: Vec<&str> = item
        .get("tags")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let all = wanted.iter().all(|tag| tags.contains(tag));
    let any = wanted.iter().any(|tag| tags.contains(tag));
    match how {
        "tags" => all,
        "tags-any" => any,
        "not-tags" => !all,
        _ => !any,
    }
}

fn sort_value(value: Option<&Value>) -> SortValue<'_> {
    match value {
        None | Some(Value::Null) => SortValue::Nothing,
        Some(Value::Bool(flag)) => SortValue::Flag(*flag),
        Some(Value::Number(number)) => SortValue::Number(number.as_i64().unwrap_or(i64::MAX)),
        Some(Value::String(text)) => SortValue::Text(Cow::Borrowed(text)),
        Some(other) => SortValue::Text(Cow::Owned(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(query: &str) -> Result<String, Failure> {
        let items = [
            json!({"id": "a", "name": "x", "up": true, "mtu": 1450, "tags": ["red", "blue"], "gone": null,
                "fixed_ips": [{"subnet_id": "s1", "ip_address": "10.0.0.5"}]}),
            json!({"id": "b", "name": "y", "up": false, "mtu": 1500, "tags": ["red"], "gone": "z", "fixed_ips": []}),
        ];
        let items = items.iter().map(|item| item.as_object().unwrap().clone()).collect();
        let names = ["id", "name", "up", "mtu", "tags", "gone", "fixed_ips"];
        let chosen = choose(items, &names, &Query::parse(query))?;
        Ok(chosen.iter().map(id).collect())
    }

    #[test]
    fn filters_compare_in_the_type_of_the_member() {
        for (query, ids) in [
            ("", "ab"),
            ("name=x", "a"),
            ("name=x&name=y", "ab"),
            ("up=True", "a"),
            ("up=0", "b"),
            ("mtu=1500", "b"),
            ("gone=", "a"),
            ("tags=red,blue", "a"),
            ("tags-any=blue,red", "ab"),
            ("not-tags=red,blue", "b"),
            ("not-tags-any=blue", "b"),
            ("fixed_ips=subnet_id%3Ds1&fixed_ips=ip_address%3D10.0.0.5", "a"),
            ("fixed_ips=subnet_id%3Ds1&fixed_ips=ip_address%3D10.0.0.6", ""),
            ("fixed_ips=ip_address_substr%3D0.0.", "a"),
            ("limit=1&fields=id", "ab"),
        ] {
            assert_eq!(chosen(query).unwrap(), ids, "{query}");
        }
        assert_eq!(
            chosen("color=red").unwrap_err().message,
            "['color'] is invalid attribute for filtering"
        );
    }
}
