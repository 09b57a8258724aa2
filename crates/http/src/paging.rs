//! Cutting a list into pages and linking from one to the next, with what differs between the originals as parameters.

use serde::Serialize;

use crate::{Failure, Query, RequestInfo, SortKeys, SortValue};

/// What `limit=0` means to an original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroLimit {
    /// An empty page (Glance, Cinder).
    Empty,
    /// The largest page (Nova, Neutron).
    Largest,
}

/// How an original reads `limit`.
#[derive(Clone, Copy, Debug)]
pub struct LimitRules {
    /// The most that one page holds whatever is asked; `None` for no bound.
    pub max: Option<usize>,
    /// How many where nothing is asked; `None` for as many as `max` allows.
    pub default: Option<usize>,
    /// What 0 means.
    pub zero: ZeroLimit,
}

impl LimitRules {
    /// At most `max` in a page, which is also how many where nothing is asked; 0 asks for the largest page.
    pub const fn up_to(max: usize) -> Self {
        Self {
            max: Some(max),
            default: None,
            zero: ZeroLimit::Largest,
        }
    }

    /// Without a bound, as Neutron and Keystone are by default.
    pub const fn unbounded() -> Self {
        Self {
            max: None,
            default: None,
            zero: ZeroLimit::Largest,
        }
    }

    fn effective(&self, asked: Option<usize>) -> Option<usize> {
        let wanted = match asked {
            Some(0) if self.zero == ZeroLimit::Empty => return Some(0),
            Some(0) => None,
            Some(n) => Some(n),
            None => self.default,
        };
        match (wanted, self.max) {
            (Some(wanted), Some(max)) => Some(wanted.min(max)),
            (wanted, max) => wanted.or(max),
        }
    }
}

/// Which page is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// The most items; `None` for all.
    pub limit: Option<usize>,
    /// Whether the client set a limit itself; some originals link only then.
    pub limit_asked: bool,
    /// The id of the last item of the page before (of the page after, when going backwards).
    pub marker: Option<String>,
    /// Whether to go backwards from the marker (Neutron's `page_reverse`).
    pub reverse: bool,
}

impl PageQuery {
    /// Reads `limit`, `marker` and `page_reverse`.
    ///
    /// # Errors
    /// 400 when `limit` is not a number of 0 or more.
    pub fn from(query: &Query, rules: LimitRules) -> Result<Self, Failure> {
        let asked = query.get("limit").map(read_limit).transpose()?;
        Ok(Self {
            limit: rules.effective(asked),
            limit_asked: asked.is_some_and(|n| n > 0),
            marker: query.get("marker").filter(|m| !m.is_empty()).map(str::to_owned),
            reverse: query.flag("page_reverse")?.unwrap_or(false),
        })
    }

