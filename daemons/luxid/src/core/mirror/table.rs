//! One kind of named objects, found by id and by name and walked in natural order of the names.

use super::map::Map;
use gantry_model::names::natural_cmp;
use std::cmp::Ordering;
use std::sync::Arc;

/// Place of an object in a list: its name in natural order, then its id, so that two objects that
/// share a name for a moment are both kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<Id> {
    /// The name.
    pub name: Arc<str>,
    /// The id.
    pub id: Id,
}

impl<Id: Ord> Ord for Place<Id> {
    fn cmp(&self, other: &Self) -> Ordering {
        natural_cmp(&self.name, &other.name).then_with(|| self.id.cmp(&other.id))
    }
}

impl<Id: Ord> PartialOrd for Place<Id> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The objects of one kind. `Clone` is O(1), a change O(log n).
pub struct Table<Id, T> {
    by_id: Map<Id, (Arc<str>, T)>,
    sorted: Map<Place<Id>, T>,
    by_name: Map<Arc<str>, Id>,
}

impl<Id, T> Clone for Table<Id, T> {
    fn clone(&self) -> Self {
        Self { by_id: self.by_id.clone(), sorted: self.sorted.clone(), by_name: self.by_name.clone() }
    }
}

impl<Id, T> Default for Table<Id, T> {
    fn default() -> Self {
        Self { by_id: Map::default(), sorted: Map::default(), by_name: Map::default() }
    }
}

impl<Id: Ord + Clone, T: Clone> Table<Id, T> {
    /// Adds or replaces an object.
    pub fn put(&mut self, id: Id, name: &str, object: T) {
        let known = self.by_id.get(&id).map(|(known, _)| known.clone());
        let name = match known {
            Some(known) if *known == *name => known,
            Some(_) => {
                self.remove(&id);
                Arc::from(name)
            }
            None => Arc::from(name),
        };
        if self.by_name.get(&*name) != Some(&id) {
            self.by_name.insert(name.clone(), id.clone());
        }
        self.sorted.insert(Place { name: name.clone(), id: id.clone() }, object.clone());
        self.by_id.insert(id, (name, object));
    }

    /// Removes an object, if it is there.
    pub fn remove(&mut self, id: &Id) {
        let Some((name, _)) = self.by_id.remove(id) else {
            return;
        };
        if self.by_name.get(&*name) == Some(id) {
            self.by_name.remove(&*name);
        }
        self.sorted.remove(&Place { name, id: id.clone() });
    }

    /// The object of this id.
    #[must_use]
    pub fn get(&self, id: &Id) -> Option<&T> {
        self.by_id.get(id).map(|(_, object)| object)
    }

    /// The name under which an object is kept.
    #[must_use]
    pub fn name(&self, id: &Id) -> Option<&Arc<str>> {
        self.by_id.get(id).map(|(name, _)| name)
    }

    /// The object of exactly this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&T> {
        self.get(self.by_name.get(name)?)
    }

    /// The objects that `given` means as a host name: of this name, or of a name that continues it
    /// after a dot (`spec/query.md` §3).
    pub fn host_named<'a>(
        &'a self,
        given: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a T)> + use<'a, Id, T> {
        let prefix = if given.is_empty() { None } else { Some(format!("{given}.")) };
        let exact = self.by_name.iter_from(given).next().filter(|(name, _)| ***name == *given);
        let longer = prefix.into_iter().flat_map(|prefix| {
            self.by_name.iter_from(prefix.as_str()).take_while(move |(name, _)| name.starts_with(&*prefix))
        });
        exact.into_iter().chain(longer).filter_map(|(name, id)| Some((name, self.get(id)?)))
    }

    /// All objects in natural order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Place<Id>, &T)> {
        self.sorted.iter()
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
