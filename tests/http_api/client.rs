//! A client that sends exactly the bytes it is given.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One answer, taken apart.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Checks all that every error must have, and gives its code.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let code = self.header("starling-error").expect("Starling-Error").to_owned();
        let request_id = self.header("starling-request-id").expect("Starling-Request-Id");
        let problem = self.json();
        assert_eq!(problem["code"], code.as_str());
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], format!("/errors/{code}"));
        assert_eq!(problem["request_id"], request_id);
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{text}");
        }
        if [429, 503, 507].contains(&self.status) {
            let seconds = self.header("retry-after").expect("Retry-After");
            assert!(seconds.parse::<u32>().is_ok(), "{seconds}");
        }
        code
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// Sends what the server may stop listening to.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.expect("shut down");
    }

    /// Sends a request without a body and reads the answer.
    pub async fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(head(method, target, headers)).await;
        self.reply(method).await
    }

    /// Sends a request with a body and reads the answer.
    pub async fn ask_with(
        &mut self,
        (method, target): (&str, &str),
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let len = body.as_ref().len().to_string();
        let headers = [headers, &[("Content-Length", len.as_str())]].concat();
        self.send(head(method, target, &headers)).await;
        self.send(body).await;
        self.reply(method).await
    }

    async fn fill(&mut self) -> usize {
        let mut bytes = [0; 65_536];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes));
        let n = read.await.expect("something in time").unwrap_or(0);
        self.buffer.extend_from_slice(&bytes[..n]);
        n
    }

    /// Reads one answer.
    pub async fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method).await.expect("an answer")
    }

    /// Reads one answer, if one comes before the connection ends.
    pub async fn try_reply(&mut self, method: &str) -> Option<Reply> {
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.fill().await == 0 {
                assert!(self.buffer.is_empty(), "half an answer: {:?}", self.buffer);
                return None;
            }
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec()).expect("plain headers");
        self.buffer.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status: {status_line}"));
        let mut headers = HashMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
            let twice = headers.insert(name.to_ascii_lowercase(), value.to_owned());
            assert_eq!(twice, None, "{name} twice");
        }
        let has_body = method != "HEAD" && ![100, 204, 304].contains(&status);
        let len = headers.get("content-length").map_or(0, |len| len.parse().expect("a number"));
        let body = if has_body { self.take(len).await } else { Vec::new() };
        Some(Reply { status, headers, body })
    }

    async fn take(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            assert!(self.fill().await > 0, "the body broke off");
        }
        self.buffer.drain(..len).collect()
    }

    /// Waits until the server closes, and checks that nothing more came.
    pub async fn closed(mut self) {
        assert_eq!(self.fill().await, 0, "{:?}", String::from_utf8_lossy(&self.buffer));
        assert!(self.buffer.is_empty());
    }
}

/// A request's head.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}
