//! What happens to a subnet pool on its way into the store, and the verb that cuts a subnet out of one.

use std::sync::Arc;

use ipnet::IpNet;
use madang_store::{ErrorKind, Op, Resource, StoreBuilder, StoreError, Tx};

use super::{SubnetPool, SubnetPoolSpec, cut};
use crate::{
    Subnet, address_scope,
    lookup::touch,
    quota::{self, Limited},
    rbac::{Action, Shareable, rules as sharing},
    refusal,
};

/// More prefixes than any real pool has, few enough to look at for each subnet.
const MAX_PREFIXES: usize = 256;

/// Makes subnet pools known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<SubnetPool>(|tx, op| match op {
        Op::Create(pool) => create(tx, pool),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(pool) => remove(tx, pool),
    });
}

fn create(tx: &mut Tx<'_>, pool: &mut Resource<SubnetPool>) -> Result<(), StoreError> {
    check(&mut pool.spec)?;
    address_scope::rules::check_pool(tx, pool)?;
    if pool.spec.is_shared {
        sharing::follow_flag(tx, pool, Shareable::SubnetPool, Action::AccessAsShared, true)?;
    }
    if pool.spec.is_default {
        require_only_default(tx, pool)?;
    }
    quota::take(tx, pool.project(), Limited::SubnetPool);
    Ok(())
}

fn update(tx: &mut Tx<'_>, old: &Resource<SubnetPool>, new: &mut Resource<SubnetPool>) -> Result<(), StoreError> {
    check(&mut new.spec)?;
    let is_kept = |cidr: &IpNet| new.spec.prefixes.iter().any(|kept| kept.contains(cidr));
    if !old.spec.prefixes.iter().all(is_kept)
        && let Some(cut) = cut_from(tx, old.name())
            .iter()
            .find(|subnet| !is_kept(&subnet.spec.cidr))
    {
        let why = format_args!("subnet {} ({}) was cut from what would go", cut.name(), cut.spec.cidr);
        return Err(illegal_update(why));
    }
    if (&old.spec.address_scope_id, &old.spec.prefixes) != (&new.spec.address_scope_id, &new.spec.prefixes) {
        address_scope::rules::check_pool(tx, new)?;
    }
    if old.spec.is_shared != new.spec.is_shared {
        let is_shared = new.spec.is_shared;
        sharing::follow_flag(tx, new, Shareable::SubnetPool, Action::AccessAsShared, is_shared)?;
    }
    match (old.spec.is_default, new.spec.is_default) {
        (false, true) => require_only_default(tx, new)?,
        (true, false) => tx.release(DEFAULTS, &old.spec.ip_version().to_string()),
        _ => {}
    }
    Ok(())
}

pub(super) fn illegal_update(why: impl std::fmt::Display) -> StoreError {
    refusal::bad("IllegalSubnetPoolUpdate", format!("Illegal subnetpool update : {why}."))
}

fn remove(tx: &mut Tx<'_>, pool: &Resource<SubnetPool>) -> Result<(), StoreError> {
    if !cut_from(tx, pool.name()).is_empty() {
        let message = "Unable to delete subnet pool: Subnet pool has existing allocations.";
        return Err(refusal::bad("SubnetPoolDeleteError", message));
    }
    if pool.spec.is_default {
        tx.release(DEFAULTS, &pool.spec.ip_version().to_string());
    }
    sharing::object_goes(tx, pool.name())?;
    quota::give_back(tx, pool.project(), Limited::SubnetPool);
    Ok(())
}

fn check(spec: &mut SubnetPoolSpec) -> Result<(), StoreError> {
    let Some(first) = spec.prefixes.first() else {
        return Err(refusal::bad(
            "EmptySubnetPoolPrefixList",
            "Empty subnet pool prefix list.",
        ));
    };
    let is_v4 = first.addr().is_ipv4();
    if spec.prefixes.iter().any(|prefix| prefix.addr().is_ipv4() != is_v4) {
        let message = "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.";
        return Err(refusal::bad("PrefixVersionMismatch", message));
    }
    if spec.prefixes.len() > MAX_PREFIXES {
        return Err(refusal::invalid(format_args!(
            "a pool has at most {MAX_PREFIXES} prefixes"
        )));
    }
    spec.prefixes = cut::compact(&spec.prefixes);
    let most = if is_v4 { 32 } else { 128 };
    for bits in [spec.min_prefixlen, spec.max_prefixlen, spec.default_prefixlen] {
        if bits > most {
            let message = format!("Prefix '{bits}' not supported in IPv{} pool.", spec.ip_version());
            return Err(refusal::bad("UnsupportedMinSubnetPoolPrefix", message));
        }
    }
    let (min, max, usual) = (spec.min_prefixlen, spec.max_prefixlen, spec.default_prefixlen);
    let bounds = [
        ("max_prefixlen", max, "min_prefixlen", min, max < min),
        ("default_prefixlen", usual, "min_prefixlen", min, usual < min),
        ("default_prefixlen", usual, "max_prefixlen", max, usual > max),
    ];
    match bounds.into_iter().find(|(.., is_illegal)| *is_illegal) {
        Some((what, bits, base, base_bits, _)) => {
            let message = format!("Illegal prefix bounds: {what}={bits}, {base}={base_bits}.");
            Err(refusal::bad("IllegalSubnetPoolPrefixBounds", message))
        }
        None => Ok(()),
    }
}

