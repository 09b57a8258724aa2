//! The parameters that providers and candidates are looked up by: `resources`, `required`, `member_of`, `in_tree`.

use std::collections::BTreeSet;

use madang_http::Failure;
use uuid::Uuid;

use super::call::Call;
use crate::{Amounts, Class, candidates::Group};

/// The stable name of a parameter's value that is not one.
pub(crate) const BAD_VALUE: &str = "placement.query.bad_value";

/// `VCPU:1,MEMORY_MB:64`.
///
/// # Errors
/// `Invalid` for anything else.
pub(crate) fn resources(text: &str) -> Result<Amounts, Failure> {
    let bad = |got: &str| {
        let message = format!(
            "Badly formed resources parameter. Expected resources query string parameter in form: \
             ?resources=VCPU:2,MEMORY_MB:1024. Got: {got}."
        );
        Failure::invalid(message).at("resources")
    };
    if text.trim().is_empty() {
        return Err(bad("empty string"));
    }
    let mut amounts: Vec<(Class, i64)> = Vec::new();
    for part in text.split(',') {
        let (class, amount) = part
            .split_once(':')
            .filter(|(_, rest)| !rest.contains(':'))
            .ok_or_else(|| bad(part))?;
        let number: i64 = amount.trim().parse().map_err(|_| {
            let message = format!("Requested resource {class} expected positive integer amount. Got: {amount}.");
            Failure::invalid(message).at("resources")
        })?;
        if number < 1 {
            let message = format!("Requested resource {class} requires amount >= 1. Got: {number}.");
            return Err(Failure::invalid(message).at("resources"));
        }
        // Of a class that comes twice, the last counts.
        amounts.retain(|(known, _)| **known != *class);
        amounts.push((Class::new(class), number));
    }
    Ok(amounts.into_iter().collect())
}

/// What a value of `required` asks for: sets of which one each is required, and what is forbidden.
type Traits = (Vec<BTreeSet<String>>, BTreeSet<String>);

/// `HW_CPU_X86_VMX,!CUSTOM_MAGIC` or, where allowed, `in:HW_CPU_X86_VMX,CUSTOM_MAGIC`.
///
/// # Errors
/// `Invalid` for anything else.
pub(crate) fn traits(value: &str, may_forbid: bool, may_choose: bool) -> Result<Traits, Failure> {
    let bad = |why: String| Err(Failure::invalid(format!("Invalid query string parameters: {why}")).at("required"));
    if let Some(list) = value.strip_prefix("in:") {
        if !may_choose {
            return bad(format!(
                "The format 'in:HW_CPU_X86_VMX,CUSTOM_MAGIC' only supported since microversion 1.39. Got: {value}"
            ));
        }
        let any: BTreeSet<String> = list.split(',').map(|one| one.trim().to_owned()).collect();
        if any.contains("") {
            return bad(format!(
                "Expected 'required' parameter value of the form: in:HW_CPU_X86_VMX,CUSTOM_MAGIC. Got an empty trait in: \
                 {value}"
            ));
        }
        if any.iter().any(|one| one.starts_with('!')) {
            return bad(format!(
                "The format 'in:HW_CPU_X86_VMX,CUSTOM_MAGIC' does not support forbidden traits. Got: {value}"
            ));
        }
        return Ok((vec![any], BTreeSet::new()));
    }
    let form = if may_forbid {
        "HW_CPU_X86_VMX,!CUSTOM_MAGIC"
    } else {
        "HW_CPU_X86_VMX,CUSTOM_MAGIC"
    };
    let all: Vec<&str> = value.split(',').map(str::trim).collect();
    let forbidden = all.iter().filter(|one| one.starts_with('!'));
    let forbidden: BTreeSet<String> = forbidden.map(|one| one.trim_start_matches('!').to_owned()).collect();
    if forbidden.contains("") || all.contains(&"") {
        return bad(format!(
            "Expected 'required' parameter value of the form: {form}. Got an empty trait in: {value}"
        ));
    }
    if !forbidden.is_empty() && !may_forbid {
        return bad(format!(
            "Expected 'required' parameter value of the form: {form}. Got: {value}"
        ));
    }
    let required = all.iter().filter(|one| !one.starts_with('!'));
    Ok((required.map(|one| [(*one).to_owned()].into()).collect(), forbidden))
}

impl Call {
    /// Puts `required` and `member_of` with a suffix into a group, as far as the form asked for knows them.
    pub(crate) fn constrain(&self, group: &mut Group, suffix: &str) -> Result<(), Failure> {
        let name = format!("required{suffix}");
        let mut values: Vec<&str> = self.query.all(&name).collect();
        if !self.is_since(39) {
            // Up to there, only the last of several counts.
            values.drain(..values.len().saturating_sub(1));
        }
        for value in values {
            let (required, forbidden) = traits(value, self.is_since(22), self.is_since(39))?;
            group.required.extend(required);
            group.forbidden.extend(forbidden);
        }
        let name = format!("member_of{suffix}");
        let values: Vec<&str> = self.query.all(&name).collect();
        if values.len() > 1 && !self.is_since(24) {
            return Err(Failure::invalid(format!("Multiple {name} parameters are not supported")).at(name));
        }
        for value in values {
            self.member_of(group, &name, value)?;
        }
        Ok(())
    }

    fn member_of(&self, group: &mut Group, name: &str, value: &str) -> Result<(), Failure> {
        let (is_forbidden, list) = match value.strip_prefix('!') {
            Some(list) => (true, list),
            None => (false, value),
        };
        let ids: BTreeSet<String> = match list.strip_prefix("in:") {
            Some(list) => list.split(',').map(str::to_owned).collect(),
            None if value.contains(',') => {
                let message = format!(
                    "Multiple values for 'member_of' must be prefixed with the 'in:' or '!in:' keyword using the valid \
                     microversion. Got: {value}"
                );
                return Err(Failure::invalid(message).at(name));
            }
            None => [list.to_owned()].into(),
        };
        if let Some(other) = ids.iter().find(|id| Uuid::try_parse(id).is_err()) {
            let message = format!(
                "Invalid query string parameters: Expected 'member_of' parameter to contain valid UUID(s). Got: {other}"
            );
            return Err(Failure::invalid(message).at(name));
        }
        if !is_forbidden {
            group.member_of.push(ids);
            return Ok(());
        }
        if !self.is_since(32) {
            let message = format!("Forbidden {name} parameters are not supported in the specified microversion");
            return Err(Failure::invalid(message).at(name));
        }
        group.forbidden_aggregates.extend(ids);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_positive() {
        assert_eq!(
            resources("VCPU:2,DISK_GB:1").unwrap(),
            [("VCPU", 2), ("DISK_GB", 1)].into()
        );
        for bad in ["", "VCPU", "VCPU:", "VCPU:x", "VCPU:0", "VCPU:1:2"] {
            assert!(resources(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn traits_are_required_forbidden_or_any_of() {
        let set = |names: &[&str]| names.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(traits("A,!B", true, false).unwrap(), (vec![set(&["A"])], set(&["B"])));
        assert_eq!(
            traits("in:A,B", true, true).unwrap(),
            (vec![set(&["A", "B"])], set(&[]))
        );
        for bad in ["", "A,,B", "!", "in:A,!B", "in:"] {
            assert!(traits(bad, true, true).is_err(), "{bad}");
        }
        assert!(traits("!A", false, false).is_err() && traits("in:A", true, false).is_err());
    }
}
