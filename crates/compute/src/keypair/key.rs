//! Reading and making keys.

use base64::Engine as _;
use madang_http::Failure;
use md5::{Digest as _, Md5};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, OtherNameValue, SanType};
use sha1::Sha1;
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey, rand_core::OsRng};

/// A public key and, when it was made here, its private one.
type Pair = (String, Option<String>);

/// Makes a pair for a user. For `ssh` an Ed25519 key, as RSA keys take long to make and are longer to carry; for `x509`
/// a certificate that signs itself, for logging in to Windows.
///
/// # Errors
/// `Internal` when the system has no randomness.
pub(super) fn generate(key_type: &str, user: &str) -> Result<Pair, Failure> {
    if key_type == "x509" {
        return certificate(user).map_err(|error| Failure::internal(format!("could not make a certificate: {error}")));
    }
    let broken = |error: ssh_key::Error| Failure::internal(format!("could not make a key: {error}"));
    let private = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(broken)?;
    let public = private.public_key().to_openssh().map_err(broken)?;
    let private = private.to_openssh(LineEnding::LF).map_err(broken)?;
    Ok((public, Some(private.to_string())))
}

/// Microsoft's object identifier of a user's principal name, which Windows maps a certificate to a user by.
const PRINCIPAL_NAME: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 20, 2, 3];

fn certificate(user: &str) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let principal = OtherNameValue::Utf8String(format!("{user}@localhost"));
    params.subject_alt_names = vec![SanType::OtherName((PRINCIPAL_NAME.to_vec(), principal))];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Some(key.serialize_pem())))
}

/// As Nova shows it, colon-separated hex: MD5 of an SSH key (`ssh-keygen -E md5`), SHA-1 of a certificate.
///
/// # Errors
/// `Invalid` for what is no key.
pub(super) fn fingerprint(key_type: &str, public_key: &str) -> Result<String, Failure> {
    let bad = |reason: String| Failure::invalid(format!("Keypair data is invalid: {reason}")).at("keypair.public_key");
    if key_type == "x509" {
        let body: String = public_key.lines().filter(|line| !line.starts_with("-----")).collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(body.trim());
        let der = decoded.map_err(|error| bad(error.to_string()))?;
        return Ok(colons(&Sha1::digest(der)));
    }
    let key =
        PublicKey::from_openssh(public_key).map_err(|error| bad(format!("failed to generate fingerprint: {error}")))?;
    let bytes = key.to_bytes().map_err(|error| bad(error.to_string()))?;
    Ok(colons(&Md5::digest(bytes)))
}

fn colons(digest: &[u8]) -> String {
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_has_the_fingerprint_of_its_public_half() {
        let (public, private) = generate("ssh", "u1").unwrap();
        assert!(public.starts_with("ssh-ed25519 ") && private.unwrap().contains("OPENSSH PRIVATE KEY"));
        let print = fingerprint("ssh", &public).unwrap();
        assert_eq!(print.len(), 47);
    }

    #[test]
    fn known_keys_and_broken_ones() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@example.com";
        assert_eq!(fingerprint("ssh", key).unwrap().split(':').count(), 16);
        assert!(
            fingerprint("ssh", "ssh-rsa nonsense")
                .unwrap_err()
                .message
                .contains("Keypair data is invalid")
        );
    }

    #[test]
    fn a_made_certificate_is_one() {
        let (certificate, private) = generate("x509", "u1").unwrap();
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(private.unwrap().contains("PRIVATE KEY"));
        assert_eq!(fingerprint("x509", &certificate).unwrap().split(':').count(), 20);
    }
}
