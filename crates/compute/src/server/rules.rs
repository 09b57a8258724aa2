//! What holds for servers, whoever writes them, and what a placed claim means for its server.

use madang_network::Port;
use madang_scheduler::Claim;
use madang_store::{Delta, ErrorKind, Op, Rejection, Resource, StoreError, Tx};

use crate::{
    group::{MEMBERS, member_counters},
    quota,
    server::{AGENT_FINALIZER, Fault, Phase, Server},
};

/// The rule of servers: quota with the record, never apart from it.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Server>) -> Result<(), StoreError> {
    match op {
        Op::Create(server) => {
            let deltas = quota::take(tx.store(), server.project(), &server.spec.flavor);
            tx.add(server.project(), quota::COUNTERS, deltas);
            count_member(tx, server, 1);
            Ok(())
        }
        Op::Update { old, new } if old.spec.flavor != new.spec.flavor => {
            let deltas = quota::take(tx.store(), new.project(), &new.spec.flavor);
            tx.add(old.project(), quota::COUNTERS, quota::give_back(&old.spec.flavor));
            tx.add(new.project(), quota::COUNTERS, deltas);
            Ok(())
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(server) => {
            tx.add(server.project(), quota::COUNTERS, quota::give_back(&server.spec.flavor));
            count_member(tx, server, -1);
            let_go(tx, server)
        }
    }
}

/// Counts a server in its group, which takes as many as the quota says.
fn count_member(tx: &mut Tx<'_>, server: &Resource<Server>, add: i64) {
    let Some(id) = server.spec.group else { return };
    let limit = if add > 0 {
        quota::limit(tx.store(), server.project(), MEMBERS)
    } else {
        None
    };
    let delta = Delta {
        field: MEMBERS.to_owned(),
        add,
        limit,
    };
    tx.add(server.project(), &member_counters(&id.to_string()), vec![delta]);
}

/// The rule of claims: a placed one takes its server and the server's ports to the host, in the same transaction; one
/// without a host ends the server in error.
pub(crate) fn follow_claim(tx: &mut Tx<'_>, op: Op<'_, Claim>) -> Result<(), StoreError> {
    let Op::Update { old, new } = op else { return Ok(()) };
    if new.status == old.status || new.spec.consumer_kind != <Server as madang_store::Kind>::NAME {
        return Ok(());
    }
    let key = madang_store::Key::new(<Server as madang_store::Kind>::NAME, new.project(), "", new.name());
    let Some(server) = tx.get::<Server>(&key) else {
        return Ok(());
    };
    let mut changed = (*server).clone();
    match (&new.status.host, &new.status.failure) {
        (Some(host), _) => {
            changed.status.host = Some(host.clone());
            changed.status.phase = Phase::Building;
            if !changed.metadata.is_deleting() {
                changed.metadata.finalizers.push(AGENT_FINALIZER.to_owned());
            }
            bind_ports(tx, &server, host)?;
        }
        (None, Some(reason)) => {
            changed.status.phase = Phase::Error;
            changed.status.fault = Some(Fault {
                code: 500,
                message: reason.clone(),
                created: tx.at(),
            });
        }
        (None, None) => return Ok(()),
    }
    tx.update(&server, changed).map(|_| ())
}

fn bind_ports(tx: &mut Tx<'_>, server: &Resource<Server>, host: &str) -> Result<(), StoreError> {
    for port in tx.store().cache::<Port>().by("device", server.name()) {
        let mut bound = (*port).clone();
        bound.spec.binding_host = Some(host.to_owned());
        tx.update(&port, bound)?;
    }
    Ok(())
}

/// What was made for a server goes in the transaction that it goes in, so that nobody sees one without the other; ports
/// that were there before stay, free again.
fn let_go(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    let owner = server.metadata.uid;
    for claim in tx.store().cache::<Claim>().owned_by(owner) {
        tx.delete(&claim)?;
    }
    for port in tx.store().cache::<Port>().by("device", server.name()) {
        if port.metadata.owners.iter().any(|other| other.uid == owner) {
            tx.delete(&port)?;
            continue;
        }
        let mut free = (*port).clone();
        free.spec.device_id.clear();
        free.spec.device_owner.clear();
        free.spec.binding_host = None;
        tx.update(&port, free)?;
    }
    Ok(())
}

/// The words of Nova for a project that has reached its quota.
pub(crate) fn over_quota(error: StoreError, tx_store: &madang_store::Store, project: &str) -> StoreError {
    let StoreError::LimitExceeded {
        key,
        field,
        used,
        requested,
        limit,
    } = error
    else {
        return error;
    };
    if field == MEMBERS {
        let message = "Quota exceeded, too many servers in group";
        return Rejection::new(ErrorKind::Forbidden, "OverQuota", message).into();
    }
    let user = key
        .name
        .strip_prefix(quota::COUNTERS)
        .and_then(|rest| rest.strip_prefix('/'));
    if (key.name != quota::COUNTERS && user.is_none()) || key.project != project {
        return StoreError::LimitExceeded {
            key,
            field,
            used,
            requested,
            limit,
        };
    }
    let set = match user {
        Some(user) => quota::user_limit(tx_store, project, user, &field),
        None => quota::limit(tx_store, project, &field),
    };
    let limit = set.unwrap_or(limit);
    let message =
        format!("Quota exceeded for {field}: Requested {requested}, but already used {used} of {limit} {field}");
    Rejection::new(ErrorKind::Forbidden, "OverQuota", message).into()
}
