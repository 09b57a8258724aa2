//! Certificates: given ones, or an authority and a server certificate of our own, kept in a directory and renewed.
//!
//! The directory holds `ca.pem` (which clients are told to trust), `ca-key.pem`, `server.pem`, `server-key.pem` and
//! `server.json` (what the certificate is for and until when). Keys are readable by their owner only.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::TimeZone};
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};

const AUTHORITY_YEARS: i32 = 10;
/// Clients on Apple systems refuse server certificates that live longer than 398 days.
const SERVER_DAYS: i64 = 390;
/// Early enough that a server that is off for some weeks still comes back with a valid one.
const RENEW_BEFORE_DAYS: i64 = 60;

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("could not {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is not usable: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate for {names}: {reason}")]
    Make {
        /// What it was to be for.
        names: String,
        /// What went wrong.
        reason: String,
    },
}

/// The certificates that a server shows. Renewing replaces what new connections see; old ones go on.
#[derive(Debug)]
pub struct Certificates {
    source: Source,
    current: Arc<Current>,
}

#[derive(Debug)]
enum Source {
    Given { certificate: PathBuf, key: PathBuf },
    Generated { dir: PathBuf, names: Vec<String> },
}

struct Current(RwLock<Arc<CertifiedKey>>);

/// What `server.json` says of the certificate beside it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Issued {
    names: Vec<String>,
    expires: Timestamp,
}

impl Certificates {
    /// A certificate chain and its key from PEM files. They are read again at each renewal.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold a chain and the key that fits.
    pub fn given(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let current = Current(RwLock::new(load(&certificate, &key)?));
        Ok(Self {
            source: Source::Given { certificate, key },
            current: Arc::new(current),
        })
    }

    /// A certificate for `names` (host names and addresses) from an authority of our own; both are made in `dir` when
    /// they are not there, for other names, or due.
    ///
    /// # Errors
    /// When the directory cannot be written, or a name cannot be in a certificate.
    pub fn generated(dir: impl Into<PathBuf>, names: &[String], now: Timestamp) -> Result<Self, TlsError> {
        let (dir, names) = (dir.into(), names.to_vec());
        fs::create_dir_all(&dir).map_err(|source| TlsError::File {
            action: "create",
            path: dir.clone(),
            source,
        })?;
        issue_if_due(&dir, &names, now)?;
        let current = Current(RwLock::new(load(&dir.join("server.pem"), &dir.join("server-key.pem"))?));
        Ok(Self {
            source: Source::Generated { dir, names },
            current: Arc::new(current),
        })
    }

    /// The file with the authority that clients have to trust; `None` for given certificates.
    pub fn authority(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Given { .. } => None,
            Source::Generated { dir, .. } => Some(dir.join("ca.pem")),
        }
    }

    /// Takes over given files that were replaced, makes generated ones anew when they are due. Says whether it did.
    /// Reads and writes files: not for an async worker's thread.
    ///
    /// # Errors
    /// As when they were opened; what was there before stays in use.
    pub fn renew_if_due(&self, now: Timestamp) -> Result<bool, TlsError> {
        let fresh = match &self.source {
            Source::Given { certificate, key } => load(certificate, key)?,
            Source::Generated { dir, names } => {
                issue_if_due(dir, names, now)?;
                load(&dir.join("server.pem"), &dir.join("server-key.pem"))?
            }
        };
        let mut current = self.current.0.write();
        let changed = current.cert != fresh.cert;
        *current = fresh;
        Ok(changed)
    }

    /// What a server accepts TLS connections with: HTTP/2 and HTTP/1.1.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let resolver = Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>;
        let mut config = builder
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let unusable = |path: &Path, reason: String| TlsError::Content {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(certificate, e.to_string()))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| unusable(key, e.to_string()))?;
    let certified = CertifiedKey::from_der(chain, private, &ring::default_provider());
    certified
        .map(Arc::new)
        .map_err(|e| unusable(certificate, e.to_string()))
}

