//! Users of identity providers as they are known here, and the groups that a provider says they are in.
//!
//! A shadow is a [`User`] that nobody made but a first login. Its id follows from its domain and from what the provider
//! knows it by, so it is the same after a restore or in another region. A provider's word about groups holds for the
//! tokens of the login that it was given at, and beyond them (for what the user leaves behind: application credentials,
//! trusts) for the provider's `authorization_ttl`.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use madang_http::Failure;
use madang_store::{Cause, Indexes, Key, Kind, Metadata, Op, Resource, Store, StoreBuilder, StoreError, Tx};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{IdentityProvider, Protocol, protocol::no_such_protocol};
use crate::{
    cascade::remove_all,
    group::Group,
    user::{User, UserSpec},
};

/// What Python's `urllib.parse.quote` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~')
    .remove(b'/');

/// One name of a user at an identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederatedName {
    /// The provider.
    pub provider_id: String,
    /// The protocol.
    pub protocol_id: String,
    /// What the provider knows the user by, percent-encoded.
    pub unique_id: String,
}

impl FederatedName {
    /// As the index `federated` of users has it, and as it is reserved.
    pub(crate) fn as_text(&self) -> String {
        format!("{}\n{}\n{}", self.provider_id, self.protocol_id, self.unique_id)
    }
}

/// `federated` of a user as Keystone shows and takes it.
pub(crate) fn as_value(names: &[FederatedName]) -> Value {
    let mut providers: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for name in names {
        let protocol = json!({ "protocol_id": name.protocol_id, "unique_id": name.unique_id });
        providers.entry(&name.provider_id).or_default().push(protocol);
    }
    let objects = providers
        .into_iter()
        .map(|(id, protocols)| json!({ "idp_id": id, "protocols": protocols }));
    objects.collect()
}

/// The inverse of [`as_value`], for a body that was checked.
pub(crate) fn from_value(value: &Value) -> Vec<FederatedName> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut names = Vec::new();
    for object in value.as_array().into_iter().flatten() {
        for protocol in object["protocols"].as_array().into_iter().flatten() {
            names.push(FederatedName {
                provider_id: text(&object["idp_id"]),
                protocol_id: text(&protocol["protocol_id"]),
                unique_id: text(&protocol["unique_id"]),
            });
        }
    }
    names
}

/// Whether the providers and protocols of these names are there.
pub(crate) fn check_names(store: &Store, names: &[FederatedName]) -> Result<(), Failure> {
    for name in names {
        if store
            .get::<IdentityProvider>(&IdentityProvider::key(&name.provider_id))
            .is_none()
        {
            let message = format!("Could not find Identity Provider: {}", name.provider_id);
            return Err(Failure::invalid(message).at("federated"));
        }
        let key = Protocol::key(&name.provider_id, &name.protocol_id);
        if store.get::<Protocol>(&key).is_none() {
            let message = no_such_protocol(&name.provider_id, &name.protocol_id).message;
            return Err(Failure::invalid(message).at("federated"));
        }
    }
    Ok(())
}

/// The kind of a provider's word that a user is in a group.
#[derive(Debug)]
pub struct VouchedMembership;

/// Who is in what, who says so, and since when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VouchedMembershipSpec {
    /// The group.
    pub group_id: String,
    /// The user.
    pub user_id: String,
    /// The provider.
    pub provider_id: String,
    /// When the provider last said so.
    pub verified: Timestamp,
    /// Until when it holds without another login.
    pub expires: Timestamp,
}

impl Kind for VouchedMembership {
    const NAME: &'static str = "vouched-memberships";
    type Spec = VouchedMembershipSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("group", |r| vec![r.spec.group_id.clone()])
            .on("user", |r| vec![r.spec.user_id.clone()])
            .on("provider", |r| vec![r.spec.provider_id.clone()])
    }
}

impl VouchedMembership {
    fn key(group_id: &str, user_id: &str, provider_id: &str) -> Key {
        Key::new(Self::NAME, "", provider_id, format!("{group_id}.{user_id}"))
    }
}

pub(super) fn register(builder: &mut StoreBuilder) {
    builder.kind::<VouchedMembership>();
    builder.rule::<User>(|tx, op| {
        let Op::Remove(user) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<VouchedMembership>().by("user", user.name()))
    });
    builder.rule::<Group>(|tx, op| {
        let Op::Remove(group) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<VouchedMembership>().by("group", group.name()))
    });
}

