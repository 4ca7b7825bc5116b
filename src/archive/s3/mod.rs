//! A bucket of an S3-compatible object store.
//!
//! ```text
//! Store's calls ─► our deadline ─► SDK: standard retry ─► connect, attempt and operation time-outs ─► HTTP(S)
//!                  over all of it, until the last byte of an answer has come; what is cut short is asked for again
//! ```
//!
//! Takes the calls of [`Store`], sends signed requests, by TLS (rustls with ring, the system's roots) unless the
//! endpoint is `http://`. A write carries `If-None-Match: *` or `If-Match`; whatever refuses it is read back and
//! compared, because a lost answer and a lost race look alike. The SDK sends and checks no checksums of its own,
//! which some servers refuse: what the ledger stores carries its own, and `Content-MD5` goes with an upload. It does not own
//! what objects mean.

use std::{fmt, future::Future, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Credentials as SdkCredentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
    operation::get_object::GetObjectOutput,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use self::judge::{chain, is_condition, judge};
pub use self::options::{BYTES_PER_SEC_MIN, Credentials, S3Options};
use super::{
    name::Name,
    store::{
        Body, Object, PAGE_NAMES_MAX, Page, Put, RANGE_BYTES_MAX, Result, SMALL_BYTES_MAX, Store, StoreError,
        Swap, Trouble, Version, is_same, unreadable,
    },
};

mod body;
mod judge;
mod options;

/// Before a larger object is sent it is looked for: a store that has it may refuse it and hang up while it is still coming,
/// and then the connection's failure is all that is heard of that.
const LOOK_FIRST_BYTES: u64 = 64 << 10;

/// A store in a bucket.
pub struct S3Store {
    client: Client,
    options: S3Options,
    place: String,
}

impl S3Store {
    /// The store that the options describe. Sends nothing: the probe does.
    ///
    /// # Errors
    /// [`Trouble::Denied`] for options that cannot work.
    pub fn new(options: S3Options) -> Result<Self> {
        options.check()?;
        let Credentials { access_key_id, secret_access_key, session_token } = &options.credentials;
        let token = (!session_token.is_empty()).then(|| session_token.expose().to_owned());
        let credentials =
            SdkCredentials::new(access_key_id, secret_access_key.expose(), token, None, "scribe-ledger");
        let slash = if options.prefix.is_empty() { "" } else { "/" };
        let place = format!("s3://{}{slash}{}", options.bucket, options.prefix);
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let retry = RetryConfig::standard().with_max_attempts(options.attempts.max(1));
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .credentials_provider(credentials)
            .region(Region::new(options.region.clone()))
            .force_path_style(options.path_style)
            .retry_config(retry.with_max_backoff(options::WAIT_MAX))
            // Its own: what goes wrong with one store uses up no other's tries.
            .retry_partition(RetryPartition::custom(place.clone()).build())
            .timeout_config(timeouts(&options, 0))
            // Ours is the deadline, which also ends what is slow and does not stand still.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if !options.endpoint.is_empty() {
            config = config.endpoint_url(&options.endpoint);
        }
        Ok(Self { client: Client::from_conf(config.build()), options, place })
    }

    fn key(&self, name: &str) -> String {
        if self.options.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.options.prefix)
        }
    }

    /// The time-outs of a request that moves this many bytes.
    fn timed(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::Config::builder().timeout_config(timeouts(&self.options, bytes))
    }

    /// Our own deadline around all of a call: the SDK's end where an answer's body begins.
    async fn in_time<T>(&self, doing: &str, bytes: u64, call: impl Future<Output = Result<T>>) -> Result<T> {
        let most = self.options.operation_time(bytes) + Duration::from_secs(1);
        timeout(most, call).await.unwrap_or_else(|_| {
            let what =
                format!("{doing} in {} took longer than {} s: try again later", self.place, most.as_secs());
            Err(StoreError::new(Trouble::Away, what))
        })
    }

    /// Reads an object or a range of it, at most `most` bytes.
    async fn fetch(&self, name: &Name, range: Option<String>, most: usize) -> Result<Object> {
        let doing = format!("reading {name}");
        let tries = async {
            let mut tries = 1;
            loop {
                // What is cut short is asked for again; the SDK does that only until the body begins.
                match timeout(self.options.attempt_time(most as u64), self.try_fetch(name, &range, most))
                    .await
                {
                    Ok(Err(error)) if error.trouble() != Trouble::Away => return Err(error),
                    Ok(Ok(object)) => return Ok(object),
                    Ok(Err(error)) if tries >= self.options.attempts => return Err(error),
                    Err(_) if tries >= self.options.attempts => {
                        let what = format!("{doing} in {} stands still: try again later", self.place);
                        return Err(StoreError::new(Trouble::Away, what));
                    }
                    Ok(Err(_)) | Err(_) => tries += 1,
                }
            }
        };
        self.in_time(&doing, most as u64, tries).await
    }

    async fn try_fetch(&self, name: &Name, range: &Option<String>, most: usize) -> Result<Object> {
        let doing = format!("reading {name}");
        let request = self.client.get_object().bucket(&self.options.bucket).key(self.key(name.as_str()));
        let request = request.set_range(range.clone()).customize().config_override(self.timed(most as u64));
        let answer = request.send().await.map_err(|error| judge(&doing, &self.place, &error))?;
        let version = Version(answer.e_tag().unwrap_or_default().to_owned());
        Ok(Object { bytes: self.collect(name, answer, most).await?, version })
    }

    /// The bytes of an answer, whatever it says how many they are.
    async fn collect(&self, name: &Name, mut answer: GetObjectOutput, most: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::new();
        loop {
            let piece = answer.body.try_next().await.map_err(|error| {
                let why = chain(&error);
                let what = format!("reading {name} in {} was cut short: try again later ({why})", self.place);
                StoreError::new(Trouble::Away, what)
            })?;
            let Some(piece) = piece else { return Ok(bytes.freeze()) };
            if bytes.len() + piece.len() > most {
                let what = format!(
                    "{name} in {} has more than {most} bytes: it is not what was written",
                    self.place
                );
                return Err(StoreError::new(Trouble::Broken, what));
            }
            bytes.extend_from_slice(&piece);
        }
    }

    async fn put(&self, name: &Name, body: Body) -> Result<Put> {
        let bytes = body.len();
        if bytes > LOOK_FIRST_BYTES {
            match is_same(self, name, &body).await {
                Err(gone) if gone.trouble() == Trouble::NotFound => {}
                there => return there.map(Put::already_there),
            }
        }
        let request = self.client.put_object().bucket(&self.options.bucket).key(self.key(name.as_str()));
        let request = request.if_none_match("*").content_length(i64::try_from(bytes).unwrap_or(i64::MAX));
        let md5 = body::md5(&body).map_err(|error| unreadable(name, &error))?;
        let request = request.content_md5(md5).body(body::stream(body.clone()));
        match request.customize().config_override(self.timed(bytes)).send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) if is_condition(&error) => match is_same(self, name, &body).await {
                Ok(is_same) => Ok(Put::already_there(is_same)),
                // Another write was under way, and has not come to anything.
                Err(gone) if gone.trouble() == Trouble::NotFound => {
                    Err(judge(&format!("writing {name}"), &self.place, &error))
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(judge(&format!("writing {name}"), &self.place, &error)),
        }
    }

    /// Replaces an object. Some servers take an ETag for another one where it stands in quotation marks, as they give it
    /// themselves and as RFC 9110 has it: what they refuse although the object is the expected one is asked for again
    /// without them. That condition is the same.
    async fn swap(&self, name: &Name, expected: Option<&Version>, bytes: Bytes) -> Result<Swap> {
        match self.try_swap(name, expected.map(|version| &*version.0), &bytes).await? {
            Tried::Is(swap) => Ok(swap),
            Tried::RefusedAsItIs(refused) => {
                let Some(bare) = expected.and_then(|version| bare(&version.0)) else { return Err(refused) };
                match self.try_swap(name, Some(bare), &bytes).await? {
                    Tried::Is(swap) => Ok(swap),
                    Tried::RefusedAsItIs(refused) => Err(refused),
                }
            }
        }
    }

    async fn try_swap(&self, name: &Name, expected: Option<&str>, bytes: &Bytes) -> Result<Tried> {
        let doing = format!("replacing {name}");
        let request = self.client.put_object().bucket(&self.options.bucket).key(self.key(name.as_str()));
        let request = match expected {
            Some(version) => request.if_match(version),
            None => request.if_none_match("*"),
        };
        let is_expected = |there: &Version| {
            expected.is_some_and(|expected| {
                bare(expected).unwrap_or(expected) == bare(&there.0).unwrap_or(&there.0)
            })
        };
        let request = request.body(bytes.clone().into()).customize();
        match request.config_override(self.timed(bytes.len() as u64)).send().await {
            Ok(answer) => Ok(Tried::Is(Swap::Done(self.version(name, answer.e_tag())?))),
            // A store may say of an object that is expected and gone that it is not found.
            Err(error)
                if is_condition(&error)
                    || judge(&doing, &self.place, &error).trouble() == Trouble::NotFound =>
            {
                match self.get(name).await {
                    // It was us: the answer to an earlier try was lost.
                    Ok(object) if object.bytes == *bytes => Ok(Tried::Is(Swap::Done(object.version))),
                    Ok(object) if !is_expected(&object.version) => {
                        Ok(Tried::Is(Swap::Changed(Some(object.version))))
                    }
                    Err(gone) if gone.trouble() == Trouble::NotFound && expected.is_some() => {
                        Ok(Tried::Is(Swap::Changed(None)))
                    }
                    // Another write was under way, and has not come to anything, or it cannot compare.
                    Ok(_) => Ok(Tried::RefusedAsItIs(judge(&doing, &self.place, &error))),
                    Err(gone) if gone.trouble() == Trouble::NotFound => {
                        Err(judge(&doing, &self.place, &error))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(judge(&doing, &self.place, &error)),
        }
    }

    fn version(&self, name: &Name, e_tag: Option<&str>) -> Result<Version> {
        let version = e_tag.filter(|tag| !tag.is_empty()).map(|tag| Version(tag.to_owned()));
        version.ok_or_else(|| {
            let what = format!("{} gave no ETag for {name}: it cannot tell versions apart", self.place);
            StoreError::new(Trouble::Broken, what)
        })
    }

    async fn page(&self, dir: &str, after: Option<&str>) -> Result<Page> {
        let slash = if dir.is_empty() { "" } else { "/" };
        let start = self.key(&format!("{dir}{slash}"));
        let request =
            self.client.list_objects_v2().bucket(&self.options.bucket).prefix(&start).delimiter("/");
        let request = request.max_keys(PAGE_NAMES_MAX as i32);
        let request = request.set_start_after(after.map(|after| format!("{start}{after}")));
        let doing = format!("listing {dir:?}");
        let answer = request.send().await.map_err(|error| judge(&doing, &self.place, &error))?;
        let broken = |what: &str| {
            let what = format!("{doing} in {} gave {what}: it does not list as S3 does", self.place);
            StoreError::new(Trouble::Broken, what)
        };
        let keys = answer.contents().iter().filter_map(|object| object.key());
        let dirs = answer.common_prefixes().iter().filter_map(|prefix| prefix.prefix());
        if keys.clone().count() + dirs.clone().count() > PAGE_NAMES_MAX {
            return Err(broken("more names than it was asked for"));
        }
        let mut names = Vec::new();
        let mut last = after.map(str::to_owned);
        for key in keys {
            let key = key.strip_prefix(&start).ok_or_else(|| broken("a name of another directory"))?;
            if last.as_deref().is_some_and(|last| key <= last) {
                return Err(broken("names out of order"));
            }
            last = Some(key.to_owned());
            names.extend(Name::parse(&format!("{dir}{slash}{key}")).filter(|name| name.dir() == dir));
        }
        if answer.is_truncated() != Some(true) {
            return Ok(Page { names, next: None });
        }
        // Behind all that a directory holds.
        let behind = |dir: &str| dir.strip_prefix(&start).map(|dir| format!("{dir}\u{10ffff}"));
        let next = dirs.filter_map(behind).chain(last).max();
        match next {
            Some(next) if after.is_none_or(|after| next.as_str() > after) => {
                Ok(Page { names, next: Some(next) })
            }
            _ => Err(broken("an end that it says is none")),
        }
    }
}

/// What a replacement has come to.
enum Tried {
    Is(Swap),
    /// The condition does not hold, says the store, and the object is as it was expected.
    RefusedAsItIs(StoreError),
}

/// An ETag without its quotation marks; none where it has none.
fn bare(e_tag: &str) -> Option<&str> {
    e_tag.strip_prefix('"')?.strip_suffix('"')
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("options", &self.options).finish_non_exhaustive()
    }
}

fn timeouts(options: &S3Options, bytes: u64) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.attempt_time(bytes))
        .operation_attempt_timeout(options.attempt_time(bytes))
        .operation_timeout(options.operation_time(bytes))
        .build()
}

