//! A client that sends exactly what it is given, and takes answers apart.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take where a test does not say: longer than any deadline of a request.
const PATIENCE: Duration = Duration::from_secs(70);

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        let (method, target) = (method.to_owned(), target.into());
        Self { method, target, headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    pub fn delete(target: impl Into<String>) -> Self {
        Self::new("DELETE", target)
    }

    pub fn put(target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("PUT", target).body(body)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let len = self.body.len().to_string();
        self.header("Content-Length", len)
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn context(self, token: &str) -> Self {
        self.header("Starling-Context", token)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer. None is a 500: reading one fails the test.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The context, which must be there.
    pub fn context(&self) -> &str {
        self.header("Starling-Context").unwrap_or_else(|| panic!("no context: {self:?}"))
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Checks the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}: {}", self.text());
        self
    }

    /// Checks status and code, and all that every error must have.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let of = format!("{self:?}: {}", self.text());
        assert_eq!(self.status, status, "{of}");
        assert_eq!(self.header("Starling-Error"), Some(code), "{of}");
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"), "{of}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{of}");
        assert_eq!(problem["status"], status, "{of}");
        assert_eq!(problem["type"], format!("/errors/{code}"), "{of}");
        assert_eq!(problem["request_id"].as_str(), self.header("Starling-Request-Id"), "{of}");
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {of}");
        }
        if matches!(status, 429 | 503 | 507) {
            let retry_after = self.header("Retry-After").map(str::parse::<u32>);
            assert!(matches!(retry_after, Some(Ok(_))), "{of}");
        }
        self
    }

    /// The values of a 200 or 300: one for each live sibling; none for a 404.
    pub fn values(&self) -> Vec<Vec<u8>> {
        use base64::Engine as _;
        match self.status {
            200 => vec![self.body.clone()],
            404 => Vec::new(),
            300 => {
                let document = self.json();
                let siblings = document["siblings"].as_array().expect("siblings").clone();
                let values = siblings.iter().filter_map(|sibling| sibling["value"].as_str());
                let engine = base64::engine::general_purpose::STANDARD;
                values.map(|value| engine.decode(value).expect("base64")).collect()
            }
            _ => panic!("no values: {self:?}: {}", self.text()),
        }
    }
}

/// A client of one node, over one connection at a time, which it keeps while it lasts.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    patience: Duration,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, patience: PATIENCE, connection: None }
    }

    /// With how long an answer may take.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends a request and reads the answer; no second try.
    pub async fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let exchange = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(self.address).await?,
            };
            connection.send(&request.to_bytes()).await?;
            let answer = connection.answer(&request.method).await?;
            io::Result::Ok((connection, answer))
        };
        let (connection, answer) = timeout(self.patience, exchange).await??;
        let is_closing = answer.header("Connection").is_some_and(|value| value == "close");
        self.connection = (!is_closing).then_some(connection);
        Ok(answer)
    }
}

/// Sends one request over a connection of its own.
pub async fn ask(address: SocketAddr, request: &Request) -> io::Result<Answer> {
    Client::new(address).send(request).await
}

/// A connection, byte by byte.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub async fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Everything until the server closes, or resets.
    pub async fn rest(&mut self) -> Vec<u8> {
        while timeout(PATIENCE, self.fill()).await.is_ok_and(|filled| filled.is_ok()) {}
        std::mem::take(&mut self.buffer)
    }

    /// The next answer, to a request with this method.
    pub async fn answer(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let answer = timeout(PATIENCE, self.next_answer(method)).await??;
            // 100 Continue stands before the answer.
            if answer.status >= 200 {
                assert_ne!(answer.status, 500, "{method}: {answer:?}: {}", answer.text());
                return Ok(answer);
            }
        }
    }

    async fn next_answer(&mut self, method: &str) -> io::Result<Answer> {
        let head_len = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_len).collect();
        let mut answer = parse_head(&head)?;
        assert_eq!(answer.header("Transfer-Encoding"), None, "answers have a known length");
        let is_bodiless = method == "HEAD" || matches!(answer.status, 100 | 204 | 304);
        let len = answer.header("Content-Length").and_then(|len| len.parse().ok()).unwrap_or(0);
        let len: usize = if is_bodiless { 0 } else { len };
        while self.buffer.len() < len {
            self.fill().await?;
        }
        answer.body = self.buffer.drain(..len).collect();
        Ok(answer)
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        let len = self.stream.read(&mut bytes).await?;
        if len == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&bytes[..len]);
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> io::Result<Answer> {
    let malformed = || io::Error::new(ErrorKind::InvalidData, String::from_utf8_lossy(head));
    let text = std::str::from_utf8(head).map_err(|_| malformed())?;
    let mut lines = text.trim_end().split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    let mut headers = HashMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Answer { status, headers, body: Vec::new() })
}
