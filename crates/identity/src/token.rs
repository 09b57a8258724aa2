//! Tokens: what they say, how they are sealed, and when they end.
//!
//! A token is not stored. It is its claims in a compact form, encrypted and authenticated with AES-256-GCM under one of
//! the rotating keys of [`crate::keys`], and written in URL-safe base64. Nobody can read or make one without a key. What a
//! token says is checked against the store each time it is validated (see [`validate`]), so roles, names and the like
//! are always those of now.

pub(crate) mod events;
pub mod revocation;
pub mod upkeep;
pub mod validate;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use uuid::Uuid;

use crate::FederatedSession;

/// How a token's owner proved who it is; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods(u8);

impl Methods {
    /// With a password.
    pub const PASSWORD: Self = Self(1);
    /// With another token.
    pub const TOKEN: Self = Self(2);
    /// With an application credential.
    pub const APPLICATION_CREDENTIAL: Self = Self(4);
    /// With a request signed for an OAuth 1.0a access token.
    pub const OAUTH1: Self = Self(8);
    /// With a one-time password.
    pub const TOTP: Self = Self(16);
    /// By an identity provider.
    pub const MAPPED: Self = Self(64);
    /// With a request signed with an access key.
    pub const EC2_CREDENTIAL: Self = Self(128);

    const NAMES: [(Self, &str); 7] = [
        (Self::PASSWORD, "password"),
        (Self::TOKEN, "token"),
        (Self::APPLICATION_CREDENTIAL, "application_credential"),
        (Self::OAUTH1, "oauth1"),
        (Self::TOTP, "totp"),
        (Self::MAPPED, "mapped"),
        (Self::EC2_CREDENTIAL, "ec2credential"),
    ];

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a method is called so.
    pub fn are_named(name: &str) -> bool {
        Self::NAMES.iter().any(|(_, known)| *known == name)
    }

    /// Keystone's names of them.
    pub fn names(self) -> Vec<String> {
        Self::NAMES
            .iter()
            .filter(|(bit, _)| self.0 & bit.0 != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }
}

/// What a token is for, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeClaim {
    /// Only to say who.
    Unscoped,
    /// A project.
    Project(String),
    /// A domain.
    Domain(String),
    /// The whole deployment.
    System,
    /// Nothing: it is no token, but the receipt of a login that lacks a factor.
    Receipt,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose it is.
    pub user_id: String,
    /// What it is for.
    pub scope: ScopeClaim,
    /// How it was come by.
    pub methods: Methods,
    /// Names this token where the token itself must not be written: in logs and revocations.
    pub audit: Uuid,
    /// The audit id of the token that its chain began with, where that is another.
    pub chain: Option<Uuid>,
    /// When it was issued, to the microsecond.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// The application credential it is for.
    pub application_credential: Option<String>,
    /// The trust it is for.
    pub trust: Option<String>,
    /// The OAuth 1.0a access token it is for.
    pub oauth1: Option<String>,
    /// The login at an identity provider that it came from.
    pub federated: Option<FederatedSession>,
}

impl Claims {
    /// The audit ids as Keystone writes them: its own, then its chain's.
    pub fn audit_ids(&self) -> Vec<String> {
        [Some(self.audit), self.chain]
            .into_iter()
            .flatten()
            .map(|id| URL_SAFE_NO_PAD.encode(id.as_bytes()))
            .collect()
    }