    /// Cuts the page out of a sorted list. `id` gives what markers are compared with.
    ///
    /// # Errors
    /// 400 when the marker is not in the list.
    pub fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> &str) -> Result<Page<T>, Failure> {
        let at = match &self.marker {
            Some(marker) => Some(self.position(&items, marker, id)?),
            None => None,
        };
        let (from, to) = self.range(at, items.len());
        let page = Page {
            has_previous: from > 0,
            has_next: to < items.len(),
            items: Vec::new(),
        };
        items.truncate(to);
        items.drain(..from);
        Ok(Page { items, ..page })
    }

    /// Sorts a list and cuts the page out of it: as [`SortKeys::sort`] and [`PageQuery::cut`] in turn, but nothing outside
    /// of the page is put in order.
    ///
    /// # Errors
    /// 400 when the marker is not in the list.
    pub fn cut_sorted<T>(
        &self,
        items: Vec<T>,
        keys: &SortKeys,
        value: impl for<'t> Fn(&'t T, &str) -> SortValue<'t>,
        id: impl Fn(&T) -> &str,
    ) -> Result<Page<T>, Failure> {
        let marker = match &self.marker {
            Some(marker) => Some(self.position(&items, marker, id)?),
            None => None,
        };
        let order = keys.order(&items, value);
        let onward = |a: &usize, b: &usize| {
            let order = order.compare(*a, *b);
            if self.reverse { order.reverse() } else { order }
        };
        let mut beyond: Vec<usize> = (0..items.len()).collect();
        if let Some(marker) = marker {
            beyond.retain(|at| onward(at, &marker).is_gt());
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        let is_more = beyond.len() > limit;
        if is_more {
            beyond.select_nth_unstable_by(limit, onward);
            beyond.truncate(limit);
        }
        beyond.sort_unstable_by(|a, b| order.compare(*a, *b));
        drop(order);
        let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
        let (has_next, has_previous) = if self.reverse {
            (marker.is_some(), is_more)
        } else {
            (is_more, marker.is_some())
        };
        Ok(Page {
            items: beyond.into_iter().filter_map(|at| items[at].take()).collect(),
            has_next,
            has_previous,
        })
    }

    fn position<T>(&self, items: &[T], marker: &str, id: impl Fn(&T) -> &str) -> Result<usize, Failure> {
        let found = items.iter().position(|item| id(item) == marker);
        found.ok_or_else(|| no_marker(marker))
    }

    fn range(&self, marker: Option<usize>, len: usize) -> (usize, usize) {
        let limit = self.limit.unwrap_or(usize::MAX);
        if self.reverse {
            let to = marker.unwrap_or(len);
            (to.saturating_sub(limit), to)
        } else {
            let from = marker.map_or(0, |at| at + 1);
            (from, from.saturating_add(limit).min(len))
        }
    }
}

fn read_limit(text: &str) -> Result<usize, Failure> {
    let negative = text.strip_prefix('-').is_some_and(|rest| rest.parse::<u64>().is_ok());
    if negative {
        return Err(Failure::invalid("limit param must be positive").at("limit"));
    }
    text.parse()
        .map_err(|_| Failure::invalid(format!("limit param must be an integer, not {text}")).at("limit"))
}

fn no_marker(marker: &str) -> Failure {
    Failure::invalid(format!("marker [{marker}] not found"))
        .because("MarkerNotFound")
        .at("marker")
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// Whether there are items after it.
    pub has_next: bool,
    /// Whether there are items before it.
    pub has_previous: bool,
}

/// A link to another page: an element of Nova's, Cinder's and Neutron's `<collection>_links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextLink {
    /// `next` or `previous`.
    pub rel: &'static str,
    /// The whole URL.
    pub href: String,
}

impl<T> Page<T> {
    /// The same page of something else made of each item.
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(make).collect(),
            has_next: self.has_next,
            has_previous: self.has_previous,
        }
    }

    /// The link to the next page, as Nova and Cinder have it under `<collection>_links`: only where there is one.
    pub fn next_link(&self, info: &RequestInfo, query: &Query, id: impl Fn(&T) -> &str) -> Option<NextLink> {
        let last = self.items.last().filter(|_| self.has_next)?;
        Some(NextLink {
            rel: "next",
            href: next_url(&info.url(), query, id(last)),
        })
    }

    /// Neutron's two links: forward where there is more, back where there was something before.
    pub fn neutron_links(&self, info: &RequestInfo, query: &Query, id: impl Fn(&T) -> &str) -> Vec<NextLink> {
        let mut links = Vec::new();
        if let Some(last) = self.items.last().filter(|_| self.has_next) {
            let query = query.with(&[("page_reverse", None)]);
            links.push(NextLink {
                rel: "next",
                href: next_url(&info.url(), &query, id(last)),
            });
        }
        if let Some(first) = self.items.first().filter(|_| self.has_previous) {
            let back = query.with(&[("marker", Some(id(first))), ("page_reverse", Some("True"))]);
            links.push(NextLink {
                rel: "previous",
                href: format!("{}?{}", info.url(), back.encode()),
            });
        }
        links
    }

    /// Glance's `next`: a path with the same query and another marker.
    pub fn next_path(&self, path: &str, query: &Query, id: impl Fn(&T) -> &str) -> Option<String> {
        let last = self.items.last().filter(|_| self.has_next)?;
        Some(next_url(path, query, id(last)))
    }
}

