//! `openrc`, `admin-openrc` and `clouds.yaml`, and the link to the latter where clients look.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::data_dir::{DataDir, home, shown, write_secret};

/// Where clients find the cloud. Kept in `endpoint.toml` for `madang status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `http://127.0.0.1:8000`, without a slash at the end.
    pub url: String,
    /// The region in the catalog.
    pub region: String,
    /// The authority that signed the server's certificate, where clients do not know it anyway.
    pub authority: Option<PathBuf>,
}

impl Endpoint {
    /// That of the last start on a data directory.
    ///
    /// # Errors
    /// When there was none.
    pub fn read(data: &DataDir) -> anyhow::Result<Self> {
        let path = data.join("endpoint.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("could not use {}", path.display()))
    }
}

struct Account<'a> {
    name: &'static str,
    password: &'a str,
}

/// Writes the files, readable by their owner only.
///
/// # Errors
/// What the file system says, naming the file.
pub fn write_all(data: &DataDir, endpoint: &Endpoint, credentials: &Credentials) -> anyhow::Result<()> {
    let demo = Account {
        name: "demo",
        password: &credentials.demo_password,
    };
    let admin = Account {
        name: "admin",
        password: &credentials.admin_password,
    };
    let kept = toml::to_string(endpoint).context("could not write the endpoint as TOML")?;
    write_secret(&data.join("endpoint.toml"), &kept)?;
    write_secret(&data.join("openrc"), &openrc(endpoint, &demo))?;
    write_secret(&data.join("admin-openrc"), &openrc(endpoint, &admin))?;
    write_secret(
        &data.join("clouds.yaml"),
        &clouds(endpoint, &[("madang", &demo), ("madang-admin", &admin)]),
    )
}

/// Both accounts have a project of their own name.
fn openrc(endpoint: &Endpoint, account: &Account<'_>) -> String {
    let name = account.name;
    let mut text = format!(
        "# The cloud as {name}, for clients of OpenStack. Written by `madang up`; read it with `source FILE`.\n\
         for name in $(env | sed -n 's/^\\(OS_[A-Z0-9_]*\\)=.*/\\1/p'); do unset \"$name\"; done\n"
    );
    let variables = [
        ("OS_AUTH_TYPE", "password"),
        ("OS_AUTH_URL", &format!("{}/identity/v3", endpoint.url)),
        ("OS_IDENTITY_API_VERSION", "3"),
        ("OS_USERNAME", name),
        ("OS_PASSWORD", account.password),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_NAME", name),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
        ("OS_REGION_NAME", &endpoint.region),
        ("OS_INTERFACE", "public"),
    ];
    for (variable, value) in variables {
        text.push_str(&format!("export {variable}={}\n", shell_quoted(value)));
    }
    if let Some(authority) = &endpoint.authority {
        text.push_str(&format!(
            "export OS_CACERT={}\n",
            shell_quoted(&authority.to_string_lossy())
        ));
    }
    text
}

