//! The lines of `*.cases`: `KIND FACE METHOD PATH [BODY]`.
//!
//! A path is the route's, with `<server>` instead of a parameter where it is to be something of the victim's (see
//! [`super::world`] for the names); other parameters go as they are called. Bodies are JSON with the same names.

use std::fs;

/// What is tried, and what must come of it. No answer ever has anything of the victim's in it that the request did not
/// name, nothing of the victim's is ever changed, and without a token all but [`Kind::Open`] is 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `own`: about something of the victim's: 403 or 404, or the status after it (`own=400`). The victim gets it, where it
    /// is a `GET`.
    Own(Option<u16>),
    /// `list`: a list that shows the victim what it has, and the others only theirs.
    List,
    /// `count`: what one's own project uses, which the victim's use must not change.
    Count,
    /// `shut`: for administrators: 403 or 404.
    Shut,
    /// `cloud`: about what is nobody's; whatever is answered.
    Cloud,
    /// `open`: for everybody, also without a token.
    Open,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Case {
    pub kind: Kind,
    pub face: String,
    pub method: String,
    pub path: String,
    pub body: Option<String>,
}

impl Case {
    /// What it is about, as [`super::world::World::routes`] has it: parameters without their names.
    pub fn route(&self) -> String {
        route(
            &self.face,
            &self.method,
            self.path.split('?').next().unwrap_or_default(),
        )
    }

    pub fn is_read(&self) -> bool {
        self.method == "GET"
    }

    /// Whether an answer to somebody of the other project, or to nobody, is as it should be.
    pub fn expects(&self, role: Option<&str>, status: u16) -> bool {
        let refused = [403, 404].contains(&status);
        match (&self.kind, role) {
            (Kind::Open, _) => status < 500 || status == 501,
            (_, None) => status == 401,
            (Kind::Own(None) | Kind::Shut, _) => refused,
            (Kind::Own(Some(expected)), _) => refused || status == *expected,
            (Kind::List | Kind::Count, _) => (200..300).contains(&status),
            (Kind::Cloud, _) => status < 500,
        }
    }
}

/// A route with its parameters unnamed. `/v2/` of compute is `/v2.1/` once more.
pub fn route(face: &str, method: &str, path: &str) -> String {
    let old = path
        .strip_prefix("/v2")
        .filter(|rest| face == "compute" && (rest.is_empty() || rest.starts_with('/')));
    let path = &old.map_or_else(|| path.to_owned(), |rest| format!("/v2.1{rest}"));
    let mut plain = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '{' | '<' => {
                inside = true;
                plain.push_str("{}");
            }
            '}' | '>' => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    format!("{face} {method} {plain}")
}

/// All cases. Read when the test runs, so that trying another line needs no compiler.
pub fn read() -> Vec<Case> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tenancy");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cases"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        cases.extend(lines.map(|line| parse(line).unwrap_or_else(|| panic!("{}: {line}", file.display()))));
    }
    cases
}

fn parse(line: &str) -> Option<Case> {
    let mut words = line.splitn(5, char::is_whitespace);
    let kind = words.next()?;
    let kind = match kind.split_once('=') {
        Some(("own", status)) => Kind::Own(Some(status.parse().ok()?)),
        Some(_) => return None,
        None => match kind {
            "own" => Kind::Own(None),
            "list" => Kind::List,
            "count" => Kind::Count,
            "shut" => Kind::Shut,
            "cloud" => Kind::Cloud,
            "open" => Kind::Open,
            _ => return None,
        },
    };
    let mut word = || words.next().map(str::to_owned);
    Some(Case {
        kind,
        face: word()?,
        method: word()?,
        path: word()?,
        body: word()
            .map(|body| body.trim().to_owned())
            .filter(|body| !body.is_empty()),
    })
}
