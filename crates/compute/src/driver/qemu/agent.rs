//! The agent inside a guest, `qemu-guest-agent`, over its channel: one JSON object a line.
//!
//! Whether there is one, only an answer tells: a guest without an agent swallows every question. Each question opens the
//! channel anew and begins with `guest-sync-delimited`, so that answers to questions of long ago are not taken for its own.
//! Source: qga/qapi-schema.json of QEMU.

use std::{io, os::fd::AsRawFd, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use madang_host::workload::DriverError;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::record::AGENT;

/// An agent answers within milliseconds; one in a busy, emulated guest takes longer.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// What an agent was asked to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 16;

/// Sets a user's password.
pub(super) async fn set_password(dir: &Path, user: &str, password: &str) -> Result<(), DriverError> {
    let arguments = json!({ "username": user, "password": BASE64.encode(password), "crypted": false });
    let set = ask(dir, "guest-set-user-password", arguments).await;
    set.map(drop)
        .map_err(|error| DriverError::Host(format!("the guest's agent did not set a password: {error}")))
}

/// Makes the guest's file systems hold still. False when there is no agent, or it cannot.
pub(super) async fn freeze(dir: &Path) -> bool {
    match ask(dir, "guest-fsfreeze-freeze", Value::Null).await {
        Ok(_) => true,
        Err(error) => {
            tracing::info!(dir = %dir.display(), %error, "the guest's file systems are copied as they are");
            false
        }
    }
}

/// Lets them go on.
pub(super) async fn thaw(dir: &Path) {
    if let Err(error) = ask(dir, "guest-fsfreeze-thaw", Value::Null).await {
        tracing::warn!(dir = %dir.display(), %error, "the guest's file systems may still hold still");
    }
}

async fn ask(dir: &Path, command: &str, arguments: Value) -> io::Result<Value> {
    // By way of the directory's descriptor: a socket's path may have 107 bytes only.
    let opened = std::fs::File::open(dir)?;
    let path = Path::new("/proc/self/fd")
        .join(opened.as_raw_fd().to_string())
        .join(AGENT);
    over(UnixStream::connect(path).await?, command, arguments).await
}

async fn over(stream: UnixStream, command: &str, arguments: Value) -> io::Result<Value> {
    let mut stream = BufReader::new(stream);
    let number = i64::from(std::process::id()) << 20 | i64::from(rand::random::<u16>());
    let hello = json!({ "execute": "guest-sync-delimited", "arguments": { "id": number } });
    // A 0xff resets the agent's parser; it sends one before its answer.
    let sync = async {
        stream.write_all(&[0xff]).await?;
        stream.write_all(format!("{hello}\n").as_bytes()).await?;
        loop {
            let answer = line(&mut stream).await?;
            if answer["return"] == number {
                return Ok::<_, io::Error>(());
            }
        }
    };
    within(HELLO_WITHIN, sync).await?;
    let mut question = json!({ "execute": command });
    if !arguments.is_null() {
        question["arguments"] = arguments;
    }
    let exchange = async {
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        line(&mut stream).await
    };
    let mut answer = within(ANSWER_WITHIN, exchange).await?;
    match answer["error"]["desc"].as_str() {
        Some(why) => Err(io::Error::other(why.to_owned())),
        None => Ok(answer["return"].take()),
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "there is no agent, or it is busy",
        ))
    })
}

/// The next line that is JSON.
async fn line(stream: &mut BufReader<UnixStream>) -> io::Result<Value> {
    loop {
        let mut bytes = Vec::new();
        if stream.take(LONGEST).read_until(b'\n', &mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = bytes.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
        if let Ok(value) = serde_json::from_slice(text) {
            return Ok(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn old_answers_are_skipped_and_refusals_told() {
        for (said, wanted) in [
            ("{\"return\": 7}", Ok(7)),
            ("{\"error\": {\"desc\": \"no such user\"}}", Err("no such user")),
        ] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let guest = async move {
                let mut theirs = BufReader::new(theirs);
                let mut hello = Vec::new();
                theirs.read_until(b'\n', &mut hello).await.unwrap();
                let hello: Value = serde_json::from_slice(&hello[1..]).unwrap();
                let answer = "{\"return\": 1}\n\u{0}half";
                theirs.write_all(answer.as_bytes()).await.unwrap();
                theirs.write_all(&[0xff]).await.unwrap();
                let answer = format!("{{\"return\": {}}}\n", hello["arguments"]["id"]);
                theirs.write_all(answer.as_bytes()).await.unwrap();
                theirs.read_until(b'\n', &mut Vec::new()).await.unwrap();
                theirs.write_all(format!("{said}\n").as_bytes()).await.unwrap();
            };
            let (answer, ()) = tokio::join!(over(ours, "guest-info", Value::Null), guest);
            match wanted {
                Ok(number) => assert_eq!(answer.unwrap(), number),
                Err(why) => assert_eq!(answer.unwrap_err().to_string(), why),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_without_an_agent_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = over(ours, "guest-info", Value::Null).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
