//! Another size, another host, another host because the old one is lost.

use madang_http::Failure;
use madang_identity::Caller;
use madang_network::qos;
use madang_scheduler::{ClaimSpec, Provider};
use madang_store::{Resource, Store, StoreError, Tx};
use uuid::Uuid;

use super::{Done, Edit, Wants, allowed, check_lock};
use crate::{
    Flavor, Phase, Power, Server,
    server::{
        Doing, Move, MoveKind, Stage,
        create::{forbidden_traits, required_traits, resources, wishes, with_needs},
        hardware, local, moves, volumes,
    },
};

/// Asks for another flavor.
///
/// # Errors
/// `Conflict` in a state without resize; `Invalid` for the flavor it has, or one that its disk or image does not fit;
/// `Forbidden` (`OverQuota`).
pub async fn resize(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    flavor: &Resource<Flavor>,
    is_disk_automatic: Option<bool>,
) -> Done {
    let wanted = flavor.clone();
    transact(store, caller, server, |tx, server| {
        check(server, "resize", &[Phase::Active, Phase::Stopped])?;
        check_flavor(tx, server, &wanted)?;
        let moving = begun(server, MoveKind::Resize);
        let needs = qos::needs_of_device(tx.store(), server.name());
        let pinned = may_go(tx.store(), server, &moving.source, false);
        moves::begin(tx, server, moving, wanted.name(), |own| ClaimSpec {
            resources: with_needs(resources(&wanted.spec), needs.clone()),
            required_traits: required_traits(
                &wanted.spec,
                own.wishes.as_deref().map(|wishes| &wishes.image_properties),
            ),
            forbidden_traits: forbidden_traits(&wanted.spec),
            wishes: Some(Box::new(wishes(own.wishes.as_deref(), &wanted.spec))),
            host: pinned.host,
            avoid: pinned.avoid,
            ..own.clone()
        })?;
        let names = volumes::names(tx.store(), server.name());
        server.spec.disks = local::resized(&server.spec.disks, &server.spec.flavor, &wanted.spec, &names);
        server.spec.flavor_id = wanted.name().to_owned();
        server.spec.flavor = wanted.spec.clone();
        server.spec.is_disk_automatic = is_disk_automatic.unwrap_or(server.spec.is_disk_automatic);
        begin(tx, server, "resize");
        Ok(())
    })
    .await
}

/// Asks for another host: this one, or any.
///
/// # Errors
/// `Conflict` in a state without migration; `Invalid` for a host there is not, or that it is on.
pub async fn migrate(store: &Store, caller: &Caller, server: &Resource<Server>, host: Option<&str>) -> Done {
    transact(store, caller, server, |tx, server| {
        check(server, "migrate", &[Phase::Active, Phase::Stopped])?;
        if host.is_some() && host == server.status.host.as_deref() {
            let message = format!("Server {} cannot be cold migrated to the same host", server.name());
            return Err(Failure::invalid(message).at("host").into());
        }
        let moving = begun(server, MoveKind::Migration);
        let pinned = may_go(tx.store(), server, &moving.source, true);
        let flavor = server.spec.flavor_id.clone();
        moves::begin(tx, server, moving, &flavor, |own| ClaimSpec {
            host: pinned.host.or_else(|| host.map(str::to_owned)),
            avoid: pinned.avoid,
            ..own.clone()
        })?;
        begin(tx, server, "migrate");
        Ok(())
    })
    .await
}

/// Asks for another host without ending it: this one, or any.
///
/// # Errors
/// `Conflict` unless it runs or holds still; when it is locked.
pub async fn migrate_live(store: &Store, caller: &Caller, server: &Resource<Server>, host: Option<&str>) -> Done {
    transact(store, caller, server, |tx, server| {
        check(server, "os-migrateLive", &[Phase::Active, Phase::Paused])?;
        let moving = begun(server, MoveKind::LiveMigration);
        let pinned = may_go(tx.store(), server, &moving.source, true);
        let flavor = server.spec.flavor_id.clone();
        moves::begin(tx, server, moving, &flavor, |own| ClaimSpec {
            host: pinned.host.or_else(|| host.map(str::to_owned)),
            avoid: pinned.avoid,
            ..own.clone()
        })?;
        begin(tx, server, "live-migration");
        Ok(())
    })
    .await
}

