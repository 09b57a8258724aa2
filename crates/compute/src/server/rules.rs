//! What holds for servers, whoever writes them, and what a placed claim means for its server.

use madang_network::Port;
use madang_scheduler::Claim;
use madang_store::{Delta, ErrorKind, Op, Rejection, Resource, StoreError, Tx};

use crate::{
    group::{MEMBERS, member_counters},
    quota,
    server::{AGENT_FINALIZER, Fault, Phase, Server, Shelf, action, departed, load, moves, volumes},
};

/// The rule of servers: quota with the record, never apart from it.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Server>) -> Result<(), StoreError> {
    match op {
        Op::Create(server) => {
            let deltas = quota::take(tx.store(), server.project(), &server.spec.flavor);
            tx.add(server.project(), quota::COUNTERS, deltas);
            count_member(tx, server, 1);
            action::follow(tx, None, server)
        }
        Op::Update { old, new } => {
            if old.spec.flavor != new.spec.flavor {
                count_change(tx, old, new);
            }
            load::follow(tx, old, new)?;
            action::follow(tx, Some(old), new)
        }
        Op::Remove(server) => {
            action::end(tx, server)?;
            departed::keep(tx, server)?;
            tx.add(server.project(), quota::COUNTERS, quota::give_back(&server.spec.flavor));
            count_member(tx, server, -1);
            let_go(tx, server)
        }
    }
}

/// Counts the difference of two flavors. What nobody asked for (a resize that failed goes back) is not held to a limit.
fn count_change(tx: &mut Tx<'_>, old: &Resource<Server>, new: &Resource<Server>) {
    let is_asked = !tx.cause().request.is_empty();
    let mut deltas = quota::take(tx.store(), new.project(), &new.spec.flavor);
    for (delta, before) in deltas.iter_mut().zip(quota::give_back(&old.spec.flavor)) {
        delta.add += before.add;
        if delta.add <= 0 || !is_asked {
            delta.limit = None;
        }
    }
    deltas.retain(|delta| delta.add != 0);
    tx.add(new.project(), quota::COUNTERS, deltas);
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
/// without a host ends the server in error, or leaves it on its shelf.
pub(crate) fn follow_claim(tx: &mut Tx<'_>, op: Op<'_, Claim>) -> Result<(), StoreError> {
    let Op::Update { old, new } = op else { return Ok(()) };
    if !old.status.is_pending() || new.status.is_pending() {
        return Ok(());
    }
    if new.spec.consumer_kind != <Server as madang_store::Kind>::NAME {
        return Ok(());
    }
    let key = madang_store::Key::new(<Server as madang_store::Kind>::NAME, new.project(), "", new.name());
    let Some(server) = tx.get::<Server>(&key) else {
        return Ok(());
    };
    if server.spec.asked.moving.is_some() {
        return moves::follow(tx, &server, new);
    }
    let mut changed = (*server).clone();
    match (&new.status.host, &new.status.failure) {
        (Some(host), _) => {
            changed.status.host = Some(host.clone());
            changed.status.phase = Phase::Building;
            let finalizers = &mut changed.metadata.finalizers;
            if server.metadata.deleted.is_none() && !finalizers.iter().any(|one| one == AGENT_FINALIZER) {
                finalizers.push(AGENT_FINALIZER.to_owned());
            }
            bind_ports(tx, &server, Some(host))?;
        }
        (None, Some(reason)) => {
            changed.status.phase = Phase::Error;
            changed.status.fault = Some(Fault {
                details: refusals(new),
                ..Fault::new(500, reason, tx.at())
            });
            if changed.status.before.take() == Some(Phase::Offloaded) {
                changed.status.phase = Phase::Offloaded;
                changed.spec.power = crate::Power::Off;
                changed.spec.asked.shelf = Some(Shelf {
                    image: changed.status.unshelved.take(),
                    offload: true,
                });
            }
        }
        (None, None) => return Ok(()),
    }
    tx.update(&server, changed).map(|_| ())
}

/// What each filter left, a line for each, where a claim found no host.
pub(super) fn refusals(claim: &Resource<Claim>) -> Option<String> {
    let lines: Vec<String> = claim.status.refusals.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Binds the ports of a server to a host, or to none.
pub(super) fn bind_ports(tx: &mut Tx<'_>, server: &Resource<Server>, host: Option<&str>) -> Result<(), StoreError> {
    for port in tx.store().cache::<Port>().by("device", server.name()) {
        let mut bound = (*port).clone();
        bound.spec.binding_host = host.map(str::to_owned);
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
    volumes::let_go(tx, server)
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
