//! The attributes of a resource: which may be given, how they are read, who may set or see them.

use http::Method;
use madang_http::Failure;
use madang_identity::{Caller, Target};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::convert::{self, Convert};

/// One attribute of a resource.
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    /// Its name in requests and answers.
    pub(crate) name: &'static str,
    post: Post,
    put: bool,
    convert: Convert,
    /// Given as this, it asks for nothing that needs a rule of its own.
    usual: fn(&Value) -> bool,
    guarded: bool,
    /// Changing it needs its rule whatever it becomes.
    guarded_always: bool,
    /// Shown only to those whom `get_<resource>:<name>` allows.
    pub(crate) restricted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Post {
    No,
    May,
    Must,
}

fn never(_: &Value) -> bool {
    false
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
}

fn any(value: &Value) -> Result<Value, String> {
    Ok(value.clone())
}

impl Attribute {
    /// One that is only shown.
    pub(crate) const fn shown(name: &'static str) -> Self {
        Self {
            name,
            post: Post::No,
            put: false,
            convert: any,
            usual: never,
            guarded: false,
            guarded_always: false,
            restricted: false,
        }
    }

    /// One that may be given when creating and changing.
    pub(crate) const fn new(name: &'static str, convert: Convert) -> Self {
        Self {
            name,
            post: Post::May,
            put: true,
            convert,
            usual: never,
            guarded: false,
            guarded_always: false,
            restricted: false,
        }
    }

    /// Must be given when creating.
    pub(crate) const fn required(mut self) -> Self {
        self.post = Post::Must;
        self
    }

    /// Cannot be changed later.
    pub(crate) const fn fixed(mut self) -> Self {
        self.put = false;
        self
    }

    /// Setting it needs the rule `create_<resource>:<name>` (or `update_…`), unless it is set to false or nothing.
    pub(crate) const fn guarded(mut self) -> Self {
        self.guarded = true;
        self.usual = is_nothing;
        self
    }

    /// As [`Attribute::guarded`], for flags that are usually false.
    pub(crate) const fn guarded_flag(mut self) -> Self {
        self.guarded = true;
        self.guarded_always = true;
        self.usual = is_false;
        self
    }

    /// As [`Attribute::guarded`], unless its value is a usual one.
    pub(crate) const fn guarded_unless(mut self, usual: fn(&Value) -> bool) -> Self {
        self.guarded = true;
        self.usual = usual;
        self
    }

    /// Seeing it needs the rule `get_<resource>:<name>`.
    pub(crate) const fn restricted(mut self) -> Self {
        self.restricted = true;
        self
    }
}

/// What every resource shows, and what can be said of every new one.
pub(crate) static STANDARD: [Attribute; 8] = [
    Attribute::shown("id"),
    Attribute::new("tenant_id", convert::text).fixed(),
    Attribute::new("project_id", convert::text).fixed(),
    Attribute::new("description", convert::text_or_null),
    Attribute::shown("created_at"),
    Attribute::shown("updated_at"),
    Attribute::shown("revision_number"),
    Attribute::shown("tags"),
];

/// A resource's own attributes, and the standard ones that it does not have in a way of its own.
fn all(own: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    let standard = STANDARD
        .iter()
        .filter(move |standard| own.iter().all(|own| own.name != standard.name));
    own.iter().chain(standard)
}

/// The attributes of a request, read and checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body(Map<String, Value>);

