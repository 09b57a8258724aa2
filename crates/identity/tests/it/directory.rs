//! A domain whose users are in a directory: a real slapd from Debian's package, on a loopback port and in a directory of
//! its own. `scripts/bootstrap test` installs it.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use madang_control::TaskGroup;
use serde_json::{Value, json};

use crate::cloud::Cloud;

const SLAPD: &str = "/usr/sbin/slapd";

const ENTRIES: &str = "\
dn: dc=corp,dc=test
objectClass: dcObject
objectClass: organization
dc: corp
o: corp

dn: ou=Users,dc=corp,dc=test
objectClass: organizationalUnit
ou: Users

dn: ou=UserGroups,dc=corp,dc=test
objectClass: organizationalUnit
ou: UserGroups

dn: cn=alice,ou=Users,dc=corp,dc=test
objectClass: inetOrgPerson
cn: alice
sn: Alice (ops)
mail: alice@corp.test
userPassword: wonderland

dn: cn=bob,ou=Users,dc=corp,dc=test
objectClass: inetOrgPerson
cn: bob
sn: bob
employeeType: false
userPassword: builder

dn: cn=team,ou=UserGroups,dc=corp,dc=test
objectClass: groupOfNames
cn: team
ou: team
member: CN=alice, ou=Users, dc=corp, dc=test
";