/// What goes with a provider: its word, its names of users, and the shadows that only it stood for.
pub(super) fn forget_provider(tx: &mut Tx<'_>, provider_id: &str) -> Result<(), StoreError> {
    remove_all(tx, tx.store().cache::<VouchedMembership>().by("provider", provider_id))?;
    forget(tx, provider_id, |_| true)
}

/// What goes with a protocol.
pub(super) fn forget_protocol(tx: &mut Tx<'_>, provider_id: &str, protocol_id: &str) -> Result<(), StoreError> {
    forget(tx, provider_id, |name| name.protocol_id == protocol_id)
}

fn forget(tx: &mut Tx<'_>, provider_id: &str, is_gone: impl Fn(&FederatedName) -> bool) -> Result<(), StoreError> {
    for user in tx.store().cache::<User>().by("federated_by", provider_id) {
        let Some(user) = tx.get::<User>(&user.key()) else {
            continue;
        };
        let mut changed = Resource::clone(&user);
        changed
            .spec
            .federated
            .retain(|name| name.provider_id != provider_id || !is_gone(name));
        if changed.spec.is_shadow && changed.spec.federated.is_empty() {
            tx.delete(&user)?;
        } else if changed.spec.federated.len() < user.spec.federated.len() {
            tx.update(&user, changed)?;
        }
    }
    Ok(())
}

/// Somebody whom a provider vouches for.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// What the provider knows it by, as it is.
    pub(super) unique_id: String,
    /// What it is called.
    pub(super) name: String,
    /// Where it is written to.
    pub(super) email: Option<String>,
    /// The domain its shadow is made in.
    pub(super) domain_id: String,
    /// The ids of the groups it is in.
    pub(super) group_ids: Vec<String>,
}

/// Finds a visitor's shadow, or makes it; brings its name and groups up to date.
///
/// # Errors
/// 409 where the id of the new shadow is that of another user.
pub(super) fn receive(
    tx: &mut Tx<'_>,
    provider_id: &str,
    protocol_id: &str,
    visitor: &Visitor,
    ttl: SignedDuration,
) -> Result<Arc<Resource<User>>, Failure> {
    let federated = FederatedName {
        provider_id: provider_id.to_owned(),
        protocol_id: protocol_id.to_owned(),
        unique_id: utf8_percent_encode(&visitor.unique_id, PLAIN).to_string(),
    };
    let known = tx.store().cache::<User>().by("federated", &federated.as_text());
    let user = match known.first().and_then(|user| tx.get::<User>(&user.key())) {
        Some(user) => refresh(tx, &user, visitor)?,
        None => make(tx, federated, visitor)?,
    };
    vouch(tx, provider_id, user.name(), &visitor.group_ids, ttl)?;
    Ok(user)
}

fn refresh(tx: &mut Tx<'_>, user: &Arc<Resource<User>>, visitor: &Visitor) -> Result<Arc<Resource<User>>, Failure> {
    let mut changed = Resource::clone(user);
    // Who was made by an administrator keeps the name that it was given.
    if user.spec.is_shadow {
        changed.spec.name.clone_from(&visitor.name);
    }
    if let Some(email) = &visitor.email {
        changed.spec.extra.insert("email".to_owned(), email.as_str().into());
    }
    if changed.spec == user.spec {
        return Ok(Arc::clone(user));
    }
    Ok(tx.update(user, changed)?)
}

fn make(tx: &mut Tx<'_>, federated: FederatedName, visitor: &Visitor) -> Result<Arc<Resource<User>>, Failure> {
    let id = shadow_id(&visitor.domain_id, &federated.unique_id);
    if tx.get::<User>(&User::key(&id)).is_some() {
        let message =
            format!("Conflict occurred attempting to store federated_user - Duplicate entry found with ID {id}.");
        return Err(Failure::conflict(message));
    }
    let mut extra = Map::new();
    if let Some(email) = &visitor.email {
        extra.insert("email".to_owned(), email.as_str().into());
    }
    let spec = UserSpec {
        name: visitor.name.clone(),
        domain_id: visitor.domain_id.clone(),
        enabled: true,
        is_shadow: true,
        federated: vec![federated],
        extra,
        ..UserSpec::default()
    };
    Ok(tx.create(Resource::<User>::new(Metadata::new("", id), spec))?)
}

