//! Where a record lives: `(kind, project, namespace, name)`, and its order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::StoreError;

/// The longest encoded key in bytes; etcd and SQLite take more, people do not.
pub const MAX_KEY_BYTES: usize = 1024;

/// The name of a record. Kinds are plural lower case words (`servers`); parts that do not apply are empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind's plural name, such as `servers`.
    pub kind: String,
    /// The owning project's id; empty for what belongs to the cloud.
    pub project: String,
    /// The namespace inside the project; empty where the kind has none.
    pub namespace: String,
    /// The name, unique within the three parts before. For OpenStack's resources this is the id.
    pub name: String,
}

impl Key {
    /// A key with all its parts.
    pub fn new(
        kind: impl Into<String>,
        project: impl Into<String>,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self {
            kind: kind.into(),
            project: project.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key as one string, `kind/project/namespace/name`, with `/`, `%` and control characters of the parts escaped
    /// as `%XX`. Its byte order groups a kind, then a project, then a namespace.
    ///
    /// # Errors
    /// `Invalid` when the name or kind is empty or the whole is longer than [`MAX_KEY_BYTES`].
    pub fn encode(&self) -> Result<String, StoreError> {
        if self.kind.is_empty() || self.name.is_empty() {
            return Err(StoreError::Invalid(format!("a key needs a kind and a name: {self:?}")));
        }
        let mut encoded = String::with_capacity(self.kind.len() + self.project.len() + self.name.len() + 40);
        for (i, part) in [&self.kind, &self.project, &self.namespace, &self.name]
            .into_iter()
            .enumerate()
        {
            if i > 0 {
                encoded.push('/');
            }
            escape(part, &mut encoded);
        }
        if encoded.len() > MAX_KEY_BYTES {
            return Err(StoreError::Invalid(format!(
                "a key is {} bytes, at most {MAX_KEY_BYTES} fit",
                encoded.len()
            )));
        }
        Ok(encoded)
    }

    /// The inverse of [`Key::encode`].
    ///
    /// # Errors
    /// `Invalid` when it has not four parts or a broken escape.
    pub fn decode(encoded: &str) -> Result<Self, StoreError> {
        let broken = || StoreError::Invalid(format!("{encoded:?} is not a key"));
        let mut parts = encoded.split('/').map(|part| unescape(part).ok_or_else(broken));
        let mut next = || parts.next().unwrap_or_else(|| Err(broken()));
        let key = Self {
            kind: next()?,
            project: next()?,
            namespace: next()?,
            name: next()?,
        };
        if parts.next().is_some() { Err(broken()) } else { Ok(key) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.kind, self.project, self.namespace, self.name)
    }
}

/// Selects records by the front of their keys: all, a kind, or a kind in a project.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Prefix {
    encoded: String,
    kind: Option<String>,
    project: Option<String>,
}

impl Prefix {
    /// Every record.
    pub fn all() -> Self {
        Self::default()
    }

    /// All records of a kind.
    pub fn kind(kind: &str) -> Self {
        let mut encoded = String::new();
        escape(kind, &mut encoded);
        encoded.push('/');
        Self {
            encoded,
            kind: Some(kind.to_owned()),
            project: None,
        }
    }

    /// All records of a kind in a project.
    pub fn project(kind: &str, project: &str) -> Self {
        let mut prefix = Self::kind(kind);
        escape(project, &mut prefix.encoded);
        prefix.encoded.push('/');
        prefix.project = Some(project.to_owned());
        prefix
    }

    /// The encoded front that keys are compared with.
    pub fn as_str(&self) -> &str {
        &self.encoded
    }

    /// Whether an encoded key begins with it.
    pub fn matches(&self, encoded_key: &str) -> bool {
        encoded_key.starts_with(&self.encoded)
    }

    /// Whether a key begins with it; the same as [`Prefix::matches`] of the encoded key, without encoding it.
    pub fn covers(&self, key: &Key) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == key.kind)
            && self.project.as_ref().is_none_or(|project| *project == key.project)
    }
}

fn escape(part: &str, out: &mut String) {
    if part.bytes().all(|b| b != b'/' && b != b'%' && !b.is_ascii_control()) {
        out.push_str(part); // nearly always
        return;
    }
    for c in part.chars() {
        if c == '/' || c == '%' || c.is_ascii_control() {
            out.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
}

fn unescape(part: &str) -> Option<String> {
    let mut out = String::with_capacity(part.len());
    let mut rest = part;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest
            .get(at + 1..at + 3)
            .filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
        let code = u8::from_str_radix(digits, 16).ok()?;
        out.push(char::from(code));
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(kind in "[a-z]{1,8}", project in ".{0,12}", namespace in ".{0,12}", name in ".{1,20}") {
            let key = Key::new(kind, project, namespace, name);
            prop_assert_eq!(Key::decode(&key.encode().unwrap()).unwrap(), key);
        }

        #[test]
        fn a_prefix_covers_what_it_matches(kind in "[ab]{1,2}", project in "[ab/%]{0,2}", of in "[ab]{1,2}", inside in "[ab/%]{0,2}") {
            let key = Key::new(kind, project, "n", "x");
            for prefix in [Prefix::all(), Prefix::kind(&of), Prefix::project(&of, &inside)] {
                prop_assert_eq!(prefix.covers(&key), prefix.matches(&key.encode().unwrap()));
            }
        }
    }

    #[test]
    fn a_prefix_never_matches_a_longer_project() {
        let prefix = Prefix::project("servers", "p1");
        assert!(prefix.matches(&Key::new("servers", "p1", "", "a").encode().unwrap()));
        assert!(!prefix.matches(&Key::new("servers", "p10", "", "a").encode().unwrap()));
    }

    #[test]
    fn keys_without_a_name_or_too_long_are_refused() {
        assert!(Key::new("servers", "p", "", "").encode().is_err());
        assert!(Key::new("servers", "p", "", "x".repeat(2000)).encode().is_err());
        assert!(Key::decode("a/b/c").is_err());
        assert!(Key::decode("a/b/c/d/e").is_err());
        assert!(Key::decode("a/b/c/%+1").is_err());
        assert!(Key::decode("a/b/c/%zz").is_err());
    }
}