impl Store for S3Store {
    fn place(&self) -> &str {
        &self.place
    }

    fn put_once<'a>(&'a self, name: &'a Name, body: Body) -> BoxFuture<'a, Result<Put>> {
        // Writing, and reading back to compare.
        let bytes = 2 * body.len();
        Box::pin(async move { self.in_time(&format!("writing {name}"), bytes, self.put(name, body)).await })
    }

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Object>> {
        Box::pin(async move {
            let object = self.fetch(name, None, SMALL_BYTES_MAX).await?;
            self.version(name, Some(&object.version.0))?;
            Ok(object)
        })
    }

    fn get_range<'a>(&'a self, name: &'a Name, offset: u64, bytes: u32) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let Some(last) = offset.checked_add(u64::from(bytes)).and_then(|end| end.checked_sub(1)) else {
                return Err(StoreError::new(Trouble::Broken, format!("{name} has no bytes beyond {offset}")));
            };
            if bytes == 0 {
                return Ok(Bytes::new());
            }
            let most = bytes.min(RANGE_BYTES_MAX) as usize;
            let object = self.fetch(name, Some(format!("bytes={offset}-{last}")), most).await?;
            if object.bytes.len() != bytes as usize {
                let (place, came) = (&self.place, object.bytes.len());
                let what =
                    format!("of {name} in {place} {bytes} bytes at {offset} were asked for, and {came} came");
                return Err(StoreError::new(Trouble::Broken, what));
            }
            Ok(object.bytes)
        })
    }

    fn head<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let doing = format!("looking for {name}");
            let request = self.client.head_object().bucket(&self.options.bucket).key(self.key(name.as_str()));
            let call = async {
                let answer = request.send().await.map_err(|error| judge(&doing, &self.place, &error))?;
                let bytes = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok());
                bytes.ok_or_else(|| {
                    let what = format!("{} gave no size of {name}", self.place);
                    StoreError::new(Trouble::Broken, what)
                })
            };
            self.in_time(&doing, 0, call).await
        })
    }

    fn list<'a>(&'a self, dir: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move { self.in_time("listing", 0, self.page(dir, after)).await })
    }

    fn compare_and_set<'a>(
        &'a self,
        name: &'a Name,
        expected: Option<&'a Version>,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Swap>> {
        Box::pin(async move {
            let size = 2 * bytes.len() as u64;
            self.in_time(&format!("replacing {name}"), size, self.swap(name, expected, bytes)).await
        })
    }
}
