//! Passwords and other secrets, kept as argon2id hashes.
//!
//! Hashing takes memory and time on purpose; both are bounded here, whoever knocks how often. A wrong user name costs
//! as long as a wrong password, so that names cannot be guessed by the clock.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use madang_http::Failure;
use rand::{RngExt, distr::Alphanumeric};
use tokio::sync::Semaphore;

/// 12 MiB and 3 passes: one of OWASP's equivalent choices for argon2id, the smallest in time on a small machine.
const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;
/// How many are hashed at a time: 24 MiB at most, and never more threads than a small machine has cores.
const AT_ONCE: usize = 2;

/// Hashes and checks secrets.
pub struct Passwords {
    seats: Semaphore,
    /// The hash of a password that nobody has.
    nobody: String,
}

impl Passwords {
    /// Ready to hash. Takes as long as a login.
    ///
    /// # Errors
    /// Internal, when the system gives no random bytes.
    pub fn new() -> Result<Self, Failure> {
        let nobody = hash(&generate())?;
        Ok(Self {
            seats: Semaphore::new(AT_ONCE),
            nobody,
        })
    }

    /// The hash to keep instead of `secret`, in PHC form.
    ///
    /// # Errors
    /// Internal, when the system gives no random bytes.
    pub async fn hash(&self, secret: &str) -> Result<String, Failure> {
        let secret = secret.to_owned();
        self.run(move || hash(&secret)).await?
    }

    /// Whether `secret` is the one that `kept` was made of. Takes the same time when there is nothing to compare with.
    ///
    /// # Errors
    /// Internal, when `kept` is no hash.
    pub async fn verify(&self, secret: &str, kept: Option<&str>) -> Result<bool, Failure> {
        let secret = secret.to_owned();
        let known = kept.is_some();
        let kept = kept.unwrap_or(&self.nobody).to_owned();
        let fits = self.run(move || verify(&secret, &kept)).await??;
        Ok(fits && known)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let _seat = self
            .seats
            .acquire()
            .await
            .map_err(|_| Failure::internal("the hashing pool is closed"))?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Failure::internal(format!("hashing ended badly: {e}")))
    }
}

/// A password of 24 letters and digits: more than 140 bits, and no character that a shell or YAML minds.
pub fn generate() -> String {
    rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect()
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the constants are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(secret: &str) -> Result<String, Failure> {
    let hashed = argon2().hash_password(secret.as_bytes());
    hashed
        .map(|hash| hash.to_string())
        .map_err(|e| Failure::internal(format!("could not hash a secret: {e}")))
}

fn verify(secret: &str, kept: &str) -> Result<bool, Failure> {
    let kept = PasswordHash::new(kept).map_err(|e| Failure::internal(format!("a stored secret is no hash: {e}")))?;
    Ok(argon2().verify_password(secret.as_bytes(), &kept).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_secret_fits() {
        let passwords = Passwords::new().unwrap();
        let kept = passwords.hash("geheim").await.unwrap();
        assert!(
            kept.starts_with("$argon2id$v=19$m=12288,t=3,p=1$") && !kept.contains("geheim"),
            "{kept}"
        );
        assert!(passwords.verify("geheim", Some(&kept)).await.unwrap());
        assert!(!passwords.verify("Geheim", Some(&kept)).await.unwrap());
        assert!(!passwords.verify("geheim", None).await.unwrap());
        assert_ne!(passwords.hash("geheim").await.unwrap(), kept);
        assert_eq!(generate().len(), 24);
    }
}
