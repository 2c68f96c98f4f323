//! Values by the number of their subscription: few, and mostly in the order of their numbers.
//!
//! Invariant: as small as a list; a proxy has a handful, and costs little beside them.

/// The values.
#[derive(Debug)]
pub(super) struct ById<T>(Vec<(u64, T)>);

impl<T> ById<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.place(id).is_ok()
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let place = self.place(id).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// In the place of what was there.
    pub(super) fn insert(&mut self, id: u64, value: T) {
        match self.place(id) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (id, value)),
        }
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let place = self.place(id).ok()?;
        Some(self.0.remove(place).1)
    }

    fn place(&self, id: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_in_any_order() {
        let mut all = ById::new();
        for id in [5, 1, 9, 3, u64::MAX, 0] {
            all.insert(id, id / 2);
        }
        all.insert(9, 90);
        let found = [9, 3, 4].map(|id| all.get_mut(id).copied());
        assert_eq!(found, [Some(90), Some(1), None]);
        assert_eq!((all.remove(1), all.remove(1), all.remove(2)), (Some(0), None, None));
        assert_eq!((all.len(), all.contains(1), all.contains(u64::MAX)), (5, false, true));
    }
}
