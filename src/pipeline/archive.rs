//! Stage 8, archive: the leader copies sealed segments to the archive, one after the other, and says so in the log.
//!
//! ```text
//!  sealed (of several voters: attested) ─► pack ─► upload, read back ─► checkpoint ─► entry of the manifest
//!                                          └────────────── apart ───────────────────────────┘ │
//!                                                  raft: KIND_ARCHIVED ◄──────────────────────┘
//!                                                    └─► apply, on every member: archived
//! ```
//!
//! Takes segments, gives objects and how far they go. Who leads reads the manifest that is in its own store and goes on
//! behind it: what another leader has archived there is not uploaded again, and what it had not finished is. A follower
//! probes its store once and otherwise only applies. Where every node has a directory of its own, each leader completes
//! its own, and `archived` is what some leader has in its.
//!
//! The cluster claims the archive when its leader begins, and looks whether it still has it before each segment. A cluster
//! that was restored has the archive under its own epoch; the one before it, which may run on, finds that claim, says so
//! and archives no more. An entry that it writes at that very moment lies in its own epoch, where nobody goes on from it.
//! A restored ledger's id is in its link, the record that its epoch begins with.
//!
//! Whatever fails is tried again, later and later; nothing waits for it. Now and then a leader reads the whole manifest
//! anew, and looks for every object that it names: others may delete in a bucket. An object that is lost can be put back
//! while its segment's file is still here, an entry while that or its object is, the newest checkpoint always. Memory is
//! some megabytes. It does not own objects, names and their order in the store ([`crate::archive`]), nor when files leave
//! ([`super::tier`]).

mod apart;
mod audit;
mod decide;
mod known;
mod lost;
mod work;

