//! What a call can come back with instead of an answer.
//!
//! Two families in one type: the server answered with a problem document (then there is a status), or
//! no usable answer came at all (then there is none, and the slug is one of the constants here).

use std::{fmt, time::Duration};

use serde_json::Value;

/// Slug: no connection could be made. The request was not sent.
pub const UNREACHABLE: &str = "unreachable";
/// Slug: no whole answer within the client's own timeout. A write may or may not have happened.
pub const TIMED_OUT: &str = "client-timeout";
/// Slug: the connection broke before the whole answer was there. A write may or may not have happened.
pub const BROKEN: &str = "connection-broken";
/// Slug: the answer is not what the contract says.
pub const BAD_ANSWER: &str = "bad-answer";
/// Slug: the call cannot be expressed; nothing was sent.
pub const BAD_CALL: &str = "bad-call";

/// A failed call. [`fmt::Display`] gives one sentence for a person; scripts match [`ClientError::slug`].
#[derive(Clone, PartialEq, Eq)]
pub struct ClientError {
    status: Option<u16>,
    slug: String,
    detail: String,
    retry_after: Option<Duration>,
}

impl ClientError {
    /// An error without an answer; `slug` is one of this module's constants.
    pub(crate) fn local(slug: &'static str, detail: impl Into<String>) -> Self {
        Self { status: None, slug: slug.to_owned(), detail: detail.into(), retry_after: None }
    }

    /// Reads an error answer. Anything is accepted: a proxy between us and the server may not speak
    /// problem+json, and its words are still worth showing.
    #[must_use]
    pub fn from_answer(status: u16, retry_after_header: Option<&str>, body: &[u8]) -> Self {
        let problem = serde_json::from_slice::<Value>(body).unwrap_or(Value::Null);
        let text = |name: &str| problem.get(name).and_then(Value::as_str).filter(|s| !s.is_empty());
        let slug = text("type").map_or_else(|| format!("http-{status}"), |t| last_segment(t).to_owned());
        let detail = text("detail").or_else(|| text("title")).map_or_else(|| excerpt(body), str::to_owned);
        let detail = if detail.is_empty() { format!("the server answered {status}") } else { detail };
        let precise = problem.get("retry_after_ms").and_then(Value::as_u64).map(Duration::from_millis);
        let coarse = || retry_after_header.and_then(|s| s.trim().parse().ok()).map(Duration::from_secs);
        Self { status: Some(status), slug, detail, retry_after: precise.or_else(coarse) }
    }

    /// The HTTP status, when the server answered.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        self.status
    }

    /// The stable name of what went wrong: the problem document's `type`, or one of this module's constants.
    #[must_use]
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// The sentence for a person.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// How long the server asks to wait before the next try.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The key or position has no record.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }

    /// The same request may succeed later. A write is only safe to send again with an `Idempotency-Key`
    /// when [`ClientError::is_outcome_unknown`] holds too.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.status {
            Some(status) => matches!(status, 408 | 429 | 502 | 503 | 504),
            None => matches!(self.slug.as_str(), UNREACHABLE | TIMED_OUT | BROKEN),
        }
    }

    /// A write that failed like this may nevertheless be in the ledger.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        match self.status {
            Some(status) => matches!(status, 500 | 502 | 504),
            None => matches!(self.slug.as_str(), TIMED_OUT | BROKEN | BAD_ANSWER),
        }
    }
}

/// `type` is a bare slug here; elsewhere it may be a URI that ends in one.
fn last_segment(text: &str) -> &str {
    text.trim_end_matches('/').rsplit(['/', ':', '#']).next().unwrap_or(text)
}

fn excerpt(body: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * CHARS_MAX)]);
    let mut short: String = text.trim().chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{} ({status} {})", self.detail, self.slug),
            None => f.write_str(&self.detail),
        }
    }
}

impl fmt::Debug for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.slug, self.detail)
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_is_read_in_full() {
        let body = br#"{"type":"overloaded","title":"Overloaded","status":503,"detail":"the seal stage is behind","retry_after_ms":250}"#;
        let error = ClientError::from_answer(503, Some("1"), body);
        assert_eq!(error.status(), Some(503));
        assert_eq!(error.slug(), "overloaded");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)), "the precise one wins");
        assert_eq!(error.to_string(), "the seal stage is behind (503 overloaded)");
        assert!(error.is_retryable() && !error.is_outcome_unknown());
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_still_shown() {
        let error = ClientError::from_answer(502, Some("3"), b"<h1>Bad gateway</h1>\r\n");
        assert_eq!(error.slug(), "http-502");
        assert_eq!(error.detail(), "<h1>Bad gateway</h1>");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert!(error.is_outcome_unknown());
        assert_eq!(ClientError::from_answer(404, None, b"").detail(), "the server answered 404");
        assert_eq!(ClientError::from_answer(400, None, br#"{"type":7}"#).detail(), r#"{"type":7}"#);
    }

    #[test]
    fn a_type_that_is_a_uri_gives_its_last_segment() {
        let error = ClientError::from_answer(404, None, br#"{"type":"urn:scribe:not-found","title":"x"}"#);
        assert_eq!((error.slug(), error.detail()), ("not-found", "x"));
        assert!(error.is_not_found());
    }
}
