//! What an S3 error means, and what to do about it.
//!
//! Takes what the SDK gives up with, after its own tries; gives one of our five troubles. It decides by status and
//! code alone, because messages differ from server to server.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::archive::store::{StoreError, Trouble};

/// Whether a conditional write was refused because its condition does not hold, or another one was under way.
pub(super) fn is_condition<E>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error.raw_response().map(|response| response.status().as_u16()), Some(409 | 412))
}

/// Puts an error into our words.
pub(super) fn judge<E>(doing: &str, place: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let (trouble, advice) = match error {
        SdkError::ConstructionFailure(_) => {
            (Trouble::Denied, "look at storage.s3.bucket and storage.s3.endpoint")
        }
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => (Trouble::Away, AWAY),
        SdkError::ServiceError(answer) => {
            verdict(answer.raw().status().as_u16(), answer.err().code().unwrap_or_default())
        }
        // It ended early, or is no answer of S3.
        _ => (Trouble::Away, "its answer could not be read: try again later"),
    };
    let why = match error {
        SdkError::ServiceError(answer) => {
            let (status, error) = (answer.raw().status().as_u16(), answer.err());
            let (code, message) =
                (error.code().unwrap_or("no code"), error.message().unwrap_or("no message"));
            shortened(format!("{status} {code}: {message}"))
        }
        _ => chain(error),
    };
    StoreError::new(trouble, format!("{doing} in {place} failed: {advice} ({why})"))
}

/// An error and what caused it, in a line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    shortened(text)
}

/// The most characters of what a server says that are passed on.
const SAID_MAX: usize = 300;

fn shortened(text: String) -> String {
    match text.char_indices().nth(SAID_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

const AWAY: &str =
    "it does not answer: look at storage.s3.endpoint, the network and the store, or try again later";

fn verdict(status: u16, code: &str) -> (Trouble, &'static str) {
    match (status, code) {
        (_, "NoSuchBucket") => {
            (Trouble::Denied, "there is no such bucket: make it, or set storage.s3.bucket")
        }
        (_, "BadDigest" | "XAmzContentSHA256Mismatch") => {
            (Trouble::Away, "what was sent was spoiled on its way: it is sent again")
        }
        (_, "RequestTimeTooSkewed") => (Trouble::Denied, "set this machine's clock"),
        (
            _,
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" | "ExpiredToken" | "InvalidToken",
        ) => (
            Trouble::Denied,
            "set storage.s3.access_key_id and storage.s3.secret_access_key, or AWS_ACCESS_KEY_ID and its like, to a valid key",
        ),
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
        | (301 | 307 | 308, _) => {
            (Trouble::Denied, "set storage.s3.region and storage.s3.endpoint to the bucket's")
        }
        (401 | 403, _) => {
            (Trouble::Denied, "let this key list, read and write objects of the bucket, or take another key")
        }
        (404, _) => (Trouble::NotFound, "there is no such object"),
        (416, _) => (Trouble::Broken, "the object is shorter than what was written"),
        (409 | 412, _) => (Trouble::Away, "another write was under way: try again"),
        (507, _) => (Trouble::Full, "make room in the store"),
        (501, _) => {
            (Trouble::Broken, "it has no conditional writes: take a store that honours If-None-Match")
        }
        (408 | 429 | 500.., _) | (_, "RequestTimeout" | "SlowDown") => {
            (Trouble::Away, "it asks to be spared, or is not well: try again later")
        }
        _ => (Trouble::Broken, "it does not take a request that S3 takes: look at storage.s3.endpoint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_passed_on_in_part() {
        let error = std::io::Error::other("ä".repeat(1_000));
        assert_eq!(chain(&error).chars().count(), SAID_MAX + 1);
    }

    #[test]
    fn every_answer_has_its_trouble() {
        for (status, code, trouble) in [
            (404, "NoSuchKey", Trouble::NotFound),
            (404, "", Trouble::NotFound),
            (404, "NoSuchBucket", Trouble::Denied),
            (403, "AccessDenied", Trouble::Denied),
            (403, "SignatureDoesNotMatch", Trouble::Denied),
            (400, "ExpiredToken", Trouble::Denied),
            (301, "PermanentRedirect", Trouble::Denied),
            (400, "RequestTimeout", Trouble::Away),
            (400, "BadDigest", Trouble::Away),
            (503, "SlowDown", Trouble::Away),
            (500, "InternalError", Trouble::Away),
            (429, "", Trouble::Away),
            (507, "", Trouble::Full),
            (409, "ConditionalRequestConflict", Trouble::Away),
            (416, "InvalidRange", Trouble::Broken),
            (400, "InvalidArgument", Trouble::Broken),
        ] {
            assert_eq!(verdict(status, code).0, trouble, "{status} {code}");
        }
    }
}
