//! What the commands of a VM may keep of their outputs together. Pure but for being shared.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of output that a VM may have in the spool: a command has its own cap, but a lease may have a thousand commands.
pub const VM_BYTES_MAX: u64 = 256 << 20;

/// Bytes that are left.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(VM_BYTES_MAX))
    }
}

impl Budget {
    /// Takes up to `wanted` bytes: how many there were.
    pub fn take(&self, wanted: u64) -> u64 {
        let mut taken = 0;
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = wanted.min(left);
            Some(left - taken)
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_what_it_has_and_no_more() {
        let budget = Budget::default();
        assert_eq!(budget.take(VM_BYTES_MAX - 10), VM_BYTES_MAX - 10);
        assert_eq!(budget.take(4), 4);
        assert_eq!(budget.take(100), 6);
        assert_eq!(budget.take(1), 0);
    }
}