/// `url` with the same query and another marker.
pub fn next_url(url: &str, query: &Query, marker: &str) -> String {
    format!("{url}?{}", query.with(&[("marker", Some(marker))]).encode())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(query: &str, rules: LimitRules) -> Page<String> {
        let items = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        PageQuery::from(&Query::parse(query), rules)
            .unwrap()
            .cut(items, |s| s)
            .unwrap()
    }

    #[test]
    fn pages_follow_the_marker_in_both_directions() {
        let all = LimitRules::unbounded();
        let table = [
            ("", "abcde", false, false),
            ("limit=2", "ab", true, false),
            ("limit=2&marker=b", "cd", true, true),
            ("limit=2&marker=d", "e", false, true),
            ("marker=e", "", false, true),
            ("limit=2&marker=d&page_reverse=true", "bc", true, true),
            ("limit=2&page_reverse=True", "de", false, true),
            ("limit=0", "abcde", false, false),
        ];
        for (query, items, next, previous) in table {
            let page = cut(query, all);
            assert_eq!(
                (page.items.concat().as_str(), page.has_next, page.has_previous),
                (items, next, previous),
                "{query}"
            );
        }
    }

    #[test]
    fn a_page_is_never_larger_than_the_rules_allow() {
        assert_eq!(cut("limit=1000", LimitRules::up_to(3)).items.len(), 3);
        assert_eq!(cut("", LimitRules::up_to(3)).items.len(), 3);
        let glance = LimitRules {
            max: Some(1000),
            default: Some(2),
            zero: ZeroLimit::Empty,
        };
        assert_eq!(cut("", glance).items.len(), 2);
        assert_eq!(cut("limit=0", glance).items.len(), 0);
    }

    fn value<'t>(item: &'t (String, u8, u8), key: &str) -> SortValue<'t> {
        SortValue::Number(i64::from(if key == "a" { item.1 } else { item.2 }))
    }

    proptest! {
        #[test]
        fn sorting_and_cutting_in_one_is_the_same(
            names in prop::collection::vec((0u8..4, 0u8..3), 0..30),
            limit in prop::option::of(0usize..12),
            marker in prop::option::of(any::<prop::sample::Index>()),
            reverse: bool,
            keys in prop::sample::select(vec!["", "sort=a:asc", "sort=b:desc,a:asc", "sort_key=b"]),
        ) {
            let items: Vec<(String, u8, u8)> = names.iter().enumerate().map(|(at, (a, b))| (at.to_string(), *a, *b)).collect();
            let keys = SortKeys::from(&Query::parse(keys), &["a", "b"], &[]).unwrap();
            let page = PageQuery {
                limit,
                marker: marker.filter(|_| !items.is_empty()).map(|index| index.get(&items).0.clone()),
                reverse,
                ..PageQuery::default()
            };
            let mut sorted = items.clone();
            keys.sort(&mut sorted, value);
            let expected = page.cut(sorted, |item| &item.0).unwrap();
            prop_assert_eq!(page.cut_sorted(items, &keys, value, |item| &item.0).unwrap(), expected);
        }
    }

    #[test]
    fn bad_limits_and_markers_are_400() {
        for bad in ["limit=-1", "limit=x", "limit=", "limit=1.5", "page_reverse=maybe"] {
            assert!(
                PageQuery::from(&Query::parse(bad), LimitRules::unbounded()).is_err(),
                "{bad}"
            );
        }
        let page = PageQuery {
            marker: Some("nope".into()),
            ..PageQuery::default()
        };
        assert_eq!(
            page.cut(vec!["a"], |s| s).unwrap_err().message,
            "marker [nope] not found"
        );
        let keys = SortKeys::from(&Query::parse(""), &[], &[]).unwrap();
        let cut = page.cut_sorted(vec!["a"], &keys, |s, _| (*s).into(), |s| s);
        assert_eq!(cut.unwrap_err().message, "marker [nope] not found");
    }

    #[test]
    fn the_next_link_keeps_filters_and_moves_the_marker() {
        let url = next_url(
            "http://c/servers",
            &Query::parse("limit=1&marker=old&status=ACTIVE"),
            "new",
        );
        assert_eq!(url, "http://c/servers?limit=1&status=ACTIVE&marker=new");
    }
}
