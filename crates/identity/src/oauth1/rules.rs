//! What may be done to consumers and their tokens.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use madang_http::Failure;
use madang_store::{Cause, Key, Kind, Metadata, Op, Resource, Store, StoreBuilder, StoreError};
use rand::{RngExt, distr::Alphanumeric};
use uuid::Uuid;

use super::{AccessToken, AccessTokenSpec, Authorization, Consumer, RequestToken, RequestTokenSpec, signature::Signed};
use crate::{
    Caller, Identity, RoleRef,
    api::not_found,
    application_credential::rules::RoleName,
    assignment::{On, effective},
    cascade::remove_all,
    project::Project,
    trust::rules::role_id,
    user::User,
};

/// Keystone's `request_token_duration` and `access_token_duration`.
const REQUEST_FOR: SignedDuration = SignedDuration::from_hours(8);
const ACCESS_FOR: SignedDuration = SignedDuration::from_hours(24);
/// How many characters a verifier has, as Keystone's.
const VERIFIER: usize = 8;

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<RequestToken>();
    builder.kind::<AccessToken>();
    forget_with::<Consumer>(builder, "consumer");
    forget_with::<User>(builder, "user");
    forget_with::<Project>(builder, "project");
}

/// Tokens go with their consumer, their user and their project.
fn forget_with<K: Kind>(builder: &mut StoreBuilder, index: &'static str) {
    builder.rule::<K>(move |tx, op| {
        let Op::Remove(gone) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<RequestToken>().by(index, gone.name()))?;
        remove_all(tx, tx.store().cache::<AccessToken>().by(index, gone.name()))
    });
}

/// 32 hexadecimal digits that nobody guesses.
pub(crate) fn secret() -> String {
    Uuid::from_bytes(rand::rng().random()).simple().to_string()
}

fn unauthenticated(why: &str) -> Failure {
    Failure::unauthenticated(why)
}

fn needed<'s>(signed: Option<&'s Signed>, name: &str) -> Result<&'s str, Failure> {
    let found = signed.and_then(|signed| signed.get(name));
    found.ok_or_else(|| expecting(name))
}

pub(crate) fn expecting(name: &str) -> Failure {
    let message = format!(
        "Expecting to find {name} in request. The server could not comply with the request since it is either malformed \
         or otherwise incorrect. The client is assumed to be in error."
    );
    Failure::invalid(message).at(name)
}

fn get<K: Kind>(store: &Store, what: &str, id: &str) -> Result<Arc<Resource<K>>, Failure> {
    let found = store.get::<K>(&Key::new(K::NAME, "", "", id));
    found.ok_or_else(|| not_found(what, id))
}

/// Whether a request is signed with these secrets, for the first time.
fn check(identity: &Identity, signed: &Signed, consumer: &str, token: &str) -> Result<(), Failure> {
    let nonce = signed
        .nonce()
        .filter(|_| signed.fits(consumer, token, Timestamp::now()));
    if nonce.is_some_and(|nonce| identity.first_use(nonce)) {
        return Ok(());
    }
    Err(unauthenticated("Invalid signature"))
}

/// A consumer asks to act in a project.
///
/// # Errors
/// 400 for something missing in the header, 401 for a wrong signature, 404 where the project or consumer is missing.
pub(crate) async fn request(
    identity: &Identity,
    signed: Option<Signed>,
    project_id: Option<&str>,
) -> Result<Arc<Resource<RequestToken>>, Failure> {
    let consumer_id = needed(signed.as_ref(), "oauth_consumer_key")?;
    let project_id = project_id.ok_or_else(|| expecting("Requested-Project-Id"))?;
    get::<Project>(&identity.store, "project", project_id)?;
    let consumer = get::<Consumer>(&identity.store, "consumer", consumer_id)?;
    let signed = signed.as_ref().ok_or_else(|| expecting("oauth_consumer_key"))?;
    check(identity, signed, &consumer.spec.secret, "")?;
    let made = identity.store.transact(Cause::system("oauth1"), |tx| {
        tx.expect(&*consumer)?;
        let spec = RequestTokenSpec {
            consumer_id: consumer_id.to_owned(),
            project_id: project_id.to_owned(),
            secret: secret(),
            expires: tx.at() + REQUEST_FOR,
            authorized: None,
        };
        Ok::<_, Failure>(tx.create(Resource::<RequestToken>::new(Metadata::new("", secret()), spec))?)
    });
    made.await
}

