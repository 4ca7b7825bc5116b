//! Where an archive is: a directory, or a bucket with what its store wants to know.
//!
//! Takes a place as text, gives a [`Store`]. Settings of a bucket are the node's: `[storage.s3]` of the file that
//! `--config` names (or `SCRIBE_CONFIG`), and over it the environment (`SCRIBE_STORAGE_S3_ENDPOINT`, `…_REGION`, `…_PATH_STYLE`,
//! `…_ACCESS_KEY_ID`, `…_SECRET_ACCESS_KEY`), and for keys that nobody has given there `AWS_ACCESS_KEY_ID` and its
//! like. The bucket and the prefix are those of the place.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde::de::DeserializeOwned;

use super::Failure;
use crate::{
    archive::{DirectoryStore, Store},
    config::{environment::CONFIG_FILE, paths::resolve},
    env::real::RealIo,
};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file of the ledger's nodes, found as they find it: [storage.s3] says how the object store of
    /// s3://… is reached, and ledger.origin what a restored ledger is called. Their environment says so, too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that the flag names.
    pub(super) fn flag(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// A part of the file that the flag or the environment names, nothing where none does; the rest is the node's to
    /// check.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a file that is not found, or none.
    pub(super) fn part<Part: Default + DeserializeOwned>(&self) -> Result<Part, Failure> {
        let asked = self.config.clone().or_else(|| std::env::var_os(CONFIG_FILE).map(PathBuf::from));
        let Some(asked) = asked else { return Ok(Part::default()) };
        let path = resolve(&asked).map_err(|error| Failure::Usage(error.to_string()))?;
        let wrong = |what: String| Failure::Usage(format!("{}: {what}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))
    }
}

/// A directory of this machine: what else looks like a place is none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn local(text: &str) -> Result<PathBuf, String> {
    match text.split_once("://") {
        Some((scheme, _)) => Err(format!("it is a directory of this machine, not of {scheme}://")),
        None => Ok(PathBuf::from(text)),
    }
}

/// The archive at a place that is only read, each call of which ends within `time`.
///
/// # Errors
/// [`Failure::Usage`] for a place that is none, or settings that cannot work.
pub(super) fn open(place: &str, config: &ConfigArgs, time: Duration) -> Result<Arc<dyn Store>, Failure> {
    if let Some(bucket) = place.strip_prefix("s3://") {
        return open_bucket(bucket, config, time);
    }
    let path = Path::new(place);
    if !path.is_dir() {
        let what = "is not a directory; a node makes that of its archive when it archives its first segment";
        return Err(Failure::Usage(format!("{place} {what}")));
    }
    // Nothing is written there: it matters not who it is.
    Ok(Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), path, 0)))
}

#[cfg(not(feature = "s3"))]
fn open_bucket(_: &str, _: &ConfigArgs, _: Duration) -> Result<Arc<dyn Store>, Failure> {
    Err(Failure::Usage("this build knows no object stores: it was built without the feature s3".to_owned()))
}

#[cfg(feature = "s3")]
fn open_bucket(bucket: &str, config: &ConfigArgs, time: Duration) -> Result<Arc<dyn Store>, Failure> {
    let bucket::File { storage } = config.part()?;
    bucket::open(bucket, storage.given(), time, |name| std::env::var(name).ok())
        .map_err(|error| Failure::Usage(error.to_string()))
}

#[cfg(feature = "s3")]
mod bucket {
    use std::{sync::Arc, time::Duration};

    use serde::Deserialize;

    use crate::{
        archive::{
            Store, StoreError, Trouble,
            s3::{Credentials, S3Options, S3Store},
        },
        config::Secret,
    };

    /// The part of a configuration that is about the object store.
    #[derive(Default, Deserialize)]
    pub(super) struct File {
        #[serde(default)]
        pub(super) storage: Storage,
    }

    #[derive(Default, Deserialize)]
    pub(super) struct Storage {
        #[serde(default)]
        s3: Given,
        /// Older names, as nodes take them.
        s3_region: Option<String>,
        s3_endpoint: Option<String>,
    }

    impl Storage {
        pub(super) fn given(self) -> Given {
            let Self { s3, s3_region, s3_endpoint } = self;
            Given { region: s3.region.or(s3_region), endpoint: s3.endpoint.or(s3_endpoint), ..s3 }
        }
    }

