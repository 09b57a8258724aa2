//! The policy of this cloud: every domain's defaults, the operator's file over them, and `madang policy`, which explains
//! both.
//!
//! The file is looked at every two seconds while madang is up; a mistake in it is logged with line and rule, and what held
//! before goes on to hold. A start with a mistake in it is refused: the defaults might allow what the file forbids.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use comfy_table::{Table, presets::NOTHING};
use madang_control::TaskGroup;
use madang_identity::{
    DomainMember, Policy, RoleRef, Scope, Subject,
    policy::{LARGEST_FILE, Source, Step},
};
use serde_json::Value;
use tracing::{error, info, warn};

use crate::{
    cli,
    client::Client,
    console::line,
    credentials::{Credentials, Endpoint},
    data_dir::DataDir,
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Where it is in the data directory; the first one that is there.
const NAMES: [&str; 2] = ["policy.yaml", "policy.json"];

/// Every domain's defaults.
pub fn defaults() -> Policy {
    let mut policy = Policy::new();
    policy.register_for("identity", madang_identity::POLICY);
    policy.register_for("audit", madang_audit::api::POLICY);
    policy.register_for("placement", madang_scheduler::api::POLICY);
    policy.register_for("image", madang_image::api::POLICY);
    policy.register_for("network", madang_network::POLICY);
    policy.register_for("volume", madang_block::api::POLICY);
    policy.register_for("compute", madang_compute::api::POLICY);
    policy.register_for("object-store", madang_object::swift::POLICY);
    policy
}

/// The operator's file: the one asked for, or the data directory's. It need not be there.
pub fn file(data: &DataDir, asked: Option<&Path>) -> PathBuf {
    let own = NAMES.map(|name| data.join(name));
    match (asked, own) {
        (Some(asked), _) => asked.to_owned(),
        (None, [yaml, json]) if !yaml.exists() && json.exists() => json,
        (None, [yaml, _]) => yaml,
    }
}

/// Reads the file over the defaults. Without one, the defaults hold.
///
/// # Errors
/// When it cannot be read or has a mistake, naming file, line and rule.
pub fn read(policy: &Policy, path: &Path) -> anyhow::Result<()> {
    let text = match fs::metadata(path) {
        Ok(about) if about.len() > LARGEST_FILE => {
            bail!("{} is larger than {LARGEST_FILE} bytes", path.display())
        }
        Ok(_) => fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    let count = policy.override_with(&text);
    let count = count.map_err(|error| anyhow::anyhow!("{}, {error}", path.display()))?;
    if count > 0 {
        info!(file = %path.display(), rules = count, "policy read");
    }
    for name in policy.unknown_overrides() {
        warn!(file = %path.display(), rule = name, "no service here asks for this rule: is it misspelt?");
    }
    Ok(())
}

/// Reads the file again whenever it changes.
pub fn watch(policy: Arc<Policy>, path: PathBuf, group: &TaskGroup) {
    group.spawn_until_stopped("policy file", async move {
        let mut seen = stamp(&path);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            seen = now;
            let (policy, path) = (Arc::clone(&policy), path.clone());
            let done = tokio::task::spawn_blocking(move || read(&policy, &path)).await;
            match done {
                Ok(Ok(())) => info!("policy changed"),
                Ok(Err(error)) => error!(error = format!("{error:#}"), "policy not taken; the one before holds"),
                Err(_) => return,
            }
        }
    });
}

/// What changes when the file does.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// `madang policy`.
///
/// # Errors
/// When the file has a mistake, a rule is not there, or the cloud does not know who is asked about.
pub async fn run(command: cli::Policy) -> anyhow::Result<()> {
    match command {
        cli::Policy::List(asked) => list(&asked),
        cli::Policy::Check(asked) => check(&asked).await,
    }
}

fn load(place: &cli::Place, asked: Option<&Path>) -> anyhow::Result<(DataDir, Policy)> {
    let data = DataDir::new(place.data_dir.as_deref())?;
    let policy = defaults();
    read(&policy, &file(&data, asked))?;
    Ok((data, policy))
}

fn list(asked: &cli::PolicyList) -> anyhow::Result<()> {
    let (_, policy) = load(&asked.place, asked.file.as_deref())?;
    let mut table = Table::new();
    let head = ["service", "rule", "check", "from", "what it decides"];
    table.load_style(NOTHING).set_header(head);
    let wanted = |service: &str| asked.service.as_deref().is_none_or(|wanted| wanted == service);
    let rules = policy.list().into_iter().filter(|rule| wanted(rule.service));
    for rule in rules.filter(|rule| !asked.changed || rule.source != Source::Default) {
        let from = match (rule.source, &rule.default) {
            (Source::Default, _) => "default".to_owned(),
            (Source::File { line }, None) => format!("line {line}"),
            (Source::File { line }, Some(default)) => format!("line {line}; default {default}"),
        };
        let described = described(rule.service, &rule.name);
        table.add_row([rule.service.to_owned(), rule.name, rule.check, from, described]);
    }
    if table.is_empty() {
        match &asked.service {
            Some(service) if !asked.changed => bail!("there is no service {service} with rules"),
            _ => line("no rule differs from its default"),
        }
        return Ok(());
    }
    line(&table.to_string());
    Ok(())
}

/// What a rule decides, in words: the originals name their rules so that this can be read off. `os_compute_api:servers:create`
/// is "servers: create", `identity:list_users` "list users".
fn described(service: &str, name: &str) -> String {
    if service.is_empty() {
        return "asked by other rules".to_owned();
    }
    let parts = name
        .split(':')
        .filter(|part| !["identity", "os_compute_api", "placement", "audit"].contains(part));
    let words = parts.map(|part| part.trim_start_matches("os-").replace(['_', '-'], " "));
    words.collect::<Vec<_>>().join(": ")
}

async fn check(asked: &cli::PolicyCheck) -> anyhow::Result<()> {
    let (data, policy) = load(&asked.place, asked.file.as_deref())?;
    if !policy.list().iter().any(|rule| rule.name == asked.rule) {
        bail!("there is no rule {}: `madang policy list` shows all", asked.rule);
    }
    let subject = if asked.role.is_empty() {
        look_up(&data, asked).await?
    } else {
        made_up(asked)
    };
    let mut target: Vec<(&str, &str)> = Vec::new();
    for pair in &asked.target {
        let pair = pair.split_once('=');
        target.push(pair.context("a target is written as field=value, such as project_id=42")?);
    }
    // What most rules ask about: something of the caller's own.
    let own = [
        ("project_id", subject.project_id()),
        ("tenant_id", subject.project_id()),
        ("user_id", Some(subject.user.id.as_str())),
    ];
    for (field, value) in own {
        if let Some(value) = value.filter(|_| !target.iter().any(|(given, _)| *given == field)) {
            target.push((field, value));
        }
    }
    let step = policy.explain(&subject, &asked.rule, &target);
    let shown = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    line(&format!("target  {}", shown(&target)));
    let mut text = String::new();
    write_step(&step, 0, &mut text);
    line(text.trim_end());
    line(if step.holds { "allowed" } else { "refused" });
    Ok(())
}

fn write_step(step: &Step, depth: usize, text: &mut String) {
    let answer = if step.holds { "yes" } else { "no " };
    let because = if step.because.is_empty() {
        String::new()
    } else {
        format!("   ({})", step.because)
    };
    text.push_str(&format!(
        "{:indent$}{answer} {}{because}\n",
        "",
        step.check,
        indent = depth * 2
    ));
    for part in &step.parts {
        write_step(part, depth + 1, text);
    }
}

/// Somebody with the given roles, whom no cloud needs to know.
fn made_up(asked: &cli::PolicyCheck) -> Subject {
    let mut subject = (*Subject::system("somebody")).clone();
    let name = |given: &Option<String>| given.clone().unwrap_or_else(|| "somebody".to_owned());
    subject.user = DomainMember {
        id: name(&asked.user),
        name: name(&asked.user),
        ..DomainMember::default()
    };
    subject.scope = match (&asked.project, asked.system) {
        (Some(project), _) => Scope::Project(DomainMember {
            id: project.clone(),
            name: project.clone(),
            ..DomainMember::default()
        }),
        (None, true) => Scope::System,
        (None, false) => Scope::Unscoped,
    };
    subject.roles = asked
        .role
        .iter()
        .map(|role| RoleRef {
            id: role.clone(),
            name: role.clone(),
        })
        .collect();
    subject
}

/// The user and its roles there, as the running cloud knows them.
async fn look_up(data: &DataDir, asked: &cli::PolicyCheck) -> anyhow::Result<Subject> {
    let wanted = asked
        .user
        .as_deref()
        .context("say who: --user NAME, or --role ROLE for somebody made up")?;
    if data.holder().is_none() {
        bail!(
            "nothing is up on {}: start it, or ask about --role ROLE instead",
            data.path().display()
        );
    }
    let credentials = Credentials::load(&data.join("credentials.toml"))?.context("there are no credentials")?;
    let mut client = Client::new(&Endpoint::read(data)?)?;
    client.log_in("admin", &credentials.admin_password).await?;
    let user = find(&client, "users", wanted).await?;
    let mut subject = (*Subject::system("nobody")).clone();
    subject.user = member(&user);
    let query = match (&asked.project, asked.system) {
        (Some(project), _) => {
            let project = member(&find(&client, "projects", project).await?);
            let query = format!("scope.project.id={}", project.id);
            subject.scope = Scope::Project(project);
            query
        }
        (None, true) => "scope.system=all".to_owned(),
        (None, false) => {
            subject.scope = Scope::Unscoped;
            return Ok(subject);
        }
    };
    let path = format!(
        "/identity/v3/role_assignments?effective=true&include_names=true&user.id={}&{query}",
        subject.user.id
    );
    let answer = client.get(&path).await?;
    let roles = answer["role_assignments"].as_array().into_iter().flatten();
    let roles = roles.filter_map(|assignment| {
        let role = &assignment["role"];
        Some(RoleRef {
            id: role["id"].as_str()?.to_owned(),
            name: role["name"].as_str()?.to_owned(),
        })
    });
    for role in roles {
        if !subject.roles.contains(&role) {
            subject.roles.push(role);
        }
    }
    Ok(subject)
}

/// By name where one has it, else by id.
async fn find(client: &Client, collection: &str, wanted: &str) -> anyhow::Result<Value> {
    let answer = client.get(&format!("/identity/v3/{collection}")).await?;
    let all = || answer[collection].as_array().into_iter().flatten();
    let by = |field: &str| {
        all()
            .filter(|one| one[field] == wanted)
            .cloned()
            .collect::<Vec<Value>>()
    };
    match (by("name").as_slice(), by("id").first()) {
        ([one], _) => Ok(one.clone()),
        (_, Some(one)) => Ok(one.clone()),
        ([], None) => bail!("there is no {wanted} among the {collection}"),
        _ => bail!("several {collection} are called {wanted}: name it by id"),
    }
}

fn member(shown: &Value) -> DomainMember {
    let text = |field: &str| shown[field].as_str().unwrap_or_default().to_owned();
    DomainMember {
        id: text("id"),
        name: text("name"),
        domain_id: text("domain_id"),
        domain_name: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_names_the_file_and_leaves_what_held_before() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("policy.yaml");
        let policy = defaults();
        read(&policy, &path).unwrap();
        fs::write(&path, "\"os_compute_api:servers:create\": \"role:operator\"\n").unwrap();
        read(&policy, &path).unwrap();
        fs::write(&path, "\"os_compute_api:servers:create\": \"role:\n").unwrap();
        let error = format!("{:#}", read(&policy, &path).unwrap_err());
        assert!(error.contains("policy.yaml, line "), "{error}");
        let rule = |name: &str| policy.list().into_iter().find(|rule| rule.name == name).unwrap();
        let create = rule("os_compute_api:servers:create");
        assert_eq!(
            (create.check.as_str(), create.source),
            ("role:operator", Source::File { line: 1 })
        );
        assert_eq!(create.service, "compute");
        fs::remove_file(&path).unwrap();
        read(&policy, &path).unwrap();
        assert_eq!(rule("os_compute_api:servers:create").source, Source::Default);
    }

    #[test]
    fn every_rule_says_what_it_decides() {
        for rule in defaults().list() {
            assert!(!described(rule.service, &rule.name).is_empty(), "{}", rule.name);
        }
        assert_eq!(
            described("compute", "os_compute_api:os-admin-actions:reset_state"),
            "admin actions: reset state"
        );
    }

    #[test]
    fn defaults_refer_only_to_rules_that_are_there() {
        let policy = defaults();
        let all: String = policy
            .list()
            .iter()
            .map(|rule| format!("\"{}\": {:?}\n", rule.name, rule.check))
            .collect();
        policy.override_with(&all).unwrap();
    }
}