fn issue_if_due(dir: &Path, names: &[String], now: Timestamp) -> Result<(), TlsError> {
    let failed = |e: rcgen::Error| TlsError::Make {
        names: names.join(", "),
        reason: e.to_string(),
    };
    let (ca, ca_key, server) = (dir.join("ca.pem"), dir.join("ca-key.pem"), dir.join("server.json"));
    let has_authority = ca.exists() && ca_key.exists();
    if has_authority && is_good(&server, names, now) && dir.join("server.pem").exists() {
        return Ok(());
    }
    if !has_authority {
        let (certificate, key) = authority(now).map_err(failed)?;
        write(&ca_key, key.as_bytes(), 0o600)?;
        write(&ca, certificate.as_bytes(), 0o644)?;
    }
    let broken = |path: &Path, e: String| TlsError::Content {
        path: path.to_owned(),
        reason: e,
    };
    let key = String::from_utf8(read(&ca_key)?).map_err(|e| broken(&ca_key, e.to_string()))?;
    let key = KeyPair::from_pem(&key).map_err(|e| broken(&ca_key, e.to_string()))?;
    let pem = String::from_utf8(read(&ca)?).map_err(|e| broken(&ca, e.to_string()))?;
    let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|e| broken(&ca, e.to_string()))?;

    let expires = now
        .checked_add(SignedDuration::from_hours(SERVER_DAYS * 24))
        .unwrap_or(now);
    let (certificate, key) = leaf(&issuer, names, now, expires).map_err(failed)?;
    write(&dir.join("server-key.pem"), key.as_bytes(), 0o600)?;
    write(&dir.join("server.pem"), certificate.as_bytes(), 0o644)?;
    let issued = Issued {
        names: names.to_vec(),
        expires,
    };
    let text = serde_json::to_vec(&issued).map_err(|e| broken(&server, e.to_string()))?;
    write(&server, &text, 0o644)
}

fn is_good(file: &Path, names: &[String], now: Timestamp) -> bool {
    let Ok(text) = fs::read(file) else { return false };
    let Ok(issued) = serde_json::from_slice::<Issued>(&text) else {
        return false;
    };
    issued.names == names && issued.expires.duration_since(now) > SignedDuration::from_hours(RENEW_BEFORE_DAYS * 24)
}

fn authority(now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    // Two clouds on one machine have two authorities; their names must differ for clients that trust both.
    let serial = uuid::Uuid::new_v4().simple().to_string();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("madang authority {}", &serial[..8]));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let (from, until) = (
        day(now).saturating_sub(1.day()),
        day(now).saturating_add(AUTHORITY_YEARS.years()),
    );
    valid(&mut params, from, until);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    names: &[String],
    now: Timestamp,
    expires: Timestamp,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params
        .distinguished_name
        .push(DnType::CommonName, names.first().map_or("madang", String::as_str));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid(&mut params, day(now).saturating_sub(1.day()), day(expires));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

fn valid(params: &mut CertificateParams, from: Date, until: Date) {
    let part = |number: i8| u8::try_from(number).unwrap_or(1);
    let midnight = |date: Date| rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()));
    (params.not_before, params.not_after) = (midnight(from), midnight(until));
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Writes beside and renames, so that a crash never leaves half a file; the mode holds from the first byte on.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |source| TlsError::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names() -> Vec<String> {
        vec!["cloud.example".to_owned(), "192.0.2.1".to_owned()]
    }

    #[test]
    fn the_authority_stays_and_the_certificate_is_renewed_when_due() {
        let dir = tempfile::tempdir().unwrap();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let certificates = Certificates::generated(dir.path(), &names(), start).unwrap();
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let (ca, server) = (read("ca.pem"), read("server.pem"));
        for key in ["ca-key.pem", "server-key.pem"] {
            assert_eq!(
                fs::metadata(dir.path().join(key)).unwrap().permissions().mode() & 0o777,
                0o600,
                "{key}"
            );
        }

        let later = start + SignedDuration::from_hours(24 * 200);
        assert!(!certificates.renew_if_due(later).unwrap());
        assert_eq!(read("server.pem"), server);
        let due = start + SignedDuration::from_hours(24 * 340);
        assert!(certificates.renew_if_due(due).unwrap());
        assert_ne!(read("server.pem"), server);
        assert_eq!(read("ca.pem"), ca);

        let renewed = read("server.pem");
        Certificates::generated(dir.path(), &["other.example".to_owned()], due).unwrap();
        assert_ne!(read("server.pem"), renewed, "other names need another certificate");
    }

    #[test]
    fn given_files_must_fit_each_other() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for dir in [&one, &two] {
            Certificates::generated(dir.path(), &names(), now).unwrap();
        }
        let file = |dir: &tempfile::TempDir, name: &str| dir.path().join(name);
        assert!(Certificates::given(file(&one, "server.pem"), file(&one, "server-key.pem")).is_ok());
        assert!(Certificates::given(file(&one, "server.pem"), file(&two, "server-key.pem")).is_err());
        assert!(Certificates::given(file(&one, "none.pem"), file(&one, "server-key.pem")).is_err());
    }
}
