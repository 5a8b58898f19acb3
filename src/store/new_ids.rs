//! Draws the ids of tasks.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use uuid::{Builder, Uuid};

use crate::task::{TaskId, now_ms};

/// Ids of version 7, whose random part is a keyed hash of a counter: that takes no system call, as random bytes do.
#[derive(Default)]
pub(super) struct NewIds {
    key: RandomState,
    next: AtomicU64,
}

impl NewIds {
    /// An id above `newest`, so that the order of a session's ids is the order of creation, also within one millisecond
    /// and when the clock is set back.
    pub(super) fn above(&self, newest: TaskId) -> TaskId {
        self.above_at(newest, now_ms() as u64)
    }

    fn above_at(&self, newest: TaskId, now: u64) -> TaskId {
        let number = self.next.fetch_add(2, Relaxed);
        let (first, second) = (self.key.hash_one(number), self.key.hash_one(number + 1));
        let mut random = [0; 10];
        random[..2].copy_from_slice(&first.to_be_bytes()[..2]);
        random[2..].copy_from_slice(&second.to_be_bytes());
        // The highest random bit behind the variant leaves room for what is added below.
        random[2] &= !0x20;
        let id = Builder::from_unix_timestamp_millis(now, &random).into_uuid();
        match id > newest {
            true => id,
            false => Uuid::from_u128(newest.as_u128() + 1 + u128::from(first as u32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_rise_within_a_millisecond_and_when_the_clock_is_set_back() {
        let ids = NewIds::default();
        let mut newest = Uuid::nil();
        for now in [5_000, 5_000, 4_000, 5_001]
            .into_iter()
            .cycle()
            .take(100_000)
        {
            let id = ids.above_at(newest, now);
            assert!(id > newest);
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            newest = id;
        }
    }

    #[test]
    fn ids_of_several_sources_do_not_meet() {
        let sources: Vec<NewIds> = (0..10).map(|_| NewIds::default()).collect();
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            for ids in &sources {
                assert!(seen.insert(ids.above_at(Uuid::nil(), 5_000)));
            }
        }
    }
}
