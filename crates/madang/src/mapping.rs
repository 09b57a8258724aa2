//! `madang identity mapping test`: what the rules of a mapping make of an assertion, before anybody logs in by them.

use std::fs;

use anyhow::{Context, anyhow, bail};
use madang_identity::federation::mapping::{
    self,
    engine::{self, Assertion, Mapped},
};
use serde_json::Value;

use crate::cli;

/// Prints who comes out, as JSON.
///
/// # Errors
/// When a file cannot be read, the rules are none, or nobody comes out.
pub fn run(asked: &cli::MappingTest) -> anyhow::Result<()> {
    let read =
        |file: &std::path::Path| fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()));
    let rules = read(&asked.rules)?;
    let input = read(&asked.input)?;
    let mapped = map(&rules, &input, asked.prefix.as_deref(), asked.schema_version.as_deref())?;
    println!("{}", serde_json::to_string_pretty(&mapped)?);
    Ok(())
}

fn map(rules: &str, input: &str, prefix: Option<&str>, version: Option<&str>) -> anyhow::Result<Mapped> {
    let rules: Value = serde_json::from_str(rules).context("the rules are no JSON")?;
    // A file may hold what the API takes, or only what is in it.
    let rules = rules.get("mapping").unwrap_or(&rules);
    let (version, spec) = mapping::read(rules, version).map_err(|failure| anyhow!(failure.message))?;
    let mut assertion = assertion(input)?;
    assertion.retain(|name, _| prefix.is_none_or(|prefix| name.starts_with(prefix)));
    Ok(engine::process(version, &spec.rules, &assertion)?)
}

/// Lines such as `Email: bob@example.com` or `groups: staff;users`.
fn assertion(input: &str) -> anyhow::Result<Assertion> {
    let mut assertion = Assertion::new();
    for (number, line) in input.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Some((name, value)) = line.split_once(':') else {
            bail!("line {} of the assertion is not NAME: VALUE: {line}", number + 1);
        };
        let values = value.trim().split(';').map(str::to_owned).collect();
        assertion.insert(name.trim().to_owned(), values);
    }
    Ok(assertion)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"{ "mapping": { "rules": [{
        "local": [{ "user": { "name": "{0}" } }, { "groups": "{1}", "domain": { "id": "default" } }],
        "remote": [{ "type": "OIDC-name" }, { "type": "OIDC-groups", "whitelist": ["staff"] }]
    }] } }"#;

    #[test]
    fn rules_are_tried_out() {
        let mapped = map(RULES, "OIDC-name: bob\nOIDC-groups: staff;other\n\n", None, None).unwrap();
        assert_eq!(mapped.user.name.as_deref(), Some("bob"));
        assert_eq!(mapped.group_names[0].name, "staff");
        assert_eq!(mapped.group_names.len(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        let failed = |rules: &str, input: &str, prefix: Option<&str>, version: Option<&str>| {
            format!("{:#}", map(rules, input, prefix, version).unwrap_err())
        };
        assert!(failed(RULES, "no name", None, None).contains("line 1"));
        assert!(failed(RULES, "OIDC-name: bob", None, None).contains("Could not map"));
        assert!(failed(RULES, "OIDC-name: b\nOIDC-groups: staff", Some("HTTP_"), None).contains("Could not map"));
        assert!(failed(RULES, "", None, Some("9")).contains("schema_version 9"));
        assert!(failed("{}", "", None, None).contains("rules"));
    }
}
