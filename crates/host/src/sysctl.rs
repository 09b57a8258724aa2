//! Kernel settings of one network namespace.

use std::{fs, path::PathBuf};

use crate::{Error, Result, netns::Netns};

/// Writes settings such as `("net/ipv4/ip_forward", "1")` inside the namespace, in order, stopping at the first that
/// fails. Keys use slashes, so that link names with dots work. Only keys below `net/` are accepted, and never in the
/// process' own namespace: the host's own settings are not ours.
pub async fn set(netns: &Netns, settings: &[(&str, &str)]) -> Result<()> {
    if *netns == Netns::OWN {
        return Err(Error::Invalid(
            "settings of the host's own network namespace are never changed".into(),
        ));
    }
    let mut writes = Vec::with_capacity(settings.len());
    for (key, value) in settings {
        writes.push((path(key)?, (*value).to_owned()));
    }
    let written = netns.run(move || {
        for (path, value) in writes {
            fs::write(&path, &value).map_err(Error::io(format!("set {} to {value}", path.display())))?;
        }
        Ok(())
    });
    written.await?
}

/// Reads one setting inside the namespace, without the final newline.
pub async fn get(netns: &Netns, key: &str) -> Result<String> {
    let path = path(key)?;
    let read = netns.run(move || {
        let text = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
        Ok(text.trim_end().to_owned())
    });
    read.await?
}

fn path(key: &str) -> Result<PathBuf> {
    if !key.starts_with("net/") || key.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return Err(Error::Invalid(format!(
            "`{key}` is not a network setting such as `net/ipv4/ip_forward`"
        )));
    }
    Ok(PathBuf::from("/proc/sys").join(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hosts_own_settings_are_refused() {
        let error = set(&Netns::OWN, &[("net/ipv4/ip_forward", "1")]).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)));
    }

    #[test]
    fn only_network_settings_have_a_path() {
        for bad in ["kernel/hostname", "net/../kernel/x", "net//x", "/net/ipv4", "net"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert_eq!(
            path("net/ipv4/conf/b1.2/forwarding").unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/conf/b1.2/forwarding")
        );
    }
}
