//! From flags and environment to a checked configuration, and the flags that only show it.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    Config,
    args::NodeArgs,
    check::check,
    environment::environment_layer,
    file::{file_layer, profile_layer},
    layers::{Layer, Settings, invalid},
    paths, profile, render,
};
use crate::error::{Error, Result};

impl Config {
    /// The configuration of this command line and environment; reads at most one file, writes none.
    ///
    /// # Errors
    /// `InvalidConfig`, with one message that names the key, the bad value, where it came from and what
    /// is accepted.
    pub fn load(args: &NodeArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Self> {
        Settings::load(args, environment).map(|settings| settings.config)
    }
}

impl Settings {
    /// As [`Config::load`], keeping where each value came from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(args: &NodeArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let flags = args.layer()?;
        let environment = environment_layer(environment)?;
        let asked = args.config.clone().or_else(|| environment.config_file.map(PathBuf::from));
        let file = match asked {
            Some(asked) => file_layer(&paths::resolve(&asked)?)?,
            None => Layer::default(),
        };
        let asked = [&flags, &environment.layer, &file].into_iter().find_map(Layer::profile);
        let profile = profile_layer(asked.unwrap_or(profile::BALANCED))?;
        let settings = Self::merge(&[profile, file, environment.layer, flags]);
        check(&settings)?;
        Ok(settings)
    }
}

/// Serves `--generate-config`, `--validate-config`, `--list-config-paths` and `--print-config`; true
/// when one of them was given, so that the node has nothing more to do.
///
/// # Errors
/// `InvalidConfig` when the configuration is wrong or the file to generate exists already; `Io` when
/// the answer cannot be written.
pub fn run_config_command(
    args: &NodeArgs,
    environment: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
) -> Result<bool> {
    let answer = if args.generate_config.as_deref() == Some(Path::new("-")) {
        render::defaults(true)
    } else if let Some(path) = &args.generate_config {
        generate(path)?;
        format!("{} is written; every setting in it is commented out\n", path.display())
    } else if args.list_config_paths {
        list_paths(args.config.as_deref())
    } else if args.print_config {
        render::in_force(&Settings::load(args, environment)?)
    } else if args.validate_config {
        Config::load(args, environment)?;
        "configuration is valid\n".into()
    } else {
        return Ok(false);
    };
    out.write_all(answer.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("writing the answer", &error))?;
    Ok(true)
}

/// Writes a new file; what is there already is never touched.
fn generate(path: &Path) -> Result<()> {
    let refused = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "it exists already".into(),
            _ => error.to_string(),
        };
        invalid(format!("--generate-config {}: {why}; accepted is the name of a new file", path.display()))
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(refused)?;
    file.write_all(render::defaults(true).as_bytes()).map_err(|error| {
        // Half a file would look like a whole one; the error that counts is the first.
        let _ = std::fs::remove_file(path);
        refused(error)
    })
}

fn list_paths(asked: Option<&Path>) -> String {
    let mut list = paths::SEARCH_PATHS.join("\n") + "\n";
    if let Some(asked) = asked {
        list += &match paths::resolve(asked) {
            Ok(path) if path.is_file() => format!("{} is {}\n", asked.display(), path.display()),
            _ => format!("{} is not found\n", asked.display()),
        };
    }
    list
}
