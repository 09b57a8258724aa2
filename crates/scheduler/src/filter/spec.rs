//! Extra specs' operators: `s== kvm`, `>= 4`, `<in> avx`, `<or> a <or> b`. Source: Nova's `extra_specs_ops`.

/// Whether a value is what an extra spec asks for. Without an operator both are compared as texts.
///
/// ```
/// use madang_scheduler::filter::matches;
///
/// assert!(matches("12", ">= 4") && matches("avx avx2", "<all-in> avx avx2") && matches("b", "<or> a <or> b"));
/// ```
pub fn matches(value: &str, asked: &str) -> bool {
    let mut words = asked.split_whitespace();
    let first = words.next().unwrap_or_default();
    let rest = words.collect::<Vec<_>>();
    let joined = rest.join(" ");
    let numbers = || Some((value.trim().parse::<f64>().ok()?, joined.parse::<f64>().ok()?));
    let compare = |holds: fn(f64, f64) -> bool| numbers().is_some_and(|(own, wanted)| holds(own, wanted));
    match first {
        // Nova's `=` is at least.
        "=" | ">=" => compare(|own, wanted| own >= wanted),
        "==" => compare(|own, wanted| own == wanted),
        "!=" => compare(|own, wanted| own != wanted),
        "<=" => compare(|own, wanted| own <= wanted),
        ">" => compare(|own, wanted| own > wanted),
        "<" => compare(|own, wanted| own < wanted),
        "s==" => value == joined,
        "s!=" => value != joined,
        "s>=" => value >= joined.as_str(),
        "s<=" => value <= joined.as_str(),
        "s>" => value > joined.as_str(),
        "s<" => value < joined.as_str(),
        "<in>" => value.contains(&joined),
        "<all-in>" => rest.iter().all(|word| value.contains(word)),
        "<or>" => asked
            .split("<or>")
            .map(str::trim)
            .any(|one| !one.is_empty() && one == value),
        _ => value == asked,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn operators_mean_what_novas_do() {
        let holds = [
            ("1", "1"),
            ("3", "= 2"),
            ("2", "== 2"),
            ("3", "!= 2"),
            ("123", "<= 123"),
            ("abc", "s== abc"),
            ("abd", "s>= abc"),
            ("12311321", "<in> 11"),
            ("avx2 sse4", "<all-in> sse4 avx2"),
            ("12", "<or> 11 <or> 12"),
        ];
        for (value, asked) in holds {
            assert!(matches(value, asked), "{value} {asked}");
        }
        let fails = [
            ("1", "2"),
            ("1", "= 2"),
            ("x", ">= 2"),
            ("abc", "s!= abc"),
            ("12310321", "<in> 11"),
            ("avx", "<all-in> avx sse"),
            ("13", "<or> 11 <or> 12"),
        ];
        for (value, asked) in fails {
            assert!(!matches(value, asked), "{value} {asked}");
        }
    }
}
