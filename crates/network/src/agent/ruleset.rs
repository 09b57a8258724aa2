//! The packet filter of one namespace as data, and the nft batches that bring the kernel to it.
//!
//! What must always hold: a batch is applied whole or not at all, so packets meet either the old rules or the new ones.
//! Connections live in the kernel's tracking and survive both kinds of batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// The tables of a namespace by `family name`, such as `inet madang`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// All tables of ours.
    pub tables: BTreeMap<&'static str, Table>,
}

/// One table: sets and maps first, then the chains that use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Counters that rules name; they count on while rules change.
    pub counters: BTreeSet<String>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A set, or a map when its elements have values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    /// `set` or `map`.
    pub word: &'static str,
    /// What it holds, such as `type ifname : mark`.
    pub shape: &'static str,
    /// Keys with their values, in nft's own writing.
    pub elements: BTreeMap<String, Option<String>>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Where packets enter, such as `type filter hook forward priority 0`; none for chains that others jump to.
    pub hook: Option<&'static str>,
    /// Its rules in order.
    pub rules: Vec<String>,
}

impl Set {
    /// An empty set without values.
    pub fn of(shape: &'static str) -> Self {
        Self {
            word: "set",
            shape,
            elements: BTreeMap::new(),
        }
    }

    /// An empty map.
    pub fn map(shape: &'static str) -> Self {
        Self {
            word: "map",
            shape,
            elements: BTreeMap::new(),
        }
    }

    /// Puts a member in.
    pub fn insert(&mut self, key: String) {
        self.elements.insert(key, None);
    }

    /// Puts an entry into a map.
    pub fn entry(&mut self, key: String, value: String) {
        self.elements.insert(key, Some(value));
    }
}

impl Table {
    /// Adds a chain.
    pub fn chain<S: Into<String>>(
        &mut self,
        name: impl Into<String>,
        hook: Option<&'static str>,
        rules: impl IntoIterator<Item = S>,
    ) {
        self.chains.insert(
            name.into(),
            Chain {
                hook,
                rules: rules.into_iter().map(Into::into).collect(),
            },
        );
    }

    /// The set called `name`, made with `shape` when it is not there yet.
    pub fn set(&mut self, name: impl Into<String>, shape: &'static str) -> &mut Set {
        self.sets.entry(name.into()).or_insert_with(|| Set::of(shape))
    }
}

impl Ruleset {
    /// A batch that replaces whatever is there by this. `before` names tables that have to go as well.
    pub fn replace_all(&self, before: &Ruleset) -> String {
        let mut batch = String::new();
        for name in before.tables.keys().filter(|name| !self.tables.contains_key(*name)) {
            remove_table(&mut batch, name);
        }
        for (name, table) in &self.tables {
            replace_table(&mut batch, name, table);
        }
        batch
    }

