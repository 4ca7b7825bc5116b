//! The table written out as TOML: every default, or the values in force.

use std::fmt::Write as _;

use super::{
    Config,
    kind::{Kind, Value},
    layers::Settings,
    schema::{Held, KEYS, Key, SECTIONS},
};

const GENERATED_HEAD: &str = "\
# Configuration of scribe-node: every setting with its default.
#
# Layers, each over the one before: defaults < profile < this file < SCRIBE_* environment < flags.
# SCRIBE_NETWORK_CLIENT_PORT is network.client_port, and so on for every setting.
# Sizes are bytes, or text such as \"64MiB\"; durations are text such as \"200us\", \"3ms\" or \"3s\".
";

const COMMENTED_HEAD: &str = "\
#
# All settings are commented out, so that a profile shows through: uncomment what you change.
";

/// Every setting with its documentation and default; commented out if asked.
#[must_use]
pub fn defaults(commented: bool) -> String {
    let config = Config::default();
    // Documentation gets a second mark where settings have one, so that the two can be told apart.
    let (doc_mark, mark) = if commented { ("## ", "# ") } else { ("# ", "") };
    let mut text = String::from(GENERATED_HEAD);
    if commented {
        text.push_str(COMMENTED_HEAD);
    }
    by_section(&mut text, |text, key| {
        let not_built = if matches!(key.held, Held::NotBuilt { .. }) {
            " Not built yet: only this value is accepted."
        } else {
            ""
        };
        let value = key.kind.write(&key.value_in(&config));
        let _ = writeln!(text, "\n{doc_mark}{}{not_built}\n{mark}{} = {value}", key.doc, key.leaf());
    });
    text
}

/// Every value in force and where it came from; reads back as the same configuration.
#[must_use]
pub fn in_force(settings: &Settings) -> String {
    let mut text = String::from("# The configuration in force.\n");
    by_section(&mut text, |text, key| {
        let value = key.value_in(&settings.config);
        let value = match &value {
            Value::Text(secret) if key.secret && !secret.is_empty() => {
                Kind::Text.write(&Value::Text("***".into()))
            }
            value => key.kind.write(value),
        };
        let _ = writeln!(text, "{} = {value}  # {}", key.leaf(), settings.origin(key.name));
    });
    text
}

fn by_section(text: &mut String, mut write: impl FnMut(&mut String, &Key)) {
    let mut keys_of = |text: &mut String, section: &str| {
        for key in KEYS.iter().filter(|key| key.section() == section) {
            write(text, key);
        }
    };
    keys_of(text, "");
    for (section, about) in SECTIONS {
        let _ = writeln!(text, "\n# {about}\n[{section}]");
        keys_of(text, section);
    }
}
