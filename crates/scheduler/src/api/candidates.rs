//! `GET /allocation_candidates`: which providers could take what is asked.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::Response;
use http::StatusCode;
use madang_http::{Failure, Form, Microversion, Schema};
use serde_json::{Map, Value, json};

use super::{
    call::Call,
    filter::{BAD_VALUE, resources, traits},
};
use crate::{
    candidates::{Candidate, Group, GroupPolicy, Request, search},
    class::{is_class, is_trait},
    forest::Forest,
};

/// What a suffix may be, up to 1.32 and after.
const NUMBERS: &str = "[1-9][0-9]*";
const WORDS: &str = "[a-zA-Z0-9_-]{1,64}";

/// The parameters that a form takes.
fn schema(version: Microversion) -> Schema {
    let text = || json!({ "type": "string" });
    let mut properties = Map::new();
    let mut patterns = Map::new();
    let is_since = |minor| version >= Microversion(1, minor);
    if is_since(16) {
        properties.insert(
            "limit".into(),
            json!({ "type": "string", "pattern": "^[1-9][0-9]*$", "minLength": 1 }),
        );
    }
    if is_since(25) {
        let suffix = if is_since(33) { WORDS } else { NUMBERS };
        let mut names = vec!["resources", "required", "member_of"];
        names.extend(is_since(31).then_some("in_tree"));
        for name in names {
            patterns.insert(format!("^{name}({suffix})?$"), text());
        }
        properties.insert(
            "group_policy".into(),
            json!({ "type": "string", "enum": ["none", "isolate"] }),
        );
    } else {
        properties.insert("resources".into(), text());
        if is_since(17) {
            properties.insert("required".into(), text());
        }
        if is_since(21) {
            properties.insert("member_of".into(), text());
        }
    }
    for (minor, name) in [(35, "root_required"), (36, "same_subtree")] {
        if is_since(minor) {
            properties.insert(name.into(), text());
        }
    }
    let mut body = json!({
        "type": "object", "properties": properties, "patternProperties": patterns, "additionalProperties": false,
    });
    if !is_since(25) {
        body["required"] = json!(["resources"]);
    }
    Schema::new(Form::Placement, body)
}

/// `GET /allocation_candidates`, since 1.10.
pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    call.since(10)?;
    call.takes_json()?;
    call.may("placement:allocation_candidates:list")?;
    call.check_query(&schema(call.version))?;
    let mut request = request_wide(&call)?;
    request.groups = groups(&call, &request.same_subtrees)?;
    let granular = request.groups.keys().filter(|suffix| !suffix.is_empty()).count();
    if granular > 1 && !call.query.has("group_policy") {
        return Err(Failure::invalid(
            "The \"group_policy\" parameter is required when specifying more than one \"resources{N}\" parameter.",
        )
        .at("group_policy"));
    }
    check_names(&call, &request)?;
    let forest = Forest::of(&call.api.store);
    // Before 1.29 answers with several providers of one tree are left out: the limit comes after that.
    let limit = request.limit.take();
    if call.is_since(29) {
        request.limit = limit;
    }
    let mut found = search(&forest, &request);
    let is_nested = forest.nodes.iter().any(|node| node.parent.is_some());
    let hides_nested = is_nested && !call.is_since(29);
    if hides_nested {
        found.retain(|candidate| is_flat(&forest, candidate));
    }
    found.truncate(limit.unwrap_or(usize::MAX));
    let requests: Value = if call.is_since(12) {
        found
            .iter()
            .map(|candidate| as_object(&forest, candidate, call.is_since(34)))
            .collect()
    } else {
        found.iter().map(|candidate| as_list(&forest, candidate)).collect()
    };
    let body = json!({
        "allocation_requests": requests,
        "provider_summaries": summaries(&call, &forest, &request, &found, hides_nested),
    });
    Ok(call.answer(StatusCode::OK, &body, None))
}

/// What holds for all groups.
fn request_wide(call: &Call) -> Result<Request, Failure> {
    let mut request = Request {
        limit: call.query.all("limit").next().and_then(|text| text.parse().ok()),
        ..Request::default()
    };
    if call.query.all("group_policy").next() == Some("isolate") {
        request.policy = GroupPolicy::Isolate;
    }
    let mut root_required = call.query.all("root_required");
    if let Some(value) = root_required.next() {
        if root_required.next().is_some() {
            return Err(
                Failure::invalid("Query parameter 'root_required' may be specified only once.")
                    .because("placement.query.duplicate_key")
                    .at("root_required"),
            );
        }
        let (required, forbidden) = traits(value, true, false)?;
        request.root_required = required.into_iter().flatten().collect();
        request.root_forbidden = forbidden;
        let both: Vec<&str> = request
            .root_required
            .intersection(&request.root_forbidden)
            .map(String::as_str)
            .collect();
        if !both.is_empty() {
            let message = format!(
                "Conflicting required and forbidden traits found in root_required: {}",
                both.join(", ")
            );
            return Err(Failure::invalid(message).because(BAD_VALUE).at("root_required"));
        }
    }
    for value in call.query.all("same_subtree") {
        let suffixes: BTreeSet<String> = value.split(',').map(|one| one.trim().to_owned()).collect();
        if suffixes.contains("") {
            let message = "Empty string (unsuffixed group) can not be specified in `same_subtree` ";
            return Err(Failure::invalid(message).because(BAD_VALUE).at("same_subtree"));
        }
        request.same_subtrees.push(suffixes);
    }
    Ok(request)
}

