//! One-time passwords by the clock (RFC 6238), as authenticator programs show them.

use jiff::Timestamp;
use madang_store::Resource;

use crate::{Identity, credential::Credential, hmac, user::User};

/// For how many seconds a password is shown.
const STEP: i64 = 30;
/// How many passwords before the present one still count, as Keystone's `included_previous_windows`.
const BEFORE: i64 = 1;
/// The type of credentials that hold a secret for them, in base32.
const TOTP: &str = "totp";

impl Identity {
    /// Whether a one-time password fits one of a user's secrets, and was not used before.
    pub(crate) fn totp_fits(&self, user: &Resource<User>, password: &str, now: Timestamp) -> bool {
        let credentials = self.store.cache::<Credential>().by("user", user.name());
        let mut secrets = credentials
            .iter()
            .filter(|credential| credential.spec.credential_type == TOTP)
            .filter_map(|credential| base32(&self.open_credential(credential).ok()?));
        let step = now.as_second().div_euclid(STEP);
        let fits = secrets.any(|secret| (0..=BEFORE).any(|back| hmac::same(&code(&secret, step - back), password)));
        fits && self.first_use(format!("totp\n{}\n{password}", user.name()))
    }
}

/// The six digits of a step (RFC 4226, section 5.3).
fn code(secret: &[u8], step: i64) -> String {
    let hash = hmac::sha1(secret, &step.to_be_bytes());
    let at = usize::from(hash[19] & 0x0f);
    let number = u32::from_be_bytes([hash[at] & 0x7f, hash[at + 1], hash[at + 2], hash[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

/// RFC 4648, section 6; case and padding do not matter.
fn base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0_u32, 0);
    for letter in text.trim().trim_end_matches('=').bytes() {
        let five = match letter.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        held = ((held << 5) | u32::from(five)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, cut to six digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = base32("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap();
        assert_eq!(secret, b"12345678901234567890");
        for (seconds, wanted) in [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924")] {
            assert_eq!(code(&secret, seconds / STEP), wanted);
        }
        assert_eq!(base32("1"), None);
        assert_eq!(base32(""), None);
    }
}
