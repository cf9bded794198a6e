//! One connection that is kept alive, with one request at a time.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer;

/// Room for an answer with a value of 1 KiB.
const BUFFER_BYTES: usize = 4 << 10;

/// A client's end.
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(BUFFER_BYTES) })
    }

    /// Sends a request and reads its answer to the end; gives the status.
    ///
    /// # Errors
    /// What the system says, and an answer that is cut short or can't be read.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // One system call reads nearly every answer whole, so parsing again costs nothing.
            match answer::parse(&self.buffer)? {
                Some(answer) if answer.length <= self.buffer.len() => return Ok(answer.status),
                _ => {}
            }
        }
    }
}
