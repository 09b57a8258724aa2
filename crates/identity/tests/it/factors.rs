//! Passwords that must be changed, locks, one-time passwords, receipts, and requests signed with keys.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

use crate::cloud::{Cloud, text};

fn hmac_sha1(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

async fn change(cloud: &Cloud, user: &str, old: &str, new: &str) -> u16 {
    let body = json!({ "user": { "original_password": old, "password": new } });
    let path = format!("/v3/users/{user}/password");
    cloud.send(Method::POST, &path, &[], Some(body)).await.status
}

#[tokio::test]
async fn too_many_wrong_passwords_lock_the_right_one_out() {
    let cloud = Cloud::with(|options| {
        options.compliance.lockout_failure_attempts = Some(2);
        options.compliance.lockout_duration = SignedDuration::ZERO;
    })
    .await;
    let user = cloud
        .create("users", "user", json!({ "name": "a", "password": "right" }))
        .await;
    for _ in 0..2 {
        assert_eq!(cloud.login("a", "wrong", Value::Null).await.status, 401);
    }
    assert_eq!(cloud.login("a", "right", Value::Null).await.status, 401);
    let path = format!("/v3/users/{}", text(&user["id"]));
    let options = json!({ "user": { "options": { "ignore_lockout_failure_attempts": true } } });
    assert_eq!(cloud.admin("PATCH", &path, Some(options)).await.status, 200);
    assert_eq!(cloud.login("a", "right", Value::Null).await.status, 201);
}

#[tokio::test]
async fn a_given_password_is_changed_first_and_none_comes_again() {
    let cloud = Cloud::with(|options| {
        options.compliance.unique_last_password_count = 2;
        options.compliance.password_expires_days = Some(30);
        options.compliance.change_password_upon_first_use = true;
    })
    .await;
    let user = cloud
        .create("users", "user", json!({ "name": "a", "password": "first" }))
        .await;
    let id = text(&user["id"]);
    let refused = cloud.login("a", "first", Value::Null).await;
    assert_eq!(refused.status, 401);
    assert!(text(&refused.body["error"]["message"]).starts_with("The password is expired"));
    assert_eq!(change(&cloud, &id, "first", "first").await, 400);
    assert_eq!(change(&cloud, &id, "wrong", "second").await, 401);
    assert_eq!(change(&cloud, &id, "first", "second").await, 204);
    assert_eq!(change(&cloud, &id, "second", "first").await, 400);
    let token = cloud.login("a", "second", Value::Null).await;
    assert_eq!(token.status, 201);
    assert!(token.body["token"]["user"]["password_expires_at"].is_string());
    let list = async |filter: &str| {
        let path = format!("/v3/users?password_expires_at={filter}");
        cloud.admin("GET", &path, None).await
    };
    assert_eq!(list("gt:2020-01-01T00:00:00Z").await.names("users"), ["a"]);
    assert!(list("lt:2020-01-01T00:00:00Z").await.names("users").is_empty());
    assert_eq!(list("someday").await.status, 400);
}

fn code() -> String {
    let step = Timestamp::now().as_second() / 30;
    let hash = hmac_sha1(b"12345678901234567890", &step.to_be_bytes());
    let at = usize::from(hash[19] & 0x0f);
    let number = u32::from_be_bytes([hash[at] & 0x7f, hash[at + 1], hash[at + 2], hash[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

#[tokio::test]
async fn two_factors_are_proved_one_after_the_other() {
    let cloud = Cloud::new().await;
    let options = json!({
        "multi_factor_auth_enabled": true,
        "multi_factor_auth_rules": [["password", "totp"]],
    });
    let user = json!({ "name": "a", "password": "secret", "options": options });
    let id = text(&cloud.create("users", "user", user).await["id"]);
    let secret = json!({ "user_id": id, "type": "totp", "blob": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" });
    cloud.create("credentials", "credential", secret).await;
    let first = cloud.login("a", "secret", Value::Null).await;
    assert_eq!(first.status, 401);
    assert_eq!(first.body["required_auth_methods"], json!([["password", "totp"]]));
    assert_eq!(first.body["receipt"]["methods"], json!(["password"]));
    let receipt = first.headers["openstack-auth-receipt"].to_str().unwrap().to_owned();
    assert_eq!(cloud.validate(&receipt).await.status, 404, "a receipt is no token");
    let second = |passcode: String| {
        let identity = json!({ "methods": ["totp"], "totp": { "user": { "id": id, "passcode": passcode } } });
        json!({ "auth": { "identity": identity } })
    };
    let headers = [("openstack-auth-receipt", receipt.as_str())];
    let send = async |headers: &[(&str, &str)], body: Value| {
        cloud.send(Method::POST, "/v3/auth/tokens", headers, Some(body)).await
    };
    assert_eq!(send(&headers, second("000".to_owned())).await.status, 401);
    let passcode = code();
    let token = send(&headers, second(passcode.clone())).await;
    assert_eq!(token.status, 201, "{}", token.body);
    assert_eq!(token.body["token"]["methods"], json!(["password", "totp"]));
    assert_eq!(send(&headers, second(passcode)).await.status, 401, "it counts once");
    // What was proved stays proved for tokens from tokens.
    let identity = json!({ "methods": ["token"], "token": { "id": token.token() } });
    assert_eq!(cloud.authenticate(identity, Value::Null).await.status, 201);
}

#[tokio::test]
async fn who_has_one_factor_cannot_guess_the_other_for_ever() {
    let cloud = Cloud::with(|options| {
        options.compliance.lockout_failure_attempts = Some(3);
        options.compliance.lockout_duration = SignedDuration::ZERO;
    })
    .await;
    let rules = json!({ "multi_factor_auth_rules": [["password", "totp"]] });
    let of = json!({ "name": "a", "password": "right", "options": rules });
    let id = text(&cloud.create("users", "user", of).await["id"]);
    let secret = json!({ "user_id": id, "type": "totp", "blob": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" });
    cloud.create("credentials", "credential", secret).await;
    let login = async |passcode: String| {
        let identity = json!({
            "methods": ["password", "totp"],
            "password": { "user": { "id": id, "password": "right" } },
            "totp": { "user": { "id": id, "passcode": passcode } },
        });
        cloud.authenticate(identity, Value::Null).await.status
    };
    for _ in 0..3 {
        assert_eq!(login("none".to_owned()).await, 401);
    }
    assert_eq!(login(code()).await, 401, "locked");
}

#[tokio::test]
async fn requests_signed_with_an_access_key_are_its_users() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("a", "member").await;
    let path = format!("/v3/users/{user}/credentials/OS-EC2");
    let key = cloud.admin("POST", &path, Some(json!({ "tenant_id": project }))).await;
    let (access, secret) = (
        text(&key.body["credential"]["access"]),
        text(&key.body["credential"]["secret"]),
    );
    let signed = format!("GET\n\n\n{}\n/bucket", Timestamp::now());
    let ask = async |token: &str, signature: Vec<u8>| {
        let credentials = json!({
            "access": access, "token": STANDARD.encode(&signed), "signature": STANDARD.encode(signature),
        });
        cloud
            .ask(
                token,
                "POST",
                "/v3/s3tokens",
                Some(json!({ "credentials": credentials })),
            )
            .await
    };
    let good = hmac_sha1(secret.as_bytes(), signed.as_bytes());
    let found = ask(&cloud.admin, good.clone()).await;
    assert_eq!(found.status, 200, "{}", found.body);
    assert_eq!(text(&found.body["token"]["user"]["id"]), user);
    assert_eq!(text(&found.body["token"]["project"]["id"]), project);
    assert_eq!(
        ask(&cloud.admin, hmac_sha1(b"other", signed.as_bytes())).await.status,
        401
    );
    let own = cloud
        .login("a", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    assert_eq!(ask(&own, good).await.status, 403, "only services ask");
}

#[tokio::test]
async fn a_request_to_ec2_is_whose_key_signed_it() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("a", "member").await;
    let path = format!("/v3/users/{user}/credentials/OS-EC2");
    let key = cloud.admin("POST", &path, Some(json!({ "tenant_id": project }))).await;
    let key = &key.body["credential"];
    let (access, secret) = (text(&key["access"]), text(&key["secret"]));
    let ask = async |time: Timestamp, signed_host: &str, forge: bool| {
        let time = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut params = json!({ "Action": "Describe Instances", "SignatureVersion": "2", "Timestamp": time });
        let query: Vec<String> = ["Action", "SignatureVersion", "Timestamp"]
            .iter()
            .map(|name| format!("{name}={}", escaped(params[*name].as_str().unwrap())))
            .collect();
        let signed = format!("GET\n{signed_host}\n/services/Cloud\n{}", query.join("&"));
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        if forge {
            params["Action"] = "Terminate Instances".into();
        }
        let credentials = json!({
            "access": access, "signature": signature, "host": "cloud:8773", "verb": "GET",
            "path": "/services/Cloud", "params": params,
        });
        let body = json!({ "credentials": credentials });
        cloud.admin("POST", "/v3/ec2tokens", Some(body)).await
    };
    let now = Timestamp::now();
    for host in ["cloud:8773", "cloud"] {
        let given = ask(now, host, false).await;
        assert_eq!(given.status, 200, "{host}: {}", given.body);
        assert_eq!(given.body["token"]["methods"], json!(["ec2credential"]));
        let token = given.headers["x-subject-token"].to_str().unwrap().to_owned();
        assert_eq!(cloud.validate(&token).await.status, 200);
        let again = json!({ "methods": ["token"], "token": { "id": token } });
        assert_eq!(cloud.authenticate(again, Value::Null).await.status, 403);
        let secrets = cloud.ask(&token, "GET", &path, None).await;
        assert_eq!(secrets.status, 403, "the key opens no other");
    }
    assert_eq!(ask(now, "elsewhere", false).await.status, 401);
    assert_eq!(ask(now, "cloud", true).await.status, 401);
    let old = now - SignedDuration::from_mins(16);
    assert_eq!(ask(old, "cloud", false).await.status, 401, "too old");
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The header of a request that is signed with these secrets.
fn oauth(path: &str, parameters: &[(&str, &str)], secrets: (&str, &str)) -> String {
    let time = Timestamp::now().as_second().to_string();
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let mut all = parameters.to_vec();
    all.extend([
        ("oauth_timestamp", time.as_str()),
        ("oauth_nonce", &nonce),
        ("oauth_signature_method", "HMAC-SHA1"),
    ]);
    all.sort_unstable();
    let pairs: Vec<String> = all
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    let url = format!("http://cloud/identity{path}");
    let base = format!("POST&{}&{}", escaped(&url), escaped(&pairs.join("&")));
    let key = format!("{}&{}", secrets.0, secrets.1);
    let signature = STANDARD.encode(hmac_sha1(key.as_bytes(), base.as_bytes()));
    all.push(("oauth_signature", &signature));
    let parts: Vec<String> = all
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    format!("OAuth {}", parts.join(", "))
}

fn form(body: &str, name: &str) -> String {
    let part = body.split('&').find_map(|part| part.strip_prefix(&format!("{name}=")));
    part.unwrap_or_else(|| panic!("no {name} in {body}")).to_owned()
}

#[tokio::test]
async fn a_consumer_acts_for_who_let_it() {
    let cloud = Cloud::new().await;
    let consumer = cloud
        .create("OS-OAUTH1/consumers", "consumer", json!({ "description": "printer" }))
        .await;
    let (id, secret) = (text(&consumer["id"]), text(&consumer["secret"]));
    let project = cloud.begun.admin_project.clone().unwrap();
    let request = "/v3/OS-OAUTH1/request_token";
    let signed = oauth(
        request,
        &[("oauth_consumer_key", &id), ("oauth_callback", "oob")],
        (&secret, ""),
    );
    let headers = [("authorization", signed.as_str()), ("requested-project-id", &project)];
    let token = cloud.send_raw(Method::POST, request, &headers).await;
    assert_eq!(token.0, 201, "{}", token.1);
    assert_eq!(
        cloud.send_raw(Method::POST, request, &headers).await.0,
        401,
        "a signature counts once"
    );
    let (token, token_secret) = (form(&token.1, "oauth_token"), form(&token.1, "oauth_token_secret"));
    let roles = json!({ "roles": [{ "id": cloud.role("member").await }] });
    let yes = cloud
        .admin("PUT", &format!("/v3/OS-OAUTH1/authorize/{token}"), Some(roles))
        .await;
    assert_eq!(yes.status, 200, "{}", yes.body);
    let verifier = text(&yes.body["token"]["oauth_verifier"]);
    let exchange = "/v3/OS-OAUTH1/access_token";
    let parameters = [
        ("oauth_consumer_key", id.as_str()),
        ("oauth_token", &token),
        ("oauth_verifier", &verifier),
    ];
    let signed = oauth(exchange, &parameters, (&secret, &token_secret));
    let access = cloud
        .send_raw(Method::POST, exchange, &[("authorization", &signed)])
        .await;
    assert_eq!(access.0, 201, "{}", access.1);
    let (key, key_secret) = (form(&access.1, "oauth_token"), form(&access.1, "oauth_token_secret"));
    let tokens = "/v3/auth/tokens";
    let signed = oauth(
        tokens,
        &[("oauth_consumer_key", &id), ("oauth_token", &key)],
        (&secret, &key_secret),
    );
    let body = json!({ "auth": { "identity": { "methods": ["oauth1"], "oauth1": {} } } });
    let given = cloud
        .send(Method::POST, tokens, &[("authorization", &signed)], Some(body))
        .await;
    assert_eq!(given.status, 201, "{}", given.body);
    assert_eq!(given.names("roles"), ["member", "reader"]);
    assert_eq!(text(&given.body["token"]["OS-OAUTH1"]["consumer_id"]), id);
    let subject = given.token();
    let gone = cloud
        .admin("DELETE", &format!("/v3/OS-OAUTH1/consumers/{id}"), None)
        .await;
    assert_eq!(gone.status, 204);
    assert_eq!(
        cloud.validate(&subject).await.status,
        404,
        "tokens go with the consumer"
    );
}
