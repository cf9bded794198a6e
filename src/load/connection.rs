//! One connection that is kept alive, with one request at a time.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{Answer, Layout};

/// Room for an answer with a value of 1 KiB; more is made when it is needed.
const BUFFER_BYTES: usize = 4 << 10;

/// A client's end.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    is_over: bool,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(BUFFER_BYTES), is_over: false })
    }

    /// Sends a request and reads its answer to the end.
    ///
    /// # Errors
    /// What the system says, and an answer that is cut short or can't be read: the connection is of no
    /// use after that.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.is_over = true;
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let layout = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // One system call reads nearly every answer whole, so parsing again costs nothing.
            if let Some(layout) = Layout::parse(&self.buffer)? {
                self.read_to(layout.body.end).await?;
                break layout;
            }
        };
        self.is_over = layout.is_last;
        Ok(layout.of(&self.buffer))
    }

    async fn read_to(&mut self, end: usize) -> io::Result<()> {
        self.buffer.reserve(end.saturating_sub(self.buffer.len()));
        while self.buffer.len() < end {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Whether it takes no further request: it broke, was given up in the middle of one, or the
    /// server has said that it closes it.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}