    /// A batch that brings the kernel from `before` to this and touches only what differs; none when nothing does.
    pub fn difference(&self, before: &Ruleset) -> Option<String> {
        let mut batch = String::new();
        for name in before.tables.keys().filter(|name| !self.tables.contains_key(*name)) {
            remove_table(&mut batch, name);
        }
        for (name, table) in &self.tables {
            match before.tables.get(name) {
                Some(old) if old == table => {}
                Some(old) if old.can_become(table) => change_table(&mut batch, name, old, table),
                _ => replace_table(&mut batch, name, table),
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

impl Table {
    /// Whether what cannot be changed in place (shapes of sets, hooks of chains) is the same.
    fn can_become(&self, new: &Table) -> bool {
        let same_sets = self.sets.iter().all(|(name, old)| {
            new.sets
                .get(name)
                .is_none_or(|new| new.word == old.word && new.shape == old.shape)
        });
        let hooks = |table: &Table| -> BTreeMap<String, &'static str> {
            table
                .chains
                .iter()
                .filter_map(|(name, chain)| Some((name.clone(), chain.hook?)))
                .collect()
        };
        same_sets && hooks(self) == hooks(new)
    }
}

fn line(batch: &mut String, text: std::fmt::Arguments<'_>) {
    batch.write_fmt(text).expect("writing to a string never fails");
    batch.push('\n');
}

fn remove_table(batch: &mut String, name: &str) {
    // Adding first makes removing what may not be there succeed.
    line(batch, format_args!("add table {name}"));
    line(batch, format_args!("delete table {name}"));
}

fn replace_table(batch: &mut String, name: &str, table: &Table) {
    remove_table(batch, name);
    line(batch, format_args!("table {name} {{"));
    for counter in &table.counters {
        line(batch, format_args!("\tcounter {counter} {{ }}"));
    }
    for (set_name, set) in &table.sets {
        line(batch, format_args!("\t{} {set_name} {{", set.word));
        line(batch, format_args!("\t\t{};", set.shape));
        if let Some(elements) = elements(set.elements.iter().map(|(key, value)| (key, value.as_ref()))) {
            line(batch, format_args!("\t\telements = {elements}"));
        }
        line(batch, format_args!("\t}}"));
    }
    for (chain_name, chain) in &table.chains {
        line(batch, format_args!("\tchain {chain_name} {{"));
        if let Some(hook) = chain.hook {
            line(batch, format_args!("\t\t{hook}; policy accept;"));
        }
        for rule in &chain.rules {
            line(batch, format_args!("\t\t{rule}"));
        }
        line(batch, format_args!("\t}}"));
    }
    line(batch, format_args!("}}"));
}

/// New things first, then what refers to them, then what nothing refers to any more.
fn change_table(batch: &mut String, name: &str, old: &Table, new: &Table) {
    for counter in new.counters.difference(&old.counters) {
        line(batch, format_args!("add counter {name} {counter}"));
    }
    for (set_name, set) in new
        .sets
        .iter()
        .filter(|(set_name, _)| !old.sets.contains_key(*set_name))
    {
        line(
            batch,
            format_args!("add {} {name} {set_name} {{ {}; }}", set.word, set.shape),
        );
    }
    for chain_name in new
        .chains
        .keys()
        .filter(|chain_name| !old.chains.contains_key(*chain_name))
    {
        line(batch, format_args!("add chain {name} {chain_name}"));
    }
    let gone: BTreeSet<&String> = old
        .chains
        .keys()
        .filter(|chain| !new.chains.contains_key(*chain))
        .collect();
    let changed: Vec<(&String, &Chain)> = new
        .chains
        .iter()
        .filter(|(chain_name, chain)| {
            old.chains
                .get(*chain_name)
                .is_none_or(|before| before.rules != chain.rules)
        })
        .collect();
    let flushed = changed
        .iter()
        .map(|(chain_name, _)| *chain_name)
        .filter(|chain| old.chains.contains_key(*chain));
    for chain_name in flushed.chain(gone.iter().copied()) {
        line(batch, format_args!("flush chain {name} {chain_name}"));
    }
    for (set_name, set) in &new.sets {
        change_elements(batch, name, set_name, old.sets.get(set_name), set);
    }
    for (set_name, set) in old
        .sets
        .iter()
        .filter(|(set_name, _)| !new.sets.contains_key(*set_name))
    {
        let all = set.elements.keys().map(|key| (key, None));
        if let Some(elements) = elements(all) {
            line(batch, format_args!("delete element {name} {set_name} {elements}"));
        }
    }
    for (chain_name, chain) in changed {
        for rule in &chain.rules {
            line(batch, format_args!("add rule {name} {chain_name} {rule}"));
        }
    }
    for chain_name in gone {
        line(batch, format_args!("delete chain {name} {chain_name}"));
    }
    for (set_name, set) in old
        .sets
        .iter()
        .filter(|(set_name, _)| !new.sets.contains_key(*set_name))
    {
        line(batch, format_args!("delete {} {name} {set_name}", set.word));
    }
    for counter in old.counters.difference(&new.counters) {
        line(batch, format_args!("delete counter {name} {counter}"));
    }
}

fn change_elements(batch: &mut String, table: &str, name: &str, old: Option<&Set>, new: &Set) {
    let none = BTreeMap::new();
    let before = old.map_or(&none, |set| &set.elements);
    let gone = before
        .iter()
        .filter(|(key, value)| new.elements.get(*key) != Some(*value))
        .map(|(key, _)| (key, None));
    if let Some(elements) = elements(gone) {
        line(batch, format_args!("delete element {table} {name} {elements}"));
    }
    let fresh = new
        .elements
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value));
    if let Some(elements) = elements(fresh.map(|(key, value)| (key, value.as_ref()))) {
        line(batch, format_args!("add element {table} {name} {elements}"));
    }
}

fn elements<'a>(elements: impl Iterator<Item = (&'a String, Option<&'a String>)>) -> Option<String> {
    madang_host::nft::elements(elements.map(|(key, value)| match value {
        Some(value) => format!("{key} : {value}"),
        None => key.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(port: &str, chain: &str) -> Ruleset {
        let mut table = Table::default();
        table.set("known", "type ifname").insert(format!("\"{port}\""));
        let mut verdicts = Set::map("type mark : verdict");
        verdicts.entry("1".into(), format!("goto {chain}"));
        table.sets.insert("verdicts".into(), verdicts);
        table.chain(
            "entry",
            Some("type filter hook forward priority 0"),
            ["meta mark vmap @verdicts"],
        );
        table.chain(chain, None, ["accept"]);
        Ruleset {
            tables: [("inet madang", table)].into(),
        }
    }

    #[test]
    fn a_whole_set_of_rules_replaces_what_is_there() {
        insta::assert_snapshot!(sample("t1", "a").replace_all(&Ruleset::default()), @r#"
        add table inet madang
        delete table inet madang
        table inet madang {
        	set known {
        		type ifname;
        		elements = { "t1" }
        	}
        	map verdicts {
        		type mark : verdict;
        		elements = { 1 : goto a }
        	}
        	chain a {
        		accept
        	}
        	chain entry {
        		type filter hook forward priority 0; policy accept;
        		meta mark vmap @verdicts
        	}
        }
        "#);
    }

    #[test]
    fn a_difference_makes_before_it_refers_and_removes_last() {
        let batch = sample("t2", "b").difference(&sample("t1", "a"));
        insta::assert_snapshot!(batch.unwrap(), @r#"
        add chain inet madang b
        flush chain inet madang a
        delete element inet madang known { "t1" }
        add element inet madang known { "t2" }
        delete element inet madang verdicts { 1 }
        add element inet madang verdicts { 1 : goto b }
        add rule inet madang b accept
        delete chain inet madang a
        "#);
        assert_eq!(sample("t1", "a").difference(&sample("t1", "a")), None);
    }

    #[test]
    fn what_cannot_change_in_place_is_replaced() {
        let mut other = sample("t1", "a");
        let table = other.tables.get_mut("inet madang").unwrap();
        table.sets.get_mut("known").unwrap().shape = "type mark";
        assert!(other.difference(&sample("t1", "a")).unwrap().starts_with("add table"));
        assert!(
            Ruleset::default()
                .difference(&other)
                .unwrap()
                .ends_with("delete table inet madang\n")
        );
    }
}
