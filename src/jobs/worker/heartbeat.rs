//! Renews leases and releases claims whose lease expired. It has a connection of its own.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::engine::remote::OverReason;
use crate::jobs::database::Duty;
use crate::jobs::storage::work::{Release, Renewal};
use crate::jobs::storage::{Claim, Done};
use crate::jobs::worker::backoff::Backoff;
use crate::jobs::worker::claims::Lapsed;
use crate::jobs::worker::run::pool_id;
use crate::jobs::worker::shared::Shared;

const MAX_BATCH: usize = 2_000;

struct Heartbeat<'a> {
    shared: &'a Shared,
    /// Claims that are not released yet.
    lapsed: Vec<Lapsed>,
    backoff: Backoff,
}

/// Runs until the queue stops.
pub(super) fn run(shared: &Shared, renew_now: &Receiver<()>) {
    let mut heartbeat = Heartbeat {
        shared,
        lapsed: Vec::new(),
        backoff: Backoff::new("heartbeat"),
    };
    let mut pause = shared.options.renew_every();
    while !shared.is_stopping() {
        if let Err(RecvTimeoutError::Disconnected) = renew_now.recv_timeout(pause) {
            return;
        }
        pause = heartbeat.beat_or_pause();
    }
}

impl Heartbeat<'_> {
    /// Returns the time until the next heartbeat.
    fn beat_or_pause(&mut self) -> Duration {
        let renew_every = self.shared.options.renew_every();
        match self.beat() {
            Ok(()) => renew_every,
            Err(error) => {
                self.backoff.log_refusal(&error);
                self.backoff.pause().min(renew_every)
            }
        }
    }

    fn beat(&mut self) -> Done<()> {
        let round = self.shared.claims.round();
        self.note_lapsed(round.lapsed);
        if round.renew.is_empty() && self.lapsed.is_empty() && self.backoff.is_on() {
            // After failures, nothing is claimed until a renewal succeeds. If nothing is held, try an empty renewal.
            let shared = self.shared;
            let renew = || shared.storage.renew(&[]);
            self.backoff.watch(&shared.renewing, renew)?;
        }
        for part in round.renew.chunks(MAX_BATCH) {
            self.renew(part)?;
        }
        self.release_lapsed()
    }

    fn note_lapsed(&mut self, lapsed: Vec<Lapsed>) {
        for Lapsed { claim, .. } in &lapsed {
            self.shared
                .pool
                .forget(pool_id(*claim), OverReason::Expired);
        }
        let expired = lapsed.iter().filter(|lapsed| lapsed.is_expired).count();
        if expired > 0 {
            log::warn!("{expired} leases expired before they were renewed; their jobs run again");
        }
        self.lapsed.extend(lapsed);
    }

    fn renew(&mut self, part: &[(Claim, bool)]) -> Done<()> {
        let shared = self.shared;
        let lease = shared.options.lease().as_millis() as u64;
        // Taken before the renewal: this worker's lease ends before the database's.
        let until = shared.claims.now() + lease;
        let renewals = part.iter().map(|(claim, is_done)| Renewal {
            claim: *claim,
            lease,
            is_done: u8::from(*is_done),
        });
        let renewals: Vec<_> = renewals.collect();
        let renew = || shared.storage.renew(&renewals);
        let renewed = self.backoff.watch(&shared.renewing, renew)?;
        let claims = || part.iter().map(|(claim, _)| *claim);
        let is_renewed = |claim: &Claim| renewed.done.contains(&claim.id);
        shared.claims.extend(claims().filter(is_renewed), until);
        claims()
            .filter(|claim| !renewed.holds(*claim))
            .for_each(|claim| shared.lose(claim));
        Ok(())
    }

    /// This worker is alive, so its expired claims are released without counting a loss, unless another process has
    /// already rescued them.
    fn release_lapsed(&mut self) -> Done<()> {
        let shared = self.shared;
        while !self.lapsed.is_empty() {
            let count = self.lapsed.len().min(MAX_BATCH);
            let release = |lapsed: &Lapsed| {
                let why = match lapsed.is_expired {
                    true => "its lease expired",
                    false => "its worker put it back",
                };
                Release::new(lapsed.claim, Duration::ZERO, why)
            };
            let releases: Vec<_> = self.lapsed[..count].iter().map(release).collect();
            let release = || shared.storage.release(Duty::Renew, &releases);
            self.backoff.watch(&shared.renewing, release)?;
            self.lapsed.drain(..count);
            shared.wake();
        }
        Ok(())
    }
}