/// Why a server that runs can go nowhere: to this host, or to any. None where it can.
pub fn is_stuck(store: &Store, server: &Resource<Server>, host: Option<&str>) -> Option<String> {
    let source = server.status.host.as_deref().unwrap_or_default();
    if host == Some(source) {
        let id = server.name();
        return Some(format!("Unable to migrate instance ({id}) to current host ({source})."));
    }
    let pinned = may_go(store, server, source, true);
    let now = jiff::Timestamp::now();
    let can_take = |there: &Resource<Provider>| {
        let name = &there.spec.name;
        there.spec.is_enabled
            && madang_scheduler::control::is_alive(there, now)
            && !pinned.avoid.contains(name)
            && pinned.host.as_ref().is_none_or(|only| only == name)
            && host.is_none_or(|host| host == name)
    };
    let found = store.cache::<Provider>().all().iter().any(|there| can_take(there));
    (!found).then(|| "No valid host was found. There are not enough hosts available.".to_owned())
}

/// Asks for another host since the one it was on is lost; it is built there from its image.
///
/// # Errors
/// `Conflict` in a state without it; `Invalid` while its host answers.
pub async fn evacuate(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    host: Option<&str>,
    stays_off: bool,
) -> Done {
    transact(store, caller, server, |tx, server| {
        allowed(
            server,
            "evacuate",
            &[Phase::Active, Phase::Stopped, Phase::Error],
            Wants::Launched,
        )?;
        let source = server.status.host.clone().unwrap_or_default();
        if tx
            .store()
            .cache::<Provider>()
            .by("name", &source)
            .iter()
            .any(|host| host.spec.is_enabled && madang_scheduler::control::is_alive(host, tx.at()))
        {
            let message = format!("Compute service of {source} is still in use.");
            return Err(Failure::invalid(message).into());
        }
        let moving = begun(server, MoveKind::Evacuation);
        let flavor = server.spec.flavor_id.clone();
        moves::begin(tx, server, moving, &flavor, |own| ClaimSpec {
            host: host.map(str::to_owned),
            avoid: vec![source.clone()],
            ..own.clone()
        })?;
        if stays_off {
            server.spec.power = Power::Off;
        }
        begin(tx, server, "evacuate");
        Ok(())
    })
    .await
}

/// Keeps what a resize or migration made.
///
/// # Errors
/// `Conflict` unless it waits for this word; when it is locked.
pub async fn confirm(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    transact(store, caller, server, |tx, server| {
        check(server, "confirmResize", &[Phase::Resized])?;
        begin(tx, server, "confirmResize");
        Ok(confirm_in(tx, server)?)
    })
    .await
}

/// As [`confirm`], within a transaction and without asking who.
///
/// # Errors
/// What the rules of claims say.
pub(crate) fn confirm_in(tx: &mut Tx<'_>, server: &mut Resource<Server>) -> Result<(), StoreError> {
    if server.status.phase != Phase::Resized {
        return Ok(());
    }
    moves::settle(tx, server, "confirmed")?;
    server.status.phase = if server.spec.power == Power::On {
        Phase::Active
    } else {
        Phase::Stopped
    };
    Ok(())
}

/// Goes back to what it was before a resize or migration.
///
/// # Errors
/// `Conflict` unless it waits for this word; when it is locked; `Forbidden` (`OverQuota`) when what it was is more.
pub async fn revert(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    transact(store, caller, server, |tx, server| {
        check(server, "revertResize", &[Phase::Resized])?;
        if let Some(moving) = &mut server.spec.asked.moving {
            moving.stage = Stage::Reverting;
            moving.clone().give_size_back(&mut server.spec);
        }
        begin(tx, server, "revertResize");
        Ok(())
    })
    .await
}