fn clouds(endpoint: &Endpoint, accounts: &[(&str, &Account<'_>)]) -> String {
    let mut text = "# Written by `madang up`; `openstack --os-cloud madang …`.\nclouds:\n".to_owned();
    for (cloud, account) in accounts {
        text.push_str(&format!(
            "  {cloud}:\n    auth_type: password\n    auth:\n      auth_url: {url}\n      username: {name}\n      \
             password: {password}\n      user_domain_name: Default\n      project_name: {name}\n      \
             project_domain_name: Default\n    region_name: {region}\n    interface: public\n    identity_api_version: 3\n",
            url = yaml_quoted(&format!("{}/identity/v3", endpoint.url)),
            name = account.name,
            password = yaml_quoted(account.password),
            region = yaml_quoted(&endpoint.region),
        ));
        if let Some(authority) = &endpoint.authority {
            text.push_str(&format!("    cacert: {}\n", yaml_quoted(&authority.to_string_lossy())));
        }
    }
    text
}

fn shell_quoted(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@%+=,".contains(letter);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

/// JSON strings are YAML strings.
fn yaml_quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// Links `~/.config/openstack/clouds.yaml` to ours, unless a file of the user's own is there; the link as shown to users.
///
/// # Errors
/// What the file system says.
pub fn link_clouds(data: &DataDir) -> anyhow::Result<Option<String>> {
    let Some(link) = client_clouds() else { return Ok(None) };
    link_at(&link, &data.join("clouds.yaml"))
}

/// Removes the link if it is ours.
///
/// # Errors
/// What the file system says.
pub fn unlink_clouds(data: &DataDir) -> anyhow::Result<Option<String>> {
    let Some(link) = client_clouds() else { return Ok(None) };
    if fs::read_link(&link).ok() != Some(data.join("clouds.yaml")) {
        return Ok(None);
    }
    fs::remove_file(&link).with_context(|| format!("could not remove {}", link.display()))?;
    Ok(Some(shown(&link)))
}

/// Where openstacksdk looks.
fn client_clouds() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    Some(
        config
            .or_else(|| Some(home()?.join(".config")))?
            .join("openstack/clouds.yaml"),
    )
}

fn link_at(link: &Path, target: &Path) -> anyhow::Result<Option<String>> {
    match (fs::symlink_metadata(link), fs::read_link(link)) {
        (Ok(_), Ok(to)) if to == target => return Ok(Some(shown(link))),
        // A link whose file is gone is of no use to anybody.
        (Ok(_), Ok(_)) if !link.exists() => {
            fs::remove_file(link).with_context(|| format!("could not remove {}", link.display()))?;
        }
        (Ok(_), _) => return Ok(None),
        (Err(_), _) => {}
    }
    let make = || -> std::io::Result<()> {
        fs::create_dir_all(link.parent().unwrap_or(Path::new("/")))?;
        std::os::unix::fs::symlink(target, link)
    };
    make().with_context(|| format!("could not link {}", link.display()))?;
    Ok(Some(shown(link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(authority: Option<&str>) -> Endpoint {
        Endpoint {
            url: "https://10.0.0.1:8000".into(),
            region: "RegionOne".into(),
            authority: authority.map(Into::into),
        }
    }

    #[test]
    fn openrc_gives_a_shell_the_full_set() {
        let text = openrc(
            &endpoint(Some("/a b/ca.pem")),
            &Account {
                name: "demo",
                password: "it's",
            },
        );
        let script = format!("export OS_TOKEN=old\n{text}\nenv");
        let out = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        for line in [
            "OS_AUTH_URL=https://10.0.0.1:8000/identity/v3",
            "OS_USERNAME=demo",
            "OS_PASSWORD=it's",
            "OS_PROJECT_NAME=demo",
            "OS_USER_DOMAIN_NAME=Default",
            "OS_PROJECT_DOMAIN_NAME=Default",
            "OS_REGION_NAME=RegionOne",
            "OS_CACERT=/a b/ca.pem",
        ] {
            assert!(out.lines().any(|given| given == line), "{line} is not in {out}");
        }
        assert!(!out.contains("OS_TOKEN"), "{out}");
    }

    #[test]
    fn clouds_names_both() {
        let account = Account {
            name: "demo",
            password: "x",
        };
        let text = clouds(&endpoint(None), &[("madang", &account), ("madang-admin", &account)]);
        assert!(text.contains("\n  madang:\n") && text.contains("\n  madang-admin:\n") && !text.contains("cacert"));
        assert!(
            text.contains("      auth_url: \"https://10.0.0.1:8000/identity/v3\"\n"),
            "{text}"
        );
    }

    #[test]
    fn a_users_own_file_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let (link, target) = (
            scratch.path().join("openstack/clouds.yaml"),
            scratch.path().join("mine.yaml"),
        );
        fs::write(&target, "x").unwrap();
        assert!(link_at(&link, &target).unwrap().is_some());
        assert!(link_at(&link, &target).unwrap().is_some(), "again");
        fs::remove_file(&link).unwrap();
        fs::write(&link, "theirs").unwrap();
        assert_eq!(link_at(&link, &target).unwrap(), None);
        assert_eq!(fs::read_to_string(&link).unwrap(), "theirs");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(scratch.path().join("gone"), &link).unwrap();
        assert!(
            link_at(&link, &target).unwrap().is_some(),
            "a dangling link is replaced"
        );
        assert_eq!(fs::read_link(&link).unwrap(), target);
    }
}
