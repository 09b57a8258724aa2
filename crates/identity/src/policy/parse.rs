//! oslo.policy's rule language: `role:admin or (project_id:%(project_id)s and not rule:frozen)`.

use super::{Check, Left, Template};

/// How deep parentheses and `not` may go.
const MAX_NESTING: u32 = 32;
/// The longest rule in bytes.
const MAX_BYTES: usize = 4096;

/// Reads a rule; the empty one always holds.
pub(super) fn parse(rule: &str) -> Result<Check, String> {
    if rule.len() > MAX_BYTES {
        return Err(format!("it is {} bytes, at most {MAX_BYTES} are read", rule.len()));
    }
    let tokens = tokens(rule);
    if tokens.is_empty() {
        return Ok(Check::Always);
    }
    let mut parser = Parser { tokens: &tokens };
    let check = parser.any(MAX_NESTING)?;
    match parser.peek() {
        None => Ok(check),
        Some(rest) => Err(format!("unexpected {rest:?}")),
    }
}

/// Splits at blanks and around the parentheses that are not part of `%(…)s`.
fn tokens(rule: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for word in rule.split_ascii_whitespace() {
        let mut word = word;
        while let Some(rest) = word.strip_prefix('(') {
            tokens.push("(");
            word = rest;
        }
        let closing = word.len() - word.trim_end_matches(')').len();
        let (body, closing) = word.split_at(word.len() - closing);
        if !body.is_empty() {
            tokens.push(body);
        }
        tokens.extend(closing.chars().map(|_| ")"));
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.first().copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        if found {
            self.next();
        }
        found
    }

    fn any(&mut self, depth: u32) -> Result<Check, String> {
        let mut checks = vec![self.all(depth)?];
        while self.takes("or") {
            checks.push(self.all(depth)?);
        }
        Ok(if checks.len() == 1 {
            checks.remove(0)
        } else {
            Check::Any(checks)
        })
    }

    fn all(&mut self, depth: u32) -> Result<Check, String> {
        let mut checks = vec![self.one(depth)?];
        while self.takes("and") {
            checks.push(self.one(depth)?);
        }
        Ok(if checks.len() == 1 {
            checks.remove(0)
        } else {
            Check::All(checks)
        })
    }

    fn one(&mut self, depth: u32) -> Result<Check, String> {
        let depth = depth.checked_sub(1).ok_or("too many parentheses")?;
        if self.takes("not") {
            return Ok(Check::Not(Box::new(self.one(depth)?)));
        }
        if self.takes("(") {
            let inner = self.any(depth)?;
            return if self.takes(")") {
                Ok(inner)
            } else {
                Err("a parenthesis is not closed".to_owned())
            };
        }
        match self.next() {
            Some("@") => Ok(Check::Always),
            Some("!") => Ok(Check::Never),
            Some(word) => check(word),
            None => Err("it ends too early".to_owned()),
        }
    }
}

fn check(word: &str) -> Result<Check, String> {
    let (left, right) = word.split_once(':').ok_or_else(|| format!("{word:?} is no check"))?;
    match left {
        "rule" => Ok(Check::Rule(right.to_owned())),
        "role" => Ok(Check::Role(template(right)?)),
        _ => Ok(Check::Equals(left_side(left), template(right)?)),
    }
}

/// A literal in quotes, one of Python's words, or the name of a credential.
fn left_side(text: &str) -> Left {
    let quoted = ['\'', '"'].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q));
    match quoted {
        Some(literal) => Left::Literal(literal.to_owned()),
        None if matches!(text, "True" | "False" | "None") || text.parse::<i64>().is_ok() => {
            Left::Literal(text.to_owned())
        }
        None => Left::Credential(text.to_owned()),
    }
}

fn template(text: &str) -> Result<Template, String> {
    match text.strip_prefix("%(").and_then(|rest| rest.strip_suffix(")s")) {
        Some(name) => Ok(Template::Target(name.to_owned())),
        None if text.contains("%(") => Err(format!("{text:?} mixes text and a target")),
        None => Ok(Template::Text(text.to_owned())),
    }
}
