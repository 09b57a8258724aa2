//! Neutron's `fields=`: only these members of each item.

use serde::Serialize;
use serde_json::Value;

use crate::{Failure, Query};

/// Which members of an item are asked for; none means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<String>);

impl Fields {
    /// Reads the repeatable `fields` parameter.
    pub fn from(query: &Query) -> Self {
        Self(
            query
                .all("fields")
                .filter(|field| !field.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Whether every member is asked for.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The item with only the members asked for. Unknown names are ignored, as Neutron does.
    ///
    /// # Errors
    /// Internal, when the item cannot be written as JSON.
    pub fn select(&self, item: &impl Serialize) -> Result<Value, Failure> {
        let mut value = serde_json::to_value(item).map_err(|e| Failure::internal(format!("could not render: {e}")))?;
        if let (false, Value::Object(members)) = (self.is_all(), &mut value) {
            members.retain(|name, _| self.0.iter().any(|field| field == name));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_asked_members_stay() {
        let item = json!({ "id": 1, "name": "a", "mtu": 1500 });
        let fields = Fields::from(&Query::parse("fields=id&fields=mtu&fields=nope"));
        assert_eq!(fields.select(&item).unwrap(), json!({ "id": 1, "mtu": 1500 }));
        assert_eq!(Fields::default().select(&item).unwrap(), item);
    }
}
