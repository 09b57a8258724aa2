//! A whole cloud on simulated hosts, the victim's things in it, and somebody else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use madang_block::{api::BlockApi, driver::file::FileBackEnd, vault::DirectoryVault};
use madang_control::TaskGroup;
use madang_http::{Health, Metrics, Trail};
use madang_store::Prefix;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::cases::{Case, Kind, route};
use crate::{
    config::Config,
    credentials::{Credentials, Endpoint},
    data_dir::DataDir,
    up::{domains::Cloud, hosts},
};

/// What everything of the victim's is called by, and nothing else.
const MARK: &str = "zz-";
const PASSWORD: &str = "secret-of-the-test";
const HOST: &str = "simulated-00001";
const HOSTS: u32 = 2;

/// The cloud, and who is in it.
pub struct World {
    app: Router,
    cloud: Cloud,
    metrics: Metrics,
    group: TaskGroup,
    /// Ids by the names that cases use.
    things: BTreeMap<String, String>,
    admin: String,
    victim: String,
    /// Tokens of the other project, by role.
    others: BTreeMap<String, String>,
    _directory: tempfile::TempDir,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl World {
    /// A cloud with two projects: the victim's, and another with a user of each role. Nobody has anything yet.
    pub async fn begin(roles: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(Some(directory.path())).unwrap();
        let config = Config {
            simulated_hosts: HOSTS,
            ..Config::default()
        };
        let endpoint = Endpoint {
            url: "http://cloud".to_owned(),
            region: config.region.clone(),
            authority: None,
        };
        let credentials = Credentials {
            admin_password: PASSWORD.to_owned(),
            demo_password: PASSWORD.to_owned(),
        };
        let group = TaskGroup::new("test");
        let cloud = Cloud::open(&config, &data, &endpoint, &credentials, "abcdef", &group)
            .await
            .unwrap();
        let metrics = Metrics::noting_routes();
        let recorder = madang_audit::Recorder::start(&data.audit(), keep(), &metrics, &group)
            .await
            .unwrap();
        let simulated = hosts::simulated(&cloud, &config);
        let reach = hosts::simulated_reach(&config, &simulated);
        let block = BlockApi {
            store: cloud.store.clone(),
            host: HOST.to_owned(),
            back_end: Arc::new(FileBackEnd::open(&data.join("volumes")).unwrap()),
            vault: Arc::new(DirectoryVault::open(&data.join("backups")).unwrap()),
        };
        let options = config.compute.options();
        let app = cloud.router(
            reach,
            options.clone(),
            block.clone(),
            Arc::clone(&recorder),
            &metrics,
            &Health::new(),
        );
        let app = Trail::new(recorder, &[]).over(app);
        hosts::simulate(&cloud, &config, simulated, &group);
        hosts::start_volumes(&cloud, block, &group).await.unwrap();
        madang_compute::server::control::run(&cloud.store, options, &group);
        let mut world = Self {
            app,
            cloud,
            metrics,
            group,
            things: BTreeMap::new(),
            admin: String::new(),
            victim: String::new(),
            others: BTreeMap::new(),
            _directory: directory,
        };
        world.admin = world.login("admin", "admin").await;
        world.people(roles).await;
        world
    }

    async fn people(&mut self, roles: &[&str]) {
        let mine = format!("{MARK}project");
        for (name, project) in [("project", mine.as_str()), ("other", "other")] {
            let made = self
                .admin_makes("/identity/v3/projects", "project", json!({ "name": project }))
                .await;
            self.things.insert(name.to_owned(), made);
        }
        let account = format!("AUTH_{}", self.things["project"]);
        self.things.insert("account".to_owned(), account);
        let owner = format!("{MARK}owner");
        let project = self.things["project"].clone();
        let id = self.user(&owner, "manager", &project).await;
        self.things.insert("user".to_owned(), id);
        self.victim = self.login(&owner, &mine).await;
        let friend = self.user(&format!("{MARK}friend"), "member", &project).await;
        self.things.insert("friend".to_owned(), friend);
        let other = self.things["other"].clone();
        for role in roles {
            let id = self.user(role, role, &other).await;
            self.things.insert(format!("other_{role}"), id);
            let token = self.login(role, "other").await;
            self.others.insert((*role).to_owned(), token);
        }
    }

    async fn user(&self, name: &str, role: &str, project: &str) -> String {
        let user = json!({ "name": name, "password": PASSWORD });
        let id = self.admin_makes("/identity/v3/users", "user", user).await;
        let role = self.role(role).await;
        let path = format!("/identity/v3/projects/{project}/users/{id}/roles/{role}");
        let granted = self.request(&self.admin, "PUT", &path, None).await;
        assert_eq!(granted.status, 204, "{}", granted.text);
        id
    }

    async fn role(&self, name: &str) -> String {
        let found = self
            .request(&self.admin, "GET", &format!("/identity/v3/roles?name={name}"), None)
            .await;
        text(&found.body()["roles"][0]["id"])
    }

    async fn login(&self, user: &str, project: &str) -> String {
        let domain = json!({ "id": "default" });
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": { "name": user, "domain": domain, "password": PASSWORD } } },
            "scope": { "project": { "name": project, "domain": domain } },
        }});
        let request = Request::post("/identity/v3/auth/tokens")
            .header(header::HOST, "cloud")
            .header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 201, "{user} cannot log in");
        response.headers()["x-subject-token"].to_str().unwrap().to_owned()
    }

    /// Every kind of thing that a project can have, made for the victim.
    pub async fn furnish(&mut self) {
        let steps = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tenancy/belongings.steps");
        let steps = std::fs::read_to_string(steps).unwrap();
        for line in steps.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["upload"] => self.upload().await,
                ["wait", path, member, wanted] => self.wait(&self.fill(path), member, wanted).await,
                _ => self.step(line).await,
            }
        }
    }

    /// `NAME WHO METHOD PATH MEMBER BODY`: makes something and remembers its id. A name `-` is not remembered; a member
    /// `a.b` is what the answer has there.
    async fn step(&mut self, line: &str) {
        let mut words = line.splitn(6, char::is_whitespace);
        let mut word = || words.next().unwrap_or_else(|| panic!("a step lacks a word: {line}"));
        let (name, who, method, path, member) = (word(), word(), word(), self.fill(word()), word());
        let body: Option<Value> = words.next().map(|body| serde_json::from_str(&self.fill(body)).unwrap());
        let token = if who == "admin" { &self.admin } else { &self.victim };
        let answer = self.request(token, method, &path, body).await;
        assert!(
            (200..300).contains(&answer.status),
            "{line}: {} {}",
            answer.status,
            answer.text
        );
        if name != "-" {
            let body = answer.body();
            let pointer = format!("/{}", member.replace('.', "/"));
            let id = body
                .pointer(&pointer)
                .unwrap_or_else(|| panic!("{line}: no {member} in {body}"));
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            self.things.insert(name.to_owned(), id);
        }
    }

    async fn upload(&self) {
        let path = self.fill("/image/v2/images/<image>/file");
        let request = Request::put(format!("http://cloud{path}"))
            .header("x-auth-token", &self.victim)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let request = request.body(Body::from(vec![0; 1 << 20])).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 204);
    }

    async fn wait(&self, path: &str, member: &str, wanted: &str) {
        let mut last = Value::Null;
        for _ in 0..600 {
            last = self.request(&self.victim, "GET", path, None).await.body();
            if last[member]["status"] == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} is never {wanted}: {last}");
    }

    async fn admin_makes(&self, path: &str, what: &str, of: Value) -> String {
        let answer = self.request(&self.admin, "POST", path, Some(json!({ what: of }))).await;
        assert!(answer.status < 300, "{path}: {} {}", answer.status, answer.text);
        text(&answer.body()[what]["id"])
    }

    /// Every route of every face, once.
    pub fn routes(&self) -> Vec<String> {
        let routes = self.metrics.routes();
        let names = routes.iter().map(|name| route(name.face, &name.method, &name.path));
        names.collect()
    }

    /// The victim, or the administrator where a line is not for it, gets what a case is about: the others are not refused
    /// because there was nothing.
    pub async fn control(&self, case: &Case, wrong: &mut Vec<String>) {
        if !case.is_read() || !matches!(case.kind, Kind::Own(_) | Kind::List) {
            return;
        }
        let mut answer = self.ask(&self.victim, case).await;
        if answer.status == 403 {
            answer = self.ask(&self.admin, case).await;
        }
        let is_shown = self.secrets_in(case, &answer.text).next().is_some();
        if !(200..300).contains(&answer.status) {
            wrong.push(format!(
                "{}: the victim is told {}: {}",
                case.route(),
                answer.status,
                answer.text
            ));
        } else if case.kind == Kind::List && !is_shown {
            wrong.push(format!(
                "{}: the victim's list has nothing of its own: {}",
                case.route(),
                answer.text
            ));
        }
    }

    /// What somebody of the other project, or nobody, is answered.
    pub async fn send(&self, case: &Case, role: Option<&str>) -> Answer {
        let token = role.map_or("", |role| self.others[role].as_str());
        self.ask(token, case).await
    }

    async fn ask(&self, token: &str, case: &Case) -> Answer {
        let path = format!("/{}{}", case.face, self.path(&case.path));
        let body = case.body.as_ref().map(|body| {
            let filled = self.fill(body);
            serde_json::from_str(&filled).unwrap_or_else(|error| panic!("{}: {error}: {filled}", case.route()))
        });
        let body = body.or_else(|| (!case.is_read() && case.method != "DELETE").then(|| json!({})));
        self.request(
            token,
            if case.method == "*" { "GET" } else { &case.method },
            &path,
            body,
        )
        .await
    }

    async fn request(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("http://cloud{path}"))
            .header(header::HOST, "cloud")
            .header("openstack-api-version", version(path));
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        let takes_bytes = path.ends_with("/file") || path.ends_with("/stage");
        let kind = if path.starts_with("/image/") && takes_bytes {
            "application/octet-stream"
        } else if method == "PATCH" && path.starts_with("/image/v2/images") {
            "application/openstack-images-v2.1-json-patch"
        } else {
            "application/json"
        };
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        Answer {
            status,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// A path with the ids of things in it, and other parameters by their names.
    fn path(&self, path: &str) -> String {
        self.fill(path).replace(['{', '}', '*'], "")
    }

    /// A text with the ids of things in it.
    fn fill(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        while let Some((before, rest)) = filled.split_once('<') {
            let (name, after) = rest.split_once('>').unwrap_or_else(|| panic!("< without > in {text}"));
            // `<=text>` is the text itself, in the place of a parameter.
            let id = match name.strip_prefix('=') {
                Some(text) => text,
                None => self.things.get(name).map_or("not-made-yet", String::as_str),
            };
            filled = format!("{before}{id}{after}");
        }
        filled
    }

    /// The ids of what is the victim's, but for those that might be in any text.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        let own = |name: &str| !name.starts_with("other") && !name.starts_with("cloud_");
        let things = self.things.iter().filter(move |(name, id)| own(name) && id.len() > 6);
        things.map(|(_, id)| id.as_str())
    }

    /// What of the victim's is in an answer, and was not in the request.
    pub fn secrets_in<'a>(&'a self, case: &'a Case, answer: &'a str) -> impl Iterator<Item = &'a str> {
        let body = case.body.as_deref().map(|body| self.fill(body)).unwrap_or_default();
        let asked = format!("{} {body}", self.fill(&case.path));
        let ids = self.secrets();
        ids.chain([MARK])
            .filter(move |secret| answer.contains(secret) && !asked.contains(secret))
    }

    /// All records that are the victim's or speak of it, with the revision they are from.
    pub async fn belongings(&self) -> BTreeMap<String, u64> {
        let page = self
            .cloud
            .store
            .backend()
            .range(&Prefix::all(), None, usize::MAX)
            .await
            .unwrap();
        assert!(!page.more);
        let project = &self.things["project"];
        let secrets: Vec<&str> = self.secrets().collect();
        let records = page.records.iter().filter(|record| {
            let value = String::from_utf8_lossy(&record.value);
            record.key.project == *project || value.contains(MARK) || secrets.iter().any(|id| value.contains(id))
        });
        records
            .map(|record| (format!("{:?}", record.key), record.modified.0))
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.group.token().cancel();
    }
}

/// The newest of each service.
fn version(path: &str) -> &'static str {
    match path.split('/').nth(1) {
        Some("compute") => "compute 2.104",
        Some("placement") => "placement 1.39",
        Some("volume") => "volume 3.71",
        _ => "identity 3.14",
    }
}

fn keep() -> madang_audit::Keep {
    madang_audit::Keep {
        age: jiff::SignedDuration::from_hours(24),
        bytes: 1 << 24,
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// JSON without its times, which are others each time.
pub fn without_times(text: &str) -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::String(text) if text.len() > 15 && text.starts_with("20") => *text = "time".to_owned(),
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Object(members) => members.values_mut().for_each(strip),
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::from_str(text) else {
        return text.to_owned();
    };
    strip(&mut value);
    value.to_string()
}