impl Body {
    /// Reads the attributes of one resource.
    ///
    /// # Errors
    /// 400 for unknown, missing, unchangeable and unfit attributes.
    pub(crate) fn read(attributes: &[Attribute], method: &Method, given: &Map<String, Value>) -> Result<Self, Failure> {
        let known = |name: &str| all(attributes).find(|attribute| attribute.name == name);
        let unknown: Vec<_> = given
            .keys()
            .filter(|name| known(name).is_none())
            .map(String::as_str)
            .collect();
        if let Some(first) = unknown.first() {
            return Err(Failure::invalid(format!("Unrecognized attribute(s) '{}'", unknown.join(", "))).at(*first));
        }
        let is_create = method == Method::POST;
        for attribute in all(attributes) {
            let has_it = given.contains_key(attribute.name);
            let message = match (has_it, is_create) {
                (true, true) if attribute.post == Post::No => {
                    format!("Attribute '{}' not allowed in POST", attribute.name)
                }
                (true, false) if !attribute.put => format!("Cannot update read-only attribute {}", attribute.name),
                (false, true) if attribute.post == Post::Must => {
                    format!(
                        "Failed to parse request. Required attribute '{}' not specified",
                        attribute.name
                    )
                }
                _ => continue,
            };
            return Err(Failure::invalid(message).at(attribute.name));
        }
        let mut read = Map::new();
        for (name, value) in given {
            let Some(attribute) = known(name) else { continue };
            let converted = (attribute.convert)(value).map_err(|reason| {
                Failure::invalid(format!("Invalid input for {name}. Reason: {reason}.")).at(name.as_str())
            })?;
            read.insert(name.clone(), converted);
        }
        Ok(Self(read))
    }

    /// Requires the rule of every guarded attribute that is set to something unusual.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn enforce(
        &self,
        attributes: &[Attribute],
        caller: &Caller,
        action: &str,
        target: &Target<'_>,
    ) -> Result<(), Failure> {
        let is_change = action.starts_with("update_");
        for attribute in attributes.iter().filter(|attribute| attribute.guarded) {
            let is_any = is_change && attribute.guarded_always;
            if self
                .0
                .get(attribute.name)
                .is_some_and(|value| is_any || !(attribute.usual)(value))
            {
                caller.enforce(&format!("{action}:{}", attribute.name), target)?;
            }
        }
        Ok(())
    }

    /// The project that a new resource is for: the caller's, or for an admin the one named.
    ///
    /// # Errors
    /// 400 when somebody else's is named by who may not, or two different ones are.
    pub(crate) fn project(&self, caller: &Caller) -> Result<String, Failure> {
        let (project, tenant) = (self.text("project_id"), self.text("tenant_id"));
        if project.is_some() && tenant.is_some() && project != tenant {
            return Err(Failure::invalid("'project_id' and 'tenant_id' do not match").at("project_id"));
        }
        let own = caller.subject.project_id();
        match project.or(tenant) {
            Some(named) if Some(named) == own || caller.is_admin() => Ok(named.to_owned()),
            Some(_) => Err(Failure::invalid(
                "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request is not allowed \
                 for current user.",
            )
            .at("project_id")),
            None => own.map(str::to_owned).ok_or_else(|| {
                Failure::invalid("Running without keystone AuthN requires that tenant_id is specified").at("project_id")
            }),
        }
    }

    /// Whether nothing is given at all.
    pub(crate) fn is_blank(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an attribute is given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A given value that is not null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A given text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A given flag.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    /// A given number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(Value::as_i64)
    }

    /// A given value as a type that its converter has written; none where it is not given or null.
    ///
    /// # Errors
    /// 400 when it does not fit after all.
    pub(crate) fn typed<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let unfit = |e| Failure::invalid(format!("Invalid input for {name}. Reason: {e}.")).at(name);
        serde_json::from_value(value.clone()).map(Some).map_err(unfit)
    }

    /// Sets a text where it is given; null empties it.
    pub(crate) fn set_text(&self, name: &str, to: &mut String) {
        if self.has(name) {
            self.text(name).unwrap_or_default().clone_into(to);
        }
    }

    /// Sets a flag where it is given.
    pub(crate) fn set_flag(&self, name: &str, to: &mut bool) {
        if let Some(flag) = self.flag(name) {
            *to = flag;
        }
    }

    /// Sets a value where it is given; null sets the default.
    ///
    /// # Errors
    /// As [`Body::typed`].
    pub(crate) fn set<T: DeserializeOwned + Default>(&self, name: &str, to: &mut T) -> Result<(), Failure> {
        if self.has(name) {
            *to = self.typed(name)?.unwrap_or_default();
        }
        Ok(())
    }
}
