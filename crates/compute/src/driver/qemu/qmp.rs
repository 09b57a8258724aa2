//! QEMU's monitor protocol: one JSON object per line, answers and events mixed. Source: docs/interop/qmp-spec.rst of QEMU.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};
use tokio_util::codec::{Framed, LinesCodec};

/// Longer than any message by far; console output comes in pieces of 256 KiB.
const LONGEST: usize = 4 << 20;

/// QEMU answers within milliseconds; a host that is swapping may need longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What QEMU tells unasked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// Such as `SHUTDOWN`.
    pub name: String,
    /// What goes with it; null when nothing does.
    pub data: Value,
}

/// Why a command has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// QEMU refused; its words.
    Refused(String),
    /// The connection is of no use any more.
    Lost(io::Error),
}

/// A connection to one QEMU.
pub(super) struct Qmp {
    stream: Framed<UnixStream, LinesCodec>,
    next: u64,
    /// Came in while an answer was waited for.
    waiting: VecDeque<Event>,
}

impl Qmp {
    /// Connects and says hello. QEMU listens for one client at a time: a second one waits.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(socket).await?).await
    }

    async fn over(stream: UnixStream) -> io::Result<Self> {
        let stream = Framed::new(stream, LinesCodec::new_with_max_length(LONGEST));
        let mut qmp = Self {
            stream,
            next: 0,
            waiting: VecDeque::new(),
        };
        let greeting = timeout(PATIENCE, qmp.message())
            .await
            .map_err(|_| late("its greeting"))??;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not QEMU's monitor"));
        }
        match qmp.call("qmp_capabilities", Value::Null).await {
            Ok(_) => Ok(qmp),
            Err(Failure::Refused(why)) => Err(io::Error::other(why)),
            Err(Failure::Lost(error)) => Err(error),
        }
    }

    /// Sends a command and returns its result. Must not be cancelled: the next answer would be taken for another's.
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        self.call_with(command, arguments, None).await
    }

    /// As [`Qmp::call`], with a descriptor for commands that take one (`add-fd`, `getfd`).
    pub async fn call_with(
        &mut self,
        command: &str,
        arguments: Value,
        descriptor: Option<&OwnedFd>,
    ) -> Result<Value, Failure> {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let exchange = async {
            match descriptor {
                Some(descriptor) => self.send_with(&message.to_string(), descriptor).await?,
                None => self.stream.send(message.to_string()).await.map_err(to_io)?,
            }
            loop {
                let mut message = self.message().await?;
                if let Some(event) = event(&mut message) {
                    self.waiting.push_back(event);
                } else if message["id"] == id {
                    return Ok(message);
                }
            }
        };
        let mut answer = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| Failure::Lost(late(&format!("its answer to {command}"))))?
            .map_err(Failure::Lost)?;
        if let Some(error) = answer.get("error") {
            return Err(Failure::Refused(
                error["desc"].as_str().unwrap_or("it gave no reason").to_owned(),
            ));
        }
        Ok(answer["return"].take())
    }

    /// Sends a line with a descriptor beside its first byte. Nothing else waits to be sent: every send is flushed.
    async fn send_with(&mut self, text: &str, descriptor: &OwnedFd) -> io::Result<()> {
        let line = format!("{text}\n");
        let stream = self.stream.get_mut();
        let descriptors = [descriptor.as_raw_fd()];
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let with = [ControlMessage::ScmRights(&descriptors)];
                let bytes = [IoSlice::new(line.as_bytes())];
                Ok(sendmsg::<()>(
                    stream.as_raw_fd(),
                    &bytes,
                    &with,
                    MsgFlags::empty(),
                    None,
                )?)
            })
            .await?;
        stream.write_all(&line.as_bytes()[sent..]).await
    }

    /// Waits for the next event. May be cancelled.
    pub async fn event(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            // An answer without a question is one that came too late.
            let mut message = self.message().await?;
            if let Some(event) = event(&mut message) {
                return Ok(event);
            }
        }
    }

    async fn message(&mut self) -> io::Result<Value> {
        match self.stream.next().await {
            Some(Ok(line)) => Ok(serde_json::from_str(&line)?),
            Some(Err(error)) => Err(to_io(error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn event(message: &mut Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    Some(Event {
        name,
        data: message["data"].take(),
    })
}

fn late(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("QEMU did not send {what} within {PATIENCE:?}"),
    )
}

fn to_io(error: tokio_util::codec::LinesCodecError) -> io::Error {
    match error {
        tokio_util::codec::LinesCodecError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    /// A monitor that reads one line per answer and then sends that answer.
    async fn monitor(stream: UnixStream, answers: &[&str]) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"{\"QMP\": {\"version\": {}}}\r\n").await.unwrap();
        for answer in answers {
            lines.next_line().await.unwrap();
            write.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answers = [
            "{\"return\": {}, \"id\": 1}\r\n",
            "{\"event\": \"STOP\"}\r\n{\"return\": 0, \"id\": 77}\r\n{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 3}\r\n",
        ];
        let client = async {
            let mut qmp = Qmp::over(ours).await.unwrap();
            let status = qmp.call("query-status", Value::Null).await.unwrap();
            assert_eq!(status["status"], "paused");
            assert_eq!(
                qmp.event().await.unwrap(),
                Event {
                    name: "STOP".into(),
                    data: Value::Null
                }
            );
            let refused = qmp.call("absent", json!({})).await.unwrap_err();
            assert!(matches!(refused, Failure::Refused(why) if why == "no such thing"));
            assert_eq!(qmp.event().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        };
        tokio::join!(client, monitor(theirs, &answers));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_monitor_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(
            Qmp::over(ours).await.map(|_| ()).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }
}
