//! A persistent ordered map: cloning it is one reference count, a change copies only the path to the
//! changed entry, and only where a clone still shares it. An AVL tree of `Arc` nodes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

type Link<K, V> = Option<Arc<Node<K, V>>>;

#[derive(Clone)]
struct Node<K, V> {
    key: K,
    value: V,
    height: u8,
    left: Link<K, V>,
    right: Link<K, V>,
}

/// The map. `Clone` is O(1); `get`, `insert` and `remove` are O(log n).
pub struct Map<K, V> {
    root: Link<K, V>,
    len: usize,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K, V> Map<K, V> {
    /// Number of entries; O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { stack: Vec::new() };
        iter.descend(self.root.as_deref());
        iter
    }

    /// The entries from the first key that is not below `from`, in order.
    pub fn iter_from<Q: Ord + ?Sized>(&self, from: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut iter = Iter { stack: Vec::new() };
        let mut next = self.root.as_deref();
        while let Some(node) = next {
            if node.key.borrow() < from {
                next = node.right.as_deref();
            } else {
                iter.stack.push(node);
                next = node.left.as_deref();
            }
        }
        iter
    }

    /// The value of `key`.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut next = self.root.as_deref();
        while let Some(node) = next {
            next = match key.cmp(node.key.borrow()) {
                Ordering::Less => node.left.as_deref(),
                Ordering::Greater => node.right.as_deref(),
                Ordering::Equal => return Some(&node.value),
            };
        }
        None
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Sets the value of `key`; what it was before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = put(&mut self.root, key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes `key`; what it was.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Looked up first: walking down to remove copies shared nodes.
        self.get(key)?;
        let old = take(&mut self.root, key);
        self.len -= usize::from(old.is_some());
        old
    }
}

fn height<K, V>(link: &Link<K, V>) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

fn put<K: Ord + Clone, V: Clone>(link: &mut Link<K, V>, key: K, value: V) -> Option<V> {
    let Some(shared) = link else {
        *link = Some(Arc::new(Node { key, value, height: 1, left: None, right: None }));
        return None;
    };
    let node = Arc::make_mut(shared);
    let old = match key.cmp(&node.key) {
        Ordering::Less => put(&mut node.left, key, value),
        Ordering::Greater => put(&mut node.right, key, value),
        Ordering::Equal => return Some(std::mem::replace(&mut node.value, value)),
    };
    balance(shared);
    old
}

fn take<K, V, Q>(link: &mut Link<K, V>, key: &Q) -> Option<V>
where
    K: Ord + Clone + Borrow<Q>,
    V: Clone,
    Q: Ord + ?Sized,
{
    let shared = link.as_mut()?;
    let node = Arc::make_mut(shared);
    let old = match key.cmp(node.key.borrow()) {
        Ordering::Less => take(&mut node.left, key),
        Ordering::Greater => take(&mut node.right, key),
        Ordering::Equal => return Some(take_top(link)),
    };
    balance(shared);
    old
}

/// Removes the node that `link` leads to; its value.
fn take_top<K: Ord + Clone, V: Clone>(link: &mut Link<K, V>) -> V {
    let mut shared = link.take().expect("the caller stands on this node");
    let node = Arc::make_mut(&mut shared);
    if let (Some(_), Some(_)) = (&node.left, &node.right) {
        let (key, value) = take_first(&mut node.right).expect("the right side is not empty");
        node.key = key;
        let old = std::mem::replace(&mut node.value, value);
        balance(&mut shared);
        *link = Some(shared);
        return old;
    }
    *link = node.left.take().or_else(|| node.right.take());
    node.value.clone()
}

fn take_first<K: Ord + Clone, V: Clone>(link: &mut Link<K, V>) -> Option<(K, V)> {
    let shared = link.as_mut()?;
    let node = Arc::make_mut(shared);
    if node.left.is_some() {
        let first = take_first(&mut node.left);
        balance(shared);
        return first;
    }
    let first = (node.key.clone(), node.value.clone());
    *link = node.right.take();
    Some(first)
}