/// The caller lets a consumer act for it; gives the verifier.
///
/// # Errors
/// 401 for roles that the caller does not have and for a token that is over, 403 for policy and delegated tokens, 404.
pub(crate) async fn authorize(
    identity: &Identity,
    caller: &Caller,
    id: &str,
    roles: &[RoleName],
) -> Result<String, Failure> {
    caller.enforce("identity:authorize_request_token", &[])?;
    caller.check_not_delegated()?;
    let token = get::<RequestToken>(&identity.store, "request token", id)?;
    check_time(token.spec.expires, "Request token is expired")?;
    let store = &identity.store;
    let on = On::Project(token.spec.project_id.clone());
    let user_id = &caller.subject.user.id;
    let has = effective::with_implied(store, &effective::assigned(store, user_id, &on));
    let mut role_ids = BTreeSet::new();
    for role in roles {
        let id = role_id(store, role).filter(|id| has.contains_key(id));
        role_ids.insert(id.ok_or_else(|| unauthenticated("authorizing user does not have role required"))?);
    }
    let verifier: String = rand::rng()
        .sample_iter(Alphanumeric)
        .take(VERIFIER)
        .map(char::from)
        .collect();
    let authorized = Authorization {
        user_id: user_id.clone(),
        role_ids: role_ids.into_iter().collect(),
        verifier: verifier.clone(),
    };
    let key = token.key();
    let changed = store.modify::<RequestToken, Failure>(&key, caller.cause(), |token| {
        token.spec.authorized = Some(authorized.clone());
        Ok(())
    });
    changed.await.map(|_| verifier)
}

fn check_time(expires: Timestamp, why: &str) -> Result<(), Failure> {
    if expires <= Timestamp::now() {
        return Err(unauthenticated(why));
    }
    Ok(())
}

/// A consumer exchanges an authorized request token.
///
/// # Errors
/// 400 for something missing in the header, 401 for a wrong signature or verifier, 404.
pub(crate) async fn exchange(
    identity: &Identity,
    signed: Option<Signed>,
) -> Result<Arc<Resource<AccessToken>>, Failure> {
    let consumer_id = needed(signed.as_ref(), "oauth_consumer_key")?;
    let token_id = needed(signed.as_ref(), "oauth_token")?;
    let verifier = needed(signed.as_ref(), "oauth_verifier")?;
    let store = &identity.store;
    let token = get::<RequestToken>(store, "request token", token_id)?;
    check_time(token.spec.expires, "Request token is expired")?;
    let consumer = store.get::<Consumer>(&Consumer::key(consumer_id));
    let consumer = consumer.filter(|_| token.spec.consumer_id == consumer_id);
    let consumer = consumer.ok_or_else(|| unauthenticated("Provided consumer does not exist."))?;
    let signed = signed.as_ref().ok_or_else(|| expecting("oauth_token"))?;
    check(identity, signed, &consumer.spec.secret, &token.spec.secret)?;
    let authorized = token.spec.authorized.as_ref();
    let authorized = authorized.filter(|authorized| crate::hmac::same(&authorized.verifier, verifier));
    let authorized = authorized.ok_or_else(|| unauthenticated("Provided verifier does not match stored verifier"))?;
    let made = store.transact(Cause::system("oauth1"), |tx| {
        let token = tx.get::<RequestToken>(&RequestToken::key(token_id));
        let token = token.ok_or_else(|| not_found("request token", token_id))?;
        tx.delete(&token)?;
        let spec = AccessTokenSpec {
            consumer_id: consumer_id.to_owned(),
            user_id: authorized.user_id.clone(),
            project_id: token.spec.project_id.clone(),
            role_ids: authorized.role_ids.clone(),
            secret: secret(),
            expires: tx.at() + ACCESS_FOR,
        };
        Ok::<_, Failure>(tx.create(Resource::<AccessToken>::new(Metadata::new("", secret()), spec))?)
    });
    made.await
}

