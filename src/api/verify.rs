//! `/verify/{key}`: the key's newest record under a checkpoint, and all that the caller needs to check it.

use std::{future::ready, sync::Arc};

use axum::extract::State;
use hyper::{StatusCode, http::request::Parts};
use serde_json::{Value, json as json_value};

use super::{
    App, Reply,
    backend::Backend,
    blocking::blocking,
    json,
    mended::mended,
    problem::Problem,
    proofs::{PATIENCE, hexes},
    query::{Query, key_in_path},
};
use crate::{error::Code, metrics::Operation, proof::leaf::Leaf, read::Record};

/// `GET /verify/{key}`
///
/// # Errors
/// 404 for a key that was never written, and the barrier's refusals.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        let key = key_in_path(parts.uri.path().strip_prefix("/verify/").unwrap_or_default())?.into_owned();
        let query = Query::parse(parts.uri.query(), &["consistency"])?;
        let proofs = app.backend.proofs()?.clone();
        app.backend.barrier(query.consistency()?).await?;
        let newest = mended(&app.backend, || ready(app.backend.newest(&key))).await?;
        let record = newest.ok_or_else(|| Problem::new(Code::NotFound, "this key was never written"))?;
        let Some(checkpoint) = proofs.covering(record.seq.plus(1), PATIENCE).await else {
            let why = format!("no checkpoint covers record {} yet: ask again", record.seq);
            return Ok(reply(&record, &[("error", why.into())]));
        };
        let seq = record.seq;
        let read = record.clone();
        let (size, root) = (checkpoint.size, checkpoint.root);
        let check = blocking(&app.backend, move || {
            let of_tree = proofs.inclusion(seq, size)?;
            // The tree's word about its leaf, against what a read of the key gives.
            let leaf = Leaf::of(read.op, seq, read.timestamp_ms, &key, &read.value);
            let fits = of_tree.leaf == leaf && of_tree.root == root;
            Ok((of_tree, fits))
        });
        let (of_tree, fits) = check.await?;
        let why = (!fits).then_some("the record, the tree and the checkpoint contradict each other");
        Ok(reply(
            &record,
            &[
                ("verified", fits.into()),
                (
                    "proof",
                    json_value!({
                        "root_hash": of_tree.root.to_string(),
                        "siblings": hexes(&of_tree.siblings),
                    }),
                ),
                ("tree_size", of_tree.tree_size.0.into()),
                ("leaf", json::to_hex(&of_tree.leaf.encode()).into()),
                ("checkpoint", checkpoint.note.as_str().into()),
                ("error", why.into()),
            ],
        ))
    };
    app.timed(Operation::Proof, read).await
}

/// The answer, with what is known beyond the record.
fn reply(record: &Record, known: &[(&str, Value)]) -> hyper::Response<axum::body::Body> {
    let mut fields = json_value!({
        "op": record.op.name(),
        "verified": false,
        "proof": null,
        "leaf_index": record.seq.0,
        "tree_size": null,
        "leaf": null,
        "checkpoint": null,
        "error": null,
    });
    for (name, value) in known {
        fields[*name] = value.clone();
    }
    let mut body = b"{".to_vec();
    json::write_key(&mut body, &record.key);
    body.push(b',');
    // The key may not be text, and is written by hand before the rest.
    body.extend_from_slice(&fields.to_string().as_bytes()[1..]);
    json::reply(StatusCode::OK, body)
}
