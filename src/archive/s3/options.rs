//! Where a bucket is, who asks, and how long it may take. Pure: no I/O.

use std::time::Duration;

use crate::{
    archive::store::{Result, StoreError, Trouble},
    config::Secret,
};

/// How an S3-compatible store is reached.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The bucket, which exists.
    pub bucket: String,
    /// What all object names begin with, without slashes at its ends; empty = the bucket is the ledger's alone.
    pub prefix: String,
    /// Its region. Stores that have none take any; never empty.
    pub region: String,
    /// URL of a store that is not AWS, `http://` or `https://`; empty = AWS, by TLS.
    pub endpoint: String,
    /// Whether the bucket stands in the path instead of the host, as most stores that are not AWS want it.
    pub path_style: bool,
    /// Who asks.
    pub credentials: Credentials,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long one try may take, besides the time that its bytes need at [`BYTES_PER_SEC_MIN`].
    pub attempt_timeout: Duration,
    /// How often a request is sent before it has failed, the first time included.
    pub attempts: u32,
}

/// Slower transfers than this end as time-outs.
pub const BYTES_PER_SEC_MIN: u64 = 1 << 20;

/// An access key.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Its public half.
    pub access_key_id: String,
    /// Its other half.
    pub secret_access_key: Secret,
    /// What goes with a key that is valid for a while; empty = none.
    pub session_token: Secret,
}

impl Credentials {
    /// The credentials that were given, or else those of the environment: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`. Profiles, single sign-on and the roles of machines are not
    /// looked for; whoever needs them puts a key into the environment.
    ///
    /// # Errors
    /// [`Trouble::Denied`] when there are none, or half of them.
    pub fn or_environment(self, environment: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let half = |what| Err(StoreError::new(Trouble::Denied, what));
        match (self.access_key_id.is_empty(), self.secret_access_key.is_empty()) {
            (false, false) => return Ok(self),
            (true, true) => {}
            _ => {
                return half(
                    "storage.s3.access_key_id and storage.s3.secret_access_key go together: set both, or none",
                );
            }
        }
        let read = |name| environment(name).filter(|value| !value.is_empty());
        match (read("AWS_ACCESS_KEY_ID"), read("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key_id), Some(secret)) => Ok(Self {
                access_key_id,
                secret_access_key: Secret::new(secret),
                session_token: Secret::new(read("AWS_SESSION_TOKEN").unwrap_or_default()),
            }),
            (None, None) => half(
                "there are no credentials for the object store: set storage.s3.access_key_id and \
                 storage.s3.secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            _ => half("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: set both"),
        }
    }
}

impl S3Options {
    /// A bucket of AWS, or of whatever `endpoint` is, with time-outs for a store on the other side of the world.
    #[must_use]
    pub fn new(bucket: impl Into<String>, region: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            region: region.into(),
            endpoint: String::new(),
            path_style: false,
            credentials,
            connect_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(15),
            attempts: 3,
        }
    }

    /// The same, where somebody waits: a call ends within this time, tries and waits between them included, besides the
    /// time that its bytes need. Of a short one a single try is made.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        let for_tries = time.saturating_sub(WAITS_MAX) / self.attempts.max(1);
        let (attempts, attempt_timeout) = match for_tries > self.connect_timeout {
            true => (self.attempts, for_tries.min(self.attempt_timeout)),
            false => (1, time.min(self.attempt_timeout)),
        };
        let connect_timeout = self.connect_timeout.min(attempt_timeout);
        Self { attempts, attempt_timeout, connect_timeout, ..self }
    }

    /// Refuses what cannot work, before anything is sent.
    ///
    /// # Errors
    /// [`Trouble::Denied`] with what to set.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(StoreError::new(Trouble::Denied, what));
        if self.bucket.is_empty() || self.bucket.contains('/') {
            return refuse(format!("storage.s3.bucket is the name of a bucket alone, not {:?}", self.bucket));
        }
        if self.region.is_empty() {
            return refuse("storage.s3.region is empty: a store without regions takes \"us-east-1\"".into());
        }
        let host = ["http://", "https://"].iter().find_map(|scheme| self.endpoint.strip_prefix(scheme));
        if !self.endpoint.is_empty() && host.is_none_or(str::is_empty) {
            return refuse(format!(
                "storage.s3.endpoint is a URL such as \"https://s3.example.com\", not {:?}",
                self.endpoint
            ));
        }
        if self.prefix.split('/').any(str::is_empty) && !self.prefix.is_empty() {
            return refuse(format!(
                "a prefix within a bucket has no slash at its ends nor two in a row: {:?}",
                self.prefix
            ));
        }
        Ok(())
    }

    /// How long one try to move this many bytes may take.
    #[must_use]
    pub fn attempt_time(&self, bytes: u64) -> Duration {
        self.attempt_timeout + Duration::from_secs(bytes / BYTES_PER_SEC_MIN)
    }

    /// How long all tries together may, with the waits between them.
    #[must_use]
    pub fn operation_time(&self, bytes: u64) -> Duration {
        self.attempt_time(bytes) * self.attempts.max(1) + WAITS_MAX
    }
}

