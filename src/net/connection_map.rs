//! What a handler keeps for each of its connections, found without hashing: the key of a
//! connection is its place in the loop's slab, and so a place here too.

use super::ConnectionId;

/// A map from the connections of one loop. It takes room for the most connections that
/// there ever were at a time.
#[derive(Debug)]
pub struct ConnectionMap<T> {
    places: Vec<Option<(u32, T)>>,
}

impl<T> Default for ConnectionMap<T> {
    fn default() -> ConnectionMap<T> {
        ConnectionMap { places: Vec::new() }
    }
}

impl<T> ConnectionMap<T> {
    /// What is kept for `id`.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        match self.places.get(id.key as usize)? {
            Some((generation, value)) if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// What is kept for `id`, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        match self.places.get_mut(id.key as usize)? {
            Some((generation, value)) if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// Keeps `value` for `id`, and nothing any more for an earlier connection in its place.
    pub fn insert(&mut self, id: ConnectionId, value: T) -> &mut T {
        let key = id.key as usize;
        if key >= self.places.len() {
            self.places.resize_with(key + 1, || None);
        }
        &mut self.places[key].insert((id.generation, value)).1
    }

    /// Takes out what is kept for `id`.
    pub fn remove(&mut self, id: ConnectionId) -> Option<T> {
        let place = self.places.get_mut(id.key as usize)?;
        let (_, value) = place.take_if(|(generation, _)| *generation == id.generation)?;
        Some(value)
    }
}

impl<T: Default> ConnectionMap<T> {
    /// What is kept for `id`, from now on the default if it was nothing.
    pub fn entry(&mut self, id: ConnectionId) -> &mut T {
        if self.get(id).is_none() {
            self.insert(id, T::default());
        }
        self.get_mut(id).expect("it was put there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: u32, generation: u32) -> ConnectionId {
        ConnectionId { key, generation }
    }

    #[test]
    fn a_connection_does_not_find_what_was_kept_for_an_earlier_one_in_its_place() {
        let mut map = ConnectionMap::default();
        map.insert(id(3, 1), "old");
        assert_eq!(map.get(id(3, 1)), Some(&"old"));
        assert_eq!(map.get(id(3, 2)), None);
        assert_eq!(map.remove(id(3, 2)), None);
        map.insert(id(3, 2), "new");
        assert_eq!(map.get(id(3, 1)), None);
        assert_eq!(map.remove(id(3, 2)), Some("new"));
        assert_eq!(map.get(id(3, 2)), None);
        assert_eq!(map.get(id(9, 1)), None);
    }

    #[test]
    fn an_entry_begins_with_the_default() {
        let mut map = ConnectionMap::default();
        *map.entry(id(1, 1)) += 5;
        *map.entry(id(1, 1)) += 5;
        *map.entry(id(1, 2)) += 1;
        assert_eq!(map.get(id(1, 2)), Some(&1));
    }
}
