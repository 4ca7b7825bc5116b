//! Hearing what other nodes say of themselves, until it is clear what this one does.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::ANSWER_PATIENCE;
use crate::{
    cluster::{
        control::{Ask, Told, ask},
        discovery::Discovery,
        form::{Decision, Me, Report, Wishes, decide},
    },
    config::Config,
    env::{ANYBODY, Env},
    node::StartNote,
    types::NodeId,
};

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);

/// A listed peer that has not answered for so long is given up, where this node would found without it.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3);

/// Intervals of announcements after which whoever announces itself has been heard.
const INTERVALS_HEARD: u32 = 2;

/// Who is asked and listened to.
pub struct Gather {
    env: Env,
    peers: Vec<String>,
    announcements: Option<(watch::Receiver<crate::cluster::discovery::Seen>, Duration)>,
    heard: Mutex<BTreeMap<String, Report>>,
    /// Why those were not heard that were asked last.
    silent: Mutex<BTreeMap<String, String>>,
}

impl Gather {
    /// Asks the listed peers but this node at `me`, and listens to announcements.
    pub fn new(env: Env, config: &Config, me: &str, discovery: Option<&Discovery>) -> Self {
        let interval = config.cluster.discovery.interval;
        let announcements = discovery.map(|discovery| (discovery.seen(), interval));
        let peers = config.cluster.peers.iter().filter(|peer| **peer != me).cloned().collect();
        Self { env, peers, announcements, heard: Mutex::default(), silent: Mutex::default() }
    }

    /// Waits until the decision is one that can be acted on.
    pub async fn decide(
        &self,
        me: &Me,
        wishes: Wishes,
        adoption: watch::Receiver<Option<String>>,
        note: &StartNote,
    ) -> Decision {
        let began = Instant::now();
        let mut said = String::new();
        loop {
            self.ask_peers().await;
            if let Some(cluster_id) = adoption.borrow().clone() {
                return Decision::Join { cluster_id, members: BTreeMap::new() };
            }
            let reports = self.reports(me);
            match decide(me, wishes, &reports, self.unheard(began)) {
                Decision::Wait(why) => {
                    let why = why + &self.why_silent();
                    if why != said {
                        tracing::info!(why, "waiting for other nodes");
                        note.say(format!("it waits for other nodes: {why}"));
                        said = why;
                    }
                }
                decision => return decision,
            }
            sleep(PAUSE).await;
        }
    }

    /// The incarnation that a node was heard with.
    pub fn incarnation(&self, id: NodeId) -> Option<u64> {
        self.reports_of_others().into_iter().find(|report| report.id == id).map(|report| report.incarnation)
    }

    async fn ask_peers(&self) {
        let ask_peer = |address: &String| {
            let (env, address) = (self.env.clone(), address.clone());
            async move {
                let told = ask(&*env.network, ANYBODY, &address, &Ask::Who, ANSWER_PATIENCE).await;
                (address, told)
            }
        };
        for (address, told) in join_all(self.peers.iter().map(ask_peer)).await {
            let (mut heard, mut silent) = (self.heard.lock(), self.silent.lock());
            // What it said before may not be true any more.
            heard.remove(&address);
            silent.remove(&address);
            match told {
                Ok(Told::Me(report)) => drop(heard.insert(address, report)),
                Ok(_) => {}
                Err(error) => drop(silent.insert(address, error.message().to_owned())),
            }
        }
    }

    /// What somebody who is not heard has to do with the waiting: it may refuse this node, and say why.
    fn why_silent(&self) -> String {
        self.silent.lock().first_key_value().map_or_else(String::new, |(_, why)| format!("; {why}"))
    }

    fn unheard(&self, began: Instant) -> usize {
        let waited = began.elapsed();
        let peers = match waited >= GIVEN_UP_AFTER {
            true => 0,
            false => self.peers.len() - self.heard.lock().len(),
        };
        let listening =
            self.announcements.as_ref().is_some_and(|(_, interval)| waited < *interval * INTERVALS_HEARD);
        peers + usize::from(listening)
    }

    fn reports_of_others(&self) -> Vec<Report> {
        let mut reports: Vec<Report> = self.heard.lock().values().cloned().collect();
        if let Some((seen, _)) = &self.announcements {
            let seen = seen.borrow();
            let announced = seen.nodes.values().chain(&seen.double).map(|heard| &heard.announcement.presence);
            for report in announced.map(Report::from) {
                // Whoever has answered has said more, and later.
                if !reports
                    .iter()
                    .any(|known| (known.id, known.incarnation) == (report.id, report.incarnation))
                {
                    reports.push(report);
                }
            }
        }
        reports
    }

    fn reports(&self, me: &Me) -> Vec<Report> {
        let mut reports = self.reports_of_others();
        // This node answers at its own address, too, where that is listed.
        reports.retain(|report| (report.id, report.incarnation) != (me.id, me.incarnation));
        reports
    }
}
