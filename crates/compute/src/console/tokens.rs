//! Who may open which console: tokens that are for one server, one kind of console and a short time.
//!
//! They live in memory: a restart ends what they open anyway. Tokens are secrets; they are never logged.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use madang_host::workload::ConsoleKind;
use madang_store::Key;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// Tokens at a time; beyond that the oldest ends.
const MOST: usize = 4096;

/// What a token opens.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The server.
    pub server: Key,
    /// Which of its consoles.
    pub kind: ConsoleKind,
    until: Instant,
}

/// All tokens of this process.
#[derive(Debug)]
pub struct Tokens {
    life: Duration,
    grants: Mutex<HashMap<String, Grant>>,
}

impl Tokens {
    /// None yet; each opens its console for so long.
    pub fn new(life: Duration) -> Self {
        Self {
            life,
            grants: Mutex::default(),
        }
    }

    /// A new token.
    pub fn issue(&self, server: Key, kind: ConsoleKind) -> String {
        let mut secret = [0_u8; 32];
        rand::fill(&mut secret);
        let token = URL_SAFE_NO_PAD.encode(secret);
        let now = Instant::now();
        let mut grants = self.grants.lock();
        if grants.len() >= MOST {
            grants.retain(|_, grant| grant.until > now);
        }
        if grants.len() >= MOST
            && let Some(oldest) = grants.iter().min_by_key(|(_, grant)| grant.until)
        {
            let oldest = oldest.0.clone();
            grants.remove(&oldest);
        }
        let until = now + self.life;
        grants.insert(token.clone(), Grant { server, kind, until });
        token
    }

    /// What a token opens, while it does.
    pub fn find(&self, token: &str) -> Option<Grant> {
        let grants = self.grants.lock();
        grants.get(token).filter(|grant| grant.until > Instant::now()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(600);

    fn key(name: &str) -> Key {
        Key::new("servers", "p1", "", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_for_one_server_and_ends() {
        let tokens = Tokens::new(LIFE);
        let token = tokens.issue(key("a"), ConsoleKind::Vnc);
        assert_eq!(tokens.find(&token).unwrap().server, key("a"));
        assert!(tokens.find(&format!("bad{token}")).is_none());
        tokio::time::advance(LIFE).await;
        assert!(tokens.find(&token).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_too_many() {
        let tokens = Tokens::new(LIFE);
        let first = tokens.issue(key("a"), ConsoleKind::Serial);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..MOST {
            tokens.issue(key("b"), ConsoleKind::Serial);
        }
        assert!(tokens.find(&first).is_none());
        assert_eq!(tokens.grants.lock().len(), MOST);
    }
}
