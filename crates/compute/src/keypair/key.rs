//! Reading and making keys.

use base64::Engine as _;
use madang_http::Failure;
use md5::{Digest as _, Md5};
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey, rand_core::OsRng};

/// A public key and, when it was made here, its private one.
type Pair = (String, Option<String>);

/// Makes a pair: Ed25519, as RSA keys take long to make and are longer to carry.
///
/// # Errors
/// `Invalid` for `x509`, of which no pairs are made here.
pub(super) fn generate(key_type: &str) -> Result<Pair, Failure> {
    if key_type != "ssh" {
        return Err(Failure::invalid("x509 keys are not generated here: give a public_key").at("keypair.public_key"));
    }
    let broken = |error: ssh_key::Error| Failure::internal(format!("could not make a key: {error}"));
    let private = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(broken)?;
    let public = private.public_key().to_openssh().map_err(broken)?;
    let private = private.to_openssh(LineEnding::LF).map_err(broken)?;
    Ok((public, Some(private.to_string())))
}

/// MD5 of the key's bytes as colon-separated hex, as `ssh-keygen -E md5` and Nova show it.
///
/// # Errors
/// `Invalid` for what is no key.
pub(super) fn fingerprint(key_type: &str, public_key: &str) -> Result<String, Failure> {
    let bad = |reason: String| Failure::invalid(format!("Keypair data is invalid: {reason}")).at("keypair.public_key");
    let bytes = if key_type == "x509" {
        let body: String = public_key.lines().filter(|line| !line.starts_with("-----")).collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(body.trim());
        decoded.map_err(|error| bad(error.to_string()))?
    } else {
        let key = PublicKey::from_openssh(public_key)
            .map_err(|error| bad(format!("failed to generate fingerprint: {error}")))?;
        key.to_bytes().map_err(|error| bad(error.to_string()))?
    };
    let digest = Md5::digest(bytes);
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(pairs.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_has_the_fingerprint_of_its_public_half() {
        let (public, private) = generate("ssh").unwrap();
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
        assert!(generate("x509").is_err());
    }
}
