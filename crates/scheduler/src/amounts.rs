//! Amounts by resource class: what is asked, taken or had, in little memory.
//!
//! A cloud has a million of these and a few dozen names of classes: names are kept once ([`Class`]), amounts in a sorted
//! slice.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{Arc, LazyLock},
};

use ahash::AHashSet;
use parking_lot::RwLock;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a resource class, such as `VCPU`. Equal ones share their memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(Arc<str>);

/// Every name in use, and how many there may be before those that nobody uses any more are let go.
static NAMES: LazyLock<RwLock<(AHashSet<Arc<str>>, usize)>> = LazyLock::new(|| RwLock::new((AHashSet::new(), 256)));

impl Class {
    /// The class of a name.
    pub fn new(name: &str) -> Self {
        if let Some(known) = NAMES.read().0.get(name) {
            return Self(Arc::clone(known));
        }
        let mut names = NAMES.write();
        if let Some(known) = names.0.get(name) {
            return Self(Arc::clone(known));
        }
        if names.0.len() >= names.1 {
            names.0.retain(|name| Arc::strong_count(name) > 1);
            names.1 = 256.max(names.0.len() * 2);
        }
        let name: Arc<str> = name.into();
        names.0.insert(Arc::clone(&name));
        Self(name)
    }
}

impl Deref for Class {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Class {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Class {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Class {
    fn from(name: String) -> Self {
        Self::new(&name)
    }
}

/// Resource class to amount, in the order of the names. At rest an object: `{"MEMORY_MB":512,"VCPU":1}`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Amounts(Box<[(Class, i64)]>);

impl Amounts {
    /// The amount of a class; none where the class is not there.
    pub fn get(&self, class: &str) -> Option<i64> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(class)).ok()?;
        Some(self.0[at].1)
    }

    /// Every class with its amount, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Class, i64)> + Clone {
        self.0.iter().map(|(class, amount)| (class, *amount))
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds to the amount of a class.
    pub fn add(&mut self, class: &Class, amount: i64) {
        match self.0.binary_search_by(|(own, _)| own.cmp(class)) {
            Ok(at) => self.0[at].1 += amount,
            Err(at) => {
                let mut all = std::mem::take(&mut self.0).into_vec();
                all.insert(at, (class.clone(), amount));
                self.0 = all.into_boxed_slice();
            }
        }
    }
}

impl<'a> IntoIterator for &'a Amounts {
    type Item = (&'a Class, i64);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (Class, i64)>, fn(&'a (Class, i64)) -> (&'a Class, i64)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(class, amount)| (class, *amount))
    }
}

impl<C: Into<Class>> FromIterator<(C, i64)> for Amounts {
    /// Of a class that comes twice, the sum.
    fn from_iter<I: IntoIterator<Item = (C, i64)>>(amounts: I) -> Self {
        let all: Vec<(Class, i64)> = amounts
            .into_iter()
            .map(|(class, amount)| (class.into(), amount))
            .collect();
        if all.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Self(all.into_boxed_slice()); // as they are at rest
        }
        let mut sums: BTreeMap<Class, i64> = BTreeMap::new();
        for (class, amount) in all {
            *sums.entry(class).or_default() += amount;
        }
        Self(sums.into_iter().collect())
    }
}

impl<const N: usize> From<[(&str, i64); N]> for Amounts {
    fn from(amounts: [(&str, i64); N]) -> Self {
        amounts.into_iter().collect()
    }
}

impl fmt::Debug for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(class, n)| (&**class, n)))
            .finish()
    }
}

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(class, amount)| (&**class, amount)))
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Amounts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from resource class to amount")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Amounts, A::Error> {
                let mut all: Vec<(Class, i64)> = Vec::with_capacity(map.size_hint().unwrap_or(3));
                while let Some(entry) = map.next_entry::<Class, i64>()? {
                    all.push(entry);
                }
                Ok(all.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl<'de> Deserialize<'de> for Class {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Class;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a resource class")
            }

            fn visit_str<E>(self, name: &str) -> Result<Class, E> {
                Ok(Class::new(name))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_sorted_and_summed() {
        let mut amounts: Amounts = [("VCPU", 1), ("DISK_GB", 5), ("VCPU", 2)].into();
        assert_eq!(
            (amounts.get("VCPU"), amounts.get("DISK_GB"), amounts.get("X")),
            (Some(3), Some(5), None)
        );
        amounts.add(&Class::new("MEMORY_MB"), 64);
        amounts.add(&Class::new("VCPU"), 1);
        let json = serde_json::to_string(&amounts).unwrap();
        assert_eq!(json, r#"{"DISK_GB":5,"MEMORY_MB":64,"VCPU":4}"#);
        assert_eq!(serde_json::from_str::<Amounts>(&json).unwrap(), amounts);
    }

    #[test]
    fn equal_names_share_their_memory_and_unused_ones_go() {
        let one = Class::new("CUSTOM_KEPT");
        for n in 0..2000 {
            Class::new(&format!("CUSTOM_PASSING_{n}"));
        }
        assert!(Arc::ptr_eq(&one.0, &Class::new("CUSTOM_KEPT").0));
        assert!(NAMES.read().0.len() < 1000);
    }
}
