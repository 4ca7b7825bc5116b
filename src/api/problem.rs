//! What a refused request is told: problem documents (RFC 9457), and the one mapping from [`Code`] to a
//! status.
//!
//! Takes an [`Error`] from any module, or one of HTTP's own refusals (405, 415, 416, 501), gives a response. It
//! does not decide what is an error, and it does not log: the request's end counts it.

use std::time::Duration;

use axum::{body::Body, response::IntoResponse};
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};

use crate::{
    error::{Code, Error},
    wire::IDEMPOTENCY_REPLAYED,
};

/// A response that is not a success.
///
/// Boxed, because a reply is either this or an answer, and the answer is the common case.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    slug: &'static str,
    title: &'static str,
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
    header: Option<(HeaderName, HeaderValue)>,
    close: bool,
}

/// The slug of a problem, left in the response's extensions for whoever counts errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slug(pub &'static str);

/// What an answer without a delay of its own says about when to try again.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

impl Problem {
    /// The problem of a code that the rest of the crate knows too.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Error::new(code, detail).into()
    }

    fn http(slug: &'static str, title: &'static str, status: StatusCode, detail: String) -> Self {
        Self(Box::new(Inner { slug, title, status, detail, retry_after: None, header: None, close: false }))
    }

    /// 405, with the methods that the path does have.
    #[must_use]
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail =
            format!("this path answers {allow}; to use its name as a key, write it behind /api/v1/kv/");
        let mut problem = Self::http(
            "method-not-allowed",
            "The path does not have this method",
            StatusCode::METHOD_NOT_ALLOWED,
            detail,
        );
        problem.0.header = HeaderValue::from_str(allow).ok().map(|allow| (ALLOW, allow));
        problem
    }

    /// 415: the body's type or coding is not one the path takes.
    #[must_use]
    pub fn unsupported_media(detail: impl Into<String>) -> Self {
        Self::http(
            "unsupported-media-type",
            "The body's type or coding is not supported here",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            detail.into(),
        )
    }

    /// 503: another node, which the call is about, does not answer.
    #[must_use]
    pub fn unreachable(detail: impl Into<String>) -> Self {
        Self::http(
            "unreachable",
            "The other node does not answer",
            StatusCode::SERVICE_UNAVAILABLE,
            detail.into(),
        )
    }

    /// 501: the body is wrapped in a transfer coding beside `chunked`. What follows it cannot be found.
    #[must_use]
    pub fn transfer_coding() -> Self {
        Self::http(
            "unsupported-transfer-coding",
            "The body's transfer coding is not supported",
            StatusCode::NOT_IMPLEMENTED,
            "Transfer-Encoding is chunked and nothing else; compression is Content-Encoding".to_owned(),
        )
        .closing()
    }

    /// 416: the range lies outside a value of this many bytes.
    #[must_use]
    pub fn range_not_satisfiable(value_bytes: usize) -> Self {
        let mut problem = Self::http(
            "range-not-satisfiable",
            "The range is outside the value",
            StatusCode::RANGE_NOT_SATISFIABLE,
            format!("the value has {value_bytes} bytes"),
        );
        problem.0.header =
            HeaderValue::from_str(&format!("bytes */{value_bytes}")).ok().map(|range| (CONTENT_RANGE, range));
        problem
    }

    /// The same problem; the connection ends with it, because the rest of the request was not read.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Its stable name.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        self.0.slug
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The sentence for a person.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    fn retry_delay(&self) -> Option<Duration> {
        match self.0.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some(self.0.retry_after.unwrap_or(RETRY_AFTER_DEFAULT))
            }
            _ => self.0.retry_after,
        }
    }

    /// The JSON document.
    #[must_use]
    pub fn document(&self) -> String {
        let mut document = serde_json::json!({
            "type": self.0.slug,
            "title": self.0.title,
            "status": self.0.status.as_u16(),
            "detail": self.0.detail,
        });
        if let Some(delay) = self.retry_delay() {
            let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            document["retry_after_ms"] = ms.into();
        }
        document.to_string()
    }
}

/// Status and title of a code: the whole mapping.
const fn describe(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::Malformed => (StatusCode::BAD_REQUEST, "The request cannot be understood"),
        Code::InvalidKey => (StatusCode::BAD_REQUEST, "The key cannot be used"),
        Code::InvalidConfig => (StatusCode::BAD_REQUEST, "A setting is wrong"),
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request is too large"),
        Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        Code::NoSuchRoute => (StatusCode::NOT_FOUND, "No such path"),
        Code::Conflict => (StatusCode::CONFLICT, "The cluster is in the way of the change"),
        Code::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "The condition does not hold"),
        Code::IdempotencyMismatch => {
            (StatusCode::UNPROCESSABLE_ENTITY, "The idempotency key was used with other content")
        }
        Code::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "This client is over its limit"),
        Code::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "The node is overloaded"),
        Code::IdempotencyFull => (StatusCode::SERVICE_UNAVAILABLE, "The table of idempotency keys is full"),
        Code::NoQuorum => (StatusCode::SERVICE_UNAVAILABLE, "No leader or no quorum"),
        Code::DiskFull => (StatusCode::SERVICE_UNAVAILABLE, "The disk is full"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Not available now"),
        Code::OutcomeUnknown => (StatusCode::GATEWAY_TIMEOUT, "The outcome of the write is unknown"),
        Code::Timeout => (StatusCode::REQUEST_TIMEOUT, "The request came too slowly"),
        Code::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "Stored bytes are damaged"),
        Code::Io => (StatusCode::INTERNAL_SERVER_ERROR, "The disk or network failed"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, title) = describe(error.code());
        let mut problem = Self::http(error.code().slug(), title, status, error.message().to_owned());
        problem.0.retry_after = error.retry_delay();
        if error.is_replayed() {
            problem.0.header = Some((IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true")));
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.document()));
        *response.status_mut() = self.0.status;
        response.extensions_mut().insert(Slug(self.0.slug));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(delay) = self.retry_delay() {
            // The header counts whole seconds; a client that obeys it must not come too early.
            let secs = delay.as_millis().div_ceil(1_000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(secs).unwrap_or(u64::MAX)));
        }
        if self.0.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some((name, value)) = self.0.header {
            headers.insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_has_what_rfc_9457_and_the_contract_name() {
        let problem: Problem = Error::new(Code::Overloaded, "the pipeline is full")
            .retry_after(Duration::from_millis(1_200))
            .into();
        let document: serde_json::Value = serde_json::from_str(&problem.document()).unwrap();
        assert_eq!(document["type"], "overloaded");
        assert_eq!(document["status"], 503);
        assert_eq!(document["detail"], "the pipeline is full");
        assert_eq!(document["retry_after_ms"], 1_200);
        let response = problem.into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn refusals_that_pass_always_say_when_to_come_back() {
        for code in [Code::RateLimited, Code::DiskFull, Code::NoQuorum, Code::Unavailable] {
            assert!(Problem::new(code, "x").into_response().headers().contains_key(RETRY_AFTER), "{code:?}");
        }
        assert!(!Problem::new(Code::NotFound, "x").into_response().headers().contains_key(RETRY_AFTER));
    }
}