/// Keystone's: the SHA-256 of the domain, the word `user` and the encoded name, in hexadecimal digits.
fn shadow_id(domain_id: &str, unique_id: &str) -> String {
    let digest = Sha256::digest(format!("{domain_id}user{unique_id}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a provider's word about a user's groups: these, and no others any more.
fn vouch(
    tx: &mut Tx<'_>,
    provider_id: &str,
    user_id: &str,
    group_ids: &[String],
    ttl: SignedDuration,
) -> Result<(), Failure> {
    let now = tx.at();
    for old in tx.store().cache::<VouchedMembership>().by("user", user_id) {
        let is_over = old.spec.provider_id == provider_id && !group_ids.contains(&old.spec.group_id);
        if let Some(old) = tx.get::<VouchedMembership>(&old.key()).filter(|_| is_over) {
            tx.delete(&old)?;
        }
    }
    for group_id in group_ids {
        let spec = VouchedMembershipSpec {
            group_id: group_id.clone(),
            user_id: user_id.to_owned(),
            provider_id: provider_id.to_owned(),
            verified: now,
            expires: now.saturating_add(ttl).unwrap_or(Timestamp::MAX),
        };
        let key = VouchedMembership::key(group_id, user_id, provider_id);
        match tx.get::<VouchedMembership>(&key) {
            Some(old) => {
                let mut changed = Resource::clone(&old);
                changed.spec = spec;
                tx.update(&old, changed)?;
            }
            None => {
                let mut metadata = Metadata::new("", key.name);
                metadata.namespace = key.namespace;
                tx.create(Resource::<VouchedMembership>::new(metadata, spec))?;
            }
        }
    }
    Ok(())
}

/// The memberships of a user that a provider vouches for: those that hold now, or, in a session that a login at the
/// provider began, all that were said at the last one.
pub(crate) fn memberships(store: &Store, user_id: &str, in_session: bool) -> Vec<Arc<Resource<VouchedMembership>>> {
    let mut found = store.cache::<VouchedMembership>().by("user", user_id);
    if !in_session && !found.is_empty() {
        let now = Timestamp::now();
        found.retain(|membership| membership.spec.expires > now);
    }
    found
}

/// When the first of a user's memberships that hold now will not any more.
pub(crate) fn next_end(store: &Store, user_id: &str) -> Timestamp {
    let ends = memberships(store, user_id, false);
    ends.iter()
        .map(|membership| membership.spec.expires)
        .min()
        .unwrap_or(Timestamp::MAX)
}

/// Forgets memberships that neither hold nor can be in a token any more.
///
/// # Errors
/// What the store says.
pub(crate) async fn prune(store: &Store, now: Timestamp, lifetime: SignedDuration) -> Result<(), StoreError> {
    let over = |membership: &Resource<VouchedMembership>| {
        let in_tokens = membership
            .spec
            .verified
            .saturating_add(lifetime)
            .unwrap_or(Timestamp::MAX);
        now > membership.spec.expires.max(in_tokens)
    };
    if !store.cache::<VouchedMembership>().all().iter().any(|m| over(m)) {
        return Ok(());
    }
    let pruned = store.transact(Cause::system("federation"), |tx| {
        for membership in tx.store().cache::<VouchedMembership>().all() {
            if let Some(now) = tx.get::<VouchedMembership>(&membership.key()).filter(|m| over(m)) {
                tx.delete(&now)?;
            }
        }
        Ok::<_, StoreError>(())
    });
    pruned.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadows_id_is_keystones() {
        // hashlib.sha256(b"default" + b"user" + b"bob%40example.com").hexdigest()
        let encoded = utf8_percent_encode("bob@example.com", PLAIN).to_string();
        assert_eq!(encoded, "bob%40example.com");
        assert_eq!(shadow_id("default", &encoded), EXPECTED);
    }

    #[test]
    fn names_are_written_as_they_are_read() {
        let value = json!([
            { "idp_id": "a", "protocols": [
                { "protocol_id": "openid", "unique_id": "1" }, { "protocol_id": "mapped", "unique_id": "2" },
            ]},
            { "idp_id": "b", "protocols": [{ "protocol_id": "openid", "unique_id": "3" }] },
        ]);
        assert_eq!(as_value(&from_value(&value)), value);
    }

    const EXPECTED: &str = "5328c48f85a665df59dad3e05f5094337cdb33b4cdbdc20b1a17d3c5cb1a0e01";
}