struct Slapd {
    process: Child,
    port: u16,
    scratch: tempfile::TempDir,
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Slapd {
    async fn start() -> Self {
        assert!(Path::new(SLAPD).exists(), "{SLAPD} is missing: scripts/bootstrap test");
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().display();
        fs::create_dir(scratch.path().join("data")).unwrap();
        let conf = scratch.path().join("slapd.conf");
        let text = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             pidfile {dir}/pid\nargsfile {dir}/args\nsizelimit unlimited\n\
             database mdb\nsuffix \"dc=corp,dc=test\"\nrootdn \"cn=root,dc=corp,dc=test\"\nrootpw secret\ndirectory {dir}/data\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to * by dn.exact=\"cn=root,dc=corp,dc=test\" read by * none\n"
        );
        fs::write(&conf, text).unwrap();
        fs::write(scratch.path().join("begin.ldif"), ENTRIES).unwrap();
        let run = |program: &str| {
            let mut command = Command::new(program);
            command.arg("-f").arg(&conf).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let added = run("/usr/sbin/slapadd")
            .arg("-l")
            .arg(scratch.path().join("begin.ldif"))
            .status()
            .unwrap();
        assert!(added.success());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = run(SLAPD)
            .args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{port}")])
            .spawn()
            .unwrap();
        let slapd = Self { process, port, scratch };
        until("slapd answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        slapd
    }

    fn ldapmodify(&self, ldif: &str) {
        let file = self.scratch.path().join("change.ldif");
        fs::write(&file, ldif).unwrap();
        let done = Command::new("ldapmodify")
            .args([
                "-x",
                "-H",
                &format!("ldap://127.0.0.1:{}", self.port),
                "-D",
                "cn=root,dc=corp,dc=test",
                "-w",
                "secret",
                "-f",
            ])
            .arg(&file)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

async fn cloud(slapd: &Slapd) -> (Cloud, String, TaskGroup) {
    let options = json!({
        "domain": "corp", "url": format!("ldap://127.0.0.1:{}", slapd.port), "suffix": "dc=corp,dc=test",
        "user": "cn=root,dc=corp,dc=test", "password": "secret", "page_size": 1, "sync_seconds": 1,
        "user_enabled_attribute": "employeeType",
    });
    let options = serde_json::from_value(options).unwrap();
    let cloud = Cloud::with(|all| all.directories = vec![options]).await;
    let domain = cloud.create("domains", "domain", json!({ "name": "corp" })).await;
    let group = TaskGroup::new("test");
    cloud.identity.start(&group);
    (cloud, domain["id"].as_str().unwrap().to_owned(), group)
}

async fn login(cloud: &Cloud, name: &str, password: &str, scope: Option<Value>) -> (u16, Value) {
    let user = json!({ "name": name, "domain": { "name": "corp" }, "password": password });
    let mut auth = json!({ "identity": { "methods": ["password"], "password": { "user": user } } });
    if let Some(scope) = scope {
        auth["scope"] = scope;
    }
    let answer = cloud
        .send(
            http::Method::POST,
            "/v3/auth/tokens",
            &[],
            Some(json!({ "auth": auth })),
        )
        .await;
    (answer.status, answer.body)
}

async fn users(cloud: &Cloud, domain: &str) -> Vec<Value> {
    let answer = cloud.admin("GET", &format!("/v3/users?domain_id={domain}"), None).await;
    answer.body["users"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_directory_log_in_by_bind_with_the_roles_of_their_groups() {
    let slapd = Slapd::start().await;
    let (cloud, domain, _group) = cloud(&slapd).await;
    let (status, body) = login(&cloud, "Alice (ops)", "wonderland", None).await;
    assert_eq!(status, 201, "{body}");
    let id = body["token"]["user"]["id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 64, "Keystone's public id");
    for (name, password) in [
        ("Alice (ops)", "Wonderland"),
        ("Alice (ops)", ""),
        ("*", "wonderland"),
        ("bob", "builder"),
    ] {
        assert_eq!(login(&cloud, name, password, None).await.0, 401, "{name}");
    }

    until("both are copied", async || users(&cloud, &domain).await.len() == 2).await;
    let shown = users(&cloud, &domain).await;
    let alice = shown.iter().find(|user| user["id"] == id.as_str()).unwrap();
    assert_eq!(
        (&alice["email"], &alice["enabled"]),
        (&json!("alice@corp.test"), &json!(true))
    );
    let bob = shown.iter().find(|user| user["name"] == "bob").unwrap();
    assert_eq!(bob["enabled"], false);

    let groups = cloud.admin("GET", &format!("/v3/users/{id}/groups"), None).await;
    let team = groups.body["groups"][0]["id"].as_str().unwrap().to_owned();
    let project = cloud.begun.demo_project.clone().unwrap();
    let roles = cloud.admin("GET", "/v3/roles?name=member", None).await;
    let role = roles.body["roles"][0]["id"].as_str().unwrap();
    let granted = cloud
        .admin(
            "PUT",
            &format!("/v3/projects/{project}/groups/{team}/roles/{role}"),
            None,
        )
        .await;
    assert_eq!(granted.status, 204);
    let scope = json!({ "project": { "id": project } });
    let (status, body) = login(&cloud, "Alice (ops)", "wonderland", Some(scope)).await;
    assert_eq!(status, 201, "{body}");
    assert!(
        body["token"]["roles"]
            .as_array()
            .unwrap()
            .iter()
            .any(|role| role["name"] == "member")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_written_and_who_leaves_it_is_out() {
    let slapd = Slapd::start().await;
    let (cloud, domain, _group) = cloud(&slapd).await;
    until("both are copied", async || users(&cloud, &domain).await.len() == 2).await;
    let shown = users(&cloud, &domain).await;
    let id = shown.iter().find(|user| user["name"] == "Alice (ops)").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/v3/users/{id}");
    for (method, path, body) in [
        (
            "POST",
            "/v3/users",
            Some(json!({ "user": { "name": "eve", "domain_id": domain } })),
        ),
        ("PATCH", path.as_str(), Some(json!({ "user": { "enabled": false } }))),
        ("DELETE", path.as_str(), None),
        (
            "POST",
            "/v3/groups",
            Some(json!({ "group": { "name": "g", "domain_id": domain } })),
        ),
    ] {
        let answer = cloud.admin(method, path, body).await;
        let said = answer.body["error"]["message"].as_str().unwrap_or_default();
        assert!(
            answer.status == 403 && said.contains("LDAP does not support write"),
            "{method} {path}: {said}"
        );
    }

    slapd.ldapmodify("dn: cn=alice,ou=Users,dc=corp,dc=test\nchangetype: delete\n");
    let enabled = async || cloud.admin("GET", &path, None).await.body["user"]["enabled"] == true;
    until("she is out", async || !enabled().await).await;
    assert_eq!(login(&cloud, "Alice (ops)", "wonderland", None).await.0, 401);
    assert_eq!(
        cloud.admin("DELETE", &path, None).await.status,
        204,
        "what it no longer has may go"
    );

    drop(slapd);
    assert_eq!(login(&cloud, "bob", "builder", None).await.0, 503, "nobody knows");
    assert_eq!(users(&cloud, &domain).await.len(), 1, "silence takes nothing away");
}
