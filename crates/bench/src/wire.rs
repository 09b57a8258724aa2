//! A client of HTTP/1.1 that costs next to nothing: prepared bytes out, status and body in, over kept connections. It
//! knows just what madang's answers use, and a heavier one would be measured along with what it measures.

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Where one answer ends is known from its head; heads are far smaller than this.
const READ_BYTES: usize = 64 * 1024;

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    address: String,
}

/// An answer.
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// The value of `X-Subject-Token`, where there is one.
    pub token: Option<String>,
    /// As received.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }

    /// Refuses anything but success, with the answer's own words.
    pub fn succeeded(self) -> anyhow::Result<Self> {
        if !(200..300).contains(&self.status) {
            bail!(
                "{}: {}",
                self.status,
                String::from_utf8_lossy(&self.body[..self.body.len().min(400)])
            );
        }
        Ok(self)
    }
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("could not connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(READ_BYTES),
            address: address.to_owned(),
        })
    }

    /// The bytes of a request, for sending it often.
    pub fn prepare(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Vec<u8> {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n",
            self.address
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() || method == "POST" || method == "PUT" {
            head.push_str(&format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            ));
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    /// Sends prepared bytes and reads the answer.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head = std::str::from_utf8(&self.buffer[..head_end])?.to_ascii_lowercase();
        let status: u16 = head
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .context("no status line")?;
        let value = |name: &str| {
            let line = head.lines().find(|line| line.starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        // Header names were made lower case above, and values with them: the token's own letters are read from the bytes.
        let token = head.find("\r\nx-subject-token:").and_then(|at| {
            let original = std::str::from_utf8(&self.buffer[at + 18..head_end]).ok()?;
            Some(original.split("\r\n").next()?.trim().to_owned())
        });
        let body = if value("transfer-encoding:").is_some_and(|coding| coding == "chunked") {
            self.chunked(head_end).await?
        } else {
            let length: usize = value("content-length:")
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0);
            while self.buffer.len() < head_end + length {
                self.fill().await?;
            }
            let body = self.buffer[head_end..head_end + length].to_vec();
            self.buffer.drain(..head_end + length);
            body
        };
        Ok(Answer { status, token, body })
    }

    async fn chunked(&mut self, mut at: usize) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                if let Some(found) = self.buffer[at..].windows(2).position(|window| window == b"\r\n") {
                    break at + found;
                }
                self.fill().await?;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[at..line_end])?.trim(), 16)?;
            let end = line_end + 2 + size + 2;
            while self.buffer.len() < end {
                self.fill().await?;
            }
            body.extend_from_slice(&self.buffer[line_end + 2..line_end + 2 + size]);
            at = end;
            if size == 0 {
                self.buffer.drain(..at);
                return Ok(body);
            }
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        Ok(())
    }
}
