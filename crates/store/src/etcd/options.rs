//! How to reach a store in etcd.

use crate::StoreError;

/// Where a store is that its address does not say.
const PREFIX: &str = "/madang/";
/// What etcd takes in one transaction unless told otherwise (`--max-txn-ops`).
const MAX_TXN_OPS: usize = 128;
/// What etcd takes in one request unless told otherwise (`--max-request-bytes`, 1.5 MiB), less a little for what is around
/// the request.
const MAX_REQUEST_BYTES: usize = (3 << 19) - (8 << 10);

/// How to open a store in etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Its members, as `host:port`.
    pub members: Vec<String>,
    /// What every key begins with; begins and ends in a slash.
    pub prefix: String,
    /// Speaks TLS, and shows a certificate of its own.
    pub tls: Option<EtcdTls>,
    /// How many revisions of history are kept for watchers that come back and for who asks what happened; older ones are
    /// compacted as new ones come. etcd forgets its own past with them: the cluster is best one of madang's own.
    pub keep_revisions: u64,
    /// How many bytes that history may take; the oldest goes first. etcd's `--quota-backend-bytes` (2 GiB) has to be well
    /// above it.
    pub keep_bytes: u64,
    /// etcd's `--max-txn-ops`, at least; 4 or more.
    pub max_txn_ops: usize,
    /// etcd's `--max-request-bytes`, at least.
    pub max_request_bytes: usize,
    /// In whose name it is opened: somebody else's store is refused. None for whoever is careful.
    pub owner: Option<String>,
    /// Takes it from another owner, who cannot write any more from then on.
    pub take_over: bool,
}

/// Certificates and keys, as PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Whom to believe that it is etcd.
    pub ca: Vec<u8>,
    /// The certificate and the key that are shown to etcd, where it wants some.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdTls")
    }
}

impl EtcdOptions {
    /// The usual options for `etcd://host:port[,host:port…][/prefix]`: 100,000 revisions of history, 256 MiB at most, the
    /// prefix `/madang/`.
    ///
    /// # Errors
    /// `Invalid` for another address.
    pub fn parse(address: &str) -> Result<Self, StoreError> {
        let wrong = |why: &str| {
            StoreError::Invalid(format!(
                "{address:?} {why}: the address of a store in etcd is etcd://HOST:PORT[,HOST:PORT…][/PREFIX]"
            ))
        };
        let rest = address
            .strip_prefix("etcd://")
            .ok_or_else(|| wrong("does not begin with etcd://"))?;
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        for member in &members {
            let port = member.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                return Err(wrong(&format!("has the member {member:?} without a port")));
            }
        }
        let prefix = prefix.trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if !prefix.chars().all(is_plain) {
            return Err(wrong(&format!(
                "has the prefix {prefix:?}, which is not letters, digits and -_./"
            )));
        }
        Ok(Self {
            members,
            prefix: if prefix.is_empty() {
                PREFIX.to_owned()
            } else {
                format!("/{prefix}/")
            },
            tls: None,
            keep_revisions: 100_000,
            keep_bytes: 256 << 20,
            max_txn_ops: MAX_TXN_OPS,
            max_request_bytes: MAX_REQUEST_BYTES,
            owner: None,
            take_over: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_members_and_a_prefix() {
        let options = EtcdOptions::parse("etcd://a:2379,[::1]:2379/clouds/one/").unwrap();
        assert_eq!(options.members, ["a:2379", "[::1]:2379"]);
        assert_eq!(options.prefix, "/clouds/one/");
        assert_eq!(EtcdOptions::parse("etcd://a:1").unwrap().prefix, "/madang/");
        for wrong in [
            "http://a:1",
            "etcd://",
            "etcd://a",
            "etcd://a:x",
            "etcd://a:1,,b:2",
            "etcd://a:1/x y",
        ] {
            let failed = EtcdOptions::parse(wrong).unwrap_err().to_string();
            assert!(failed.contains("HOST:PORT") && failed.contains(wrong), "{failed}");
        }
    }
}