/// Takes prefixes out of a pool; those that it does not have are fine.
///
/// # Errors
/// When subnets were cut from them, or nothing is left.
pub(super) fn remove_prefixes(
    tx: &mut Tx<'_>,
    pool: &Resource<SubnetPool>,
    gone: &[IpNet],
) -> Result<Arc<Resource<SubnetPool>>, StoreError> {
    let mut new = pool.clone();
    new.spec.prefixes = cut::left(&pool.spec.prefixes, gone);
    // Two who cut from the pool and who takes from it at the same time meet at its revision.
    tx.update(pool, new)
}

/// The reservation that there is one default pool for a version of IP.
const DEFAULTS: &str = "subnetpool/default";

fn require_only_default(tx: &mut Tx<'_>, pool: &Resource<SubnetPool>) -> Result<(), StoreError> {
    let version = pool.spec.ip_version().to_string();
    let others = tx.store().cache::<SubnetPool>().by("default", &version);
    let mut others = others.iter().filter_map(|cached| tx.get::<SubnetPool>(&cached.key()));
    if others.any(|other| other.spec.is_default && other.name() != pool.name()) {
        return Err(refusal::invalid(
            "A default subnetpool for this IP family has already been set. Only one default may exist per IP family",
        ));
    }
    // Two that become the default at the same time meet here.
    tx.reserve(DEFAULTS, &version, pool.metadata.uid)
}

/// The subnets that were cut from a pool, as the transaction leaves them so far.
fn cut_from(tx: &Tx<'_>, pool: &str) -> Vec<Arc<Resource<Subnet>>> {
    let cached = tx.store().cache::<Subnet>().by("pool", pool);
    let mut subnets: Vec<_> = cached
        .iter()
        .filter_map(|subnet| tx.get::<Subnet>(&subnet.key()))
        .collect();
    for staged in tx.staged::<Subnet>() {
        if staged.spec.subnetpool_id.as_deref() == Some(pool)
            && subnets.iter().all(|known| known.name() != staged.name())
        {
            subnets.push(staged);
        }
    }
    subnets
}

/// What a subnet wants of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This one.
    Exactly(IpNet),
    /// Any with so many bits of prefix; none for the pool's default.
    Any(Option<u8>),
}

/// Chooses the range of a new subnet of `project`. Others who cut from the pool at the same time conflict here, and
/// choose again.
///
/// # Errors
/// Neutron's refusals: lengths out of bounds, nothing free, more than the quota.
pub(crate) fn cut(
    tx: &mut Tx<'_>,
    pool: &Resource<SubnetPool>,
    wanted: Wanted,
    project: &str,
) -> Result<IpNet, StoreError> {
    let spec = &pool.spec;
    let bits = match wanted {
        Wanted::Exactly(cidr) => cidr.prefix_len(),
        Wanted::Any(bits) => bits.unwrap_or(spec.default_prefixlen),
    };
    if bits < spec.min_prefixlen {
        let message = format!(
            "Unable to allocate subnet with prefix length {bits}, minimum allowed prefix is {}.",
            spec.min_prefixlen
        );
        return Err(refusal::bad("MinPrefixSubnetAllocationError", message));
    }
    if bits > spec.max_prefixlen {
        let message = format!(
            "Unable to allocate subnet with prefix length {bits}, maximum allowed prefix is {}.",
            spec.max_prefixlen
        );
        return Err(refusal::bad("MaxPrefixSubnetAllocationError", message));
    }
    let subnets = cut_from(tx, pool.name());
    let taken: Vec<IpNet> = subnets.iter().map(|subnet| subnet.spec.cidr).collect();
    let chosen = match wanted {
        Wanted::Exactly(cidr) => cut::is_free(&spec.prefixes, &taken, cidr)
            .then_some(cidr)
            .ok_or("Cannot allocate requested subnet from the available set of prefixes"),
        Wanted::Any(_) => {
            cut::first_free(&spec.prefixes, &taken, bits).ok_or("Insufficient prefix space to allocate subnet size")
        }
    };
    let chosen = chosen.map_err(|why| {
        let message = format!("Failed to allocate subnet: {why}.");
        refusal::refuse(ErrorKind::Conflict, "SubnetAllocationError", message)
    })?;
    if let Some(quota) = spec.default_quota {
        let own = subnets.iter().filter(|subnet| subnet.project() == project);
        let used = own
            .map(|subnet| cut::units(subnet.spec.cidr))
            .fold(0, u64::saturating_add);
        if used.saturating_add(cut::units(chosen)) > quota {
            let message = "Per-tenant subnet pool prefix quota exceeded.";
            return Err(refusal::refuse(
                ErrorKind::Exhausted,
                "SubnetPoolQuotaExceeded",
                message,
            ));
        }
    }
    touch(tx, pool)?;
    Ok(chosen)
}
