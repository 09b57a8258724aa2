//! `JsonFilter`: hint `query`, such as `["and", [">=", "$free_ram_mb", 1024], ["in", "$host", "a", "b"]]`.

use serde_json::Value;

use super::{Context, Why, machine::fact, when};
use crate::snapshot::Host;

/// Expressions within expressions, at most.
const DEPTH: usize = 16;

pub(super) fn refuse(context: &Context<'_>, host: &Host) -> Option<Why> {
    let query = context.ask.query.as_ref()?;
    match holds(query, host, 0) {
        Some(true) => None,
        Some(false) => when(true, "do not meet the query"),
        None => when(true, "cannot be asked the query: it is not one"),
    }
}

/// Whether an expression is true of a host; none when it is not an expression.
fn holds(query: &Value, host: &Host, depth: usize) -> Option<bool> {
    let (operator, arguments) = query.as_array()?.split_first()?;
    if depth > DEPTH {
        return None;
    }
    let all = || {
        arguments
            .iter()
            .map(|one| holds(one, host, depth + 1))
            .collect::<Option<Vec<bool>>>()
    };
    match operator.as_str()? {
        "and" => Some(all()?.into_iter().all(|one| one)),
        "or" => Some(all()?.into_iter().any(|one| one)),
        "not" => Some(!all()?.into_iter().all(|one| one)),
        compare => {
            let values: Vec<String> = arguments.iter().map(|one| value(one, host)).collect::<Option<_>>()?;
            let (first, rest) = values.split_first()?;
            if rest.is_empty() {
                return Some(false);
            }
            let holds: fn(std::cmp::Ordering) -> bool = match compare {
                "=" | "in" => std::cmp::Ordering::is_eq,
                "<" => std::cmp::Ordering::is_lt,
                ">" => std::cmp::Ordering::is_gt,
                "<=" => std::cmp::Ordering::is_le,
                ">=" => std::cmp::Ordering::is_ge,
                _ => return None,
            };
            let is_so = |other: &String| holds(order(first, other));
            Some(if compare == "in" {
                rest.iter().any(is_so)
            } else {
                rest.iter().all(is_so)
            })
        }
    }
}

/// A value; what begins with `$` is a fact of the host, nothing where it has none.
fn value(argument: &Value, host: &Host) -> Option<String> {
    match argument {
        Value::String(text) => Some(match text.strip_prefix('$') {
            Some(name) => fact(host, name).unwrap_or_default(),
            None => text.clone(),
        }),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is_so) => Some(is_so.to_string()),
        _ => None,
    }
}

/// Numbers as numbers, all else as texts.
fn order(a: &str, b: &str) -> std::cmp::Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    }
}
