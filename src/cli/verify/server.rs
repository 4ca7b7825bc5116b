//! `scribe verify --url`: asks a server what a [`Visit`] needs, and remembers the checkpoint that held.
//!
//! The calls are here, the judgement is `crate::verify`'s. What cannot be asked (no connection, an overloaded
//! server) is a failure and no verdict; what is answered and does not hold is, and both notes are kept.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
};

use super::VerifyArgs;
use crate::{
    cli::{
        Failure,
        print::{Printer, Visited},
    },
    client::{Client, ClientError, error::BAD_ANSWER},
    env::{Env, real::real_env},
    proof::ProofError,
    verify::{
        ConsistencyAnswer, Distrust, InclusionAnswer, RecordAnswer, Remembered, Visit, keep_evidence, keys,
    },
};

/// Why a visit ended early.
enum Trouble {
    /// The server cannot be believed.
    Distrust(Distrust),
    /// It could not be asked.
    Failure(Failure),
}

impl From<Distrust> for Trouble {
    fn from(why: Distrust) -> Self {
        Self::Distrust(why)
    }
}

impl From<ProofError> for Trouble {
    fn from(error: ProofError) -> Self {
        Self::Distrust(error.into())
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        let refused = error.status().is_some_and(|status| (400..500).contains(&status));
        if error.slug() == BAD_ANSWER || (refused && !error.is_retryable()) {
            // It has signed for what it was asked about.
            return Self::Distrust(Distrust(format!("it does not show what it has signed for: {error}")));
        }
        Self::Failure(no_verdict(error))
    }
}

pub(super) async fn verify<W: Write>(
    client: &Client,
    url: &str,
    args: &VerifyArgs,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    let env = real_env();
    let note = client.get_bytes("/checkpoint").await.map_err(no_verdict)?;
    let origin = Visit::origin_of(&note).map_err(|why| distrusted(url, &why, None))?;
    let path = match &args.state {
        Some(path) => path.clone(),
        None => state_dir()?.join(Remembered::file_name(&origin)),
    };
    let remembered = Remembered::load(&*env.io, &path).map_err(|error| Failure::Failed(error.to_string()))?;
    let looked = look(client, &env, &note, remembered.as_ref(), args).await;
    let (visit, samples) = match looked {
        Ok(looked) => looked,
        Err(Trouble::Failure(failure)) => return Err(failure),
        Err(Trouble::Distrust(why)) => {
            let served = String::from_utf8_lossy(&note);
            let kept = keep_evidence(&*env.io, &*env.rng, &path, url, &why.0, remembered.as_ref(), &served)
                .map_err(|error| {
                Failure::Failed(format!("{url} is not to be believed: {why}; {error}"))
            })?;
            return Err(distrusted(url, &why, Some(&kept)));
        }
    };
    let visited = Visited {
        server: url.to_owned(),
        origin,
        size: visit.checkpoint().size(),
        root: *visit.checkpoint().root(),
        signers: visit.signers().to_vec(),
        earlier: visit.earlier().map(|earlier| earlier.size()),
        keys_given: !args.key.is_empty(),
        samples,
        state: path.clone(),
    };
    // Only now, when everything has held.
    let remember = visit.remember().store(&*env.io, &*env.rng, &path);
    remember.map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(printer.visited(&visited)?)
}

/// Asks and judges; the visit, and how many records were looked at.
async fn look(
    client: &Client,
    env: &Env,
    note: &[u8],
    remembered: Option<&Remembered>,
    args: &VerifyArgs,
) -> Result<(Visit, u64), Trouble> {
    let believed = match (&args.key[..], remembered) {
        ([], Some(remembered)) => remembered.keys().to_vec(),
        ([], None) => keys(client.get_json("/api/v1/keys").await?)?,
        (given, _) => given.to_vec(),
    };
    let visit = Visit::open(note, believed, remembered)?;
    if let Some((from, to)) = visit.growth() {
        let answer = client.get_json(&format!("/api/v1/proofs/consistency?from={from}&to={to}")).await?;
        visit.check_growth(&ConsistencyAnswer::read(answer)?)?;
    }
    let size = visit.checkpoint().size();
    let samples = visit.samples(args.samples, &*env.rng);
    for seq in &samples {
        let proof = client.get_json(&format!("/api/v1/proofs/inclusion/{seq}?size={size}")).await?;
        let record = client.get_json(&format!("/api/v1/records/{seq}")).await?;
        visit.check_sample(*seq, &InclusionAnswer::read(proof)?, &RecordAnswer::read(record)?)?;
    }
    Ok((visit, samples.len() as u64))
}

/// A server that does not answer is no liar.
fn no_verdict(error: ClientError) -> Failure {
    match error.into() {
        Failure::Failed(why) => Failure::Undecided(format!("cannot tell: {why}")),
        usage => usage,
    }
}

fn distrusted(url: &str, why: &Distrust, kept: Option<&Path>) -> Failure {
    let kept = kept.map_or_else(String::new, |path| {
        format!("; what it has signed, and what is remembered, is kept in {}", path.display())
    });
    Failure::Failed(format!("{url} is not to be believed: {why}{kept}"))
}

/// Where checkpoints are remembered unless the user says otherwise.
fn state_dir() -> Result<PathBuf, Failure> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    config.map(|config| config.join("scribe").join("checkpoints")).ok_or_else(|| {
        Failure::Usage("there is no HOME to remember the checkpoint in: give --state FILE".to_owned())
    })
}