    #[derive(Clone, Default, Deserialize)]
    pub(super) struct Given {
        region: Option<String>,
        endpoint: Option<String>,
        access_key_id: Option<String>,
        secret_access_key: Option<String>,
        path_style: Option<bool>,
    }

    pub(super) fn options(
        place: &str,
        given: Given,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<S3Options, StoreError> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let set = |name: &str, given: Option<String>| {
            environment(&format!("SCRIBE_STORAGE_S3_{name}")).or(given).unwrap_or_default()
        };
        let path_style = match environment("SCRIBE_STORAGE_S3_PATH_STYLE") {
            Some(text) => text.parse().map_err(|_| {
                let what = format!("SCRIBE_STORAGE_S3_PATH_STYLE is true or false, not {text:?}");
                StoreError::new(Trouble::Denied, what)
            })?,
            None => given.path_style.unwrap_or_default(),
        };
        let credentials = Credentials {
            access_key_id: set("ACCESS_KEY_ID", given.access_key_id),
            secret_access_key: Secret::new(set("SECRET_ACCESS_KEY", given.secret_access_key)),
            session_token: Secret::default(),
        };
        let credentials = credentials.or_environment(&environment)?;
        let region = Some(set("REGION", given.region)).filter(|region| !region.is_empty());
        let region = region.or_else(|| environment("AWS_REGION")).unwrap_or_else(|| "us-east-1".to_owned());
        Ok(S3Options {
            prefix: prefix.trim_end_matches('/').to_owned(),
            endpoint: set("ENDPOINT", given.endpoint),
            path_style,
            ..S3Options::new(bucket, region, credentials)
        })
    }

    pub(super) fn open(
        place: &str,
        given: Given,
        time: Duration,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(S3Store::new(options(place, given, environment)?.within(time))?))
    }

    #[cfg(test)]
    mod tests {
        use std::{fs, path::Path};

        use super::*;
        use crate::cli::place::ConfigArgs;

        #[test]
        fn the_environment_is_asked_before_the_file() {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("node.toml");
            let text = "[node]\nid = 3\n[storage.s3]\nendpoint = \"http://of.the.file\"\nregion = \"far\"\n\
                        access_key_id = \"id\"\nsecret_access_key = \"key\"\npath_style = true\n";
            fs::write(&path, text).unwrap();
            let read = |path: &Path| ConfigArgs { config: Some(path.to_owned()) }.part::<File>();
            let given = read(&path).ok().unwrap().storage.given();
            let older = "[storage]\ns3_endpoint = \"http://older\"\ns3_region = \"near\"\n";
            fs::write(&path, older).unwrap();
            let older = read(&path).ok().unwrap().storage.given();
            assert_eq!(
                (older.endpoint.as_deref(), older.region.as_deref()),
                (Some("http://older"), Some("near"))
            );
            let options = options("b/some/prefix/", given.clone(), |_| None).unwrap();
            assert_eq!((&options.bucket[..], &options.prefix[..]), ("b", "some/prefix"));
            assert_eq!((&options.endpoint[..], &options.region[..]), ("http://of.the.file", "far"));
            assert!(options.path_style);
            assert_eq!(options.credentials.secret_access_key.expose(), "key");
            let environment = |name: &str| {
                let value = match name {
                    "SCRIBE_STORAGE_S3_ENDPOINT" => "http://here",
                    "SCRIBE_STORAGE_S3_PATH_STYLE" => "false",
                    _ => return None,
                };
                Some(value.to_owned())
            };
            let options = super::options("b", given, environment).unwrap();
            assert_eq!((&options.endpoint[..], &options.prefix[..]), ("http://here", ""));
            assert!(!options.path_style);
        }

        #[test]
        fn what_cannot_work_is_refused() {
            let error = open("b", Given::default(), Duration::MAX, |_| None).unwrap_err();
            assert!(error.to_string().contains("no credentials"), "{error}");
            let path_style = |name: &str| (name == "SCRIBE_STORAGE_S3_PATH_STYLE").then(|| "maybe".into());
            let error = open("b", Given::default(), Duration::MAX, path_style).unwrap_err();
            assert!(error.to_string().contains("true or false"), "{error}");
            let nowhere = ConfigArgs { config: Some("/there/is/no/such.toml".into()) };
            assert!(nowhere.part::<File>().is_err());
        }
    }
}
