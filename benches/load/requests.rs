//! Requests, byte by byte.

use std::io::Write as _;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::plan::Mix;

/// The size of each value.
const VALUE_BYTES: usize = 1_024;
/// Random bytes that values are cut from: they differ, and don't compress.
const POOL_BYTES: usize = 64 << 10;
/// What the choice of keys and values begins with.
const SEED: u64 = 0x5741_524c;

/// Makes requests in buffers that are kept.
pub struct Requests {
    rng: StdRng,
    pool: Vec<u8>,
    get: Request,
    put: Request,
}

/// A request whose key's digits are yet to be written.
struct Request {
    bytes: Vec<u8>,
    digits: usize,
    body: usize,
}

impl Requests {
    /// The query includes its `?`; the seed decides on keys and values.
    pub fn new(query: &str, seed: u64) -> Self {
        let mut pool = vec![0; POOL_BYTES];
        let mut rng = StdRng::seed_from_u64(SEED);
        rng.fill_bytes(&mut pool);
        let get = Request::new("GET", query, "", 0);
        let length = format!("Content-Length: {VALUE_BYTES}\r\n");
        let put = Request::new("PUT", query, &length, VALUE_BYTES);
        Self { rng: StdRng::seed_from_u64(SEED ^ seed), pool, get, put }
    }

    /// A request for any of the keys.
    pub fn next(&mut self, mix: Mix, keys: u32) -> &[u8] {
        self.next_of(mix, 0, keys)
    }

    /// A request for any of so many keys from the first one on.
    pub fn next_of(&mut self, mix: Mix, first: u32, keys: u32) -> &[u8] {
        let key = first + self.rng.random_range(0..keys);
        let is_put = mix == Mix::Put || mix == Mix::Half && self.rng.random();
        if is_put { self.put(key) } else { self.get.with_key(key) }
    }

    /// Stores a value under this key.
    pub fn put(&mut self, key: u32) -> &[u8] {
        let start = self.rng.random_range(0..POOL_BYTES - VALUE_BYTES);
        let value = &self.pool[start..start + VALUE_BYTES];
        self.put.bytes[self.put.body..].copy_from_slice(value);
        self.put.with_key(key)
    }
}

impl Request {
    const DIGITS: usize = 8;

    fn new(method: &str, query: &str, headers: &str, body_bytes: usize) -> Self {
        let mut bytes = format!("{method} /v1/kv/bench/key-").into_bytes();
        let digits = bytes.len();
        bytes.extend_from_slice(&[b'0'; Self::DIGITS]);
        let rest = format!("{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        bytes.extend_from_slice(rest.as_bytes());
        let body = bytes.len();
        bytes.resize(body + body_bytes, 0);
        Self { bytes, digits, body }
    }

    fn with_key(&mut self, key: u32) -> &[u8] {
        let mut place = &mut self.bytes[self.digits..self.digits + Self::DIGITS];
        write!(place, "{key:08}").expect("a number of keys has at most eight digits");
        &self.bytes
    }
}
