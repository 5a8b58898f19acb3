//! Renews the leases of what is held, on a connection of its own.

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::jobs::storage::{Claim, Done};
use crate::jobs::work::Renewal;
use crate::jobs::worker::Shared;
use crate::jobs::worker::outage::Outage;
use crate::jobs::worker::run::pool_id;

/// The most leases renewed in one statement.
const MAX_BATCH: usize = 2_000;

/// Until the stop.
pub(super) fn run(shared: &Shared, hurried: &Receiver<()>) {
    let mut outage = Outage::new("heartbeat");
    let mut pause = shared.options.renew_every();
    while !shared.is_stopping() {
        if let Err(RecvTimeoutError::Disconnected) = hurried.recv_timeout(pause) {
            return;
        }
        pause = match beat(shared, &mut outage) {
            Ok(()) => shared.options.renew_every(),
            Err(error) => {
                outage.complain(&error);
                outage.pause().min(shared.options.renew_every())
            }
        };
    }
}

fn beat(shared: &Shared, outage: &mut Outage) -> Done<()> {
    let lease = shared.options.lease().as_millis() as u64;
    // From before the renewal: our lease ends before the database's.
    let until = shared.claims.now() + lease;
    let round = shared.claims.round();
    for claim in &round.lost {
        shared.pool.forget(pool_id(*claim));
    }
    if !round.lost.is_empty() {
        let count = round.lost.len();
        log::warn!("{count} leases ended before they could be renewed; their jobs run again");
    }
    if round.renew.is_empty() && outage.is_on() {
        // Nothing is claimed before a renewal has got through, and nothing is held any more: so an empty one.
        outage.watch(&shared.renewing, || shared.storage.renew(&[]))?;
    }
    for part in round.renew.chunks(MAX_BATCH) {
        let renewals = part.iter().map(|(claim, is_done)| Renewal {
            claim: *claim,
            lease,
            is_done: u8::from(*is_done),
        });
        let renewals: Vec<_> = renewals.collect();
        let renewed = outage.watch(&shared.renewing, || shared.storage.renew(&renewals))?;
        let claims = || part.iter().map(|(claim, _)| *claim);
        let is_prolonged = |claim: &Claim| renewed.prolonged.contains(&claim.id);
        shared.claims.prolong(claims().filter(is_prolonged), until);
        let holds = |claim: &Claim| is_prolonged(claim) || renewed.locked.contains(&claim.id);
        claims()
            .filter(|claim| !holds(claim))
            .for_each(|claim| shared.lose(claim));
    }
    Ok(())
}
