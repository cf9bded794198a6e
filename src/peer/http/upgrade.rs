//! The HTTP exchange at the head of each connection, after which both sides speak frames.
//!
//! ```text
//! GET /v1/peer HTTP/1.1                 HTTP/1.1 101 Switching Protocols
//! Connection: Upgrade                   Connection: Upgrade
//! Upgrade: starling-peer/1              Upgrade: starling-peer/1
//! Starling-Lane: data
//! ```

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::peer::address::PeerAddress;
use crate::peer::transport::Lane;

const PATH: &str = "/v1/peer";
const PROTOCOL: HeaderValue = HeaderValue::from_static("starling-peer/1");
const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("Upgrade");
const LANE: HeaderName = HeaderName::from_static("starling-lane");

/// Asks for a connection of a lane.
pub(super) fn request(to: &PeerAddress, lane: Lane) -> Request<Empty<Bytes>> {
    Request::get(PATH)
        .header(HOST, to.as_str())
        .header(CONNECTION, UPGRADE_OPTION)
        .header(UPGRADE, PROTOCOL)
        .header(LANE, lane.name())
        .body(Empty::new())
        .expect("an address is a valid header value")
}

/// Whether an answer agrees to the upgrade.
pub(super) fn is_accepted<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS && names_protocol(response.headers())
}

fn names_protocol(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value == PROTOCOL)
}

/// What the listening side says to a request, and whether frames follow.
pub(super) fn answer<B>(request: &Request<B>) -> (Response<Full<Bytes>>, bool) {
    if request.uri().path() != PATH {
        return (refusal(StatusCode::NOT_FOUND, "nothing here but GET /v1/peer\n"), false);
    }
    if request.method() != Method::GET {
        return (refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"), false);
    }
    if !names_protocol(request.headers()) {
        let mut response = refusal(StatusCode::UPGRADE_REQUIRED, "speaks only starling-peer/1\n");
        response.headers_mut().insert(UPGRADE, PROTOCOL);
        return (response, false);
    }
    let lane = request.headers().get(LANE);
    if !lane.is_some_and(|value| Lane::ALL.iter().any(|lane| value == lane.name())) {
        return (refusal(StatusCode::BAD_REQUEST, "Starling-Lane is control or data\n"), false);
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, UPGRADE_OPTION);
    response.headers_mut().insert(UPGRADE, PROTOCOL);
    (response, true)
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The socket of an upgraded connection, and what was read beyond the HTTP head.
pub(super) fn into_socket(upgraded: Upgraded) -> (TcpStream, Bytes) {
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .unwrap_or_else(|_| unreachable!("both sides hand hyper a TokioIo<TcpStream>"));
    (parts.io.into_inner(), parts.read_buf)
}
