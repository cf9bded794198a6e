//! Requests, byte by byte, in a buffer that is kept.

use std::io::Write as _;
use std::net::SocketAddr;

use rand::rngs::StdRng;

use super::values::Values;
use crate::types::Bucket;

/// What all requests of a run have in common.
#[derive(Clone, Debug)]
pub struct Target {
    /// The bucket of all keys.
    pub bucket: Bucket,
    /// The query of reads without its `?`; empty for the nodes' defaults.
    pub read_query: String,
    /// The same for writes.
    pub write_query: String,
}

impl Target {
    /// A bucket, with the levels that nodes take by themselves.
    pub fn with_defaults(bucket: Bucket) -> Self {
        Self { bucket, read_query: String::new(), write_query: String::new() }
    }
}

/// Writes the requests of one connection.
#[derive(Debug)]
pub struct Requests {
    /// Up to the key's number.
    path: String,
    read_end: String,
    write_end: String,
    bytes: Vec<u8>,
}

impl Requests {
    /// Requests to this node.
    pub fn new(target: &Target, node: SocketAddr) -> Self {
        let end = |query: &str| {
            let mark = if query.is_empty() { "" } else { "?" };
            format!("{mark}{query} HTTP/1.1\r\nHost: {node}\r\n")
        };
        Self {
            path: format!(" /v1/kv/{}/key-", target.bucket),
            read_end: end(&target.read_query),
            write_end: end(&target.write_query),
            bytes: Vec::new(),
        }
    }

    /// Reads a key.
    pub fn read(&mut self, key: u64) -> &[u8] {
        begin(&mut self.bytes, "GET", &self.path, key, &self.read_end);
        self.bytes.extend_from_slice(b"\r\n");
        &self.bytes
    }

    /// Writes a new value, over what the token stands for if there is one.
    pub fn write(
        &mut self,
        key: u64,
        values: &Values,
        rng: &mut StdRng,
        context: Option<&[u8]>,
    ) -> &[u8] {
        let size = values.choose_size(rng);
        begin(&mut self.bytes, "PUT", &self.path, key, &self.write_end);
        if let Some(context) = context {
            self.bytes.extend_from_slice(b"Starling-Context: ");
            self.bytes.extend_from_slice(context);
            self.bytes.extend_from_slice(b"\r\n");
        }
        write!(self.bytes, "Content-Length: {size}\r\n\r\n").expect("memory takes all");
        values.write(key, size, rng, &mut self.bytes);
        &self.bytes
    }
}

fn begin(bytes: &mut Vec<u8>, method: &str, path: &str, key: u64, end: &str) {
    bytes.clear();
    bytes.extend_from_slice(method.as_bytes());
    bytes.extend_from_slice(path.as_bytes());
    write!(bytes, "{key:08}").expect("memory takes all");
    bytes.extend_from_slice(end.as_bytes());
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{Requests, Target};
    use crate::load::values::{ValueSizes, Values};
    use crate::types::Bucket;

    #[test]
    fn requests_are_what_the_api_takes() {
        let bucket = Bucket::new("bench").expect("a bucket");
        let target = Target { read_query: "r=1".into(), ..Target::with_defaults(bucket) };
        let mut requests = Requests::new(&target, ([127, 0, 0, 1], 7_070).into());
        let read = String::from_utf8_lossy(requests.read(7)).into_owned();
        let expected = "GET /v1/kv/bench/key-00000007?r=1 HTTP/1.1\r\nHost: 127.0.0.1:7070\r\n\r\n";
        assert_eq!(read, expected);
        let values = Values::new(ValueSizes::fixed(3));
        let mut rng = StdRng::seed_from_u64(1);
        let write = requests.write(9, &values, &mut rng, Some(b"token"));
        let expected = b"PUT /v1/kv/bench/key-00000009 HTTP/1.1\r\nHost: 127.0.0.1:7070\r\n\
            Starling-Context: token\r\nContent-Length: 3\r\n\r\n\x09\0\0";
        assert_eq!(write, expected);
    }
}