/// The groups that the parameters name.
fn groups(call: &Call, same_subtrees: &[BTreeSet<String>]) -> Result<BTreeMap<String, Group>, Failure> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for (name, value) in call.query.iter() {
        let names = ["resources", "required", "member_of", "in_tree"];
        let Some((kind, suffix)) = names.iter().find_map(|kind| Some((*kind, name.strip_prefix(kind)?))) else {
            continue;
        };
        let group = groups.entry(suffix.to_owned()).or_default();
        match kind {
            "resources" => group.resources = resources(value)?,
            "in_tree" => {
                let id = value.trim();
                uuid::Uuid::try_parse(id).map_err(|_| {
                    let message = format!(
                        "Invalid query string parameters: Expected 'in_tree' parameter to be a format of uuid. Got: {value}"
                    );
                    Failure::invalid(message).at(name)
                })?;
                group.in_tree = Some(id.to_owned());
            }
            _ => {}
        }
    }
    for (suffix, group) in &mut groups {
        call.constrain(group, suffix)?;
    }
    if call.is_since(36) {
        check_subtrees(&groups, same_subtrees)?;
    } else {
        check_orphans(&groups)?;
    }
    if call.is_since(22) {
        check_conflicts(&groups)?;
    }
    Ok(groups)
}

/// Since 1.36 a group may go without resources when it stands in a subtree with others.
fn check_subtrees(groups: &BTreeMap<String, Group>, same_subtrees: &[BTreeSet<String>]) -> Result<(), Failure> {
    let in_subtree: BTreeSet<&str> = same_subtrees.iter().flatten().map(String::as_str).collect();
    let bare: Vec<&str> = groups
        .iter()
        .filter(|(_, group)| group.resources.is_empty())
        .map(|(suffix, _)| suffix.as_str())
        .collect();
    if bare.len() == groups.len() {
        return Err(
            Failure::invalid("There must be at least one resources or resources[$S] parameter.")
                .because("placement.query.missing_value")
                .at("resources"),
        );
    }
    let python = |names: &[&str]| {
        let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let alone: Vec<&str> = bare.into_iter().filter(|suffix| !in_subtree.contains(suffix)).collect();
    if !alone.is_empty() {
        let message = format!(
            "Resourceless suffixed group request should be specified in `same_subtree` query param: bad group(s) - {}.",
            python(&alone)
        );
        return Err(Failure::invalid(message).because(BAD_VALUE).at("same_subtree"));
    }
    let missing: Vec<&str> = in_subtree
        .into_iter()
        .filter(|suffix| !groups.contains_key(*suffix))
        .collect();
    if !missing.is_empty() {
        let all: Vec<&str> = groups.keys().map(String::as_str).collect();
        let message = format!(
            "Real suffixes should be specified in `same_subtree`: {} not found in {}.",
            python(&missing),
            python(&all)
        );
        return Err(Failure::invalid(message).because(BAD_VALUE).at("same_subtree"));
    }
    Ok(())
}

/// Up to 1.35 every group has resources.
fn check_orphans(groups: &BTreeMap<String, Group>) -> Result<(), Failure> {
    let orphans = |prefix: &str, is_said: fn(&Group) -> bool| {
        let found = groups
            .iter()
            .filter(|(_, group)| group.resources.is_empty() && is_said(group));
        found
            .map(|(suffix, _)| format!("{prefix}{suffix}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let traits = orphans("required", |group| !group.required.is_empty());
    if !traits.is_empty() {
        return Err(Failure::invalid(format!(
            "All traits parameters must be associated with resources.  Found the following orphaned traits keys: {traits}"
        )));
    }
    let members = orphans("member_of", |group| {
        !group.member_of.is_empty() || !group.forbidden_aggregates.is_empty()
    });
    if !members.is_empty() {
        return Err(Failure::invalid(format!(
            "All member_of parameters must be associated with resources. Found the following orphaned member_of keys: \
             {members}"
        )));
    }
    if groups.values().any(|group| group.resources.is_empty()) {
        return Err(Failure::invalid("All request groups must specify resources."));
    }
    if groups.is_empty() {
        return Err(Failure::invalid(
            "At least one request group (`resources` or `resources{$S}`) is required.",
        ));
    }
    Ok(())
}

/// What is required cannot be forbidden.
fn check_conflicts(groups: &BTreeMap<String, Group>) -> Result<(), Failure> {
    let mut conflicts = Vec::new();
    for (suffix, group) in groups {
        for any in group.required.iter().filter(|any| any.is_subset(&group.forbidden)) {
            let names: Vec<&str> = any.iter().map(String::as_str).collect();
            conflicts.push(format!("required{suffix}: ({})", names.join(", ")));
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort();
    Err(Failure::invalid(format!(
        "Conflicting required and forbidden traits found in the following traits keys: {}",
        conflicts.join(", ")
    )))
}

/// Classes and traits that are asked for must be known.
fn check_names(call: &Call, request: &Request) -> Result<(), Failure> {
    let store = &call.api.store;
    let unknown = |names: &mut dyn Iterator<Item = &String>| {
        let found: BTreeSet<&str> = names
            .filter(|name| !is_trait(store, name))
            .map(String::as_str)
            .collect();
        found.into_iter().collect::<Vec<_>>().join(", ")
    };
    for group in request.groups.values() {
        if let Some((class, _)) = group.resources.iter().find(|(class, _)| !is_class(store, class)) {
            let message = format!("Invalid resource class in resources parameter: No such resource class {class}.");
            return Err(Failure::invalid(message).at("resources"));
        }
        let missing = unknown(&mut group.required.iter().flatten().chain(&group.forbidden));
        if !missing.is_empty() {
            return Err(Failure::invalid(format!("No such trait(s): {missing}.")).at("required"));
        }
    }
    let missing = unknown(&mut request.root_required.iter().chain(&request.root_forbidden));
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(format!("No such trait(s): {missing}.")).at("root_required"))
    }
}

/// Whether no two providers are of one tree.
fn is_flat(forest: &Forest, candidate: &Candidate) -> bool {
    let providers: BTreeSet<usize> = candidate.given.keys().map(|(at, _)| *at).collect();
    let roots: BTreeSet<usize> = providers.iter().map(|at| forest.nodes[*at].root).collect();
    roots.len() == providers.len()
}

fn given(forest: &Forest, candidate: &Candidate) -> BTreeMap<String, BTreeMap<String, i64>> {
    let mut given: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for ((at, class), amount) in &candidate.given {
        given
            .entry(forest.nodes[*at].id().to_owned())
            .or_default()
            .insert(class.to_string(), *amount);
    }
    given
}

/// From 1.12 on an object by provider; from 1.34 on with what each group got.
fn as_object(forest: &Forest, candidate: &Candidate, shows_mappings: bool) -> Value {
    let given = given(forest, candidate).into_iter();
    let allocations: Map<String, Value> = given
        .map(|(id, amounts)| (id, json!({ "resources": amounts })))
        .collect();
    let mut shown = json!({ "allocations": allocations });
    if shows_mappings {
        let mappings = candidate.mappings.iter().map(|(suffix, providers)| {
            let ids: Vec<&str> = providers.iter().map(|at| forest.nodes[*at].id()).collect();
            (suffix.clone(), json!(ids))
        });
        shown["mappings"] = Value::Object(mappings.collect());
    }
    shown
}

/// Up to 1.11 a list.
fn as_list(forest: &Forest, candidate: &Candidate) -> Value {
    let given = given(forest, candidate).into_iter();
    let allocations: Vec<Value> = given
        .map(|(id, amounts)| json!({ "resource_provider": { "uuid": id }, "resources": amounts }))
        .collect();
    json!({ "allocations": allocations })
}

/// Every provider of the trees that something is given of.
fn summaries(call: &Call, forest: &Forest, request: &Request, found: &[Candidate], only_givers: bool) -> Value {
    let givers: BTreeSet<usize> = found
        .iter()
        .flat_map(|candidate| candidate.given.keys().map(|(at, _)| *at))
        .collect();
    let roots: BTreeSet<usize> = givers.iter().map(|at| forest.nodes[*at].root).collect();
    let asked: BTreeSet<&str> = request
        .groups
        .values()
        .flat_map(|group| group.resources.iter().map(|(class, _)| &**class))
        .collect();
    let mut all = Map::new();
    for (at, node) in forest.nodes.iter().enumerate() {
        if !roots.contains(&node.root) || (only_givers && !givers.contains(&at)) {
            continue;
        }
        let inventories = node.provider.spec.inventories.iter();
        let shown = inventories.filter(|(class, _)| call.is_since(27) || asked.contains(class.as_str()));
        let resources: Map<String, Value> = shown
            .map(|(class, one)| {
                (
                    class.clone(),
                    json!({ "capacity": one.capacity(), "used": node.used(class) }),
                )
            })
            .collect();
        let mut summary = json!({ "resources": resources });
        if call.is_since(17) {
            summary["traits"] = json!(node.provider.spec.traits);
        }
        if call.is_since(29) {
            summary["parent_provider_uuid"] = json!(node.parent.map(|parent| forest.nodes[parent].id()));
            summary["root_provider_uuid"] = json!(forest.nodes[node.root].id());
        }
        all.insert(node.id().to_owned(), summary);
    }
    Value::Object(all)
}
