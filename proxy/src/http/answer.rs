//! Answers that the mesh makes itself. One table: reason word, HTTP status, gRPC status.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::body::Body;
use super::headers::{ERROR, GRPC_STATUS, is_grpc};

/// Why the mesh answers by itself. The word is the same in the response, the metric and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The backend has no endpoint.
    NoEndpoints,
    /// The circuit breakers of all endpoints are open.
    AllEjected,
    /// No endpoint could be connected.
    ConnectFailed,
    /// No endpoint proved the identity that discovery names, or we have none ourselves.
    PeerIdentity,
    /// The upstream broke off before its response.
    UpstreamReset,
    /// The upstream did not answer in time.
    ResponseTimeout,
    /// The request, with all its tries, took longer than a policy lets it.
    RequestTimeout,
    /// The deadline of a gRPC call (`grpc-timeout`) is over.
    Deadline,
    /// A stream had no frame either way for longer than a policy lets it.
    StreamIdle,
    /// More is asked for than the proxy is set to hold.
    Overload,
    /// The request would come back to this proxy.
    Loop,
    /// The request is not one that can be forwarded.
    BadRequest,
    /// Routes are attached to the destination, and none fits.
    NoRoute,
    /// The route leads to something that is not there.
    BackendInvalid,
    /// A fault that a policy injects.
    Fault,
    /// More requests came than a policy allows.
    RateLimited,
    /// The client did not send what it began, or did not take what it asked for, in time.
    TooSlow,
    /// The connection was made to the proxy's own port, or names an address that is not the workload's.
    NotLocal,
}

/// The detail of [`Reason::Overload`] where memory is what there is too little of.
pub const MEMORY: &str = "the proxy's memory is nearly used up";

impl Reason {
    /// The word.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// The status of gRPC.
    pub fn grpc(self) -> u16 {
        self.row().2
    }

    fn row(self) -> (&'static str, StatusCode, u16) {
        const DEADLINE_EXCEEDED: u16 = 4;
        const INTERNAL: u16 = 13;
        const UNAVAILABLE: u16 = 14;
        const PERMISSION_DENIED: u16 = 7;
        const RESOURCE_EXHAUSTED: u16 = 8;
        const UNIMPLEMENTED: u16 = 12;
        match self {
            Reason::NoEndpoints => ("no_endpoints", StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Reason::AllEjected => ("all_ejected", StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Reason::ConnectFailed => ("connect_failed", StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Reason::PeerIdentity => ("peer_identity", StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Reason::UpstreamReset => ("upstream_reset", StatusCode::BAD_GATEWAY, UNAVAILABLE),
            Reason::ResponseTimeout => ("response_timeout", StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED),
            Reason::RequestTimeout => ("request_timeout", StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED),
            Reason::Deadline => ("deadline", StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED),
            Reason::StreamIdle => ("stream_idle", StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED),
            Reason::Overload => ("overload", StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Reason::Loop => ("loop", StatusCode::LOOP_DETECTED, INTERNAL),
            Reason::BadRequest => ("bad_request", StatusCode::BAD_REQUEST, INTERNAL),
            Reason::NoRoute => ("no_route", StatusCode::NOT_FOUND, UNIMPLEMENTED),
            Reason::BackendInvalid => ("backend_invalid", StatusCode::INTERNAL_SERVER_ERROR, INTERNAL),
            // The policy may say another status, or another code.
            Reason::Fault => ("fault", StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Reason::RateLimited => ("rate_limited", StatusCode::TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED),
            Reason::TooSlow => ("too_slow", StatusCode::REQUEST_TIMEOUT, DEADLINE_EXCEEDED),
            Reason::NotLocal => ("not_local", StatusCode::FORBIDDEN, PERMISSION_DENIED),
        }
    }

    /// The answer to a request with `headers`; `detail` is one line for humans: target, endpoints known, last error.
    pub fn answer(self, headers: &HeaderMap, detail: &str) -> Response<Body> {
        AskedAs::of(headers).answer(self, detail)
    }

    /// The same behind the body of a call of gRPC whose answer has begun. Its message says what `ERROR` says in heads.
    pub fn trailers(self, detail: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(GRPC_STATUS, HeaderValue::from(self.grpc()));
        fields.insert("grpc-message", visible(&self.error(detail).replace('%', "%25")));
        fields
    }

    fn error(self, detail: &str) -> String {
        format!("{}; {}", self.word(), printable(detail))
    }

    fn answer_as(self, asked_as: AskedAs, detail: &str) -> Response<Body> {
        let error = self.error(detail);
        let mut response = if asked_as == AskedAs::Grpc {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = self.trailers(detail);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        } else {
            let mut response = Response::new(Body::full(Bytes::from(format!("mesh: {error}\n"))));
            *response.status_mut() = self.status();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        };
        response.headers_mut().insert(ERROR, visible(&error));
        if self == Reason::BadRequest {
            // Whoever sends one bad request over HTTP/1 may mean something else by what follows.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same as the bytes of an HTTP/1.1 message, for connections that no HTTP library serves.
    pub fn raw(self, status: StatusCode, detail: &str) -> Vec<u8> {
        let word = self.word();
        let detail = printable(detail);
        let body = format!("mesh: {word}; {detail}\n");
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nmesh-error: {word}; {detail}\r\ncontent-type: text/plain\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// In which form a caller understands an answer; to be kept when the request itself is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedAs {
    /// A gRPC call: statuses are in trailers.
    Grpc,
    /// Any other request.
    Http,
}

impl AskedAs {
    /// By the request's headers.
    pub fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) { AskedAs::Grpc } else { AskedAs::Http }
    }

    /// The mesh's answer in this form.
    pub fn answer(self, reason: Reason, detail: &str) -> Response<Body> {
        reason.answer_as(self, detail)
    }
}

fn printable(detail: &str) -> String {
    const LONGEST: usize = 300;
    detail.chars().take(LONGEST).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unprintable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_call_is_answered_with_a_grpc_status() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let response = Reason::NoEndpoints.answer(&headers, "default/web:80 has no endpoints");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()[ERROR], "no_endpoints; default/web:80 has no endpoints");
    }

    #[test]
    fn a_hostile_detail_stays_one_printable_line() {
        let response = Reason::ConnectFailed.answer(&HeaderMap::new(), "a\r\nset-cookie: x\u{1b}[31m");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[ERROR], "connect_failed; a??set-cookie: x?[31m");
    }
}
