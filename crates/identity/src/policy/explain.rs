//! Why a rule allows or refuses: each check of it with its own answer.

use std::fmt;

use super::{Check, Left, MAX_DEPTH, Policy, Source, Target, Template, credential};
use crate::Subject;

/// One check, its answer and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The check as it is written.
    pub check: String,
    /// Whether it holds.
    pub holds: bool,
    /// What was compared with what; empty where the parts say it.
    pub because: String,
    /// The checks that it was made of, all of them, also where the first one decided.
    pub parts: Vec<Self>,
}

impl Policy {
    /// As [`Policy::allows`], with all that led to the answer.
    pub fn explain(&self, subject: &Subject, rule: &str, target: &Target<'_>) -> Step {
        self.step_of_rule(subject, rule, target, MAX_DEPTH)
    }

    fn step_of_rule(&self, subject: &Subject, name: &str, target: &Target<'_>, depth: u32) -> Step {
        let check = format!("rule:{name}");
        let leaf = |because: &str| Step {
            check: check.clone(),
            holds: false,
            because: because.to_owned(),
            parts: Vec::new(),
        };
        let Some(depth) = depth.checked_sub(1) else {
            return leaf("it leads back to itself");
        };
        let Some((found, source)) = self.find(name) else {
            return leaf("there is no such rule");
        };
        let part = self.step(&found, subject, target, depth);
        let because = match source {
            Source::Default => format!("by default {found}"),
            Source::File { line } => format!("line {line} of the policy file says {found}"),
        };
        Step {
            check,
            holds: part.holds,
            because,
            parts: vec![part],
        }
    }

    fn step(&self, check: &Check, subject: &Subject, target: &Target<'_>, depth: u32) -> Step {
        let (holds, because, parts) = match check {
            Check::Always => (true, "always".to_owned(), Vec::new()),
            Check::Never => (false, "never".to_owned(), Vec::new()),
            Check::Rule(name) => return self.step_of_rule(subject, name, target, depth),
            Check::Role(_) | Check::Equals(..) => {
                let holds = self.holds(check, subject, target, depth);
                (holds, compared(check, subject, target), Vec::new())
            }
            Check::Not(inner) => {
                let part = self.step(inner, subject, target, depth);
                (!part.holds, String::new(), vec![part])
            }
            Check::All(checks) | Check::Any(checks) => {
                let parts = checks.iter().map(|check| self.step(check, subject, target, depth));
                let parts: Vec<Step> = parts.collect();
                let holds = match check {
                    Check::All(_) => parts.iter().all(|part| part.holds),
                    _ => parts.iter().any(|part| part.holds),
                };
                (holds, String::new(), parts)
            }
        };
        Step {
            check: check.to_string(),
            holds,
            because,
            parts,
        }
    }
}

fn compared(check: &Check, subject: &Subject, target: &Target<'_>) -> String {
    let missing = |template: &Template| match template {
        Template::Target(name) => format!("the target has no {name}"),
        Template::Text(_) => String::new(),
    };
    match check {
        Check::Role(name) => match name.with(target) {
            Some(_) => {
                let roles: Vec<&str> = subject.roles.iter().map(|role| role.name.as_str()).collect();
                format!(
                    "the roles are {}",
                    if roles.is_empty() {
                        "none".to_owned()
                    } else {
                        roles.join(", ")
                    }
                )
            }
            None => missing(name),
        },
        Check::Equals(left, right) => {
            let given = match left {
                Left::Literal(text) => Some(text.as_str().into()),
                Left::Credential(name) => credential(subject, name),
            };
            let Left::Credential(name) = left else {
                return right
                    .with(target)
                    .map_or_else(|| missing(right), |right| format!("the target's is {right}"));
            };
            match (given, right.with(target)) {
                (None, _) => format!("the token has no {name}"),
                (Some(_), None) => missing(right),
                (Some(given), Some(right)) => format!("the token's {name} is {given}, wanted is {right}"),
            }
        }
        _ => String::new(),
    }
}

impl fmt::Display for Check {
    /// As in a file, with parentheses around each "and" and "or" inside of another check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, checks: &[Self], word: &str| {
            for (number, check) in checks.iter().enumerate() {
                if number > 0 {
                    write!(f, " {word} ")?;
                }
                match check {
                    Self::All(_) | Self::Any(_) => write!(f, "({check})")?,
                    _ => write!(f, "{check}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Always => f.write_str("@"),
            Self::Never => f.write_str("!"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::Rule(name) => write!(f, "rule:{name}"),
            Self::Equals(Left::Credential(name), right) => write!(f, "{name}:{right}"),
            Self::Equals(Left::Literal(text), right) if matches!(text.as_str(), "True" | "False" | "None") => {
                write!(f, "{text}:{right}")
            }
            Self::Equals(Left::Literal(text), right) => write!(f, "'{text}':{right}"),
            Self::Not(inner) => match **inner {
                Self::All(_) | Self::Any(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Self::All(checks) => joined(f, checks, "and"),
            Self::Any(checks) => joined(f, checks, "or"),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Target(name) => write!(f, "%({name})s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DomainMember, RoleRef, Scope};

    fn member_of(project: &str) -> Subject {
        let mut subject = (*Subject::system("x")).clone();
        subject.roles = vec![RoleRef {
            id: "r".into(),
            name: "member".into(),
        }];
        let project = DomainMember {
            id: project.into(),
            ..DomainMember::default()
        };
        subject.scope = Scope::Project(project);
        subject
    }

    #[test]
    fn every_check_has_its_answer_and_its_reason() {
        let mut policy = Policy::new();
        policy
            .set(
                "stop",
                "rule:project_member_api or role:operator and not user_id:%(owner)s",
            )
            .unwrap();
        let step = policy.explain(&member_of("red"), "stop", &[("project_id", "red")]);
        assert!(step.holds);
        let any = &step.parts[0];
        assert_eq!(
            any.check,
            "rule:project_member_api or (role:operator and not user_id:%(owner)s)"
        );
        let (member, operator) = (&any.parts[0], &any.parts[1]);
        assert!(member.holds && !operator.holds);
        assert_eq!(
            member.parts[0].parts[1].because,
            "the token's project_id is red, wanted is red"
        );
        assert_eq!(operator.parts[0].because, "the roles are member");
        assert_eq!(operator.parts[1].parts[0].because, "the target has no owner");

        let refused = policy.explain(&member_of("red"), "stop", &[("project_id", "blue")]);
        assert!(!refused.holds);
        assert_eq!(
            policy.explain(&member_of("red"), "nothing", &[]).because,
            "there is no such rule"
        );
    }

    #[test]
    fn it_says_what_the_policy_does_and_writes_what_it_reads() {
        let mut policy = Policy::new();
        policy.register(crate::POLICY);
        let subject = member_of("red");
        for name in policy.names() {
            let target = [("project_id", "red"), ("user_id", "system:x")];
            assert_eq!(
                policy.explain(&subject, name, &target).holds,
                policy.allows(&subject, name, &target),
                "{name}"
            );
            let (check, _) = policy.find(name).unwrap();
            assert_eq!(
                crate::policy::parse::parse(&check.to_string()).unwrap(),
                check,
                "{name}: {check}"
            );
        }
    }
}