use std::{mem, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

pub use self::apart::Apart;
use self::{
    audit::Audit,
    decide::{Seen, Step, decide},
    known::Known,
    lost::{Found, look_for},
    work::{Added, Followed, Staging, add, keep_checkpoint, look, probed, read},
};
use super::gauge::Gauge;
use crate::{
    archive::{
        Epoch, LedgerId, Manifest, Progress, Store, Tip,
        fence::Claim,
        marker::StoreId,
        probe::try_out,
        progress::{Condition, Failure},
    },
    env::{Io, Rng},
    error::{Code, Error, Result},
    proof::{Hash, checkpoint::Checkpoint, key::Signer},
    raft::Consensus,
    segment::{Packing, Segment, remove},
    state::{State, archived::Archived, attestation::ATTESTATION_LEVEL, boundary::Boundary, link::Link},
    types::{SegmentId, Seq},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// After the first failure; twice as long after each further one.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// What the stage stands on.
#[derive(Debug)]
pub struct Footing {
    /// Asked who leads; where entries are proposed.
    pub consensus: Consensus,
    /// What is sealed, attested and archived.
    pub state: Arc<State>,
    /// The archive.
    pub store: Arc<dyn Store>,
    /// The cluster that archives: in epoch 1 its id is the ledger's.
    pub cluster: LedgerId,
    /// Which life of the ledger it is.
    pub epoch: Epoch,
    /// Who signs the checkpoints that lie beside segments; nobody in a ledger that shows none.
    pub signer: Option<Signer>,
    /// What the stage holds.
    pub gauge: Arc<Gauge>,
    /// Where it tells how it fares.
    pub progress: Arc<Progress>,
    /// Where the work is done.
    pub apart: Arc<Apart>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// The disk of this node.
    pub io: Arc<dyn Io>,
}

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// How blocks are stored.
    pub packing: Packing,
    /// The file on this node's disk that a segment is packed into.
    pub staging: PathBuf,
    /// The file that says which store this node has archived into.
    pub known: PathBuf,
    /// Free space of that disk below which nothing is packed: it is the log's.
    pub free_bytes_min: u64,
    /// The longest time between two tries, and between two looks at a store that has nothing to do.
    pub retry_max: Duration,
    /// How long what was read of the manifest is believed: then all of it is read anew, and its objects looked for.
    pub audit_every: Duration,
}

/// The stage.
#[derive(Debug)]
pub struct Archive {
    on: Footing,
    options: Options,
    /// Known with the ledger's id.
    manifest: Option<Manifest>,
    /// Whether the store has been seen to answer, while it may not be written to.
    is_seen: bool,
    /// Which store was probed.
    store: Option<StoreId>,
    /// How far its manifest is known.
    tip: Tip,
    /// When that was all of it; none before this member leads.
    read_at: Option<Instant>,
    /// Whether it goes on behind an entry that is missing at the tip.
    has_gap: bool,
    /// What is known of its objects.
    audit: Audit,
}

impl Archive {
    /// Archives what is sealed where this member leads.
    #[must_use]
    pub fn new(on: Footing, options: Options) -> Self {
        let Footing { store, cluster, epoch, .. } = &on;
        // Whoever founded the ledger is called like it.
        let manifest = (*epoch == Epoch::FIRST).then(|| Manifest::new(store.clone(), *cluster, *epoch));
        Self {
            on,
            options,
            manifest,
            is_seen: false,
            store: None,
            tip: Tip::default(),
            read_at: None,
            has_gap: false,
            audit: Audit::default(),
        }
    }

    /// Goes on until its task is ended.
    pub async fn run(mut self) {
        // What a crash has left; before the next segment is packed it is removed otherwise.
        let _ = remove(&*self.on.io, &self.options.staging);
        let mut retry = RETRY_MIN;
        let mut look_at = Instant::now() + self.options.retry_max;
        loop {
            let step = match self.next() {
                Step::Rest if Instant::now() < look_at => {
                    sleep(PAUSE).await;
                    continue;
                }
                Step::Rest => Step::Look,
                Step::LookFor => {
                    self.look_for().await;
                    continue;
                }
                step => step,
            };
            let done = self.act(step).await;
            look_at = Instant::now() + self.options.retry_max;
            match done {
                Ok(()) => {
                    retry = RETRY_MIN;
                    if self.on.progress.note_ok() != Condition::Ok {
                        tracing::info!(archive = self.on.store.place(), "the archive answers");
                    }
                }
                Err(error) => {
                    self.fail(step, &error);
                    sleep(retry.min(self.options.retry_max)).await;
                    retry = retry.saturating_mul(2).min(self.options.retry_max);
                }
            }
        }
    }

    fn next(&mut self) -> Step {
        let Footing { consensus, state, progress, .. } = &self.on;
        let has_level = state.settings().is_some_and(|settings| settings.feature_level >= ATTESTATION_LEVEL);
        let leads = has_level && consensus.is_leader();
        if leads && self.read_at.is_some_and(|at| at.elapsed() >= self.options.audit_every) {
            self.tip = Tip::default();
            self.read_at = None;
        }
        if !leads {
            // Also where reading it anew has failed until now.
            self.audit = Audit::default();
            progress.note_wrong(None);
        }
        if !leads && self.read_at.take().is_some() {
            // How the store fares is found out anew, where it has failed the leader that this was.
            if matches!(progress.now().0, Condition::Failing(_)) {
                self.store = None;
            }
        }
        let stays =
            self.store.is_some() || state.applied() > Seq(0) || consensus.positions().members.len() > 1;
        let sealed = state.sealed().next_id().0;
        let ready = match leads && consensus.positions().voters.len() > 1 {
            // One copy that has diverged must not become everybody's.
            true => state.unattested().start.0.min(sealed),
            false => sealed,
        };
        decide(&Seen {
            epoch: self.on.epoch,
            stays,
            is_known: self.manifest.is_some(),
            is_seen: self.is_seen,
            is_probed: self.store.is_some(),
            leads,
            is_read: self.read_at.is_some(),
            tip: self.tip,
            sealed,
            ready,
            archived: state.archived(),
            is_audit_due: self.audit.is_due(),
        })
    }

    async fn act(&mut self, step: Step) -> Result<()> {
        match step {
            // The loop's own.
            Step::Rest | Step::LookFor => Ok(()),
            Step::See => {
                let Footing { store, rng, apart, .. } = &self.on;
                let (own, rng) = (store.clone(), rng.clone());
                let warnings = apart.run(async move { Ok(try_out(&*own, &*rng).await?) }).await?;
                warn(store.place(), &warnings);
                self.is_seen = true;
                Ok(())
            }
            Step::Look => {
                let look = look(self.on.store.clone(), self.store);
                if !self.on.apart.run(look).await? {
                    self.other_store();
                }
                Ok(())
            }
            Step::Learn => self.learn().await,
            Step::Probe => self.probe().await,
            Step::Read => self.read().await,
            Step::Say(archived) => self.say(archived).await,
            Step::Add(id) => self.add(id).await,
        }
    }

    /// Reads the link that the epoch begins with. A member that is coming to the cluster has to fetch it first.
    async fn learn(&mut self) -> Result<()> {
        let Footing { state, store, epoch, apart, .. } = &self.on;
        let (state, key) = (state.clone(), Link::key(epoch.0));
        let Some(record) = apart.run(async move { state.newest(&key) }).await? else {
            sleep(PAUSE).await;
            return Ok(());
        };
        let ledger = LedgerId::parse(&Link::decode(&record.value)?.ledger).ok_or_else(|| {
            Error::new(Code::Corrupt, "the link that the ledger's epoch begins with names no ledger")
        })?;
        self.manifest = Some(Manifest::new(store.clone(), ledger, *epoch));
        Ok(())
    }

    /// The manifest; nothing but [`Step::Learn`] is decided where there is none yet.
    fn manifest(&self) -> Result<Manifest> {
        self.manifest
            .clone()
            .ok_or_else(|| Error::new(Code::Internal, "it is not known whose archive this is"))
    }

    fn claim(&self) -> Claim {
        Claim { epoch: self.on.epoch, cluster: self.on.cluster }
    }

    async fn probe(&mut self) -> Result<()> {
        let ledger = self.manifest()?.ledger();
        let Footing { store, rng, apart, io, .. } = &self.on;
        let known = Known { io: io.clone(), path: self.options.known.clone() };
        let has_left = self.on.state.sealed().segments().iter().any(|segment| segment.stub().is_some());
        let report = apart.run(probed(store.clone(), ledger, rng.clone(), (known, has_left))).await?;
        warn(store.place(), &report.warnings);
        self.goes_on_in(report.store);
        Ok(())
    }

    /// It is probed like any other: it may be another ledger's.
    fn other_store(&mut self) {
        let archive = self.on.store.place();
        tracing::warn!(archive, "another store has taken the archive's place");
        self.store = None;
        self.read_at = None;
    }

    /// What is known of another store says nothing of this one.
    fn goes_on_in(&mut self, store: StoreId) {
        if self.store.replace(store) != Some(store) {
            self.tip = Tip::default();
            self.read_at = None;
            self.on.progress.note_objects(SegmentId(0), []);
            self.audit = Audit::default();
            self.on.progress.note_wrong(None);
        }
    }

    async fn read(&mut self) -> Result<()> {
        let own = (self.on.store.clone(), self.store, self.claim());
        let (manifest, tip) = (self.manifest()?, self.tip);
        let segments = self.on.state.sealed().segments();
        let reading = read(own, manifest.clone(), tip, segments.clone());
        let Some(Followed { carried, tip, objects, has_gap }) = self.on.apart.run(reading).await? else {
            self.other_store();
            return Ok(());
        };
        let last = tip.next.0.checked_sub(1).and_then(|last| segments.get(usize::try_from(last).ok()?));
        if let Some(last) = last.filter(|_| !has_gap) {
            let keep = keep_checkpoint(manifest, self.store, (tip.end_seq, self.checkpoint(last)?));
            let wrong = match self.on.apart.run(keep).await {
                Ok(()) => None,
                Err(error) if error.code() == Code::Corrupt => Some(error),
                Err(error) => return Err(error),
            };
            self.audit.note_checkpoint(wrong, self.on.store.place());
        }
        let (archive, archived) = (self.on.store.place(), self.on.state.archived());
        let has_archived = archived.epoch == self.on.epoch.0;
        match carried {
            0 => {}
            segments if has_archived => {
                tracing::info!(
                    archive,
                    segments,
                    "the archive lacks the first entries of this epoch: those of the one before are taken over anew"
                );
            }
            segments => {
                tracing::info!(archive, segments, "the archive goes on behind the epoch before");
            }
        }
        if !has_gap && has_archived && tip.next.0 < archived.end {
            let (from, end) = (tip.next.0, archived.end);
            tracing::info!(
                archive,
                from,
                end,
                "the archive lacks segments that were archived before: they are archived now"
            );
        }
        self.on.progress.note_objects(self.tip.next, objects);
        self.audit.begin(self.on.progress.objects());
        self.on.progress.note_wrong(self.audit.wrong());
        self.tip = tip;
        self.has_gap = has_gap;
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// Looks for some of the objects. What is wrong with them is told, and holds up nothing.
    async fn look_for(&mut self) {
        let Footing { state, store, apart, progress, .. } = &self.on;
        let objects = self.audit.next();
        let segments = state.sealed().segments();
        let own = (store.clone(), self.store);
        let found = match apart.run(look_for(own, objects.clone(), segments, self.staging())).await {
            Ok(found) => found,
            Err(error) if error.code() == Code::Internal => {
                objects.into_iter().map(|object| (object, Found::Failed(error.clone()))).collect()
            }
            // It is not the archive that is there, or it does not answer: the next look tells.
            Err(error) => {
                tracing::debug!(%error, "objects are looked for later");
                self.audit.postpone(objects, self.options.retry_max);
                return;
            }
        };
        for (object, found) in &found {
            if let Found::Failed(error) = found
                && state.sealed().mend(error)
            {
                tracing::warn!(%error, segment = %object.segment, "its object is put back when it is repaired");
            }
        }
        self.audit.note(found, store.place(), self.options.retry_max);
        progress.note_wrong(self.audit.wrong());
    }

    /// Proposes an entry and waits until it is known what became of it; if nothing did, the next look shows it.
    async fn say(&self, archived: Archived) -> Result<()> {
        let (told, settled) = oneshot::channel();
        self.on.consensus.propose(archived.encode()?.into(), move |result| drop(told.send(result))).await;
        if !matches!(settled.await, Ok(Ok(_))) {
            sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn add(&mut self, id: SegmentId) -> Result<()> {
        let segments = self.on.state.sealed().segments();
        let at = |id: u64| usize::try_from(id).ok().and_then(|at| segments.get(at));
        let Some(segment) = at(id.0) else { return Ok(()) };
        let before = id.0.checked_sub(1).and_then(at).map_or([0; 32], |before| before.summary().digest);
        let bytes = segment.summary().file_bytes;
        let _stay = self.on.gauge.enter(1, bytes);
        let add = add(
            (self.on.store.clone(), self.store, self.claim()),
            self.manifest()?,
            self.tip,
            (segment.clone(), before),
            self.checkpoint(segment)?,
            self.staging(),
        );
        match self.on.apart.run(add).await? {
            Added::Archived { tip, object, is_new } => {
                if is_new {
                    self.on.progress.note_uploaded(&object, bytes);
                }
                self.on.progress.note_objects(id, [object]);
                self.tip = tip;
                if mem::take(&mut self.has_gap) {
                    // What is behind it is read now.
                    self.read_at = None;
                }
                tracing::debug!(%id, object = %object.name(), bytes = object.bytes, "a segment is archived");
            }
            Added::OtherStore => self.other_store(),
        }
        Ok(())
    }

    fn staging(&self) -> Staging {
        Staging {
            io: self.on.io.clone(),
            path: self.options.staging.clone(),
            packing: self.options.packing,
            free_bytes_min: self.options.free_bytes_min,
        }
    }

    /// What this member vouches for at a segment's end. Only where the segment itself names its key: who has the archive
    /// alone could not tell otherwise whose signature that is.
    fn checkpoint(&self, segment: &Segment) -> Result<Vec<Bytes>> {
        let (size, root) = (segment.summary().end_seq, segment.summary().root_after);
        let Some(signer) = self.on.signer.as_ref().filter(|_| size > Seq(0)) else { return Ok(Vec::new()) };
        let named = Boundary::decode(&segment.summary().boundary)?.signers;
        if named.iter().all(|enrolment| enrolment.key != *signer.verifier_key()) {
            return Ok(Vec::new());
        }
        let note = Checkpoint::new(signer.name(), size.0, Hash(root))?.sign(signer)?;
        Ok(vec![Bytes::from(note.to_string())])
    }

    /// Tells of a failure, once until something else happens.
    fn fail(&self, step: Step, error: &Error) {
        let Footing { state, progress, store, .. } = &self.on;
        if state.sealed().mend(error) {
            tracing::warn!(%error, "a segment that is to be archived is damaged: the archive waits for its repair");
            return;
        }
        let (before, why) = progress.note_failure(error);
        let failure = Failure::of(error);
        if before == Condition::Failing(failure) && why.as_deref() == Some(error.message()) {
            tracing::debug!(%error, ?step, "the archive has failed again");
            return;
        }
        let archive = store.place();
        match failure {
            Failure::Away | Failure::Full => {
                tracing::warn!(%error, archive, "the archive is behind: it is tried again; nothing else waits for it");
            }
            Failure::Refused | Failure::Broken => {
                tracing::error!(
                    %error,
                    archive,
                    "nothing is archived until this is put right; it is tried again, and nothing else waits for it"
                );
            }
        }
    }
}

fn warn(archive: &str, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(archive, "{warning}");
    }
}