/// The access token that a request for a token is signed with; none where it does not fit.
pub(crate) fn prove(identity: &Identity, signed: &Signed) -> Option<Arc<Resource<AccessToken>>> {
    let access = identity
        .store
        .get::<AccessToken>(&AccessToken::key(signed.get("oauth_token")?))?;
    let consumer = identity
        .store
        .get::<Consumer>(&Consumer::key(&access.spec.consumer_id))?;
    let in_time = access.spec.expires > Timestamp::now();
    let same = signed.get("oauth_consumer_key") == Some(consumer.name());
    let fits = check(identity, signed, &consumer.spec.secret, &access.spec.secret).is_ok();
    (in_time && same && fits).then_some(access)
}

/// The roles that an access token gives now: those it names that its user still has.
pub(crate) fn roles_now(store: &Store, access: &AccessTokenSpec) -> Vec<RoleRef> {
    let on = On::Project(access.project_id.clone());
    let has = effective::with_implied(store, &effective::assigned(store, &access.user_id, &on));
    let given = access.role_ids.iter().filter(|id| has.contains_key(*id));
    effective::in_token(store, &given.cloned().collect())
}

/// An access token of a user, once policy allows `rule`.
///
/// # Errors
/// 403 for policy and delegated tokens, 404.
pub(crate) fn find(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    user_id: &str,
    id: &str,
) -> Result<Arc<Resource<AccessToken>>, Failure> {
    caller.enforce(rule, &[("user_id", user_id)])?;
    let found = identity.store.get::<AccessToken>(&AccessToken::key(id));
    let found = found.filter(|access| access.spec.user_id == user_id);
    found.ok_or_else(|| not_found("access token", id))
}

/// Ends an access token, and every token that was given for it.
///
/// # Errors
/// 403 for policy and delegated tokens, 404.
pub(crate) async fn end(identity: &Identity, caller: &Caller, user_id: &str, id: &str) -> Result<(), Failure> {
    let found = find(identity, caller, "identity:delete_access_token", user_id, id)?;
    caller.check_not_delegated()?;
    let ended = identity.store.transact(caller.cause(), |tx| {
        let access = tx.get::<AccessToken>(&found.key());
        Ok::<_, Failure>(tx.delete(&*access.ok_or_else(|| not_found("access token", id))?)?)
    });
    ended.await
}

/// At most this many at a time, so that a transaction stays small.
const PRUNED_AT_ONCE: usize = 500;

/// Forgets request and access tokens that are over. Says how many went.
pub(crate) async fn prune(store: &Store, now: Timestamp) -> Result<usize, StoreError> {
    let requests = store.cache::<RequestToken>().all().into_iter();
    let requests: Vec<_> = requests
        .filter(|token| token.spec.expires < now)
        .take(PRUNED_AT_ONCE)
        .collect();
    let accesses = store.cache::<AccessToken>().all().into_iter();
    let accesses: Vec<_> = accesses
        .filter(|token| token.spec.expires < now)
        .take(PRUNED_AT_ONCE)
        .collect();
    let count = requests.len() + accesses.len();
    if count == 0 {
        return Ok(0);
    }
    let pruned = store.transact(Cause::system("token-upkeep"), |tx| {
        remove_all(tx, requests.clone())?;
        remove_all(tx, accesses.clone())?;
        Ok::<_, StoreError>(count)
    });
    pruned.await
}