/// Waits between tries grow to this, each.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

const WAITS_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_does_not_wait_longer() {
        let secs = Duration::from_secs;
        let usual = S3Options::new("b", "r", given("id", "key"));
        let within = |time| usual.clone().within(time);
        assert_eq!((within(secs(600)).attempts, within(secs(600)).attempt_timeout), (3, secs(15)));
        assert!(within(secs(30)).attempts == 3 && within(secs(30)).operation_time(0) <= secs(30));
        for short in [secs(19), secs(2), Duration::from_millis(5)] {
            let options = within(short);
            assert_eq!((options.attempts, options.attempt_timeout), (1, short.min(secs(15))));
            assert!(options.connect_timeout <= short);
        }
    }

    fn given(id: &str, secret: &str) -> Credentials {
        Credentials {
            access_key_id: id.into(),
            secret_access_key: Secret::new(secret.into()),
            session_token: Secret::default(),
        }
    }

    #[test]
    fn credentials_are_those_given_or_those_of_the_environment() {
        let environment = |name: &str| Some(format!("env {name}"));
        let own = given("id", "secret").or_environment(environment).unwrap();
        assert_eq!((&own.access_key_id[..], own.secret_access_key.expose()), ("id", "secret"));
        let theirs = given("", "").or_environment(environment).unwrap();
        assert_eq!(theirs.access_key_id, "env AWS_ACCESS_KEY_ID");
        assert_eq!(theirs.session_token.expose(), "env AWS_SESSION_TOKEN");
        let only_id = |name: &str| (name == "AWS_ACCESS_KEY_ID").then(|| "id".to_owned());
        for (credentials, says) in [
            (given("id", "").or_environment(environment), "storage.s3.secret_access_key go together"),
            (given("", "").or_environment(|_| None), "there are no credentials"),
            (given("", "").or_environment(only_id), "AWS_SECRET_ACCESS_KEY go together"),
        ] {
            let error = credentials.unwrap_err();
            assert_eq!(error.trouble(), Trouble::Denied);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(!format!("{own:?}").contains("secret\""), "a secret is shown");
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        let good = S3Options::new("bucket", "us-east-1", given("id", "secret"));
        good.check().unwrap();
        type Change = fn(&mut S3Options);
        let wrong: [(Change, &str); 6] = [
            (|options| options.bucket.clear(), "storage.s3.bucket"),
            (|options| options.bucket = "s3://b".into(), "storage.s3.bucket"),
            (|options| options.region.clear(), "storage.s3.region"),
            (|options| options.endpoint = "localhost:9000".into(), "storage.s3.endpoint"),
            (|options| options.endpoint = "http://".into(), "storage.s3.endpoint"),
            (|options| options.prefix = "a/".into(), "prefix"),
        ];
        for (change, says) in wrong {
            let mut options = good.clone();
            change(&mut options);
            let error = options.check().unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(good.operation_time(64 << 20) > good.attempt_time(64 << 20) * 3);
    }
}
