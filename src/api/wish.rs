//! The small JSON bodies of calls that change the cluster, field by field.
//!
//! Takes a body, gives what its fields say. Whatever is wrong is told in the body's own words: which field it is, what
//! it holds, and what it should hold. It does not know what is done with it.

use serde_json::{Map, Value};

use super::problem::Problem;
use crate::{error::Code, types::NodeId};

/// Shown of a value that is wrong.
const SHOWN_CHARS_MAX: usize = 60;

const ID_FORM: &str = "a positive integer, also as \"2\" or \"node2\"";

/// A node's id as people write it: 2, `2` or `node2`.
pub(super) fn parse_id(text: &str) -> Option<NodeId> {
    text.strip_prefix("node").unwrap_or(text).parse().ok().filter(|id| *id > 0)
}

fn id_of(value: &Value) -> Option<NodeId> {
    match value {
        Value::Number(number) => number.as_u64().filter(|id| *id > 0),
        Value::String(text) => parse_id(text),
        _ => None,
    }
}

/// A document, whatever it is.
///
/// # Errors
/// 400 with line and column.
pub(super) fn parse(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| malformed(format!("the body is not JSON: {error}")))
}

/// A list of ids.
///
/// # Errors
/// 400 that says which one is none.
pub(super) fn ids(body: &[u8]) -> Result<Vec<NodeId>, Problem> {
    let Value::Array(items) = parse(body)? else {
        return Err(malformed("the JSON body is not an array of node ids, as in [1,2,3]"));
    };
    let id = |(at, item): (usize, &Value)| {
        id_of(item).ok_or_else(|| malformed(format!("[{at}] is {}: a node id is {ID_FORM}", shown(item))))
    };
    items.iter().enumerate().map(id).collect()
}

/// The fields of an object.
#[derive(Debug)]
pub(super) struct Object(Map<String, Value>);

impl Object {
    /// Reads an object that has none but these fields.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn read(body: &[u8], known: &[&str]) -> Result<Self, Problem> {
        let Value::Object(fields) = parse(body)? else {
            return Err(malformed(format!("the JSON body is not an object with {}", quoted(known))));
        };
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                Err(malformed(format!("\"{}\" is not expected here, but {}", cut(name), quoted(known))))
            }
            None => Ok(Self(fields)),
        }
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn needed(&self, name: &str) -> Result<&Value, Problem> {
        self.field(name).ok_or_else(|| malformed(format!("\"{name}\" is missing")))
    }

    /// A node id.
    ///
    /// # Errors
    /// 400 when it is missing or none.
    pub fn id(&self, name: &str) -> Result<NodeId, Problem> {
        let value = self.needed(name)?;
        id_of(value).ok_or_else(|| wrong(name, value, &format!("a node id is {ID_FORM}")))
    }

    /// Where a node is reached, `HOST:PORT`.
    ///
    /// # Errors
    /// 400 when it is missing or could be nobody's.
    pub fn address(&self, name: &str) -> Result<&str, Problem> {
        let value = self.needed(name)?;
        let address = value.as_str().filter(|address| is_address(address));
        address.ok_or_else(|| wrong(name, value, "an address is HOST:PORT, as in \"127.0.0.1:9001\""))
    }

    /// Yes or no; no where it is not said.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.field(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong(name, value, "it is true or false")),
        }
    }

    /// Text that nobody needs.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn ignored_text(&self, name: &str) -> Result<(), Problem> {
        match self.field(name) {
            Some(value) if !value.is_string() => Err(wrong(name, value, "it is a string")),
            _ => Ok(()),
        }
    }
}

/// Whether something could listen there; names are looked up when they are called.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            (1..=253).contains(&host.len()) && host.bytes().all(is_name)
        }
    };
    is_port && is_host
}

fn wrong(name: &str, value: &Value, why: &str) -> Problem {
    malformed(format!("\"{name}\" is {}: {why}", shown(value)))
}

/// A value, as long as a message may show it.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        other => cut(&other.to_string()),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: [&str; 3] = ["node_id", "address", "learner"];

    fn read(body: &str) -> Result<(NodeId, String, bool), Problem> {
        let object = Object::read(body.as_bytes(), &FIELDS)?;
        Ok((object.id("node_id")?, object.address("address")?.to_owned(), object.flag("learner")?))
    }

    #[test]
    fn ids_are_written_in_several_ways() {
        for (text, id) in [
            ("2", Some(2)),
            ("\"2\"", Some(2)),
            ("\"node2\"", Some(2)),
            ("0", None),
            ("\"x\"", None),
            ("-1", None),
        ] {
            assert_eq!(ids(format!("[{text}]").as_bytes()).ok(), id.map(|id| vec![id]), "{text}");
        }
        assert_eq!(ids(b"[1, \"2\", \"node3\"]").unwrap(), [1, 2, 3]);
    }

    #[test]
    fn whatever_is_wrong_is_told_by_its_field() {
        let at = |address: &str| format!(r#"{{"node_id":2,"address":{address}}}"#);
        for (body, says) in [
            ("[2,\"127.0.0.1:9001\",false]".to_owned(), "not an object"),
            ("7".to_owned(), "not an object"),
            ("{\"node_id\":2".to_owned(), "not JSON"),
            ("{\"node_id\":2}".to_owned(), "\"address\" is missing"),
            ("{\"address\":\"h:1\"}".to_owned(), "\"node_id\" is missing"),
            (r#"{"node_id":null,"address":"h:1"}"#.to_owned(), "\"node_id\" is missing"),
            (r#"{"node_id":-2,"address":"h:1"}"#.to_owned(), "\"node_id\" is -2"),
            (r#"{"node_id":[2],"address":"h:1"}"#.to_owned(), "\"node_id\" is an array"),
            (r#"{"node_id":2,"address":"h:1","learner":"yes"}"#.to_owned(), "\"learner\" is \"yes\""),
            (r#"{"node_id":2,"addr":"h:1"}"#.to_owned(), "\"addr\" is not expected"),
            (at("5"), "\"address\" is 5"),
            (at(&format!("\"{}\"", "x".repeat(5_000))), "HOST:PORT"),
        ] {
            let problem = read(&body).unwrap_err();
            assert!(
                problem.detail().contains(says) && problem.detail().len() < 300,
                "{body}: {}",
                problem.detail()
            );
            assert!(!problem.detail().contains("struct"), "{body}: {}", problem.detail());
        }
        for good in ["127.0.0.1:9001", "[::1]:9001", "localhost:1", "node-3.example.org:65535"] {
            assert_eq!(read(&at(&format!("\"{good}\""))).unwrap(), (2, good.to_owned(), false));
        }
        for bad in
            ["", ":1", "h", "h:", "h:0", "h:65536", "h:x", "h:+1", "http://h:1", "h h:1", "::1:9001", "[h]:1"]
        {
            assert!(read(&at(&format!("\"{bad}\""))).unwrap_err().detail().contains("\"address\""), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn other_bytes_are_refused_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..60), text in ".{0,80}") {
            let _ = ids(&body);
            let _ = read(&String::from_utf8_lossy(&body));
            let _ = is_address(&text);
        }
    }
}