/// Where a move may lead. Disks do not travel between real hosts; simulated ones have none.
struct Pinned {
    host: Option<String>,
    avoid: Vec<String>,
}

fn may_go(store: &Store, server: &Resource<Server>, source: &str, elsewhere: bool) -> Pinned {
    let hosts = store.cache::<Provider>();
    let is_simulated = |host: &Resource<Provider>| host.status.hypervisor == "simulated";
    let here = hosts.by("name", source);
    let mut avoid = if elsewhere { vec![source.to_owned()] } else { Vec::new() };
    if !here.iter().any(|host| is_simulated(host)) {
        return Pinned {
            host: server.status.host.clone(),
            avoid,
        };
    }
    let real = hosts.all().into_iter().filter(|host| !is_simulated(host));
    avoid.extend(real.map(|host| host.spec.name.clone()));
    Pinned { host: None, avoid }
}

fn begun(server: &Resource<Server>, kind: MoveKind) -> Move {
    Move {
        migration: Uuid::new_v4(),
        kind,
        old_flavor_id: server.spec.flavor_id.clone(),
        old_flavor: server.spec.flavor.clone(),
        old_disks: server.spec.disks.clone(),
        source: server.status.host.clone().unwrap_or_default(),
        target: None,
        power: if server.status.phase == Phase::Stopped {
            Power::Off
        } else {
            Power::On
        },
        stage: Stage::Placing,
        failure: None,
        refusals: None,
    }
}

fn check_flavor(tx: &Tx<'_>, server: &Resource<Server>, flavor: &Resource<Flavor>) -> Result<(), Failure> {
    let (old, new) = (&server.spec.flavor, &flavor.spec);
    let resize = |reason: &str| {
        Failure::invalid(format!("Server's disk was unable to be resized because: {reason}")).at("flavorRef")
    };
    if flavor.name() == server.spec.flavor_id {
        return Err(Failure::invalid("When resizing, instances must change flavor!").at("flavorRef"));
    }
    if new.is_disabled {
        let message = format!("Flavor {} could not be found.", flavor.name());
        return Err(Failure::invalid(message).at("flavorRef"));
    }
    if server.spec.driver == "oci" {
        hardware::of_container(new).map_err(|unfit| Failure::invalid(unfit.to_string()).at("flavorRef"))?;
    }
    let ephemeral_gb = local::ephemeral_gb(&server.spec.disks, old);
    if u64::from(new.ephemeral_gb) < ephemeral_gb {
        let message = format!(
            "ephemeral disks of {ephemeral_gb} GB cannot become ones of {} GB",
            new.ephemeral_gb
        );
        return Err(resize(&message));
    }
    if server.spec.image.is_none() {
        return Ok(());
    }
    if new.disk_gb == 0 && old.disk_gb != 0 {
        return Err(resize("Resize to zero disk flavor is not allowed."));
    }
    if new.disk_gb < old.disk_gb {
        let message = format!("a disk of {} GB cannot become one of {} GB", old.disk_gb, new.disk_gb);
        return Err(resize(&message));
    }
    let image = server.spec.image.as_deref();
    let image = image.and_then(|id| tx.store().cache::<madang_image::Image>().by_name(id));
    if image.is_some_and(|image| new.ram_mb < image.spec.min_ram) {
        return Err(Failure::invalid("Flavor's memory is too small for requested image.").at("flavorRef"));
    }
    Ok(())
}

fn check(server: &Resource<Server>, verb: &str, phases: &[Phase]) -> Result<(), Failure> {
    allowed(server, verb, phases, Wants::Idle)
}

fn begin(tx: &Tx<'_>, server: &mut Resource<Server>, action: &str) {
    server.status.action = Some(Doing::new(action, tx.cause()));
    server.status.fault = None;
}

/// One transaction over an unlocked server and what goes with it.
async fn transact(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    change: impl Fn(&mut Tx<'_>, &mut Resource<Server>) -> Result<(), Edit>,
) -> Done {
    super::transact(store, caller, server, |tx, server| {
        check_lock(caller, server)?;
        change(tx, server)
    })
    .await
}