    /// The compact form: version, flags, methods, times, audit ids, ids.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let (scope, scope_id) = match &self.scope {
            ScopeClaim::Unscoped => (0, None),
            ScopeClaim::Project(id) => (1, Some(id)),
            ScopeClaim::Domain(id) => (2, Some(id)),
            ScopeClaim::System => (3, None),
            ScopeClaim::Receipt => (4, None),
        };
        let chained = u8::from(self.chain.is_some()) << 4;
        let credential = u8::from(self.application_credential.is_some()) << 5;
        let trusted = u8::from(self.trust.is_some()) << 6;
        let oauth1 = u8::from(self.oauth1.is_some()) << 7;
        let federated = u8::from(self.federated.is_some()) << 3;
        let flags = scope | federated | chained | credential | trusted | oauth1;
        let mut bytes = vec![PACKED_VERSION, flags, self.methods.0];
        bytes.extend(self.issued.as_microsecond().to_be_bytes());
        bytes.extend(self.expires.as_microsecond().to_be_bytes());
        bytes.extend(self.audit.as_bytes());
        bytes.extend(self.chain.iter().flat_map(|chain| *chain.as_bytes()));
        pack_id(&mut bytes, &self.user_id);
        for id in scope_id
            .into_iter()
            .chain(&self.application_credential)
            .chain(&self.trust)
            .chain(&self.oauth1)
        {
            pack_id(&mut bytes, id);
        }
        if let Some(session) = &self.federated {
            pack_id(&mut bytes, &session.provider_id);
            pack_id(&mut bytes, &session.protocol_id);
        }
        bytes
    }

    pub(crate) fn unpack(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [version, flags, methods] = take::<3>(&mut rest)?;
        if version != PACKED_VERSION {
            return None;
        }
        let mut time = || Timestamp::from_microsecond(i64::from_be_bytes(take(&mut rest)?)).ok();
        let (issued, expires) = (time()?, time()?);
        let audit = Uuid::from_bytes(take(&mut rest)?);
        let chain = if flags & 1 << 4 == 0 {
            None
        } else {
            Some(Uuid::from_bytes(take(&mut rest)?))
        };
        let user_id = unpack_id(&mut rest)?;
        let scope = match flags & 0x07 {
            0 => ScopeClaim::Unscoped,
            1 => ScopeClaim::Project(unpack_id(&mut rest)?),
            2 => ScopeClaim::Domain(unpack_id(&mut rest)?),
            3 => ScopeClaim::System,
            4 => ScopeClaim::Receipt,
            _ => return None,
        };
        let application_credential = if flags & 1 << 5 == 0 {
            None
        } else {
            Some(unpack_id(&mut rest)?)
        };
        let trust = if flags & 1 << 6 == 0 {
            None
        } else {
            Some(unpack_id(&mut rest)?)
        };
        let oauth1 = if flags & 1 << 7 == 0 {
            None
        } else {
            Some(unpack_id(&mut rest)?)
        };
        let federated = if flags & 1 << 3 == 0 {
            None
        } else {
            Some(FederatedSession {
                provider_id: unpack_id(&mut rest)?,
                protocol_id: unpack_id(&mut rest)?,
            })
        };
        let methods = Methods(methods);
        rest.is_empty().then_some(Self {
            user_id,
            scope,
            methods,
            audit,
            chain,
            issued,
            expires,
            application_credential,
            trust,
            oauth1,
            federated,
        })
    }
}

/// Counted up when the compact form changes; tokens of another version are as good as forged.
const PACKED_VERSION: u8 = 1;
/// Stands where the length of an id would, and says that 32 hexadecimal digits follow as 16 bytes.
const HEX_ID: u8 = 0xff;

fn pack_id(bytes: &mut Vec<u8>, id: &str) {
    match Uuid::try_parse(id) {
        Ok(uuid) if uuid.simple().to_string() == id => {
            bytes.push(HEX_ID);
            bytes.extend(uuid.as_bytes());
        }
        _ => {
            let length = id.len().min(usize::from(HEX_ID) - 1);
            bytes.push(u8::try_from(length).unwrap_or(0));
            bytes.extend(&id.as_bytes()[..length]);
        }
    }
}

fn unpack_id(rest: &mut &[u8]) -> Option<String> {
    let [length] = take::<1>(rest)?;
    if length == HEX_ID {
        return Some(Uuid::from_bytes(take(rest)?).simple().to_string());
    }
    let (id, after) = rest.split_at_checked(usize::from(length))?;
    *rest = after;
    String::from_utf8(id.to_vec()).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims() -> impl Strategy<Value = Claims> {
        let id = prop_oneof![
            any::<u128>().prop_map(|n| Uuid::from_u128(n).simple().to_string()),
            "[a-zA-Z0-9-]{1,64}"
        ];
        let scope = prop_oneof![
            Just(ScopeClaim::Unscoped),
            id.clone().prop_map(ScopeClaim::Project),
            id.clone().prop_map(ScopeClaim::Domain),
            Just(ScopeClaim::System),
            Just(ScopeClaim::Receipt),
        ];
        let time = || (0i64..4_000_000_000_000_000).prop_map(|us| Timestamp::from_microsecond(us).unwrap());
        let uuid = || any::<u128>().prop_map(Uuid::from_u128);
        let rest = (
            any::<u8>(),
            uuid(),
            proptest::option::of(uuid()),
            time(),
            time(),
            (
                proptest::option::of(id.clone()),
                proptest::option::of(id.clone()),
                proptest::option::of(id.clone()),
                proptest::option::of((id.clone(), id.clone())),
            ),
        );
        (id, scope, rest).prop_map(
            |(
                user_id,
                scope,
                (methods, audit, chain, issued, expires, (application_credential, trust, oauth1, by)),
            )| {
                let methods = Methods(methods);
                let federated = by.map(|(provider_id, protocol_id)| FederatedSession {
                    provider_id,
                    protocol_id,
                });
                Claims {
                    user_id,
                    scope,
                    methods,
                    audit,
                    chain,
                    issued,
                    expires,
                    application_credential,
                    trust,
                    oauth1,
                    federated,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks_to_itself(claims in claims()) {
            prop_assert_eq!(Claims::unpack(&claims.pack()), Some(claims));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            _ = Claims::unpack(&bytes);
        }
    }
}
