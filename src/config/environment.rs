//! The environment as a layer: `SCRIBE_NETWORK_CLIENT_PORT` is `network.client_port`.
//!
//! Every variable that begins with `SCRIBE_` has to be a setting, so that a mistyped one is not
//! silently ignored. `RUST_LOG` sets the log level unless `SCRIBE_LOGGING_LEVEL` does.

use super::{
    foreign,
    kind::Raw,
    layers::{Layer, Origin, invalid},
    schema::{KEYS, environment_name},
};
use crate::error::Result;

/// Names the configuration file, as `--config` does.
pub const CONFIG_FILE: &str = "SCRIBE_CONFIG";

/// This process's variables that can be settings.
///
/// # Errors
/// `InvalidConfig`: one of them is not UTF-8.
pub fn process_environment() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if !is_ours(&name) {
            continue;
        }
        match value.into_string() {
            Ok(value) => found.push((name, value)),
            Err(_) => return Err(invalid(format!("environment {name}: the value is not UTF-8 text"))),
        }
    }
    Ok(found)
}

/// What the environment says.
#[derive(Debug, Default)]
pub struct Environment {
    /// The settings.
    pub layer: Layer,
    /// The file that [`CONFIG_FILE`] names.
    pub config_file: Option<String>,
}

/// Reads the variables that begin with `SCRIBE_`, and `RUST_LOG`; all others are left alone.
///
/// # Errors
/// `InvalidConfig`: a variable is no setting, its value is not accepted, or two of them set one key.
pub fn environment_layer(variables: impl Iterator<Item = (String, String)>) -> Result<Environment> {
    // Sorted, so that the same environment gives the same message whatever order it comes in.
    let mut variables: Vec<_> = variables.filter(|(name, _)| is_ours(name)).collect();
    variables.sort();
    let mut environment = Environment::default();
    let mut rust_log = None;
    for (name, value) in variables {
        if name == "RUST_LOG" {
            rust_log = Some(value).filter(|value| !value.is_empty());
        } else if name == CONFIG_FILE {
            environment.config_file = Some(value);
        } else if let Some(key) = key_of(&name) {
            environment.layer.add(key, &Raw::Untyped(value), Origin::Environment(name))?;
        } else if !is_service_link(&name, &value) {
            let key = foreign::by_variable(&name).unwrap_or(&name).to_owned();
            environment.layer.add(&key, &Raw::Untyped(value), Origin::Environment(name))?;
        }
    }
    if let Some(level) = rust_log
        && !environment.layer.has("logging.level")
    {
        environment.layer.add(
            "logging.level",
            &Raw::Untyped(level),
            Origin::Environment("RUST_LOG".into()),
        )?;
    }
    Ok(environment)
}

fn is_ours(name: &str) -> bool {
    // `SCRIBE_SERVER` is where the command line and the load generator find a node; a shell that has it set
    // may start one all the same.
    (name.starts_with("SCRIBE_") && name != "SCRIBE_SERVER") || name == "RUST_LOG"
}

/// The name that a variable stands for; present names win over older ones that look the same.
fn key_of(variable: &str) -> Option<&'static str> {
    let present = KEYS.iter().map(|key| key.name);
    let older = KEYS.iter().flat_map(|key| key.older).map(|older| older.name);
    present.chain(older).find(|name| environment_name(name) == variable)
}

/// Kubernetes puts variables such as `SCRIBE_SERVICE_HOST` and `SCRIBE_PORT_8001_TCP_ADDR` into every
/// pod beside a service called `scribe`; nobody set them by hand.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let of_service = name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    let of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
    });
    let url = PROTOCOLS.iter().any(|protocol| value.starts_with(&format!("{}://", protocol.to_lowercase())));
    of_service || of_port || name.ends_with("_PORT") && url
}
