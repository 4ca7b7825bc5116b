//! `POST /api/v1/batch`: many operations that commit together.
//!
//! Takes a streamed body, decodes it into one draft as it arrives, gives one answer. Nothing is submitted
//! before the body's end was seen, so a client that goes away in the middle has written nothing. It owns
//! the limit on decoded bytes: a bomb is refused at the limit and costs no more memory than that.

use std::sync::Arc;

use axum::{body::Body, extract::State};
use hyper::{
    HeaderMap, Request, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::{
    App, Reply,
    backend::{Backend, Room},
    body::{RequestBody, too_large},
    decode::{
        coding::{Coding, Decoder, PIECE_BYTES},
        frames::Frames,
        ndjson::Ndjson,
    },
    headers::WriteOptions,
    json,
    problem::Problem,
    query::Query,
    write::{self, Done},
};
use crate::{
    error::{Code, Result as CrateResult},
    metrics::Operation,
    runtime::without_blocking_others,
    state::batch::Draft,
    wire::{FRAMES, NDJSON},
};

/// Most room that is made for operations before the first one is seen, as a multiple of the first chunk: who
/// announces much has to send some of it first.
const FIRST_ROOM_CHUNKS: usize = 16;
/// What a record of a bulk body is guessed to take, to make room for their heads at once.
const RECORD_BYTES_GUESS: usize = 100;
/// Decoded pieces after which a task that has not waited for the network lets others run: 1 MiB.
const PIECES_BETWEEN_YIELDS: usize = (1 << 20) / PIECE_BYTES;

enum Records {
    Frames(Frames),
    Ndjson(Ndjson),
}

impl Records {
    fn from_header(headers: &HeaderMap) -> Result<Self, Problem> {
        let value = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(FRAMES.as_bytes()) {
            Ok(Self::Frames(Frames::default()))
        } else if essence.eq_ignore_ascii_case(NDJSON.as_bytes()) {
            Ok(Self::Ndjson(Ndjson::default()))
        } else {
            Err(Problem::unsupported_media(format!("Content-Type is {NDJSON} or {FRAMES}")))
        }
    }

    fn push(&mut self, piece: &[u8], draft: &mut Draft) -> CrateResult<()> {
        match self {
            Self::Frames(frames) => frames.push(piece, draft),
            Self::Ndjson(lines) => lines.push(piece, draft),
        }
    }

    /// Bytes that were taken and are not in the draft yet.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Frames(_) => 0,
            Self::Ndjson(lines) => lines.held_bytes(),
        }
    }

    fn finish(self, draft: &mut Draft) -> CrateResult<()> {
        match self {
            Self::Frames(frames) => frames.finish(),
            Self::Ndjson(lines) => lines.finish(draft),
        }
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let coding = values.next().map_or(Some(Coding::Identity), |value| Coding::from_header(value.as_bytes()));
    coding
        .filter(|_| values.next().is_none())
        .ok_or_else(|| Problem::unsupported_media("Content-Encoding is one of lz4, gzip, zstd or identity"))
}

/// Decodes the whole body.
async fn decode<P: Room>(
    body: &mut RequestBody<Body>,
    headers: &HeaderMap,
    bytes_max: usize,
    permit: &mut P,
) -> Result<Draft, Problem> {
    let mut records = Records::from_header(headers)?;
    let coding = coding(headers)?;
    let known = body.known_len().map_or(0, |len| usize::try_from(len).unwrap_or(usize::MAX));
    if coding == Coding::Identity && known > bytes_max {
        return Err(too_large(bytes_max));
    }
    let mut decoder = Decoder::new(coding)?;
    let mut draft = Draft::new();
    let mut decoded = 0;
    while let Some(chunk) = body.next().await? {
        if draft.is_empty() && decoded == 0 {
            let room = known.min(chunk.len() * FIRST_ROOM_CHUNKS);
            permit.cover(room)?;
            draft = Draft::with_capacity(room / RECORD_BYTES_GUESS, room);
        }
        decoder.feed(chunk);
        let mut pieces = 0;
        while let Some(piece) = decoder.next_piece()? {
            decoded += piece.len();
            if decoded > bytes_max {
                return Err(too_large(bytes_max));
            }
            // Before the piece is copied: a refusal must come first.
            let held = records.held_bytes();
            permit.cover(decoded.max(draft.bytes()) + held)?;
            // Long lines are heavy once they are whole.
            let heavy = if memchr::memchr(b'\n', &piece).is_some() { held } else { 0 };
            without_blocking_others(heavy, || records.push(&piece, &mut draft))?;
            // Empty ones count as well: something was taken apart for them.
            pieces += 1;
            if pieces % PIECES_BETWEEN_YIELDS == 0 {
                drop(piece);
                tokio::task::yield_now().await;
            }
        }
    }
    decoder.finish()?;
    without_blocking_others(records.held_bytes(), || records.finish(&mut draft))?;
    if draft.is_empty() {
        return Err(Problem::new(Code::Malformed, "the batch has no operations"));
    }
    permit.cover(draft.bytes())?;
    Ok(draft)
}

/// `POST /api/v1/batch`
///
/// # Errors
/// The problem to answer with.
pub async fn post<B: Backend>(State(app): State<Arc<App<B>>>, request: Request<Body>) -> Reply {
    app.timed(Operation::Batch, run(&app, request)).await
}

async fn run<B: Backend>(app: &App<B>, request: Request<Body>) -> Reply {
    let (parts, body) = request.into_parts();
    let mut body = RequestBody::new(body, &parts.headers, app.limits.read_timeout);
    let read = async {
        Query::parse(parts.uri.query(), &[])?;
        let options = WriteOptions::from_headers(&parts.headers)?;
        if options.condition.is_some() {
            return Err(Problem::new(Code::Malformed, "a batch takes no If-Match or If-None-Match"));
        }
        let mut permit = app.backend.permit(0)?;
        let draft =
            decode(&mut body, &parts.headers, app.limits.max_batch_request_bytes, &mut permit).await?;
        Ok((options, permit, draft))
    };
    let (options, permit, draft) = match read.await {
        Ok(read) => read,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    let Done { written, receipts } = write::submit(app, permit, draft, options).await?;
    let last_seq = written.first_seq.0 + written.count.saturating_sub(1);
    let mut answer =
        format!("{{\"first_seq\":{},\"last_seq\":{last_seq},\"count\":{}", written.first_seq, written.count)
            .into_bytes();
    if let Some(receipts) = receipts {
        receipts.write_both(&mut answer);
    }
    answer.push(b'}');
    let mut response = json::reply(StatusCode::OK, answer);
    write::mark_replay(&mut response, written);
    Ok(response)
}
