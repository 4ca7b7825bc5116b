//! The profiles: sets of values for a purpose, built in from `configs/`.
//!
//! A profile is a file like any other, so whatever it sets can be set by hand. None of them trades
//! durability for speed: there is no setting that could.

/// The profile in force when none is asked for; its values are the defaults.
pub const BALANCED: &str = "balanced";

/// Every profile's name.
pub const NAMES: [&str; 4] = [BALANCED, "low-latency", "high-throughput", "high-durability"];

/// The file of a profile.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    match name {
        BALANCED => Some(include_str!("../../configs/balanced.toml")),
        "low-latency" => Some(include_str!("../../configs/low-latency.toml")),
        "high-throughput" => Some(include_str!("../../configs/high-throughput.toml")),
        "high-durability" => Some(include_str!("../../configs/high-durability.toml")),
        _ => None,
    }
}