fn balance<K: Clone, V: Clone>(shared: &mut Arc<Node<K, V>>) {
    let node = Arc::make_mut(shared);
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        let child = Arc::make_mut(node.left.as_mut().expect("the higher side is not empty"));
        if height(&child.left) < height(&child.right) {
            rotate_left(node.left.as_mut().expect("the higher side is not empty"));
        }
        rotate_right(shared);
    } else if right > left + 1 {
        let child = Arc::make_mut(node.right.as_mut().expect("the higher side is not empty"));
        if height(&child.right) < height(&child.left) {
            rotate_right(node.right.as_mut().expect("the higher side is not empty"));
        }
        rotate_left(shared);
    } else {
        node.height = left.max(right) + 1;
    }
}

fn measure<K, V>(node: &mut Node<K, V>) {
    node.height = height(&node.left).max(height(&node.right)) + 1;
}

fn rotate_right<K: Clone, V: Clone>(shared: &mut Arc<Node<K, V>>) {
    let node = Arc::make_mut(shared);
    let mut top = node.left.take().expect("rotated towards the lower side only");
    node.left = Arc::make_mut(&mut top).right.take();
    measure(node);
    let lower = std::mem::replace(shared, top);
    let above = Arc::make_mut(shared);
    above.right = Some(lower);
    measure(above);
}

fn rotate_left<K: Clone, V: Clone>(shared: &mut Arc<Node<K, V>>) {
    let node = Arc::make_mut(shared);
    let mut top = node.right.take().expect("rotated towards the lower side only");
    node.right = Arc::make_mut(&mut top).left.take();
    measure(node);
    let lower = std::mem::replace(shared, top);
    let above = Arc::make_mut(shared);
    above.left = Some(lower);
    measure(above);
}

/// Iterator over a [`Map`] in key order.
pub struct Iter<'a, K, V> {
    stack: Vec<&'a Node<K, V>>,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn descend(&mut self, mut next: Option<&'a Node<K, V>>) {
        while let Some(node) = next {
            self.stack.push(node);
            next = node.left.as_deref();
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let node = self.stack.pop()?;
        self.descend(node.right.as_deref());
        Some((&node.key, &node.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl<K: Ord, V> Map<K, V> {
        /// Panics unless the tree is ordered, balanced and its heights and length are right.
        fn check(&self) {
            fn walk<K: Ord, V>(link: &Link<K, V>) -> (u8, usize) {
                let Some(node) = link else { return (0, 0) };
                let (left, right) = (walk(&node.left), walk(&node.right));
                assert!(left.0.abs_diff(right.0) <= 1, "out of balance");
                assert_eq!(node.height, left.0.max(right.0) + 1);
                (node.height, left.1 + right.1 + 1)
            }
            assert_eq!(walk(&self.root).1, self.len);
            let keys: Vec<&K> = self.iter().map(|(key, _)| key).collect();
            assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
        }

        fn addresses(&self) -> Vec<*const Node<K, V>> {
            fn walk<K, V>(link: &Link<K, V>, all: &mut Vec<*const Node<K, V>>) {
                let Some(node) = link else { return };
                all.push(Arc::as_ptr(node));
                walk(&node.left, all);
                walk(&node.right, all);
            }
            let mut all = Vec::new();
            walk(&self.root, &mut all);
            all
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_its_clones_stand_still(steps in prop::collection::vec((0_u8..60, any::<Option<u16>>(), any::<bool>()), 0..200)) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            let mut kept: Vec<(Map<u8, u16>, BTreeMap<u8, u16>)> = Vec::new();
            for (key, value, keep) in steps {
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                }
                map.check();
                prop_assert_eq!(map.get(&key), model.get(&key));
                let from: Vec<_> = map.iter_from(&key).map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(from, model.range(key..).map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
                if keep {
                    kept.push((map.clone(), model.clone()));
                }
            }
            for (map, model) in kept {
                prop_assert!(map.iter().eq(model.iter()));
            }
        }
    }

    #[test]
    fn a_change_beside_a_clone_copies_one_path() {
        let mut map: Map<u32, u32> = Map::default();
        for key in 0..50_000 {
            map.insert(key, key);
        }
        let before = map.clone();
        let old: std::collections::HashSet<_> = before.addresses().into_iter().collect();
        map.insert(31_234, 7);
        let copied = map.addresses().into_iter().filter(|node| !old.contains(node)).count();
        assert!(copied <= 24, "{copied} nodes copied of 50000");
        assert_eq!((before.get(&31_234), map.get(&31_234)), (Some(&31_234), Some(&7)));
    }
}
