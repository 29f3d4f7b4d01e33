//! A map whose copies share what did not change: a new snapshot costs a few hundred pointers and the shards that were
//! touched, whatever it holds.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Parts of a map. With 10,000 entries a change copies 40 of them.
const SHARDS: usize = 256;

/// How a key chooses its shard.
pub trait Place {
    /// What is hashed. Keys that are to be neighbours hash the same.
    fn place(&self) -> u64;
}

impl Place for uuid::Uuid {
    fn place(&self) -> u64 {
        hashed(self)
    }
}

/// Names go by their first part, so that `inst1` and `inst1.example.test` are found together.
impl Place for str {
    fn place(&self) -> u64 {
        hashed(self.split('.').next().unwrap_or_default())
    }
}

impl Place for String {
    fn place(&self) -> u64 {
        self.as_str().place()
    }
}

fn hashed<T: Hash + ?Sized>(key: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The map.
#[derive(Debug)]
pub struct Shards<K, V> {
    parts: Vec<Arc<BTreeMap<K, V>>>,
}

impl<K, V> Clone for Shards<K, V> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone() }
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { parts: (0..SHARDS).map(|_| Arc::default()).collect() }
    }
}

fn index(key: &(impl Place + ?Sized)) -> usize {
    usize::try_from(key.place() % SHARDS as u64).unwrap_or_default()
}

impl<K: Ord + Clone + Place, V: Clone> Shards<K, V> {
    /// Adds or replaces; what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = &mut self.parts[index(&key)];
        Arc::make_mut(part).insert(key, value)
    }

    /// Removes; what was there.
    pub fn remove<Q: Ord + Place + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let part = &mut self.parts[index(key)];
        if part.contains_key(key) { Arc::make_mut(part).remove(key) } else { None }
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + Place + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts[index(key)].get(key)
    }

    /// The shard of a key.
    #[must_use]
    pub fn near<Q: Place + ?Sized>(&self, key: &Q) -> &BTreeMap<K, V> {
        &self.parts[index(key)]
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay(steps in prop::collection::vec(("[a-c]\\.[a-c]{0,2}", prop::option::of(0..9u32)), 0..60)) {
            let (mut map, mut model) = (Shards::<String, u32>::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for (key, value) in steps {
                kept.push((map.clone(), model.clone()));
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key.clone(), value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(key.as_str()), model.remove(&key)),
                }
            }
            kept.push((map, model));
            for (map, model) in kept {
                prop_assert_eq!(map.iter().map(|(k, v)| (k.clone(), *v)).collect::<BTreeMap<_, _>>(), model.clone());
                prop_assert_eq!(map.len(), model.len());
            }
        }
    }
}
