//! A session's scenes: what it plays, each as it was written. The store does not look into them.

use crate::store::session::{Scenes, scene_weight};
use crate::store::{StoreError, TaskManager};
use crate::task::SessionKey;

impl TaskManager {
    /// Keeps a scene, in the place of the one of that name.
    pub(crate) fn keep_scene(
        &self,
        key: &SessionKey,
        name: &str,
        document: &str,
    ) -> Result<(), StoreError> {
        let budget = &self.shared.budget;
        loop {
            let session = self.find_or_create(key)?;
            let mut state = session.state.write();
            if state.dropped {
                continue;
            }
            let before = state
                .scenes
                .get(name)
                .map_or(0, |old| scene_weight(name, old));
            if !budget.adjust(before, scene_weight(name, document)) {
                return Err(StoreError::StoreFull(self.shared.limits.max_store_bytes));
            }
            state.scenes.insert(name.into(), document.into());
            return Ok(());
        }
    }

    /// A session's scene.
    pub(crate) fn scene(&self, key: &SessionKey, name: &str) -> Option<Box<str>> {
        let session = self.find(key)?;
        let state = session.state.read();
        state.scenes.get(name).cloned()
    }

    /// A session's scenes, by their names.
    pub(crate) fn scenes(&self, key: &SessionKey) -> Scenes {
        let session = self.find(key);
        session.map_or_else(Scenes::new, |session| session.state.read().scenes.clone())
    }

    /// Removes a scene; whether there was one.
    pub(crate) fn remove_scene(&self, key: &SessionKey, name: &str) -> bool {
        let Some(session) = self.find(key) else {
            return false;
        };
        let gone = session.state.write().scenes.remove(name);
        let gone = gone.map(|document| scene_weight(name, &document));
        self.shared.budget.refund(gone.unwrap_or_default());
        gone.is_some()
    }
}
