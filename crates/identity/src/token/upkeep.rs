//! What tokens and credentials need now and then: new keys, and revocations forgotten once they no longer matter.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use madang_control::TaskGroup;
use tracing::{info, warn};

use super::revocation;
use crate::{Identity, federation::shadow, oauth1};

/// Well below the day that a key seals for.
const EVERY: Duration = Duration::from_secs(600);

/// Runs the upkeep in `group` until it stops.
pub fn run(identity: Arc<Identity>, group: &TaskGroup) {
    group.spawn_until_stopped("token upkeep", async move {
        loop {
            tokio::time::sleep(EVERY).await;
            once(&identity).await;
        }
    });
}

async fn once(identity: &Arc<Identity>) {
    let now = Timestamp::now();
    let ring = Arc::clone(identity);
    match tokio::task::spawn_blocking(move || ring.keys.rotate(now, ring.options.keep_keys())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "could not rotate token keys"),
        Err(error) => warn!(%error, "could not rotate token keys"),
    }
    if let Err(error) = identity.keep_vault(now).await {
        warn!(error, "could not seal credentials with new keys");
    }
    if let Err(error) = oauth1::rules::prune(&identity.store, now).await {
        warn!(%error, "could not forget old OAuth tokens");
    }
    if let Err(error) = shadow::prune(&identity.store, now, identity.options.token_lifetime).await {
        warn!(%error, "could not forget old memberships of identity providers");
    }
    match revocation::prune(&identity.store, now).await {
        Ok(0) => {}
        Ok(count) => info!(count, "forgot revocations of tokens that are over"),
        Err(error) => warn!(%error, "could not forget old revocations"),
    }
}
